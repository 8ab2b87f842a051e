"""Adapt to episodes that were played elsewhere: the policy acts by itself, a file keeps what happened, and it adapts.

The first half is what runs on the robot; it needs ``predict`` alone. Nothing but the file goes on
from there.

python examples/adapt_from_log.py --policy HalfCheetahDir --task direction=-1
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import gymnasium as gym
import maml_envs  # registers the environments
import numpy as np

import maml_rl
from maml_rl.agents.agent import MetaPolicy


def play(policy: MetaPolicy, env: gym.Env, num_episodes: int, seed: int) -> dict[str, np.ndarray]:
    """Play episodes with drawn actions; observations, actions, rewards and ends, one row for each step."""
    rng, rows = np.random.default_rng(seed), []
    for episode in range(num_episodes):
        observation, _ = env.reset(seed=1000 * seed + episode)
        ended = False
        while not ended:
            action, _ = policy.predict(
                observation, rng=rng
            )  # drawn: adaptation learns from what chance has tried
            following, reward, terminated, truncated, _ = env.step(action)
            ended = terminated or truncated
            rows.append((observation, action, reward, ended))
            observation = following
    names = ("observations", "actions", "rewards", "episode_ends")
    return {
        name: np.array(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Play, write, read, adapt, play again."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--policy", default="HalfCheetahDir", help="a run or a pretrained policy")
    parser.add_argument("--task", default="direction=-1", help="NAME=VALUE,...")
    parser.add_argument("--num_episodes", type=int, default=20)
    parser.add_argument(
        "--log", type=Path, default=Path("episodes.npz"), help="the file in between"
    )
    args = parser.parse_args(arguments)
    policy = maml_rl.load(args.policy)
    env = gym.make(
        maml_envs.env_id(policy.config.env.name), max_episode_steps=policy.config.horizon
    )
    task = dict(part.split("=") for part in args.task.split(","))
    env.unwrapped.set_task({name: float(value) for name, value in task.items()})

    np.savez(args.log, **play(policy, env, args.num_episodes, seed=0))
    adapted = policy.adapt(episodes=maml_rl.EpisodeLog.load(args.log))
    for name, one in (("before", policy), ("adapted", adapted)):
        print(
            f"{name:<8} return "
            f"{play(one, env, args.num_episodes, seed=1)['rewards'].sum() / args.num_episodes:8.1f}"
        )


if __name__ == "__main__":
    main()
