"""Adapt to logged episodes: play with an agent, write a file, and adapt to what it contains.

On a robot, only the function ``play`` runs, which needs nothing but ``predict``; the file is all
that adaptation uses.

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
from maml_rl.agents.agent import Agent


def play(agent: Agent, env: gym.Env, num_episodes: int, seed: int) -> dict[str, np.ndarray]:
    """Play episodes with sampled actions. An agent with a memory (RL²) begins each as it is.

    Returns:
        Observations, actions, rewards and ends of episodes, with one row for each control step.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for episode in range(num_episodes):
        observation, _ = env.reset(seed=1000 * seed + episode)
        memory = reward = None
        ended = False
        while not ended:
            # Sampled, not the most probable: the policy gradient needs exploration.
            action, memory = agent.predict(observation, memory, rng=rng, reward=reward)
            next_observation, reward, terminated, truncated, _ = env.step(action)
            ended = terminated or truncated
            rows.append((observation, action, reward, ended))
            observation = next_observation
    observations, actions, rewards, episode_ends = zip(*rows, strict=True)
    return {
        "observations": np.array(observations),
        "actions": np.array(actions),
        "rewards": np.array(rewards),
        "episode_ends": np.array(episode_ends),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Play and log episodes, adapt to the log, and play again."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--policy", default="HalfCheetahDir", help="a run or a pretrained policy")
    parser.add_argument("--task", default="direction=-1", help="NAME=VALUE,...")
    parser.add_argument("--num_episodes", type=int, default=20)
    parser.add_argument(
        "--log", type=Path, default=Path("episodes.npz"), help="file of the episodes"
    )
    args = parser.parse_args(arguments)
    # Set a task of the agent's own environment.
    agent = maml_rl.load(args.policy)
    env = gym.make(
        maml_envs.env_id(agent.config.env.name),
        max_episode_steps=agent.config.horizon,
        **agent.config.env.kwargs,
    )
    task = dict(part.split("=") for part in args.task.split(","))
    env.unwrapped.set_task({name: float(value) for name, value in task.items()})

    # Log episodes, and adapt to the log.
    np.savez(args.log, **play(agent, env, args.num_episodes, seed=0))
    adapted = agent.adapt(episodes=maml_rl.EpisodeLog.load(args.log))
    # Compare the two on new episodes.
    for name, player in (("before", agent), ("adapted", adapted)):
        rewards = play(player, env, args.num_episodes, seed=1)["rewards"]
        print(f"{name:<8} return {rewards.sum() / args.num_episodes:8.1f}")


if __name__ == "__main__":
    main()
