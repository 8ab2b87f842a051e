"""The commands: ``maml-rl train|evaluate|record|plot|baselines``."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.metadata
import io
import math
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from maml_rl.errors import MamlRLWarning, UserError, did_you_mean
from maml_rl.system.atomic_files import unwritable_refused
from maml_rl.system.safe_yaml import read_value
from maml_rl.system.user_paths import check_text, user_path
from maml_rl.training.stdout_log import stdout_log

if TYPE_CHECKING:
    from maml_rl.settings.config import Config
    from maml_rl.settings.env import EnvConfig


OTHER_OUTPUT = "name another folder by --output"
COMMANDS = ("train", "evaluate", "record", "plot", "baselines")
"""Each is the module of that name, whose function ``command`` takes the arguments and returns the exit status."""
_SIGPIPE = 13


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; a user's mistake is one line on stderr and exit status 2.

    Where the reader of stdout has gone, as in ``| head -1``, it ends without a word, with the
    status of SIGPIPE.

    Args:
        argv: the command and its arguments; default is the command line.
    """
    _print_anything()
    try:
        try:
            with _warnings_in_one_line():
                return _main(argv)
        finally:
            print(end="", flush=True)  # noqa: T201  what --help printed may still be in the buffer
    except BrokenPipeError:
        # Python flushes stdout once more at its end, which would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + _SIGPIPE


@contextlib.contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Show each warning as one line, once, without the line of code that it is from."""
    before, shown = warnings.formatwarning, set[str]()

    def formatwarning(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        line: str | None = None,
    ) -> str:
        text = _warning_line(str(message), category, f"{filename}:{lineno}")
        is_new = text not in shown
        shown.add(text)
        return text if is_new else ""

    warnings.formatwarning = formatwarning
    try:
        yield
    finally:
        warnings.formatwarning = before


def _warning_line(message: str, category: type[Warning], where: str) -> str:
    """``warning: ...``, with where it is from where that is not the package, nor Gymnasium, whose own are coloured."""
    text = " ".join(re.sub(r"\x1b\[\d*m", "", message).split())
    if "\x1b" in message:
        return f"warning: {text.removeprefix('WARN: ')}\n"
    if issubclass(category, MamlRLWarning):
        return f"warning: {text}\n"
    kind = "" if category is UserWarning else f"{category.__name__}: "
    return f"warning: {kind}{text} ({where})\n"


def _main(argv: Sequence[str] | None) -> int:
    _import_mujoco()
    os.environ["MPLBACKEND"] = (
        "agg"  # one that is inherited, from a notebook say, may not be installed here
    )
    if (
        argv is None
    ):  # as the installed command: a module of the user's is found here, as with python -m
        sys.path.insert(0, os.getcwd())
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv == ["--version"]:
        print(f"maml-rl {importlib.metadata.version('maml-rl')}")  # noqa: T201
        return 0
    if not argv or argv[0] not in COMMANDS:
        wanted = argv and argv[0] not in ("-h", "--help")
        text = f"maml-rl {{{','.join(COMMANDS)}}} ...; each explains itself with --help"
        if wanted:
            text = f"error: unknown command {argv[0]!r}.{did_you_mean(argv[0], COMMANDS)} Usage: {text}"
        print(text, file=sys.stderr)  # noqa: T201
        return 2 if wanted or not argv else 0
    try:
        for word in argv:
            check_text(word)
        with stdout_log():
            return importlib.import_module(f"maml_rl.{argv[0]}").command(argv[1:])
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


def _print_anything() -> None:
    """Escape what the locale cannot encode, such as a dash in an ASCII locale, and do not fail."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _import_mujoco() -> None:
    """Import MuJoCo without its OpenGL: it loads what MUJOCO_GL names at once, and fails where that is not there.

    Gymnasium's renderer reads the variable again, when there is something to draw.
    """
    wanted = os.environ.pop("MUJOCO_GL", None)
    importlib.import_module("mujoco")
    if wanted is not None:
        os.environ["MUJOCO_GL"] = wanted


def say(text: str) -> None:
    """Print a line on stdout at once."""
    print(text, flush=True)  # noqa: T201


class Parser(argparse.ArgumentParser):
    """Tells a mistake as every other one is told."""

    def error(self, message: str) -> NoReturn:
        """Raise a ``UserError``."""
        raise UserError(f"{message}; see {self.prog} --help")


def run_parser(command: str, description: str, several: bool = False) -> argparse.ArgumentParser:
    """What the commands on a finished run, or on ``several``, share."""
    parser = Parser(
        prog=f"python -m maml_rl.{command}", description=description, allow_abbrev=False
    )
    if several:
        text = "run folders, or pretrained policies"
        parser.add_argument("runs", type=path_argument, metavar="RUN", nargs="+", help=text)
    else:
        text = "run folder, or the name of a pretrained policy"
        parser.add_argument("run", type=path_argument, metavar="RUN", help=text)
    parser.add_argument("--seed", type=natural, default=0, help="of all random draws (default: 0)")
    parser.add_argument("--device", default="auto", help="cpu, cuda, ..., or auto (default)")
    return parser


