"""Compare PPO from an adapted policy with PPO from scratch, on the same fresh task.

Both have the same number of control steps; those of adaptation count too. The table has mean
returns of stochastic episodes after each part of the budget.

python examples/sb3_finetune.py --policy HalfCheetahVel --num_tasks 8 --num_env_steps 100000
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy

import maml_rl
from maml_rl.agents.sb3_env import make_vec_env
from maml_rl.analysis.evaluation import held_out
from maml_rl.analysis.statistics import mean_interval


def main(arguments: Sequence[str] | None = None) -> None:
    """Train both on each task, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--policy", default="HalfCheetahVel", help="a run or a pretrained policy")
    parser.add_argument(
        "--num_tasks", type=int, default=1, help="tasks, with the seeds SEED, SEED + 1, ..."
    )
    parser.add_argument(
        "--num_env_steps", type=int, default=200_000, help="budget of each, in control steps"
    )
    parser.add_argument(
        "--num_points", type=int, default=5, help="rows of the table after the first"
    )
    parser.add_argument("--num_envs", type=int, default=16)
    parser.add_argument(
        "--n_steps", type=int, default=128, help="steps of each simulation between updates"
    )
    parser.add_argument("--learning_rate", type=float, default=3e-4, help="from scratch")
    parser.add_argument("--finetuning_rate", type=float, default=1e-4, help="of the adapted policy")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)

    # Returns of both, (num_tasks, 1 + num_points, 2).
    budgets = np.linspace(0, args.num_env_steps, args.num_points + 1).astype(int)
    returns = np.stack(
        [compare(args, seed, budgets) for seed in range(args.seed, args.seed + args.num_tasks)]
    )
    # Means over tasks.
    print(
        f"{'control steps':>13} | from the adapted policy | from scratch | difference and its 95 % "
        "interval over tasks"
    )
    intervals = mean_interval(np.moveaxis(returns[..., 0] - returns[..., 1], 0, -1))
    for budget, (ours, scratch), (low, high) in zip(
        budgets, returns.mean(0), intervals, strict=True
    ):
        difference = f"{ours - scratch:.1f} [{low:.1f}, {high:.1f}]"
        print(f"{budget:13} | {ours:20.1f} | {scratch:12.1f} | {difference}")


def compare(args: argparse.Namespace, seed: int, budgets: np.ndarray) -> np.ndarray:
    """Train both on one task.

    Returns:
        Mean returns after each budget, (len(budgets), 2): from the adapted policy, from scratch.
    """
    agent = maml_rl.load(args.policy)
    config = agent.config
    sizes = {"num_envs": args.num_envs, "seed": seed}
    # Draw a fresh task.
    task_env = make_vec_env(
        None, held_out(config.env), config.horizon, num_envs=1, task=None, seed=seed
    )
    (task,) = task_env.get_attr("tasks")[0]
    task_env.close()
    # Make both models.
    adapted = agent.adapt(task=task, seed=seed)
    adaptation_steps = config.inner.num_steps * config.num_episodes * config.horizon
    ours = adapted.to_sb3(
        task=task, learning_rate=args.finetuning_rate, n_steps=args.n_steps, **sizes
    )
    envs = make_vec_env(None, config.env, config.horizon, task=task, **sizes)
    scratch = PPO(
        "MlpPolicy", envs, learning_rate=args.learning_rate, n_steps=args.n_steps, seed=seed
    )
    # Train both up to each budget, and evaluate.
    tests = make_vec_env(None, config.env, config.horizon, num_envs=20, task=task, seed=seed)
    returns = np.empty((len(budgets), 2))
    for i, budget in enumerate(budgets):
        for j, (model, spent) in enumerate(((ours, adaptation_steps), (scratch, 0))):
            missing = int(budget) - spent - model.num_timesteps
            if missing > 0:
                model.learn(missing, reset_num_timesteps=False)
            returns[i, j], _ = evaluate_policy(
                model, tests, n_eval_episodes=20, deterministic=False
            )
    final = f"{returns[-1, 0]:.1f} | {returns[-1, 1]:.1f} at the end"
    print(f"seed {seed}: {config.env.name} {task}: {final}", flush=True)
    return returns


if __name__ == "__main__":
    main()
