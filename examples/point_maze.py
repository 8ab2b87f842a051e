"""A maze of Gymnasium-Robotics, as MazeGoal-v0: a ball has to find an unknown goal.

Needs the extra ``suites``. In this folder:

    python -m maml_rl.train --env point_maze:MazeGoal-v0 --policy.action_scale 1
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import gymnasium_robotics
import numpy as np

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
