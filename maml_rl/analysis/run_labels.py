"""Which runs are seeds of one method, and what to call a method beside others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from maml_rl.settings.config import Config, to_mapping
from maml_rl.settings.families import family_of

Settings = Mapping[str, Any]
"""Dotted names and values of the settings that runs of one group share."""

_NO_SETTINGS_OF_A_GROUP = {
    "seed",
    "output",
    "device",
    "num_iterations",
    "logging",
    "max_failed_share",
}


def group_settings(config: Config) -> Settings:
    """What runs must have in common to be one group: everything but seed, length, and where and what they log."""
    name = config.env.name
    settings = dict(_leaves(to_mapping(config), ""))
    return settings | {"env.name": getattr(family_of(name), "__name__", name)}


def _leaves(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """Dotted names of the settings that make a group, and their values; what is null or empty is left out."""
    for key, value in values.items():
        if prefix + key in _NO_SETTINGS_OF_A_GROUP or value is None:
            continue
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        elif value != []:
            yield prefix + key, value


def labels_of(groups: Sequence[Settings]) -> list[str]:
    """What tells each group from the others: family and outer step, if they differ, and then the settings that do.

    Settings of a task family are compared among groups of that family, and those of an outer step
    likewise. A single group is called by its family.

    Args:
        groups: the settings of each, all different.
    """
    if len(groups) == 1:
        return [groups[0]["env.name"]]
    keys = dict.fromkeys(["env.name", "outer.name", *(key for group in groups for key in group)])
    shown = [[key for key in keys if _differs(key, group, groups)] for group in groups]
    short = Counter(_short(key) for key in keys if any(key in own for own in shown))
    return [
        ", ".join(_in_words(key, group.get(key), short[_short(key)] == 1) for key in own)
        for group, own in zip(groups, shown, strict=True)
    ]


def _differs(key: str, own: Settings, every: Sequence[Settings]) -> bool:
    name = f"{key.partition('.')[0]}.name"
    if name != key:
        every = [other for other in every if other.get(name) == own.get(name)]
    return any(other.get(key) != own.get(key) for other in every)


def _short(key: str) -> str:
    return (
        key.removeprefix("env.dynamics.")
        if key.startswith("env.dynamics.")
        else key.rpartition(".")[2]
    )


def _in_words(key: str, value: Any, is_unique: bool) -> str:
    """A setting and its value: ``first_order true``, ``outer promp``, or the bare name of a family."""
    section, _, name = key.rpartition(".")
    if name == "name":
        return value if section == "env" else f"{section} {value}"
    shown = _short(key) if is_unique else key
    if value is None:
        return f"no {shown}"
    return f"{shown} {str(value).lower() if isinstance(value, bool) else value}"
