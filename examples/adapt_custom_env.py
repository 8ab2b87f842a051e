"""Meta-train on an environment of one's own and adapt to a task that it poses: a mass pushed to an unknown place."""

from __future__ import annotations

import argparse
import tempfile
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

import maml_rl


class PushedMass(gym.Env):
    """A mass on a line with friction. It sees position (m) and velocity (m/s), and is paid for nearness to a goal."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,))
    action_space = spaces.Box(-1.0, 1.0, (1,))  # force, N
    goal = 0.0

    def sample_tasks(self, num_tasks: int) -> list[dict[str, float]]:
        """One side or the other, never told to the policy."""
        return [{"goal": float(goal)} for goal in self.np_random.choice([-1.0, 1.0], num_tasks)]

    def set_task(self, task: dict[str, float]) -> None:
        """Where the mass shall go, m."""
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
    """Returns before and after adaptation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num_iterations", type=int, default=30)
    args = parser.parse_args(argv)
    quiet = {"final_evaluation": False, "final_video": False}
    sizes = {
        "num_iterations": args.num_iterations,
        "meta_batch_size": 8,
        "num_episodes": 10,
        "horizon": 20,
    }
    with tempfile.TemporaryDirectory() as folder:
        # A scale of 1 lets an output of 1 push with the full force; the default, 0.1, is made for
        # MuJoCo's motors.
        settings = {
            "policy": {"action_scale": 1.0},
            "baseline": {"normalize_advantages": True},
            "logging": quiet,
        }
        config = maml_rl.load_config(
            env="PushedMass-v0", output=f"{folder}/run", **sizes, **settings
        )
        policy = maml_rl.load(maml_rl.train(config))
    env = gym.make("PushedMass-v0", max_episode_steps=20)
    env.unwrapped.set_task({"goal": 1.0})
    adapted = policy.adapt(env, num_steps=1, num_episodes=20)
    returns = [
        float(np.mean([episode(env, each, seed) for seed in range(20)]))
        for each in (policy, adapted)
    ]
    print(f"return before adaptation {returns[0]:.2f}, after one step {returns[1]:.2f}")
    return returns


def episode(env: gym.Env, policy: maml_rl.MetaPolicy, seed: int) -> float:
    """The return of one episode."""
    observation, _ = env.reset(seed=seed)
    rng, total, ended = np.random.default_rng(seed), 0.0, False
    while not ended:
        action, _ = policy.predict(observation, rng=rng)
        observation, reward, terminated, truncated, _ = env.step(action)
        total, ended = total + float(reward), terminated or truncated
    return total


if __name__ == "__main__":
    main()
