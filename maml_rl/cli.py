"""The commands: ``maml-rl train|evaluate|record``."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import difflib
import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from maml_rl.errors import UserError

if TYPE_CHECKING:
    from maml_rl.config import Config
    from maml_rl.task_vector_env import EnvConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; a user's mistake is one line on stderr and exit status 2.

    Args:
        argv: the command and its arguments; default is the command line.
    """
    _import_mujoco()
    if argv is None:  # as the installed command: a module of the user's is found here, as with python -m
        sys.path.insert(0, os.getcwd())
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] not in _COMMANDS:
        wanted = argv and argv[0] not in ("-h", "--help")
        text = f"maml-rl {{{','.join(_COMMANDS)}}} ...; each explains itself with --help"
        print(f"error: unknown command {argv[0]!r}; usage: {text}" if wanted else text, file=sys.stderr)  # noqa: T201
        return 2 if wanted or not argv else 0
    try:
        return _COMMANDS[argv[0]](argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    except FloatingPointError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    except MemoryError as error:
        print(f"error: not enough memory: {error}", file=sys.stderr)  # noqa: T201
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)  # noqa: T201
        return 130


def _import_mujoco() -> None:
    """Import MuJoCo without its OpenGL: it loads what MUJOCO_GL names at once, and fails where that is not there.

    Gymnasium's renderer reads the variable again, when there is something to draw.
    """
    wanted = os.environ.pop("MUJOCO_GL", None)
    importlib.import_module("mujoco")
    if wanted is not None:
        os.environ["MUJOCO_GL"] = wanted


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


def _train(argv: list[str]) -> int:
    import yaml

    from maml_rl.config import to_mapping
    from maml_rl.config_files import parse_training_arguments, take_option
    from maml_rl.training import Interrupted, resume, train

    run, rest = take_option(argv, "--resume")
    try:
        if run is not None:
            resume(run, _iterations_to_resume(rest), say=_say, progress_bar=True)
            return 0
        config = parse_training_arguments([token for token in rest if token != "--print_config"])
        if "--print_config" in rest:
            _say(yaml.safe_dump(to_mapping(config), sort_keys=False).rstrip())
            return 0
        train(config, say=_say, progress_bar=True)
    except Interrupted as error:
        _say(str(error))
        return 130
    return 0


def _iterations_to_resume(rest: list[str]) -> int | None:
    """The only setting that may stand beside --resume."""
    from maml_rl.config_files import take_option

    iterations, others = take_option(rest, "--num_iterations")
    if others:
        raise UserError(
            f"--resume goes on with the run's own settings: only --num_iterations may be given, not {others[0]}"
        )
    if iterations is None:
        return None
    if not iterations.isdecimal() or int(iterations) < 1:
        raise UserError(f"--num_iterations must be a whole number of at least 1, got {iterations!r}")
    return int(iterations)


