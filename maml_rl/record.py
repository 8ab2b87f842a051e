"""``python -m maml_rl.record``; see ``--help``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from maml_rl.analysis.video.files import FORMATS
from maml_rl.cli import (
    add_adaptation_flags,
    add_iteration_flag,
    main,
    parse,
    path_argument,
    positive,
    run_parser,
    say,
)
from maml_rl.env_flags import (
    add_env_flags,
    add_task_flags,
    chosen_agent,
    take_env_flags,
)
from maml_rl.errors import UserError
from maml_rl.settings.learners import episodes_per_stage
from maml_rl.system.stop_flag import StopFlag
from maml_rl.system.text import counted

if TYPE_CHECKING:
    from maml_rl.agents.agent import Agent


def command(argv: list[str]) -> int:
    """Record a run."""
    env_flags, rest = take_env_flags(argv)
    args = parse(make_parser(), rest)

    from maml_rl.runs.pretrained import find_run, output_folder

    folder = output_folder(find_run(args.run)) / "videos"
    path = args.output or folder / f"adaptation.{args.format or FORMATS[0]}"
    if args.format and path.suffix.lower() != f".{args.format}":
        raise UserError(f"--format {args.format} contradicts --output {path}: leave one out")
    agent = chosen_agent("record", args, env_flags)
    with StopFlag().handling():  # a signal leaves no unfinished video
        _record(agent, path, args)
    actions = "sampled actions" if args.stochastic else "mean actions"
    num_episodes = args.num_episodes or agent.config.num_episodes
    episodes = counted(episodes_per_stage(agent.config.learner, num_episodes), "episode")
    adapted = f", adapted on {episodes} per step" if _num_steps(agent, args) else ""
    say(f"written to {path}: one episode per panel with {actions}{adapted}")
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the command."""
    parser = run_parser(
        "record",
        "Record a video in real time: tasks as rows, the policy after 0, 1, ... K adaptation "
        "steps as columns.",
    )
    which = parser.add_mutually_exclusive_group()
    add_task_flags(
        which, "a task to show as a row; dynamics that it omits are nominal; may be repeated"
    )
    which.add_argument(
        "--num_tasks",
        type=positive,
        help="number of tasks to draw at random (default: up to 3 that differ as much as possible)",
    )
    add_adaptation_flags(parser)
    parser.add_argument(
        "--camera", help="camera of the MuJoCo model, or free (default: the family's)"
    )
    parser.add_argument(
        "--size",
        type=_size,
        metavar="WxH",
        help="pixels of one panel (default: the environment's, often 480x480)",
    )
    parser.add_argument(
        "--fps",
        type=_fps,
        help="frames per second; control steps are skipped or repeated to keep real time (default: "
        "one frame per control step, up to 60, or 50 in a GIF; a GIF uses the nearest rate 100/n)",
    )
    parser.add_argument(
        "--format", choices=FORMATS, help="video format (default: suffix of --output, or mp4)"
    )
    parser.add_argument(
        "--output",
        type=path_argument,
        help="video file, .mp4 or .gif; an existing one is replaced (default: "
        "RUN/videos/adaptation.mp4, or for a pretrained policy runs/NAME/videos/adaptation.mp4)",
    )
    add_iteration_flag(parser)
    add_env_flags(parser)
    return parser


def _record(agent: Agent, path: Path, args: argparse.Namespace) -> None:
    """Record, with a progress bar."""
    from tqdm import tqdm

    from maml_rl.analysis.recording import record

    num_steps = _num_steps(agent, args)
    num_tasks = len(args.task) if args.task else args.num_tasks
    num_panels = None if num_tasks is None else num_tasks * (num_steps + 1)
    with tqdm(total=num_panels, disable=None, leave=False, unit="panel") as bar:

        def progress(panel: str) -> None:
            bar.update()
            bar.set_postfix_str(panel)

        record(
            agent,
            path,
            tasks=args.task,
            num_tasks=args.num_tasks,
            num_steps=args.num_steps,
            num_episodes=args.num_episodes,
            camera=args.camera,
            size=args.size,
            fps=args.fps,
            deterministic=not args.stochastic,
            seed=args.seed,
            progress=progress,
        )


def _num_steps(agent: Agent, args: argparse.Namespace) -> int:
    """Return the number of adaptation steps: the flag's, or as many as in training."""
    return agent.learner.num_adaptation_steps if args.num_steps is None else args.num_steps


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(
            f"expected width and height in pixels such as 480x480, got {text!r}"
        )
    return int(width), int(height)


def _fps(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}") from None


if __name__ == "__main__":
    sys.exit(main(["record", *sys.argv[1:]]))
