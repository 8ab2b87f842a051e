"""Meta-train on a maze of Gymnasium-Robotics: a ball has to find an unknown goal.

Needs the extra ``suites``. The module registers MazeGoal-v0, also for commands.
"""

from __future__ import annotations

import argparse
import tempfile
from typing import Any

import gymnasium as gym
import gymnasium_robotics
import numpy as np

import maml_rl
from maml_rl.analysis.evaluation import evaluate

gym.register_envs(gymnasium_robotics)
START = (2, 3)  # row and column of the cell in the middle
GOALS = ((1, 1), (1, 5), (3, 1), (3, 5))  # the corners


class MazeGoal(gym.Wrapper):
    """The open maze; the observation is the ball's position (m) and velocity (m/s).

    The reward is exp(−distance to the goal in m). A goal is kept after the ball has reached it.
    """

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(gym.make("PointMaze_OpenDense-v3", render_mode=render_mode).unwrapped)
        self.observation_space = self.env.observation_space["observation"]
        self.env.position_noise_range = 0.0  # otherwise each reset moves the goal within its cell
        self.set_task({"goal_cell": GOALS[0]})

    def sample_tasks(self, num_tasks: int) -> list[dict[str, Any]]:
        """Draw cells of the goal."""
        return [{"goal_cell": cell} for cell in self.np_random.choice(GOALS, num_tasks)]

    def set_task(self, task: dict[str, Any]) -> None:
        """Set the cell of the goal, which the policy does not observe."""
        self.options = {"reset_cell": np.array(START), "goal_cell": np.array(task["goal_cell"])}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Start in the middle."""
        observation, info = self.env.reset(seed=seed, options=self.options)
        return observation["observation"], info

    def step(self, action: np.ndarray) -> Any:
        """Push the ball; report success under the name that maml_rl reads."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        info["is_success"] = info["success"]
        return observation["observation"], reward, terminated, truncated, info


gym.register(id="MazeGoal-v0", entry_point=MazeGoal, max_episode_steps=50)


def main() -> None:
    """Train, then print the return before and after adaptation."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--num_iterations", type=int, default=15)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = maml_rl.load_config(
            env="MazeGoal-v0",
            num_iterations=args.num_iterations,
            meta_batch_size=6,
            num_episodes=10,
            policy={"action_scale": 1.0},
            logging={"final_evaluation": False, "final_video": False},
            output=f"{folder}/run",
        )
        agent = maml_rl.load(maml_rl.train(config))
    print(evaluate(agent, num_tasks=10, num_episodes=10).table())


if __name__ == "__main__":
    main()
