"""Build a configuration from Python arguments, files and flags.

Precedence: flag or Python argument, file, preset of environment and learner, default in code.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import functools
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from jsonargparse import ArgumentParser, Namespace

from maml_rl.errors import UserError, did_you_mean
from maml_rl.settings.config import Config, to_mapping
from maml_rl.settings.env import EnvConfig, check_argument, resolve_env_id
from maml_rl.settings.families import family_of
from maml_rl.settings.flags import check_flags, normalized, take_arguments, take_option
from maml_rl.settings.learners import (
    MAMLConfig,
    TRPOConfig,
    hint_of_group,
    learner_class,
    outer_class,
)
from maml_rl.settings.ranges import MOST_DIGITS
from maml_rl.settings.sources import (
    expanded,
    for_learner,
    for_outer,
    merged,
    name_of,
    preset,
    read_config_file,
    with_kwargs,
)
from maml_rl.settings.training_parser import (
    NOT_SETTINGS,
    groups_of,
    known_settings,
    optional_settings,
    plain_message,
    training_parser,
)
from maml_rl.system.safe_yaml import check_plain, plain_values


def load_config(file: str | Path | None = None, **settings: Any) -> Config:
    """The configuration that the command line would resolve.

    Args:
        file: a YAML file, or the name of one in configs/ (``maml/HalfCheetahVel``).
        settings: as in a file: ``load_config(env={"name": "HalfCheetahDir"}, inner={"num_steps":
            2})``.

    Raises:
        UserError: if a setting is unknown (the message names the closest match), or its value has
            the wrong type or is out of range.
    """
    from_file, is_complete = read_config_file(str(file)) if file is not None else ({}, False)
    # EnvConfig converts arguments of the environment.
    settings = expanded(
        {name: one if name == "env" else plain_values(one) for name, one in settings.items()}
    )
    for name in ("init_from", "output"):  # may be paths, as train returns
        if isinstance(settings.get(name), PurePath):
            settings[name] = str(settings[name])
    env_name = name_of(settings, "env", name_of(from_file, "env", EnvConfig.name))
    if family_of(env_name) is None:
        from_file, settings = with_kwargs(from_file), with_kwargs(settings)
    learner_name = name_of(settings, "learner", name_of(from_file, "learner", MAMLConfig.name))
    values = _preset_and_file(env_name, learner_name, from_file, is_complete)
    values = merged(values, settings)
    return resolve(values, [], source="the arguments")


def parse_training_arguments(argv: Sequence[str]) -> Config:
    """The configuration that the flags of ``maml_rl.train`` describe; ``--help`` exits.

    Raises:
        UserError: as :func:`load_config`.
    """
    file, flags = take_option(normalized(argv), "--config")
    from_file, is_complete = read_config_file(file) if file is not None else ({}, False)
    env_name = chosen_name(flags, from_file, "env", EnvConfig.name)
    learner_name = chosen_name(flags, from_file, "learner", MAMLConfig.name)
    values = _preset_and_file(env_name, learner_name, from_file, is_complete)
    return resolve(values, flags, source=file or "the preset")


def _preset_and_file(
    env_name: str, learner_name: str, from_file: Mapping[str, Any], is_complete: bool
) -> dict[str, Any]:
    """Merge a file over the preset; drop settings of another environment or learner.

    Of the preset only the horizon counts if the file is complete.
    """
    base = preset(env_name, learner_name)
    if is_complete:
        base = {name: value for name, value in base.items() if name == "horizon"}
    values = merged(base, for_learner(from_file, learner_name))
    if resolve_env_id(name_of(values, "env", env_name)) != resolve_env_id(env_name):
        values["env"] = {"name": env_name}
    return values


def with_env_flags(config: Config, flags: Sequence[str]) -> Config:
    """``config`` with other settings of the environment: flags that begin with ``--env.``.

    Raises:
        UserError: as :func:`load_config`.
    """
    return resolve(to_mapping(config), flags, source="the run")


def resolve(values: Mapping[str, Any], argv: Sequence[str], source: str) -> Config:
    """Build a configuration from nested ``values``, which the flags in ``argv`` override.

    Args:
        values: settings of a preset, a file or a run.
        argv: normalized flags of settings.
        source: where ``values`` come from, for messages.

    Raises:
        UserError: as :func:`load_config`.
    """
    # Check values and flags against the settings of this environment, learner and outer step
    for name in values:
        group, dot, setting = str(name).partition(".")
        if dot:
            raise UserError(
                f"{name!r} in {source}: write a setting of a group as {group}: {{{setting}: VALUE}}"
            )
    values, names = _with_names(values, argv)
    env_name = names.env
    learner: type = learner_class(names.learner)
    parser, defaults = _parser_and_defaults(names, family_of(env_name), learner)
    known = known_settings(parser)
    _check_values(values, known, optional_settings(parser), names.learner, source)
    # Split off arguments and tasks of other environments, which the parser must not see
    arguments: dict[str, Any] = {}
    if family_of(env_name) is None:
        arguments, argv = take_arguments(values["env"], argv)
        settings = {key: value for key, value in values["env"].items() if key not in arguments}
        values = {**values, "env": settings}
    check_flags(argv, known, names.learner)
    for name in arguments.get("kwargs", {}):
        if isinstance(name, str):  # EnvConfig refuses others
            check_argument(resolve_env_id(env_name), name, f"env.{name}: {env_name}")
    # Merge, validate types, build
    with _plain_errors(source):
        parsed = _parsed(parser, values, defaults)
        if argv:
            if not {"-h", "--help"}.isdisjoint(argv):  # it shows the values as defaults
                parser = training_parser(*names)
                parser.set_defaults({name: parsed[name] for name in defaults})
            parsed = parser.parse_args(list(argv), namespace=parsed, defaults=False)
        settings = {
            key: value for key, value in parsed.as_dict().items() if key not in NOT_SETTINGS
        }
        return _built(settings, arguments)


class _Names(NamedTuple):
    env: str
    learner: str
    outer: str


@functools.lru_cache(maxsize=16)  # making them takes longer than reading the settings of a run
def _parser_and_defaults(
    names: _Names, family: type | None, learner: type
) -> tuple[ArgumentParser, Mapping[str, Any]]:
    """The parser, and the defaults by dotted name; the classes tell families of one name apart."""
    parser = training_parser(*names)
    defaults = parser.parse_object({}, defaults=True)
    return parser, {name: defaults[name] for name in known_settings(parser)}


def chosen_name(argv: Sequence[str], values: Mapping[str, Any], group: str, default: str) -> str:
    """The name that the flag ``--GROUP.name`` sets, else that in ``values``."""
    name, _ = take_option(argv, f"--{group}.name")
    return name or name_of(values, group, default)


def _with_names(values: Mapping[str, Any], argv: Sequence[str]) -> tuple[dict[str, Any], _Names]:
    """``values`` without settings of another outer step, and the names in effect."""
    env_name = chosen_name(argv, values, "env", EnvConfig.name)
    learner_name = chosen_name(argv, values, "learner", MAMLConfig.name)
    flag_outer, _ = take_option(argv, "--outer.name")
    values = dict(values)
    outer_name = name_of(values, "outer", TRPOConfig.name)
    if flag_outer and flag_outer != outer_name and "outer" in learner_class(learner_name).GROUPS:
        outer_name = flag_outer
        values = for_outer(values, outer_name)
    if family_of(env_name) is None:
        values = with_kwargs(values)
    else:
        _refuse_tasks(env_name, values, argv)
    return values, _Names(env_name, learner_name, outer_name)


def _refuse_tasks(family: str, values: Mapping[str, Any], argv: Sequence[str]) -> None:
    """Refuse a distribution of tasks for a family, which draws its tasks itself."""
    flags = {word.partition("=")[0] for word in argv}
    for name in ("kwarg_ranges", "task_list"):
        if name in values.get("env", {}) or f"--env.{name}" in flags:
            raise UserError(
                f"env.{name}: {family} draws its tasks itself, from a distribution that its own "
                "settings describe (see --help), such as env.dynamics where the family has it: "
                "--env.dynamics.body_mass [0.5,2]"
            )


def _check_values(
    values: Mapping[str, Any],
    known: Sequence[str],
    optional: Collection[str],
    learner_name: str,
    source: str,
) -> None:
    """Refuse unknown settings, null where it is not allowed, and huge integers.

    The parser's messages about them are unclear.
    """
    for name, value in _leaves(values, known):
        if any(setting.startswith(f"{name}.") for setting in known):
            raise UserError(f"{name} in {source} must be a mapping of settings, got {value!r:.200}")
        if name.startswith("env.dynamics.") and name not in known:
            raise UserError(f"{name} in {source}: this environment has no dynamics to set")
        if name not in known:
            hint = hint_of_group(name, learner_name) or did_you_mean(name, known)
            hint = hint or " See --help for all settings."
            raise UserError(f"unknown setting {name!r} in {source}.{hint}")
        if isinstance(value, int) and abs(value) >= 10**MOST_DIGITS:
            raise UserError(f"setting {name!r} in {source} must have at most {MOST_DIGITS} digits")
        if value is None and name not in optional:
            raise UserError(f"setting {name!r} in {source} must have a value, got null")


def _leaves(
    values: Mapping[str, Any], known: Sequence[str], prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """Dotted names and values; a known setting is a leaf even if its value is a mapping."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and name not in known:
            yield from _leaves(value, known, f"{name}.")
        else:
            yield name, value


