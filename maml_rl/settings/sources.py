"""Read settings from presets and files, and merge two sources."""

from __future__ import annotations

import importlib.resources
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from maml_rl.errors import UserError, did_you_mean
from maml_rl.settings.env import ENV_SETTINGS, registered_horizon
from maml_rl.settings.families import family_of
from maml_rl.settings.learners import (
    LEARNER_CONFIGS,
    LEARNER_GROUPS,
    MAMLConfig,
    TRPOConfig,
    learner_class,
    outer_class,
    without_required,
)
from maml_rl.system.safe_yaml import read_yaml
from maml_rl.system.untrusted_files import user_path

_PRESETS = Path(str(importlib.resources.files("maml_configs")))


def preset(env_name: str, learner_name: str = MAMLConfig.name) -> dict[str, Any]:
    """The preset of an environment for a learner.

    Of a task family, it is configs/FAMILY.yaml for MAML, and configs/LEARNER/FAMILY.yaml for
    another learner of the package. If there is no such file for the learner, it is MAML's without
    what the learner does not use, overridden by configs/LEARNER/default.yaml. Other environments
    have only their registered horizon.
    """
    family = family_of(env_name)
    if family is None:
        horizon = registered_horizon(env_name)
        return {} if horizon is None else {"horizon": horizon}
    file = f"{family.__name__}.yaml"
    # A file of the learner for this family
    folder = _PRESETS / learner_name
    has_folder = learner_name in LEARNER_CONFIGS and learner_name != MAMLConfig.name
    if has_folder and (folder / file).is_file():
        return expanded(read_yaml(folder / file))
    # MAML's file, and the learner's changes for all families
    shared = _PRESETS / file
    settings = read_yaml(shared) if shared.is_file() else {"horizon": family.max_episode_steps}
    settings = for_learner(settings, learner_name)
    changes = folder / "default.yaml"
    return merged(settings, read_yaml(changes)) if has_folder and changes.is_file() else settings


def preset_names() -> list[str]:
    """Names of the files in configs/, as ``--config`` takes them."""
    files = _PRESETS.rglob("*.yaml")
    return sorted(str(path.relative_to(_PRESETS).with_suffix("")) for path in files)


def preset_title(name: str) -> str:
    """The first line of a preset, a comment that says what it is."""
    text = (_PRESETS / f"{name}.yaml").read_text(encoding="utf-8")
    return text.partition("\n")[0].removeprefix("#").strip().removesuffix(".")


class ConfigFile(NamedTuple):
    """The settings of a file."""

    values: dict[str, Any]
    is_complete: bool
    """Whether settings that it lacks have the defaults in code, not those of the environment's
    preset: so it is for presets of the package, and for the config.yaml of a run."""


def read_config_file(name: str) -> ConfigFile:
    """The settings in a YAML file, or in a preset by its name.

    Raises:
        UserError: if there is neither, or it cannot be read.
    """
    path = user_path(name)
    if os.path.isfile(path):
        is_complete = (path.parent / "versions.json").is_file()
        is_complete |= path.resolve().is_relative_to(_PRESETS.resolve())
        return ConfigFile(expanded(migrated(read_yaml(path), str(path))), is_complete)
    names = preset_names()
    if name in names:
        return ConfigFile(expanded(read_yaml(_PRESETS / f"{name}.yaml")), is_complete=True)
    raise UserError(
        f"there is no file {name}, and no preset of that name.{did_you_mean(name, names)} "
        f"Presets are {', '.join(names)}"
    )