@contextlib.contextmanager
def made_folder(folder: Path) -> Iterator[None]:
    """A folder to write into, which goes away again where nothing came to be in it.

    Raises:
        UserError: it cannot be made, or not be written into.
    """
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise UserError(f"output {folder} cannot be a folder: {error}; {OTHER_OUTPUT}") from error
    try:
        with unwritable_refused(folder, f"; {OTHER_OUTPUT}"), tempfile.TemporaryFile(dir=folder):
            pass  # refused now, and not after everything has been computed
        yield
    finally:
        if is_new and not any(folder.iterdir()):
            folder.rmdir()


class EnvFlags(NamedTuple):
    """What ``--tasks.*``, ``--env.*`` and ``--dynamics`` say."""

    flags: list[str]
    """The settings, as flags of training: ``--env.*``."""
    sweeps: dict[str, tuple[float, ...]]
    """Values of each number of a task that a sweep fixes one after the other."""
    of_tasks: list[str]
    """Those that were given as ``--tasks.*`` or ``--dynamics``."""


def add_env_flags(parser: argparse.ArgumentParser) -> None:
    """Describe the flags that :func:`take_env_flags` takes."""
    parser.add_argument(
        "--tasks.SETTING",
        metavar="VALUE",
        help="another setting of the family, as --tasks.high 3, or other tasks, as --tasks.kwarg_ranges.g [15,20]",
    )
    parser.add_argument(
        "--env.ARG",
        metavar="VALUE",
        help="another argument of an environment that is not built in, as --env.g 15",
    )
    parser.add_argument(
        "--dynamics",
        metavar="NAME=VALUE,...",
        help="another body: fixed, in a range, or one of a list, as body_mass=2,slope=-0.1:0.1,disabled_joint=[0,2]; "
        "LOW:HIGH:POINTS sweeps over values, as body_mass=0.5:3:6 (evaluate), of any number in a "
        "task",
    )


def take_env_flags(argv: Sequence[str]) -> tuple[EnvFlags, list[str]]:
    """What ``--tasks.*``, ``--env.*`` and ``--dynamics`` say, and the other arguments."""
    taken = EnvFlags([], {}, [])
    rest: list[str] = []
    words = iter(argv)
    for word in words:
        flag, equals, value = word.partition("=")
        if flag != "--dynamics" and not flag.startswith(("--tasks.", "--env.")):
            rest.append(word)
            continue
        if not equals:
            value = next(words, "")
        if not value or value.startswith("--"):
            raise UserError(f"{flag} needs a value")
        if flag == "--dynamics":
            more = _dynamics(value)
            taken.flags.extend(more.flags)
            taken.sweeps.update(more.sweeps)
        else:
            taken.flags.append(
                f"--env.{flag.removeprefix('--tasks.').removeprefix('--env.')}={value}"
            )
        if not flag.startswith("--env."):
            taken.of_tasks.append(flag)
    return taken, rest


def env_of(config: Config, flags: Sequence[str]) -> EnvConfig:
    """The environment of a run, changed by ``flags``; what is wrong with them is told in the user's terms."""
    from maml_rl.settings.env import is_family
    from maml_rl.settings.parser import with_env_flags

    check = _check_family_flag if is_family(config.env.name) else _check_env_flag
    for flag in flags:
        check(config.env, flag.partition("=")[0].removeprefix("--env."))
    try:
        return with_env_flags(config, flags).env
    except UserError as error:
        raise UserError(str(error).replace('"env.', '"tasks.')) from error


def _check_family_flag(env: EnvConfig, name: str) -> None:
    """Refuse what is no setting of a run's task family."""
    from maml_rl.settings.parser import closest

    settings = [setting for setting in env.kwargs if setting != "dynamics"]
    if name.startswith("dynamics."):
        if "dynamics" not in env.kwargs:
            raise UserError(f"{env.name} has no dynamics that could be set")
    elif name not in settings:
        hint = closest(name, settings).replace(" See --help for all settings.", "")
        valid = (
            f"{hint} Valid are {', '.join(settings)}."
            if settings
            else " It has none that could be set here."
        )
        raise UserError(f"{env.name} has no setting {name!r}.{valid}")


