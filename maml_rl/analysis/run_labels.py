"""Check that runs are different, group them by their settings, and label the groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from maml_rl.errors import UserError
from maml_rl.runs.pretrained import find_run, is_pretrained
from maml_rl.settings.config import Config, to_mapping
from maml_rl.settings.families import family_of
from maml_rl.system.text import counted

Settings = Mapping[str, Any]
"""Dotted names and values of the settings that the runs of a group share."""

_IGNORED_SETTINGS = {
    "seed",
    "output",
    "device",
    "torch_threads",
    "tasks_per_block",
    "num_iterations",
    "max_env_steps",
    "max_hours",
    "callbacks",
    "logging",
    "max_failed_share",
}

_OF_ALL_LEARNERS = {"horizon", "engine", "source"}
"""Settings, besides those of the environment, that are compared among all groups. Others are
compared only among groups of one learner, since learners need different ones."""


def check_different(folders: Sequence[Path]) -> None:
    """Raise UserError if a run is given twice, with the same path or another one."""
    by_path: dict[Path, Path] = {}
    for folder in folders:
        path = folder.resolve()
        if path in by_path:
            other = by_path[path]
            alias = "" if other == folder else f", also as {other}"
            raise UserError(f"run {folder} is given twice{alias}")
        by_path[path] = folder


def group_settings(config: Config) -> Settings:
    """Return the settings that runs of one group share: all but ``_IGNORED_SETTINGS``."""
    name = config.env.name
    settings = dict(_leaves(_with_one_spelling(to_mapping(config)), ""))
    settings["engine"] = "warp" if config.engine == "warp" else "mujoco"  # auto did not choose warp
    # A family may have several names.
    return settings | {"env.name": getattr(family_of(name), "__name__", name)}


def settings_of_runs(configs: Sequence[Config], folders: Sequence[Path]) -> list[Settings]:
    """Return :func:`group_settings` of runs; those of another source do not share them.

    If a pretrained policy, a run and an agent that :meth:`Agent.save` wrote have the same settings,
    or two of them, all have ``source`` in addition: ``pretrained``, ``own run`` or ``saved agent``.
    A saved agent may not have been trained by its settings, as one from Stable-Baselines3.

    Args:
        configs: of the runs.
        folders: of the runs; a pretrained policy may be its name.
    """
    settings = [group_settings(config) for config in configs]
    sources = [_source(find_run(folder)) for folder in folders]
    pairs = list(zip(settings, sources, strict=True))
    if not any(one == other and a != b for one, a in pairs for other, b in pairs):
        return settings
    return [{**one, "source": source} for one, source in pairs]


def _source(run: Path) -> str:
    """Return where a run comes from: ``"pretrained"``, ``"own run"`` or ``"saved agent"``."""
    if is_pretrained(run):
        return "pretrained"
    return "own run" if (run / "progress.csv").exists() else "saved agent"


def _with_one_spelling(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a run with ranges as ``[0.5, 2]``, not ``{low: 0.5, high: 2}``."""
    env = dict(values["env"])
    family = family_of(env["name"])
    parameters = family.robot.parameters if hasattr(family, "robot") else {}
    for group in ("dynamics", "kwarg_ranges"):
        if group in env:
            known = parameters if group == "dynamics" else {}
            env[group] = {
                name: _range_as_list(value, name in known and known[name].is_integer)
                for name, value in env[group].items()
            }
    return {**values, "env": env}


def _range_as_list(value: Any, is_integer: bool) -> Any:
    """Return a uniform range as a list of its ends, of integers as a list of all its values.

    Other values, such as a log-uniform range, are returned as they are.
    """
    is_range = isinstance(value, Mapping) and {"low", "high"} <= value.keys()
    if not is_range or value.get("log") or value.get("each"):
        return value
    if is_integer:
        return list(range(int(value["low"]), int(value["high"]) + 1))
    return [value["low"], value["high"]]


def _leaves(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """Yield dotted names and values of nested settings, without ignored, null and empty ones."""
    for key, value in values.items():
        if prefix + key in _IGNORED_SETTINGS or value is None:
            continue
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        elif value != []:
            yield prefix + key, value


def labels_of(groups: Sequence[Settings]) -> list[str]:
    """Return a label for each group: the settings in which it differs from the others.

    Family, learner and outer step come first. Settings of a task family are compared only among
    groups of that family, those of an outer step likewise, and all others, but for the horizon,
    the engine and the source, only among groups of one learner. The label of a single group is its
    family.

    Args:
        groups: the settings of each group, all different.
    """
    if len(groups) == 1:
        return [groups[0]["env.name"]]
    # The settings in which each group differs from another one.
    first_keys = ["env.name", "learner.name", "outer.name"]
    keys = dict.fromkeys([*first_keys, *(key for group in groups for key in group)])
    differing = [[key for key in keys if _differs(key, group, groups)] for group in groups]
    # Use short names where they are unique.
    used = {key for keys_of_group in differing for key in keys_of_group}
    num_uses = Counter(_short(key) for key in used)
    labels = []
    for group, keys_of_group in zip(groups, differing, strict=True):
        parts = [
            _in_words(key, group.get(key), is_unique=num_uses[_short(key)] == 1)
            for key in keys_of_group
        ]
        labels.append(", ".join(parts))
    return labels


def stage_label(
    num_steps: int, num_episodes: int | None = None, *, is_episode: bool = False
) -> str:
    """``"before adaptation"``, ``"after 2 steps, 40 episodes"``, or ``"episode 3"``.

    Args:
        num_steps: number of adaptation steps.
        num_episodes: episodes used by them, if known.
        is_episode: :attr:`LearnerConfig.STAGE_IS_EPISODE`.
    """
    if is_episode:
        return f"episode {num_steps + 1}"
    if not num_steps:
        return "before adaptation"
    episodes = "" if num_episodes is None else f", {counted(num_episodes, 'episode')}"
    return f"after {counted(num_steps, 'step')}{episodes}"


def _differs(key: str, group: Settings, groups: Sequence[Settings]) -> bool:
    """Whether a setting differs between ``group`` and a group that it is compared with."""
    section = key.partition(".")[0]
    names = [] if section == "env" or key in _OF_ALL_LEARNERS else ["learner.name"]
    if section in ("env", "outer"):
        names.append(f"{section}.name")
    for name in names:
        if name != key:
            groups = [other for other in groups if other.get(name) == group.get(name)]
    return any(other.get(key) != group.get(key) for other in groups)


def _short(key: str) -> str:
    if key.startswith("env.dynamics."):
        return key.removeprefix("env.dynamics.")
    return key.rpartition(".")[2]


def _in_words(key: str, value: Any, is_unique: bool) -> str:
    """Return ``"first_order true"``, ``"outer promp"``, or the name of a family or learner."""
    section, _, name = key.rpartition(".")
    if key == "source":
        return str(value)
    if name == "name":
        return value if section in ("env", "learner") else f"{section} {value}"
    setting = _short(key) if is_unique else key
    if value is None:
        return f"no {setting}"
    return f"{setting} {str(value).lower() if isinstance(value, bool) else value}"