def migrated(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The settings of a file, with those that an earlier version wrote replaced by today's.

    Args:
        values: what the file contains.
        source: the file, for messages.

    Raises:
        UserError: if an earlier setting has an invalid value, or the one that replaced it is there
            too.
    """
    # adapt_in_training chose between the learners maml and joint
    values = dict(values)
    if "adapt_in_training" not in values:
        return values
    adapts = values.pop("adapt_in_training")
    if "learner" in values:
        raise UserError(
            f"adapt_in_training and learner are both in {source}: set only learner, which replaces "
            "adapt_in_training"
        )
    if not isinstance(adapts, bool):
        raise UserError(f"adapt_in_training in {source} must be true or false, got {adapts!r:.100}")
    return {**values, "learner": {"name": "maml" if adapts else "joint"}}


def expanded(settings: Mapping[str, Any]) -> dict[str, Any]:
    """``settings`` with ``env: NAME``, ``learner: NAME``, ``outer: NAME`` expanded to mappings."""
    named = ("env", "learner", "outer")
    return {
        key: {"name": value} if key in named and isinstance(value, str) else value
        for key, value in settings.items()
    }


def name_of(settings: Mapping[str, Any], group: str, default: str) -> str:
    """The name of the environment, the learner or the outer step in ``settings``.

    Raises:
        UserError: if the group is not a mapping, or its name is not a string.
    """
    part = settings.get(group, {})
    if not isinstance(part, Mapping) or not isinstance(part.get("name", default), str):
        raise UserError(f"{group} must be a mapping of settings with a name, got {part!r:.200}")
    return part.get("name", default)


def for_learner(settings: Mapping[str, Any], name: str) -> dict[str, Any]:
    """``settings`` with the learner ``name``.

    If they are for another learner (MAML if they name none), settings of that learner, and groups
    and settings that the new one does not use, are dropped.

    Raises:
        UserError: as :func:`maml_rl.settings.learners.learner_class`.
    """
    if name_of(settings, "learner", MAMLConfig.name) == name:
        return dict(settings)
    new = learner_class(name)
    dropped = set(LEARNER_GROUPS) - set(new.GROUPS)
    kept = {key: value for key, value in settings.items() if key not in dropped}
    return {**without_required(kept, new.REQUIRED), "learner": {"name": name}}


def for_outer(settings: Mapping[str, Any], name: Any) -> dict[str, Any]:
    """``settings`` with the outer step ``name``.

    If they are for another one (TRPO if they name none), its settings are dropped, and those of
    which the new one requires a certain value.

    Raises:
        UserError: as :func:`maml_rl.settings.learners.outer_class`.
    """
    old = settings.get("outer", {})
    if isinstance(old, Mapping) and old.get("name", TRPOConfig.name) == name:
        return dict(settings)
    required = outer_class(name).REQUIRED if isinstance(name, str) else {}
    kept = without_required(settings, required)
    return {**kept, "outer": {"name": name}}


def with_kwargs(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Move arguments that are next to ``env.name`` into ``env.kwargs``.

    This is for environments that are not task families.

    Raises:
        UserError: if an argument is in both.
    """
    env = dict(settings.get("env", {}))
    beside = {key: env.pop(key) for key in list(env) if key not in ENV_SETTINGS}
    if not beside:
        return {**settings, "env": env}
    within = checked_mapping(env.get("kwargs", {}), "env.kwargs")
    twice = sorted(beside.keys() & within.keys())
    if twice:
        raise UserError(f"env.{twice[0]} is also in env.kwargs: set it once")
    return {**settings, "env": {**env, "kwargs": {**within, **beside}}}


def checked_mapping(value: Any, name: str) -> dict[str, Any]:
    """``value`` as a dictionary.

    Raises:
        UserError: if it is not a mapping.
    """
    if not isinstance(value, Mapping):
        raise UserError(f"{name} must be a mapping such as {{g: 9.8}}, got {value!r:.100}")
    return dict(value)


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge nested mappings; values of ``over`` override those of ``base``.

    Some mappings are replaced, not merged: an item of ``kwargs``, ``kwarg_ranges`` or ``dynamics``
    that is a mapping itself, and ``outer`` if the outer step changes (see :func:`for_outer`).
    """
    result = dict(base)
    outer = over.get("outer")
    if isinstance(outer, Mapping) and isinstance(base.get("outer"), Mapping):
        result = for_outer(base, outer.get("name", base["outer"].get("name")))
    for key, value in over.items():
        old = result.get(key)
        if not isinstance(value, Mapping) or not isinstance(old, Mapping):
            result[key] = value
        elif key in ("kwargs", "kwarg_ranges", "dynamics"):
            result[key] = {**old, **value}
        else:
            result[key] = merged(old, value)
    return result
