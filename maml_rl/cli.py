"""The commands ``maml-rl COMMAND`` (:data:`COMMANDS`) and what they share."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import re
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

import maml_rl
from maml_rl.errors import MamlRLWarning, UserError, did_you_mean, one_line
from maml_rl.settings.ranges import MOST_DIGITS, Integer
from maml_rl.system.atomic_files import unwritable_refused
from maml_rl.system.stop_flag import StopFlag, signals_held
from maml_rl.system.untrusted_files import check_text, user_path
from maml_rl.training.stdout_log import stdout_log

OTHER_OUTPUT = "choose another folder with --output"
COMMANDS = {
    "train": "meta-train a policy on a family of tasks, or resume a run",
    "evaluate": "measure the return after 0, 1, ... K adaptation steps, of one run or several",
    "compare": "train several learners on varied dynamics, and compare them on unseen ones",
    "record": "record a video of a policy before and after adaptation",
    "play": "play a task in a window before and after adaptation",
    "plot": "plot the learning curves of runs",
    "baselines": "train policies to compare a run with",
    "doctor": "check the installation: versions, devices, rendering, one iteration of training",
    "list": "list task families, presets, learners, outer steps and pretrained policies",
}
"""What each command does. Each is a module with a function ``command``, which takes the arguments
and returns the exit status."""
_USAGE_END = """\
example: maml-rl train --env HalfCheetahVel --num_iterations 100
maml-rl COMMAND --help lists the flags of a command; maml-rl --version prints the version."""
_SIGPIPE = 13
DEPENDENCIES = frozenset(
    {
        "PIL",
        "av",
        "docstring_parser",
        "gymnasium",
        "imageio",
        "jsonargparse",
        "matplotlib",
        "mujoco",
        "numpy",
        "safetensors",
        "scipy",
        "stable_baselines3",
        "tensorboard",
        "torch",
        "tqdm",
        "yaml",
    }
)
"""Import names of the packages without which no command but doctor works."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; a ``UserError`` is one line on stderr and exit status 2.

    If the reader of stdout has closed it, as in ``| head -1``, the command ends silently with the
    status of SIGPIPE.

    Args:
        argv: the command and its arguments; default is the command line.

    Returns:
        The exit status.
    """
    _escape_unencodable()
    try:
        try:
            with _warnings_in_one_line():
                return _main(argv)
        finally:
            _flush_stdout()  # --help leaves its text in the buffer
    except BrokenPipeError:
        _discard_stdout()
        return 128 + _SIGPIPE
    except _StdoutError as error:
        _discard_stdout()
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2


class _StdoutError(Exception):
    """stdout cannot be written to, as a file on a full disk."""


def _flush_stdout() -> None:
    """Write what is left in the buffer.

    Raises:
        BrokenPipeError: if the reader has closed it.
        _StdoutError: if it cannot be written for another reason; in place of the command's error.
    """
    try:
        print(end="", flush=True)  # noqa: T201
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _StdoutError(f"stdout cannot be written: {error}") from error


def _discard_stdout() -> None:
    """Python flushes stdout again on exit, which would fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Show each warning once, as one line, without the line of code."""
    before = warnings.formatwarning
    printed = set[str]()

    def formatwarning(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        line: str | None = None,
    ) -> str:
        text = _warning_line(str(message), category, f"{filename}:{lineno}")
        is_new = text not in printed
        printed.add(text)
        return text if is_new else ""

    warnings.formatwarning = formatwarning
    try:
        yield
    finally:
        warnings.formatwarning = before


def _warning_line(message: str, category: type[Warning], where: str) -> str:
    """``warning: ...``, with file and line unless it is from this package or from Gymnasium."""
    text = one_line(re.sub(r"\x1b\[\d*m", "", message))
    if "\x1b" in message:  # only Gymnasium colours its warnings
        return f"warning: {text.removeprefix('WARN: ')}\n"
    if issubclass(category, MamlRLWarning):
        return f"warning: {text}\n"
    kind = "" if category is UserWarning else f"{category.__name__}: "
    return f"warning: {kind}{text} ({where})\n"


def _main(argv: Sequence[str] | None) -> int:
    """Run a command; an error is one line."""
    try:
        return _run(argv)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    except FloatingPointError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in DEPENDENCIES:
            raise
        text = f"package {package} is not installed; maml-rl doctor lists what to install"
        print(f"error: {text}", file=sys.stderr)  # noqa: T201
        return 1
    except MemoryError as error:
        print(f"error: not enough memory: {error}", file=sys.stderr)  # noqa: T201
        return 1
    except KeyboardInterrupt as error:
        print("stopped", file=sys.stderr)  # noqa: T201
        return 128 + getattr(error, "number", signal.SIGINT)


def _run(argv: Sequence[str] | None) -> int:
    # Prepare the process
    with signals_held():  # MuJoCo would turn Ctrl-C into an ImportError
        _import_mujoco()
    os.environ["MPLBACKEND"] = "agg"  # an inherited one (a notebook's) may not be installed here
    try:
        folder = os.getcwd()
    except FileNotFoundError as error:
        raise UserError("the current folder no longer exists") from error
    if argv is None:  # the installed command; python -m finds modules in the current folder itself
        sys.path.insert(0, folder)
    argv = list(sys.argv[1:] if argv is None else argv)
    if "_ARGCOMPLETE" in os.environ:  # the shell asks for completions
        importlib.import_module("maml_rl.completion").complete(COMMANDS)
    # Version, usage
    if "--version" in argv and argv[0] in ("--version", *COMMANDS):
        say(f"maml-rl {maml_rl.__version__}")
        return 0
    if not argv or argv[0] not in COMMANDS:
        return _print_usage(argv)
    # The command
    for word in argv:
        check_text(word)
    with stdout_log():
        return importlib.import_module(f"maml_rl.{argv[0]}").command(argv[1:])


def _print_usage(argv: Sequence[str]) -> int:
    """Print what each command does, or an error for an unknown one.

    Returns:
        The exit status.
    """
    is_help = bool(argv) and argv[0] in ("-h", "--help")
    if argv and not is_help:
        usage = f"maml-rl {{{','.join(COMMANDS)}}} ...; flags of a command: maml-rl train --help"
        text = f"unknown command {argv[0]!r}.{did_you_mean(argv[0], COMMANDS)} Usage: {usage}"
        print(f"error: {text}", file=sys.stderr)  # noqa: T201
        return 2
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {purpose}" for name, purpose in COMMANDS.items()]
    usage = "\n".join(["usage: maml-rl COMMAND ...", "", *lines, "", _USAGE_END])
    print(usage, file=sys.stdout if is_help else sys.stderr)
    return 0 if is_help else 2


def _escape_unencodable() -> None:
    """Print characters that the locale cannot encode as escapes, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _import_mujoco() -> None:
    """Import MuJoCo with MUJOCO_GL unset: the import fails if that backend's library is missing.

    Gymnasium's renderer reads the variable again before it renders. Without MuJoCo, the command
    says so: doctor in its list, the others where they import it.
    """
    backend = os.environ.pop("MUJOCO_GL", None)
    with contextlib.suppress(ModuleNotFoundError):
        importlib.import_module("mujoco")
    if backend is not None:
        os.environ["MUJOCO_GL"] = backend