class _Parser(argparse.ArgumentParser):
    """Tells a mistake as every other one is told."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def _run_parser(command: str, description: str) -> argparse.ArgumentParser:
    """What the commands on a finished run share."""
    parser = _Parser(prog=f"python -m maml_rl.{command}", description=description, allow_abbrev=False)
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder")
    parser.add_argument("--seed", type=_natural, default=0, help="of all random draws (default: 0)")
    parser.add_argument("--device", default="auto", help="cpu, cuda, ..., or auto (default)")
    return parser


def _evaluate(argv: list[str]) -> int:
    parser = _run_parser(
        "evaluate",
        "Return after 0, 1, ... K adaptation steps on fresh tasks: a table, results.json, adaptation.png.",
    )
    parser.add_argument("--num_tasks", type=_positive, default=40, help="fresh tasks (default: 40)")
    parser.add_argument("--num_episodes", type=_positive, default=20, help="per task and step (default: 20)")
    parser.add_argument("--num_steps", type=_natural, default=3, help="adaptation steps K (default: 3)")
    parser.add_argument("--output", type=Path, help="folder for the files, replaced there (default: RUN/evaluation)")
    _add_env_flags(parser)
    env_flags, argv = _take_env_flags(argv)
    args = _parse(parser, argv)

    from maml_rl.config_files import load_run
    from maml_rl.devices import resolve_device
    from maml_rl.evaluation import evaluate, held_out

    policy = load_run(args.run, resolve_device(args.device))
    env = _env_of(dataclasses.replace(policy.config, env=held_out(policy.config.env)), env_flags)
    folder = args.output or args.run / "evaluation"
    with _made_folder(folder):
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
    _say(
        f"{policy.config.env.name}{changed}: {args.num_tasks} fresh tasks{kept_back}, "
        f"{args.num_episodes} episodes per task and step"
    )
    _say(f"{result.table()}\nwritten to {folder}/results.json and {folder}/adaptation.png")
    return 0


@contextlib.contextmanager
def _made_folder(folder: Path) -> Iterator[None]:
    """A folder to write into, which goes away again where nothing came to be in it.

    Raises:
        UserError: it cannot be made.
    """
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise UserError(f"output {folder} cannot be a folder: {error}") from error
    try:
        yield
    finally:
        if is_new and not any(folder.iterdir()):
            folder.rmdir()


def _record(argv: list[str]) -> int:
    parser = _run_parser("record", "Video of one task before and after adaptation, side by side.")
    parser.add_argument(
        "--task",
        type=_task,
        metavar="NAME=VALUE,...",
        help="task, body included; a body that it does not speak of is nominal (default: drawn from the family)",
    )
    parser.add_argument("--num_steps", type=_natural, help="adaptation steps (default: as in training)")
    parser.add_argument("--num_episodes", type=_positive, help="episodes per step (default: as in training)")
    parser.add_argument("--stochastic", action="store_true", help="draw actions; default shows the most probable ones")
    parser.add_argument("--output", type=Path, help="video file, .mp4 or .gif (default: RUN/videos/adaptation.mp4)")
    _add_env_flags(parser)
    env_flags, argv = _take_env_flags(argv)
    args = _parse(parser, argv)

    from maml_rl.config_files import load_run
    from maml_rl.devices import resolve_device
    from maml_rl.recording import record

    path = args.output or args.run / "videos" / "adaptation.mp4"
    policy = load_run(args.run, resolve_device(args.device))
    if args.task is not None and env_flags:
        raise UserError(
            "--task says all about the task, the body included (body_mass=2); leave out --dynamics and --tasks"
        )
    env = _env_of(policy.config, env_flags)
    record(
        dataclasses.replace(policy, config=dataclasses.replace(policy.config, env=env)),
        path,
        task=args.task,
        num_steps=args.num_steps,
        num_episodes=args.num_episodes,
        deterministic=not args.stochastic,
        seed=args.seed,
    )
    _say(f"written to {path}")
    return 0


def _add_env_flags(parser: argparse.ArgumentParser) -> None:
    """Describe the flags that :func:`_take_env_flags` takes."""
    parser.add_argument("--tasks.SETTING", metavar="VALUE", help="another setting of the family, as --tasks.high 3")
    parser.add_argument(
        "--dynamics",
        metavar="NAME=VALUE,...",
        help="another body: fixed, in a range, or one of a list, as body_mass=2,slope=-0.1:0.1,disabled_joint=[0,2]",
    )


def _take_env_flags(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Flags ``--tasks.*`` and ``--dynamics`` as those of training, ``--env.*``, and the other arguments."""
    flags: list[str] = []
    rest: list[str] = []
    words = iter(argv)
    for word in words:
        flag, equals, value = word.partition("=")
        if flag != "--dynamics" and not flag.startswith("--tasks."):
            rest.append(word)
            continue
        if not equals:
            value = next(words, "")
        if not value or value.startswith("--"):
            raise UserError(f"{flag} needs a value")
        flags += _dynamics(value) if flag == "--dynamics" else [f"--env.{flag.removeprefix('--tasks.')}={value}"]
    return flags, rest


def _env_of(config: Config, flags: Sequence[str]) -> EnvConfig:
    """The environment of a run, changed by ``flags``; what is wrong with them is told in the user's terms."""
    from maml_rl.config_files import closest, with_env_flags

    settings = [name for name in config.env.kwargs if name != "dynamics"]
    for flag in flags:
        name = flag.partition("=")[0].removeprefix("--env.")
        if name.startswith("dynamics."):
            if "dynamics" not in config.env.kwargs:
                raise UserError(f"{config.env.name} has no dynamics that could be set")
        elif name not in settings:
            hint = closest(name, settings).replace(" See --help for all settings.", "")
            raise UserError(f"{config.env.name} has no setting {name!r}.{hint} Valid are {', '.join(settings)}.")
    try:
        return with_env_flags(config, flags).env
    except UserError as error:
        raise UserError(str(error).replace('"env.', '"tasks.')) from error


def _dynamics(text: str) -> list[str]:
    """``body_mass=2,slope=-0.1:0.1`` as flags of training.

    Raises:
        UserError: it reads otherwise.
    """
    flags = []
    for part in re.split(r",(?![^\[]*\])", text):  # not at the commas of a list
        name, equals, value = (word.strip() for word in part.partition("="))
        low, colon, high = value.partition(":")
        if not equals or not name or not low or "{" in value or (colon and (not high or ":" in high)):
            raise UserError(
                f"--dynamics expects NAME=VALUE, NAME=LOW:HIGH or NAME=[VALUE,VALUE], separated by commas, got {text!r}"
            )
        flags.append(f"--env.dynamics.{name}={f'{{low: {low}, high: {high}}}' if colon else value}")
    return flags


def _parse(parser: argparse.ArgumentParser, argv: list[str]) -> argparse.Namespace:
    """Parse, naming the closest match of an unknown flag."""
    flags = [option for action in parser._actions for option in action.option_strings]
    for token in argv:
        flag = token.partition("=")[0]
        if flag.startswith("--") and flag not in flags:
            close = difflib.get_close_matches(flag, flags, n=1)
            raise UserError(f"unknown flag {flag}." + (f" Did you mean {close[0]}?" if close else f" Valid: {flags}"))
    return parser.parse_args(argv)


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 0, got {text!r}")
    return int(text)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


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


_COMMANDS: dict[str, Callable[[list[str]], int]] = {"train": _train, "evaluate": _evaluate, "record": _record}
