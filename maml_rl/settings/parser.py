"""From flags and YAML files to a configuration, and from a run folder to its policy.

Values win in this order: flag, ``--config`` file, preset of the environment, default in code.
"""

from __future__ import annotations

import argparse
import functools
import importlib.resources
import inspect
import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, Literal, get_type_hints

import docstring_parser
from jsonargparse import ArgumentParser, Namespace
from maml_envs import FAMILIES, env_id
from maml_envs.engines.dynamics import parse as parse_dynamics

from maml_rl.errors import UserError, did_you_mean
from maml_rl.settings.config import Config, LoggingConfig, to_mapping
from maml_rl.settings.env import (
    ENV_SETTINGS,
    EnvConfig,
    check_kwargs,
    registered_horizon,
    resolve_env_id,
)
from maml_rl.settings.maml import OUTER_CONFIGS, BaselineConfig, InnerConfig
from maml_rl.settings.policy import PolicyConfig
from maml_rl.system.safe_yaml import check_plain, plain_values, read_value, read_yaml
from maml_rl.system.user_paths import user_path

_GROUPS = {
    "policy": PolicyConfig,
    "inner": InnerConfig,
    "baseline": BaselineConfig,
    "logging": LoggingConfig,
}
_NOT_SETTINGS = {"help", "config", "resume", "print_config"}
_ITEMS = "env.dynamics"  # a mapping, whose items are flags too: --env.dynamics.body_mass
_OF_OTHER_ENVS = {
    "kwargs",
    "vectorization",
    "kwarg_ranges",
    "task_list",
}  # settings that families of ours do not have
_TOO_LARGE = (
    10**20
)  # beyond every whole number that is a setting; a float can hold no more than 10**308
_SHORTHANDS = {"--env": "--env.name", "--outer": "--outer.name"}


def with_env_flags(config: Config, flags: Sequence[str]) -> Config:
    """``config`` with other settings of the environment: flags that begin with ``--env.``.

    Raises:
        UserError: as :func:`load_config`.
    """
    return resolve(to_mapping(config), flags, source="the run")


def is_dynamics(env_name: str, name: str) -> bool:
    """Whether ``env.dynamics`` sets this number of a task, rather than the environment on its own."""
    family: Any = family_of(env_name)
    return family is not None and name not in family.task_units


def trained_range(config: Config, name: str) -> tuple[float, float] | None:
    """The values that a number of a task had in training, from the lowest to the highest.

    Args:
        config: of a run.
        name: of the number.

    Returns:
        The range; ``None`` where the settings do not say it, as where an environment draws its
        tasks itself.
    """
    family: Any = family_of(config.env.name)
    if family is None:
        return _drawn_range(config.env, name)
    if not is_dynamics(config.env.name, name):
        settings = config.env.kwargs
        return (settings["low"], settings["high"]) if {"low", "high"} <= settings.keys() else None
    known = family.body.parameters
    setting = parse_dynamics(config.env.kwargs.get("dynamics", {}), known)
    if name not in setting:
        return known[name].nominal, known[name].nominal
    drawn = setting[name]
    return (min(drawn.choices), max(drawn.choices)) if drawn.choices else (drawn.low, drawn.high)


def _drawn_range(env: EnvConfig, name: str) -> tuple[float, float] | None:
    """The range that ``env.kwarg_ranges`` or ``env.task_list`` draw a number from."""
    drawn = env.drawn_tasks
    if drawn is None or name not in drawn.names:
        return None
    values = [task[name] for task in drawn.listed if name in task]
    if not drawn.listed:
        distribution = drawn.distributions[name]
        values = list(distribution.choices) or [distribution.low, distribution.high]
    numbers = [value for value in values if type(value) in (int, float)]
    return (min(numbers), max(numbers)) if numbers else None


def load_config(file: str | Path | None = None, **settings: Any) -> Config:
    """The configuration that the command line would resolve.

    Args:
        file: a YAML file, or the name of one in configs/ (``maml/HalfCheetahVel``).
        settings: as in a file: ``load_config(env={"name": "HalfCheetahDir"}, inner={"num_steps":
            2})``.

    Raises:
        UserError: an unknown setting (the closest match is named), or a value of the wrong type or
            range.
    """
    from_file = _as_file(_read_config_file(str(file))) if file is not None else {}
    settings = _as_file(settings)
    env_name = _name(settings, "env", _name(from_file, "env", EnvConfig.name))
    if family_of(env_name) is None:
        from_file, settings = _with_kwargs(from_file), _with_kwargs(settings)
    given = merged(from_file, settings)
    return resolve(merged(preset(env_name), given), [], source="the settings given")


