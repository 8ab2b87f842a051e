"""``python -m maml_rl.record``; see ``--help``."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

from maml_rl.cli import add_env_flags, env_of, main, natural, parse, positive, run_parser, say, take_env_flags
from maml_rl.errors import UserError


def command(argv: list[str]) -> int:
    """Record a run."""
    parser = run_parser("record", "Video of one task before and after adaptation, side by side.")
    parser.add_argument(
        "--task",
        type=_task,
        metavar="NAME=VALUE,...",
        help="task, body included; a body that it does not speak of is nominal (default: drawn from the family)",
    )
    parser.add_argument("--num_steps", type=natural, help="adaptation steps (default: as in training)")
    parser.add_argument("--num_episodes", type=positive, help="episodes per step (default: as in training)")
    parser.add_argument("--stochastic", action="store_true", help="draw actions; default shows the most probable ones")
    parser.add_argument("--output", type=Path, help="video file, .mp4 or .gif (default: RUN/videos/adaptation.mp4)")
    add_env_flags(parser)
    env_flags, argv = take_env_flags(argv)
    args = parse(parser, argv)

    from maml_rl.config_files import load_run
    from maml_rl.devices import resolve_device
    from maml_rl.recording import record

    path = args.output or args.run / "videos" / "adaptation.mp4"
    policy = load_run(args.run, resolve_device(args.device))
    if env_flags.sweeps:
        raise UserError("a video shows one body: --dynamics NAME=LOW:HIGH:POINTS is for evaluate")
    if args.task is not None and env_flags.flags:
        raise UserError(
            "--task says all about the task, the body included (body_mass=2); leave out --dynamics and --tasks"
        )
    env = env_of(policy.config, env_flags.flags)
    record(
        dataclasses.replace(policy, config=dataclasses.replace(policy.config, env=env)),
        path,
        task=args.task,
        num_steps=args.num_steps,
        num_episodes=args.num_episodes,
        deterministic=not args.stochastic,
        seed=args.seed,
    )
    say(f"written to {path}")
    return 0


def _task(text: str) -> dict[str, float]:
    task = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        try:
            task[name.strip()] = float(value)
        except ValueError:
            equals = ""
        if not equals or not name.strip():
            raise argparse.ArgumentTypeError(f"expected NAME=VALUE,NAME=VALUE,..., got {text!r}")
    return task


if __name__ == "__main__":
    sys.exit(main(["record", *sys.argv[1:]]))