def _parsed(
    parser: ArgumentParser, values: Mapping[str, Any], defaults: Mapping[str, Any]
) -> Namespace:
    """Check the types of ``values``, which override ``defaults``, in the order of the latter."""
    # The parser would check its defaults again: that takes longer than checking the values.
    parsed = parser.parse_object(dict(values), defaults=False)
    result = Namespace()  # type: ignore[no-untyped-call]
    for name, default in defaults.items():
        result[name] = parsed[name] if name in parsed else copy.deepcopy(default)
    return result


@contextlib.contextmanager
def _plain_errors(source: str) -> Iterator[None]:
    """Raise errors of the parser and of the dataclasses as ``UserError``."""
    try:
        yield
    except argparse.ArgumentError as error:
        raise UserError(plain_message(str(error))) from error
    except OverflowError as error:  # an integer, in a list or a mapping, too large for a float
        raise UserError(f"a number in {source} or a flag is too large: {error}") from error
    except ValueError as error:
        raise UserError(str(error)) from error


def _built(values: dict[str, Any], arguments: Mapping[str, Any]) -> Config:
    """The configuration; its dataclasses check ranges and contradictions.

    Args:
        values: what the parser returned.
        arguments: settings of the environment that the parser did not see.

    Raises:
        ValueError: if a dataclass refuses its values.
    """
    env = _built_env(values.pop("env"), arguments)
    learner = values.pop("learner")
    cls = learner_class(learner["name"])
    groups: dict[str, Any] = {"learner": cls(**learner)}
    groups |= {group: config(**values.pop(group)) for group, config in groups_of(cls).items()}
    if "outer" in cls.GROUPS:
        outer = values.pop("outer")
        groups["outer"] = outer_class(outer.pop("name"))(**outer)
    return Config(**values, **groups, env=env)


def _built_env(settings: dict[str, Any], arguments: Mapping[str, Any]) -> EnvConfig:
    name = settings.pop("name")
    observe_task = settings.pop("observe_task")
    family = family_of(name)
    if family is None:
        env = EnvConfig(
            name=name,
            observe_task=observe_task,
            vectorization=settings["vectorization"],
            **arguments,
        )
    else:
        env = EnvConfig(name=name, observe_task=observe_task, kwargs=plain_values(settings))
        family(**env.kwargs)  # runs the family's own checks
    # Refuse values that config.yaml cannot hold
    kept = {"kwargs": dict(env.kwargs), "kwarg_ranges": env.kwarg_ranges}
    check_plain({**kept, "task_list": [*env.task_list]}, "env")
    return env
