"""Meta-train on a custom environment and adapt to a task of it: push a mass to an unknown goal."""

from __future__ import annotations

import argparse
import tempfile
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

import maml_rl


class PushedMass(gym.Env):
    """A mass on a line with friction; the reward is minus its distance (m) from a goal.

    The observation is position (m) and velocity (m/s).
    """

    observation_space = spaces.Box(-np.inf, np.inf, (2,))
    action_space = spaces.Box(-1.0, 1.0, (1,))  # force, N
    goal = 0.0

    def sample_tasks(self, num_tasks: int) -> list[dict[str, float]]:
        """Draw goals at −1 m or 1 m, which the policy does not observe."""
        return [{"goal": float(goal)} for goal in self.np_random.choice([-1.0, 1.0], num_tasks)]

    def set_task(self, task: dict[str, float]) -> None:
        """Set the goal, m."""
        self.goal = task["goal"]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start at rest."""
        super().reset(seed=seed)
        self.state = np.zeros(2, np.float32)
        return self.state.copy(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Push for 0.1 s."""
        self.state[1] += 0.1 * (5.0 * float(action[0]) - self.state[1])
        self.state[0] += 0.1 * self.state[1]
        return self.state.copy(), -abs(float(self.state[0]) - self.goal), False, False, {}


gym.register(id="PushedMass-v0", entry_point=PushedMass)


def main(argv: list[str] | None = None) -> list[float]:
    """Train, adapt to a task, and return the mean return before and after adaptation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num_iterations", type=int, default=30)
    args = parser.parse_args(argv)
    # Train.
    with tempfile.TemporaryDirectory() as folder:
        config = maml_rl.load_config(
            env="PushedMass-v0",
            num_iterations=args.num_iterations,
            meta_batch_size=8,
            num_episodes=10,
            horizon=20,
            # An output of 1 is the full force; the default, 0.1, suits MuJoCo's motors.
            policy={"action_scale": 1.0},
            baseline={"normalize_advantages": True},
            logging={"final_evaluation": False, "final_video": False},
            output=f"{folder}/run",
        )
        agent = maml_rl.load(maml_rl.train(config))
    # Adapt to one goal.
    env = gym.make("PushedMass-v0", max_episode_steps=20)
    env.unwrapped.set_task({"goal": 1.0})
    adapted = agent.adapt(env, num_steps=1, num_episodes=20)
    returns = [mean_return(env, agent), mean_return(env, adapted)]
    print(f"return before adaptation {returns[0]:.2f}, after one step {returns[1]:.2f}")
    return returns


def mean_return(env: gym.Env, agent: maml_rl.Agent) -> float:
    """Play 20 episodes with sampled actions, and return their mean return."""
    returns = np.zeros(20)
    for seed in range(len(returns)):
        observation, _ = env.reset(seed=seed)
        rng = np.random.default_rng(seed)
        ended = False
        while not ended:
            action, _ = agent.predict(observation, rng=rng)
            observation, reward, terminated, truncated, _ = env.step(action)
            returns[seed] += float(reward)
            ended = terminated or truncated
    return float(returns.mean())


if __name__ == "__main__":
    main()
