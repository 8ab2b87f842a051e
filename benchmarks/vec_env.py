"""Speed of TaskVecEnv compared with Stable-Baselines3's DummyVecEnv and SubprocVecEnv.

Prints control steps per second. All three step the same task with the same random actions. They
alternate, and ratios are taken within a round.

    python benchmarks/vec_env.py --env HalfCheetahVel --num_envs 16
"""

from __future__ import annotations

import argparse
import functools
import time

import gymnasium as gym
import maml_envs
import numpy as np
from floor import run, summary
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

from maml_rl.agents.sb3_env import TaskVecEnv
from maml_rl.cli import positive
from maml_rl.sampling.environments import make_task_vector_env
from maml_rl.settings.env import EnvConfig


def single(name: str, horizon: int) -> gym.Env:
    """Make one environment; importing this module in a new process registers the id."""
    return gym.make(maml_envs.env_id(name), max_episode_steps=horizon)


def steps_per_second(envs: VecEnv, actions: np.ndarray) -> float:
    """Measure the speed with actions (num_steps, num_envs, action_size) after a reset."""
    envs.seed(0)
    envs.reset()
    start = time.perf_counter()
    for action in actions:
        envs.step(action)
    return actions.shape[0] * actions.shape[1] / (time.perf_counter() - start)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--env", default="HalfCheetahVel")
    parser.add_argument("--num_envs", type=positive, default=16)
    parser.add_argument("--num_steps", type=positive, default=500, help="per simulation and round")
    parser.add_argument("--horizon", type=positive, default=100)
    parser.add_argument("--rounds", type=positive, default=5)
    args = parser.parse_args()
    batch = make_task_vector_env(EnvConfig(name=args.env), args.num_envs, args.horizon)
    task = batch.sample_tasks(1)[0]
    batch.set_tasks([task] * args.num_envs)
    makers = [functools.partial(single, args.env, args.horizon)] * args.num_envs
    sb3_envs = {"DummyVecEnv": DummyVecEnv(makers), "SubprocVecEnv": SubprocVecEnv(makers)}
    for envs in sb3_envs.values():
        envs.env_method("set_task", task)
    contestants: dict[str, VecEnv] = {"TaskVecEnv": TaskVecEnv(batch), **sb3_envs}
    space = batch.single_action_space
    space.seed(0)
    actions = np.array(
        [[space.sample() for _ in range(args.num_envs)] for _ in range(args.num_steps)]
    )
    speeds: dict[str, list[float]] = {name: [] for name in contestants}
    for i in range(args.rounds + 1):
        for name, envs in contestants.items():
            speed = steps_per_second(envs, actions)
            if i > 0:  # the first round is a warm-up
                speeds[name].append(speed)
    print(f"{args.env}, {args.num_envs} simulations, horizon {args.horizon}")
    for name, values in speeds.items():
        print(f"{name:<27} control steps/s: {summary(values)}")
    for name in sb3_envs:
        ratios = [a / b for a, b in zip(speeds["TaskVecEnv"], speeds[name], strict=True)]
        print(f"TaskVecEnv / {name:<14} ratio:           {summary(ratios)}")
    for envs in contestants.values():
        envs.close()


if __name__ == "__main__":
    run(main)