def parse_training_arguments(argv: Sequence[str]) -> Config:
    """The configuration that the flags of ``maml_rl.train`` describe.

    Raises:
        UserError: as :func:`load_config`.
    """
    argv = _expand_shorthands(_joined_numbers(argv))
    config_file, argv = take_option(argv, "--config")
    given = _as_file(_read_config_file(config_file)) if config_file is not None else {}
    env_name = _option(argv, "--env.name") or _name(given, "env", EnvConfig.name)
    values = merged(preset(env_name), given)
    if resolve_env_id(_name(values, "env", env_name)) != resolve_env_id(
        env_name
    ):  # the flag's is not the file's
        values["env"] = {"name": env_name}
    return resolve(values, argv, source=config_file or "the preset")


def resolve(values: Mapping[str, Any], argv: Sequence[str], source: str) -> Config:
    """A configuration from nested ``values`` and, over them, the flags in ``argv``.

    Raises:
        UserError: an unknown setting (the closest match is named), or a value of the wrong type or
            range.
    """
    env_name = _option(argv, "--env.name") or _name(values, "env", EnvConfig.name)
    outer_name = _option(argv, "--outer.name") or _name(values, "outer", "trpo")
    if outer_name != _name(values, "outer", "trpo"):  # the flag's is not the file's
        values = {**values, "outer": {"name": outer_name}}
    parser = training_parser(env_name, outer_name)
    known = known_settings(parser)
    is_family = family_of(env_name) is not None
    if not is_family:
        values = _with_kwargs(values)
    else:
        _refuse_tasks(env_name, values, argv)
    optional = {action.dest for action in parser._actions if action.default is None}
    for key, value in _leaves(values, known):
        if key not in known:
            raise UserError(f"unknown setting {key!r} in {source}.{closest(key, known)}")
        if isinstance(value, int) and abs(value) >= _TOO_LARGE:
            raise UserError(
                f"setting {key!r} in {source} must be a smaller number, got one beyond "
                f"{_TOO_LARGE:g}"
            )
        if value is None and key not in optional:
            raise UserError(f"setting {key!r} in {source} must have a value, got null")
    plain: dict[str, Any] = {}
    if not is_family:
        plain, argv = _plain_settings(values["env"], argv)
        values = {
            **values,
            "env": {key: value for key, value in values["env"].items() if key not in plain},
        }
    check_flags(argv, known)
    check_kwargs(env_name, resolve_env_id(env_name), plain.get("kwargs", {}))
    try:
        base = parser.parse_object(dict(values), defaults=True)
        parser.set_defaults({key: base[key] for key in known})
        return _config(parser.parse_args(list(argv)), plain)
    except argparse.ArgumentError as error:
        raise UserError(_readable(str(error))) from error
    except (
        OverflowError
    ) as error:  # a whole number within a list or a mapping that no float can hold
        raise UserError(f"a number in {source} or a flag is too large: {error}") from error
    except ValueError as error:
        raise UserError(str(error)) from error


def _refuse_tasks(family: str, values: Mapping[str, Any], argv: Sequence[str]) -> None:
    """A family of ours draws its tasks itself."""
    for name in ("kwarg_ranges", "task_list"):
        if name in values.get("env", {}) or any(
            token.partition("=")[0] == f"--env.{name}" for token in argv
        ):
            raise UserError(
                f"env.{name}: {family} draws its tasks itself; its own settings say from where "
                f"(--help lists them), "
                "and env.dynamics varies the body, as --env.dynamics.body_mass [0.5,2]"
            )


# What jsonargparse says of a setting that takes values of several kinds, and the kinds in words.
_SEVERAL_KINDS = r"(.*): Does not validate.*: \[([<\w '>,]+)\] Errors: .* Given value: (.*)"
_KINDS = {"int": "an integer", "float": "a number", "str": "a text", "NoneType": "null"}


