"""``python -m maml_rl.evaluate``; see ``--help``."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from maml_rl.cli import (
    add_env_flags,
    env_of,
    made_folder,
    main,
    natural,
    parse,
    positive,
    run_parser,
    say,
    take_env_flags,
)


def command(argv: list[str]) -> int:
    """Evaluate a run."""
    parser = run_parser(
        "evaluate",
        "Return after 0, 1, ... K adaptation steps on fresh tasks: a table, results.json, adaptation.png.",
    )
    parser.add_argument("--num_tasks", type=positive, default=40, help="fresh tasks (default: 40)")
    parser.add_argument("--num_episodes", type=positive, default=20, help="per task and step (default: 20)")
    parser.add_argument("--num_steps", type=natural, default=3, help="adaptation steps K (default: 3)")
    parser.add_argument("--output", type=Path, help="folder for the files, replaced there (default: RUN/evaluation)")
    add_env_flags(parser)
    env_flags, argv = take_env_flags(argv)
    args = parse(parser, argv)

    from maml_rl.config_files import load_run
    from maml_rl.devices import resolve_device
    from maml_rl.evaluation import evaluate, held_out

    policy = load_run(args.run, resolve_device(args.device))
    env = env_of(dataclasses.replace(policy.config, env=held_out(policy.config.env)), env_flags)
    folder = args.output or args.run / "evaluation"
    with made_folder(folder):
        result = evaluate(
            policy,
            env=env,
            seed=args.seed,
            num_tasks=args.num_tasks,
            num_episodes=args.num_episodes,
            num_steps=args.num_steps,
        )
        result.save(folder)
    changed = "".join(f", {flag.removeprefix('--env.').replace('=', ' ')}" for flag in env_flags)
    kept_back = ", held out of training" if env.kwargs.get("split") == "held_out" else ""
    say(
        f"{policy.config.env.name}{changed}: {args.num_tasks} fresh tasks{kept_back}, "
        f"{args.num_episodes} episodes per task and step"
    )
    say(f"{result.table()}\nwritten to {folder}/results.json and {folder}/adaptation.png")
    return 0


if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