def _check_env_flag(env: EnvConfig, name: str) -> None:
    """Refuse what is no argument of a run's environment that is not built in, nor describes its tasks.

    Arguments that its constructor does not take are refused with those that it takes where they are
    resolved.
    """
    group, _, argument = name.partition(".")
    if group == "dynamics" and argument:
        raise UserError(
            f"{env.name} has no dynamics that could be set; a number of its tasks can be swept "
            f"({argument}=LOW:HIGH:POINTS), and an argument of its constructor set "
            f"(--env.{argument} VALUE)"
        )
    if name in ("name", "vectorization", "observe_task"):
        raise UserError(
            f"env.{name} is the run's own: it has no setting {name!r} that could be set here"
        )
    if group in ("kwarg_ranges", "task_list") and not getattr(env, group):
        raise UserError(f"the tasks of this run are not from env.{group}, so it cannot be set here")
    argument = argument if group == "kwargs" else name
    if argument in env.kwarg_ranges:
        raise UserError(
            f"{argument} is drawn for each task (env.kwarg_ranges): give "
            f"--tasks.kwarg_ranges.{argument} [LOW,HIGH] "
            f"or '{{choices: [...]}}', or, of a number, --dynamics {argument}=LOW:HIGH:POINTS"
        )


def _dynamics(text: str) -> EnvFlags:
    """``body_mass=2,slope=-0.1:0.1`` as flags of training, and ``body_mass=0.5:3:6`` as a sweep.

    Raises:
        UserError: it reads otherwise.
    """
    found = EnvFlags([], {}, [])
    for part in _parts(text):
        name, equals, value = (word.strip() for word in part.partition("="))
        low, *others = (word.strip() for word in value.split(":"))
        if not (equals and name and low and all(others)) or len(others) > 2 or "{" in value:
            raise UserError(
                "--dynamics expects NAME=VALUE, NAME=LOW:HIGH, NAME=LOW:HIGH:POINTS or "
                "NAME=[VALUE,VALUE], separated "
                f"by commas, got {text!r}"
            )
        if len(others) == 2:
            found.sweeps[name] = _sweep(part, low, *others)
        else:
            found.flags.append(
                f"{dynamics_flag(name)}={f'{{low: {low}, high: {others[0]}}}' if others else value}"
            )
    return found


def _sweep(text: str, low: str, high: str, points: str) -> tuple[float, ...]:
    try:
        first, last, number = float(low), float(high), int(points)
    except ValueError:
        first, last, number = math.nan, math.nan, 0
    if not (math.isfinite(first) and first < last and math.isfinite(last) and 2 <= number <= 1000):
        raise UserError(
            f"a sweep is NAME=LOW:HIGH:POINTS with LOW < HIGH and 2 to 1000 points, got {text!r}"
        )
    return tuple(round(first + (last - first) * i / (number - 1), 12) for i in range(number))


def dynamics_flag(name: str) -> str:
    """The flag of training that sets a parameter of the body."""
    return f"--env.dynamics.{name}"


def parse(parser: argparse.ArgumentParser, argv: list[str]) -> argparse.Namespace:
    """Parse, naming the closest match of an unknown flag."""
    flags = [option for action in parser._actions for option in action.option_strings]
    for token in argv:
        flag = token.partition("=")[0]
        if flag.startswith("--") and flag not in flags:
            raise UserError(
                f"unknown flag {flag}.{did_you_mean(flag, flags) or f' Valid: {flags}'}"
            )
    return parser.parse_args(argv)


def path_argument(text: str) -> Path:
    """A path, with ``~`` as the home folder."""
    try:
        return user_path(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def natural(text: str) -> int:
    """A whole number of at least 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 0, got {text!r}")
    return int(text)


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def task_values(text: str) -> dict[str, Any]:
    """``goal_x=0.3,gait=trot,waypoints=[1,2]`` as a task; values are read as in a YAML file."""
    task: dict[str, Any] = {}
    for part in _parts(text):
        name, equals, value = (word.strip() for word in part.partition("="))
        if not (equals and name and value):
            raise argparse.ArgumentTypeError(f"expected NAME=VALUE,NAME=VALUE,..., got {text!r}")
        if name in task:
            raise argparse.ArgumentTypeError(f"{name} is in {text!r} twice")
        task[name] = read_value(value, f"--task {name}")
    return task


def _parts(text: str) -> list[str]:
    """``text`` at its commas, but not at those within brackets, braces or quotes."""
    quoted = r"""(?<=[=,:\s\[{])(?:"(?:\\.|[^"\\])*"|'[^']*')"""
    items = re.findall(f"{quoted}|.", text, re.DOTALL)
    parts, depth = [""], 0
    for item in items:
        depth += (item in "[{") - (item in "]}")
        if item == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += item
    return parts


def refuse_flags_beside_task(task: object, env_flags: EnvFlags) -> None:
    """Refuse flags of the environment where a task is given.

    Raises:
        UserError: there is one.
    """
    if task is not None and env_flags.of_tasks:
        raise UserError(
            "--task says all about the task, the body included (body_mass=2); leave out "
            "--dynamics and --tasks"
        )
