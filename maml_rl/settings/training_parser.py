"""The parser of every setting of a run: flags, types, defaults and help."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Collection
from dataclasses import MISSING, Field, fields
from typing import Any, get_type_hints

import docstring_parser
from jsonargparse import ArgumentParser

from maml_rl.errors import one_line
from maml_rl.settings.config import Config
from maml_rl.settings.env import ENV_SETTINGS, EnvConfig
from maml_rl.settings.families import family_of
from maml_rl.settings.learners import (
    LEARNER_GROUPS,
    OUTER_CONFIGS,
    LearnerConfig,
    learner_class,
    outer_class,
)

_SELECTED = ("env", "learner", "outer")
"""Groups whose settings depend on a name."""
GROUPS = {name: kind for name, kind in Config.GROUP_TYPES.items() if name not in _SELECTED}
"""Groups of settings by name. Which of them there are depends on the learner only."""
NOT_SETTINGS = {"help", "version", "config", "resume", "print_config", "seeds", "dynamics"}
"""Flags that are not settings, so a file cannot contain them."""
_NOT_OF_FAMILIES = ENV_SETTINGS - {"name", "observe_task"}
"""Settings that only environments without a task family have."""

# What jsonargparse writes about a setting that takes values of several types.
_SEVERAL_TYPES = r"(.*): Does not validate.* Subtypes: \[(.+?)\] Errors: .* Given value: ?(.*)"
_TYPES = {
    "int": "an integer",
    "float": "a number",
    "str": "a string",
    "tuple": "a list of strings",
    "NoneType": "null",
}
_REPLACED = {
    "a <class 'int'>": "an integer",
    "a <class 'float'>": "a number",
    "<class 'tuple'>": "list such as [64,64]",
    "<class 'collections.abc.Mapping'>": "mapping such as {body_mass: [0.5, 2.0]}",
    "a typing.Literal": "one of ",
}


def training_parser(env_name: str, learner_name: str, outer_name: str) -> ArgumentParser:
    """The parser of every setting, with those of one environment, learner and outer step.

    Raises:
        UserError: if the environment, the learner or the outer step is unknown.
    """
    learner = learner_class(learner_name)
    parser = ArgumentParser(
        prog="python -m maml_rl.train",
        usage="%(prog)s [--env NAME] [--config FILE] [--SETTING VALUE ...]",
        description="Meta-train a policy. Give settings as flags or in a YAML file (--config).",
        exit_on_error=False,
        allow_abbrev=False,
        add_help=False,
    )
    _add_run(parser.add_argument_group("run"))
    _add_env(parser.add_argument_group(f"env: {env_name}"), env_name)
    _add_learner(parser.add_argument_group(f"learner: {learner_name}"), learner_name, learner)
    for group, cls in groups_of(learner).items():
        title = f"{group}: {cls.__doc__}".removesuffix(".")
        _add_dataclass(parser.add_argument_group(title), cls, f"{group}.")
    if "outer" in learner.GROUPS:
        _add_outer(parser.add_argument_group(f"outer: {outer_name}"), outer_name)
    return parser


def groups_of(learner: type[LearnerConfig]) -> dict[str, type]:
    """The groups in ``GROUPS`` that there are with a learner, and their classes."""
    unused = set(LEARNER_GROUPS) - set(learner.GROUPS)
    return {group: cls for group, cls in GROUPS.items() if group not in unused}


def known_settings(parser: ArgumentParser) -> list[str]:
    """Dotted names of every setting that a file may contain."""
    return [action.dest for action in parser._actions if action.dest not in NOT_SETTINGS]


def optional_settings(parser: ArgumentParser) -> set[str]:
    """Dotted names of the settings that may be null."""
    return {action.dest for action in parser._actions if action.default is None}


def plain_message(message: str) -> str:
    """Reword a message of the parser without names of Python types."""
    text = one_line(message).removeprefix("Parser key ")
    several = re.fullmatch(_SEVERAL_TYPES, text)
    if several is not None:
        setting, types, value = several.groups()
        names = re.findall(r"tuple|(?<=')\w+", types)
        expected = " or ".join(_TYPES.get(name, name) for name in names)
        return f"{setting}: Expected {expected}. Got value: {value}"
    for python, plain in _REPLACED.items():
        text = text.replace(python, plain)
    return re.sub(r"<class '(\w+)'>", r"\1", text)


def _add_run(group: Any) -> None:
    """Add the settings that are in no group, and the flags that are not settings.

    Except ``--help``, they are read before the parser runs; they are here only for the help.
    """
    group.add_argument("-h", "--help", action="help", help="Show every setting and exit.")
    group.add_argument("--version", action="store_true", help="Print the version and exit.")
    group.add_argument(
        "--config", metavar="FILE", help="YAML file of settings, or a preset in configs/."
    )
    group.add_argument(
        "--resume",
        metavar="RUN",
        help="Resume a run, or all runs in the folder of --seeds; only --num_iterations and "
        "--max_env_steps may be added.",
    )
    group.add_argument(
        "--seeds",
        nargs="+",
        metavar="SEED",
        help="Train a run for each seed, one after another, as seed-SEED in the folder --output "
        "(null: runs/FAMILY/date-time). Repeat the command to resume.",
    )
    group.add_argument(
        "--print_config", action="store_true", help="Print the resolved settings and exit."
    )
    _add_dataclass(group, Config, "", skip={*_SELECTED, *GROUPS})


def _add_env(group: Any, env_name: str) -> None:
    """Add the settings of the task family, if there is one, and those of EnvConfig that apply."""
    text = f"{_help(EnvConfig, 'name')} Short: --env."
    group.add_argument("--env.name", type=str, default=env_name, help=text)
    family = family_of(env_name)
    if family is None:
        _add_dataclass(group, EnvConfig, "env.", skip={"name"})
    else:
        _add_dataclass(group, family, "env.")
        if "dynamics" in {field.name for field in fields(family)}:
            text = (
                "Dynamics that vary between tasks, in short: ranges, values or lists of values, "
                "e.g. body_mass=0.5:2,action_delay=0:2."
            )
            group.add_argument("--dynamics", metavar="NAME=LOW:HIGH,...", help=text)
        _add_dataclass(group, EnvConfig, "env.", skip={"name", *_NOT_OF_FAMILIES})


def _add_learner(group: Any, name: str, learner: type[LearnerConfig]) -> None:
    text = f"{_help(LearnerConfig, 'name')} Short: --learner."
    group.add_argument("--learner.name", type=str, default=name, help=text)
    _add_dataclass(group, learner, "learner.", skip={"name"})


def _add_outer(group: Any, name: str) -> None:
    text = f"The outer step: {', '.join(OUTER_CONFIGS)}, or module:Class. Short: --outer."
    group.add_argument("--outer.name", type=str, default=name, help=text)
    _add_dataclass(group, outer_class(name), "outer.")


def _add_dataclass(group: Any, cls: type, prefix: str, skip: Collection[str] = ()) -> None:
    hints = get_type_hints(cls)
    for field in fields(cls):
        if field.name not in skip:
            group.add_argument(
                f"--{prefix}{field.name}",
                type=hints[field.name],
                default=_default(field),
                help=_help(cls, field.name),
            )


def _default(field: Field[Any]) -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default


def _help(cls: type, name: str) -> str:
    """The docstring of a dataclass field, its own or inherited."""
    for owner in inspect.getmro(cls):
        if name in vars(owner).get("__annotations__", {}):
            return _field_docstrings(owner).get(name, "")
    return ""


@functools.cache  # it parses source code, and every parser needs the text of every field
def _field_docstrings(cls: type) -> dict[str, str]:
    return {p.arg_name: p.description or "" for p in docstring_parser.parse_from_object(cls).params}
