"""Completion of commands, flags and values in a shell, by argcomplete; see docs/training.md."""

from __future__ import annotations

import argparse
import importlib
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, get_args, get_origin

from maml_rl.baselines import BASELINES
from maml_rl.errors import UserError
from maml_rl.list import SECTIONS
from maml_rl.runs.pretrained import pretrained_names
from maml_rl.settings.dynamics_study.methods import METHODS
from maml_rl.settings.env import EnvConfig
from maml_rl.settings.families import FAMILIES
from maml_rl.settings.flags import normalized, take_option
from maml_rl.settings.learners import LEARNER_CONFIGS, OUTER_CONFIGS, MAMLConfig, TRPOConfig
from maml_rl.settings.parser import chosen_name
from maml_rl.settings.sources import preset_names, read_config_file
from maml_rl.settings.training_parser import training_parser

_NAMES: dict[str, Callable[[], Iterable[str]]] = {
    "env": lambda: FAMILIES,
    "env.name": lambda: FAMILIES,
    "learner": lambda: LEARNER_CONFIGS,
    "learner.name": lambda: LEARNER_CONFIGS,
    "learners": lambda: METHODS,
    "outer": lambda: OUTER_CONFIGS,
    "outer.name": lambda: OUTER_CONFIGS,
    "config": preset_names,
    "run": pretrained_names,
    "runs": pretrained_names,
    "baseline": lambda: BASELINES,
    "section": lambda: SECTIONS,
}
"""Names that an argument takes, by its ``dest``."""
_OR_PATHS = ("config", "run", "runs")
"""Arguments that take a name or a path."""


def complete(commands: Sequence[str]) -> None:
    """Pass the completions of the line ``COMP_LINE`` to the shell, and exit the process."""
    import argcomplete

    words = os.environ["COMP_LINE"].split()
    parser = argparse.ArgumentParser(prog="maml-rl")
    parser.add_argument("--version", action="store_true")
    subparsers = parser.add_subparsers()
    for name in commands:
        parents = [_parser(name, words)] if name in words else []
        subparsers.add_parser(name, parents=parents, add_help=False)
    argcomplete.autocomplete(parser)


def _parser(command: str, words: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of a command, with completers of the values of its arguments."""
    if command == "train":
        parser = _training_parser(words)
    else:
        parser = importlib.import_module(f"maml_rl.{command}").make_parser()
    for action in parser._actions:
        action.completer = _completer(action)  # type: ignore[attr-defined]
    return parser


def _training_parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of ``train``, with the settings of what ``words`` name."""
    defaults = {"env": EnvConfig.name, "learner": MAMLConfig.name, "outer": TRPOConfig.name}
    try:
        file, flags = take_option(normalized(words), "--config")
        values = read_config_file(file).values if file else {}
        chosen = [chosen_name(flags, values, *names) for names in defaults.items()]
        parser = training_parser(*chosen)
    except UserError:  # a name or the file is missing, or not complete yet
        parser = training_parser(*defaults.values())
    for group in defaults:
        parser.add_argument(f"--{group}")
    return parser


def _completer(action: argparse.Action) -> Callable[..., list[str]]:
    """A function that returns the values of an argument, and paths if it takes others."""
    from argcomplete.completers import FilesCompleter

    kind = getattr(action, "_typehint", None)  # set by jsonargparse
    if action.dest in _NAMES:
        names = list(_NAMES[action.dest]())
    elif get_origin(kind) is Literal:
        names = [str(value) for value in get_args(kind)]
    elif kind is bool:
        names = ["true", "false"]
    else:
        names = list(action.choices or [])

    def values(prefix: str, **_: Any) -> list[str]:
        takes_paths = action.dest in _OR_PATHS or not names
        return [*names, *(FilesCompleter()(prefix) if takes_paths else [])]

    return values