def _readable(message: str) -> str:
    """A parser's message in words that do not need Python."""
    text = " ".join(message.split()).removeprefix("Parser key ")
    several = re.fullmatch(_SEVERAL_KINDS, text)
    if several is not None:
        setting, kinds, value = several.groups()
        expected = " or ".join(_KINDS.get(kind, kind) for kind in re.findall(r"'(\w+)'", kinds))
        return f"{setting}: Expected {expected}. Got value: {value}"
    text = re.sub(
        r"\ba <class 'int'>", "a whole number", re.sub(r"\ba <class 'float'>", "a number", text)
    )
    text = re.sub(r"<class 'tuple'>", "list such as [64,64]", text)
    text = re.sub(
        r"<class 'collections.abc.Mapping'>", "mapping such as {body_mass: [0.5, 2.0]}", text
    )
    return re.sub(r"<class '(\w+)'>", r"\1", text).replace("a typing.Literal", "one of ")


def _with_kwargs(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of an environment that is not ours, with the arguments that are beside its name in ``env.kwargs``."""
    env = dict(values.get("env", {}))
    beside = {key: env.pop(key) for key in list(env) if key not in ENV_SETTINGS}
    if not beside:
        return {**values, "env": env}
    within = _mapping(env.get("kwargs", {}), "env.kwargs")
    twice = sorted(beside.keys() & within.keys())
    if twice:
        raise UserError(f"env.{twice[0]} is also in env.kwargs: give it once")
    return {**values, "env": {**env, "kwargs": {**within, **beside}}}


def _plain_settings(
    env: Mapping[str, Any], argv: Sequence[str]
) -> tuple[dict[str, Any], list[str]]:
    """Arguments and tasks of an environment that is not ours: those in ``env``, and over them those of flags.

    The parser does not see them, since it would read text as YAML a second time.

    Returns:
        kwargs, kwarg_ranges and task_list by name, and the other flags.

    Raises:
        UserError: a flag has no value, or one that is no YAML, or a setting is no mapping where one
            is expected.
    """
    settings = {
        name: _mapping(env.get(name, {}), f"env.{name}") for name in ("kwargs", "kwarg_ranges")
    }
    task_list, rest, words = env.get("task_list", ()), list[str](), iter(argv)
    for word in words:
        flag, equals, text = word.partition("=")
        name = flag.removeprefix("--env.")
        if name == flag or name in ENV_SETTINGS - {*settings, "task_list"}:
            rest.append(word)
            continue
        text = text if equals else next(words, "--")
        if not equals and text.startswith("--"):
            raise UserError(f"{flag} needs a value")
        value = read_value(text, flag)
        group, dot, item = name.partition(".")
        if name == "task_list":
            task_list = value
        elif name in settings:
            settings[name] |= _mapping(value, flag)
        elif dot and group in settings:
            settings[group][item] = value
        else:
            settings["kwargs"][name] = value
    return {**settings, "task_list": task_list}, rest


def _mapping(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise UserError(f"{what} must be a mapping such as {{g: 9.8}}, got {value!r:.100}")
    return dict(value)


def _config(namespace: Namespace, plain: Mapping[str, Any]) -> Config:
    """The configuration from what the parser understood, and the settings that it did not see."""
    values = {key: value for key, value in namespace.as_dict().items() if key not in _NOT_SETTINGS}
    env, outer = values.pop("env"), values.pop("outer")
    name, observe_task = env.pop("name"), env.pop("observe_task")
    family = family_of(name)
    if family is None:
        config = EnvConfig(
            name=name, observe_task=observe_task, vectorization=env["vectorization"], **plain
        )
    else:
        config = EnvConfig(name=name, observe_task=observe_task, kwargs=plain_values(env))
        family(**config.kwargs)  # its own checks
    settings = {
        "kwargs": dict(config.kwargs),
        "kwarg_ranges": config.kwarg_ranges,
        "task_list": [*config.task_list],
    }
    check_plain(settings, "env")
    groups = {group: cls(**values.pop(group)) for group, cls in _GROUPS.items()}
    return Config(
        **values,
        **groups,
        env=config,
        outer=OUTER_CONFIGS[outer.pop("name")](**outer),
    )


def family_of(env_name: str) -> type | None:
    """The task family behind an environment, whose fields are its settings; ``None`` for one that is not ours.

    Raises:
        UserError: an unknown environment.
    """
    wanted = resolve_env_id(env_name)
    return next((family for name, family in FAMILIES.items() if env_id(name) == wanted), None)


def training_parser(env_name: str, outer_name: str) -> ArgumentParser:
    """The parser of every setting, with the arguments of one environment and of one outer step.

    Raises:
        UserError: an unknown environment or outer step.
    """
    if outer_name not in OUTER_CONFIGS:
        hint = did_you_mean(outer_name, OUTER_CONFIGS)
        raise UserError(
            f"unknown outer step {outer_name!r}.{hint} Valid are {', '.join(OUTER_CONFIGS)}"
        )
    family = family_of(env_name)
    parser = ArgumentParser(
        prog="python -m maml_rl.train",
        description="Meta-train a policy. Settings are flags, or stand in a YAML file that --config names.",
        exit_on_error=False,
        allow_abbrev=False,
        add_help=False,
    )
    run = parser.add_argument_group("run")
    run.add_argument("-h", "--help", action="help", help="Show every setting and exit.")
    # Taken off the command line before this parser sees it; here for the help text.
    run.add_argument(
        "--config",
        metavar="FILE",
        help="YAML file of settings, or the name of a preset in configs/.",
    )
    run.add_argument(
        "--resume",
        metavar="RUN",
        help="Go on with a run; only --num_iterations may be given with it.",
    )
    run.add_argument(
        "--print_config", action="store_true", help="Print the resolved configuration and exit."
    )
    _add_dataclass(run, Config, "", skip={"env", "outer", *_GROUPS})
    env = parser.add_argument_group(f"env: {env_name}")
    env.add_argument(
        "--env.name", type=str, default=env_name, help=_help(EnvConfig, "name") + " Short: --env."
    )
    if family is None:
        _add_dataclass(env, EnvConfig, "env.", skip={"name"})
    else:
        _add_dataclass(env, family, "env.")
        _add_dataclass(env, EnvConfig, "env.", skip={"name", *_OF_OTHER_ENVS})
    for group, cls in _GROUPS.items():
        _add_dataclass(parser.add_argument_group(f"{group}: {cls.__doc__}"), cls, f"{group}.")
    outer = parser.add_argument_group(f"outer: {outer_name}")
    choices = Literal[tuple(OUTER_CONFIGS)]  # type: ignore[valid-type]
    outer.add_argument(
        "--outer.name", type=choices, default=outer_name, help="The outer step. Short: --outer."
    )
    _add_dataclass(outer, OUTER_CONFIGS[outer_name], "outer.")
    return parser


def _add_dataclass(
    group: Any, cls: type, prefix: str, skip: set[str] | frozenset[str] = frozenset()
) -> None:
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


@functools.cache  # it parses the source, and every configuration asks for all of them
def _field_docstrings(cls: type) -> dict[str, str]:
    return {p.arg_name: p.description or "" for p in docstring_parser.parse_from_object(cls).params}


def known_settings(parser: ArgumentParser) -> list[str]:
    """Dotted names of every setting that a file may hold."""
    return [action.dest for action in parser._actions if action.dest not in _NOT_SETTINGS]


def check_flags(argv: Sequence[str], known: Sequence[str]) -> None:
    """Refuse flags that nothing knows, naming the closest match.

    Raises:
        UserError: an unknown flag.
    """
    flags = {f"--{key}" for key in known} | {
        "--config",
        "--resume",
        "--print_config",
        "--help",
        *_SHORTHANDS,
    }
    if argv and not argv[0].startswith("-"):
        raise UserError(
            f"unexpected argument {argv[0]!r}: an environment is given as --env {argv[0]}"
        )
    for token, following in itertools.zip_longest(argv, argv[1:], fillvalue=""):
        flag, equals, value = token.partition("=")
        if re.fullmatch(rf"[-+]?\d{{{len(str(_TOO_LARGE))},}}", value if equals else following):
            raise UserError(
                f"{flag} must be a smaller number, got {(value if equals else following):.30}..."
            )
        if _is_item(flag):
            if _ITEMS not in known:
                raise UserError(f"{flag}: this environment has no dynamics that could be set")
        elif flag.startswith("--") and flag not in flags:
            raise UserError(
                f"unknown flag {flag}.{_of_other_step(flag) or closest(flag, sorted(flags))}"
            )


def _of_other_step(flag: str) -> str:
    """What to say of a setting of outer steps that were not chosen; nothing where it is none."""
    name_in_group = flag.removeprefix("--outer.")
    names = [
        name
        for name, config in OUTER_CONFIGS.items()
        if name_in_group in (field.name for field in fields(config))
    ]
    return (
        f" It is a setting of --outer {' and '.join(names)}."
        if names and flag.startswith("--outer.")
        else ""
    )


def _is_item(flag: str) -> bool:
    return flag.startswith(f"--{_ITEMS}.")


def closest(name: str, known: Sequence[str]) -> str:
    """`` Did you mean ...?``, or a pointer to the list of all."""
    # A setting's own name counts most: `num_step` is meant to be `inner.num_steps`.
    by_last = {key.rpartition(".")[2].lstrip("-"): key for key in reversed(known)}
    own = (
        did_you_mean(name.rpartition(".")[2], by_last)
        .removeprefix(" Did you mean ")
        .removesuffix("?")
    )
    like_own = f" Did you mean {by_last[own]}?" if own else ""
    return did_you_mean(name, known) or like_own or " See --help for all settings."


def preset(env_name: str) -> dict[str, Any]:
    """What an environment brings along, however it is named: a family's file in configs/, or else its own horizon."""
    family = family_of(env_name)
    if family is None:
        horizon = registered_horizon(env_name)
        return {} if horizon is None else {"horizon": horizon}
    file = importlib.resources.files("maml_configs") / f"{family.__name__}.yaml"
    if file.is_file():
        return read_yaml(Path(str(file)))
    return {"horizon": family.max_episode_steps}  # type: ignore[attr-defined]


def preset_names() -> list[str]:
    """Every file in configs/, by the name that ``--config`` takes."""
    root = Path(str(importlib.resources.files("maml_configs")))
    return sorted(str(path.relative_to(root).with_suffix("")) for path in root.rglob("*.yaml"))


def _read_config_file(name: str) -> dict[str, Any]:
    path = user_path(name)
    if os.path.isfile(path):
        return read_yaml(path)
    if name in preset_names():
        return read_yaml(Path(str(importlib.resources.files("maml_configs"))) / f"{name}.yaml")
    hint = did_you_mean(name, preset_names())
    raise UserError(
        f"there is no file {name}, and no preset of that name.{hint} Presets are "
        f"{', '.join(preset_names())}"
    )


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings, with the values of ``over`` in place of those of ``base``.

    Another outer step has settings of its own: it replaces the one of ``base`` whole. So does an
    argument of an environment that is not ours, and where a task's values come from.
    """
    result = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        both = both and not (
            key == "outer" and value.get("name") not in (None, result[key].get("name"))
        )
        if both and key in ("kwargs", "kwarg_ranges"):
            result[key] = {**result[key], **value}
        else:
            result[key] = merged(result[key], value) if both else value
    return result


def _as_file(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a file or given in Python, where ``env: Name`` is shorthand for its name."""
    return {
        key: {"name": value} if key in ("env", "outer") and isinstance(value, str) else value
        for key, value in settings.items()
    }


def _leaves(
    values: Mapping[str, Any], known: Sequence[str], prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and name not in known:
            yield from _leaves(value, known, f"{name}.")
        else:
            yield name, value


def _name(values: Mapping[str, Any], group: str, default: str) -> str:
    part = values.get(group, {})
    if not isinstance(part, Mapping) or not isinstance(part.get("name", default), str):
        raise UserError(f"{group} must be a mapping of settings with a name, got {part!r}")
    return part.get("name", default)


def _expand_shorthands(argv: Sequence[str]) -> list[str]:
    expanded = []
    for token in argv:
        flag, equals, value = token.partition("=")
        expanded.append(_SHORTHANDS.get(flag, flag) + equals + value)
    return expanded


def _joined_numbers(argv: Sequence[str]) -> list[str]:
    """``--flag -1e-3`` as ``--flag=-1e-3``, since argparse takes such a number for a flag."""
    joined: list[str] = []
    for token in argv:
        if (
            joined
            and joined[-1].startswith("--")
            and "=" not in joined[-1]
            and re.fullmatch(r"-[\d.].*", token)
        ):
            joined[-1] += f"={token}"
        else:
            joined.append(token)
    return joined


def take_option(argv: Sequence[str], flag: str) -> tuple[str | None, list[str]]:
    """The last value of ``flag``, and the other arguments.

    Raises:
        UserError: the flag has no value.
    """
    value, rest, i = None, [], 0
    while i < len(argv):
        name, equals, after = argv[i].partition("=")
        if name != flag:
            rest.append(argv[i])
        elif equals:
            value = after
        else:
            i += 1
            if i == len(argv) or argv[i].startswith("--"):
                raise UserError(f"{flag} needs a value")
            value = argv[i]
        i += 1
    return value, rest


def _option(argv: Sequence[str], flag: str) -> str | None:
    return take_option(argv, flag)[0]
