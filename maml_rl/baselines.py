"""``python -m maml_rl.baselines``; see ``--help``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from maml_rl.cli import main, one_of, parse, positive, run_parser, say
from maml_rl.errors import UserError
from maml_rl.runs.baselines import POLICIES
from maml_rl.runs.pretrained import find_run

BASELINES = (*POLICIES, "ppo")
_NUM_TASKS = 4
_PPO_ENV_STEPS = 1_000_000
_USERS = {
    "num_iterations": ("pretrained", "oracle"),
    "num_tasks": ("ppo",),
    "ppo_env_steps": ("ppo",),
}
"""The baselines that use a flag."""


def command(argv: list[str]) -> int:
    """Train the baselines of a run."""
    args = parse(make_parser(), argv)
    args.run = find_run(args.run)

    from maml_rl.training.baseline_runs import (
        baseline_config,
        check_ppo,
        make_policy_baseline,
        train_ppo,
    )
    from maml_rl.training.reporting import Interrupted

    chosen = args.baseline or BASELINES
    _check_used(args, chosen)
    num_tasks, ppo_env_steps = args.num_tasks or _NUM_TASKS, args.ppo_env_steps or _PPO_ENV_STEPS
    # Check all baselines before training any.
    policies = [name for name in POLICIES if name in chosen]
    options = {"num_iterations": args.num_iterations, "seed": args.seed, "device": args.device}
    configs = {name: baseline_config(args.run, name, **options) for name in policies}
    if "ppo" in chosen:
        check_ppo(
            args.run,
            num_tasks=num_tasks,
            num_env_steps=ppo_env_steps,
            seed=args.seed,
        )
    # Train the missing ones.
    try:
        for name, config in configs.items():
            make_policy_baseline(name, config, args.num_iterations)
    except Interrupted as error:
        say(str(error))
        return error.exit_status
    if "ppo" in chosen:
        train_ppo(
            args.run,
            num_tasks=num_tasks,
            num_env_steps=ppo_env_steps,
            seed=args.seed,
        )
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the command."""
    parser = run_parser(
        "baselines",
        "Train the baselines of a run and write them to RUN/baselines (for a pretrained policy to "
        "runs/NAME/baselines). The same command resumes unfinished baselines and keeps finished "
        "ones.",
    )
    parser.add_argument(
        "--baseline",
        type=one_of("baseline", BASELINES),
        nargs="+",
        action="extend",
        metavar="NAME",
        help="random: new parameters, not trained; pretrained: one policy trained on all tasks "
        "jointly; oracle: the same, but it observes the task; ppo: Stable-Baselines3's PPO from "
        "scratch on a few tasks (default: all four)",
    )
    parser.add_argument(
        "--num_iterations",
        type=positive,
        help="iterations of pretrained and oracle (default: until they have played as many "
        "episodes as the run; after a learner without inner steps, as many control steps)",
    )
    parser.add_argument(
        "--num_tasks", type=positive, help=f"number of tasks of ppo (default: {_NUM_TASKS})"
    )
    parser.add_argument(
        "--ppo_env_steps",
        type=positive,
        help=f"control steps of ppo per task (default: {_PPO_ENV_STEPS})",
    )
    return parser


def _check_used(args: argparse.Namespace, chosen: Sequence[str]) -> None:
    """Refuse a flag that none of the chosen baselines uses."""
    for flag, users in _USERS.items():
        if getattr(args, flag) is not None and not set(users) & set(chosen):
            raise UserError(
                f"--{flag} is for --baseline {' and '.join(users)}, got {', '.join(chosen)}"
            )


if __name__ == "__main__":
    sys.exit(main(["baselines", *sys.argv[1:]]))