def say(text: str) -> None:
    """Print a line on stdout at once."""
    print(text, flush=True)  # noqa: T201


class Parser(argparse.ArgumentParser):
    """ArgumentParser that raises UserError instead of exiting."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False)
        # main reads it; it is here for the help
        self.add_argument("--version", action="store_true", help="print the version and exit")

    def error(self, message: str) -> NoReturn:
        """Raise a ``UserError``."""
        raise UserError(f"{message}; see {self.prog} --help")


def run_parser(command: str, description: str, several: bool = False) -> argparse.ArgumentParser:
    """Make a parser with the arguments shared by the commands that read one or ``several`` runs."""
    parser = Parser(prog=f"python -m maml_rl.{command}", description=description)
    if several:
        text = "run folders, folders of several seeds (train --seeds), or pretrained policies"
        parser.add_argument("runs", type=path_argument, metavar="RUN", nargs="+", help=text)
    else:
        text = "run folder, or the name of a pretrained policy"
        parser.add_argument("run", type=path_argument, metavar="RUN", help=text)
    parser.add_argument(
        "--seed", type=non_negative, default=0, help="seed of all random draws (default: 0)"
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, ..., or auto (default)")
    return parser


def add_adaptation_flags(parser: argparse.ArgumentParser) -> None:
    """Add flags of a command that shows the policy after 0, 1, ... K adaptation steps."""
    parser.add_argument(
        "--num_steps", type=non_negative, help="adaptation steps K (default: as in training)"
    )
    parser.add_argument(
        "--num_episodes", type=positive, help="episodes per step (default: as in training)"
    )
    parser.add_argument(
        "--stochastic",
        action="store_true",
        help="show sampled actions (default: mean actions; of discrete actions, the most probable)",
    )


def add_iteration_flag(parser: argparse.ArgumentParser) -> None:
    """Add ``--iteration``, which chooses a checkpoint of the runs."""
    parser.add_argument(
        "--iteration",
        type=_iteration,
        metavar="N",
        help="use the checkpoint after N meta-iterations, or best: the one with the highest return "
        "in the evaluations in training, of runs with logging.keep_best (default: the newest)",
    )


def _iteration(text: str) -> int | Literal["best"]:
    if text == "best":
        return "best"
    try:
        return non_negative(text)
    except argparse.ArgumentTypeError as error:
        expected = f"best or {Integer(0, None)}"
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r:.100}") from error


@contextlib.contextmanager
def made_folder(folder: Path) -> Iterator[None]:
    """Make a folder to write into; remove it at the end if it is new and still empty.

    A stop signal, such as SIGTERM, raises ``KeyboardInterrupt`` in between, as Ctrl-C does.

    Raises:
        UserError: if it cannot be made or written to.
    """
    is_new = not os.path.exists(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise UserError(f"output {folder} cannot be a folder: {error}; {OTHER_OUTPUT}") from error
    try:
        with unwritable_refused(folder, f"; {OTHER_OUTPUT}"), tempfile.TemporaryFile(dir=folder):
            pass  # fail now, not after the computation
        with StopFlag().handling():
            yield
    finally:
        if is_new and not any(folder.iterdir()):
            folder.rmdir()


def parse(parser: argparse.ArgumentParser, argv: list[str]) -> argparse.Namespace:
    """Parse ``argv``.

    Raises:
        UserError: if an argument is invalid. For an unknown flag, the message suggests one.
    """
    flags = [option for action in parser._actions for option in action.option_strings]
    for token in argv:
        flag = token.partition("=")[0]
        if flag.startswith("--") and flag not in flags:
            hint = did_you_mean(flag, flags) or f" Valid are {', '.join(flags)}"
            raise UserError(f"unknown flag {flag}.{hint}")
    return parser.parse_args(argv)


def path_argument(text: str) -> Path:
    """Parse a path, with ``~`` expanded."""
    try:
        return user_path(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def one_of(kind: str, valid: Collection[str]) -> Callable[[str], str]:
    """Return a parser of names, which refuses others than ``valid`` and suggests the closest.

    Args:
        kind: what the names are, for the message.
        valid: names.
    """

    def parse_name(name: str) -> str:
        if name not in valid:
            hint = did_you_mean(name, valid)
            raise argparse.ArgumentTypeError(
                f"unknown {kind} {name!r}.{hint} Valid are {', '.join(valid)}"
            )
        return name

    return parse_name


def non_negative(text: str) -> int:
    """Parse an integer of at least 0."""
    return _integer(text, least=0)


def positive(text: str) -> int:
    """Parse an integer of at least 1."""
    return _integer(text, least=1)


def _integer(text: str, least: int) -> int:
    expected = Integer(least, None)
    value = int(text) if text.isdecimal() and len(text) <= MOST_DIGITS else None
    if value is None or not expected.accepts(value):
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r:.100}")
    return value
