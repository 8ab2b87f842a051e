"""Task families of environments, and the values their tasks had in training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from maml_envs import FAMILIES as FAMILIES
from maml_envs import env_id
from maml_envs.engines.changes import CHANGED, change_time, has_change
from maml_envs.engines.changes import lacks_change as lacks_change
from maml_envs.engines.dynamics import FACTOR as FACTOR
from maml_envs.engines.dynamics_setting import parse_dynamics

from maml_rl.settings.config import Config
from maml_rl.settings.drawn_tasks import Task
from maml_rl.settings.env import EnvConfig, is_family, is_family_of_package, resolve_env_id


def family_of(env_name: str) -> Any:
    """The class of an environment's task family, or ``None``; its fields are the settings.

    Raises:
        UserError: if the environment is unknown.
    """
    registered = resolve_env_id(env_name)
    return next((family for name, family in FAMILIES.items() if env_id(name) == registered), None)


def held_out(env: EnvConfig) -> EnvConfig:
    """Return the environment with ``split`` held_out instead of train, if its family has one."""
    if is_family(env.name) and env.kwargs.get("split") == "train":
        return replace(env, kwargs={**env.kwargs, "split": "held_out"})
    return env


def is_dynamics(env_name: str, name: str) -> bool:
    """Whether a task parameter is set by ``env.dynamics``, not by the family's own distribution."""
    family = family_of(env_name)
    return family is not None and name not in family.task_units


def change_of(env_name: str, task: Task) -> tuple[int, int] | None:
    """The change of the dynamics within a task.

    Returns:
        The index of its episode and of its control step; ``None`` if the dynamics do not change.
    """
    family = family_of(env_name)
    if family is None or not has_change(task):
        return None
    nominal = {name: known.nominal for name, known in family.robot.parameters.items()}
    return change_time(task, nominal)


def is_built_in(env_name: str) -> bool:
    """Whether an environment is a task family of this package."""
    family = family_of(env_name)
    return family is not None and is_family_of_package(family)


def dynamics_change(env: EnvConfig) -> bool:
    """Whether the tasks of a task family have dynamics that change within the task."""
    cls = family_of(env.name)
    return cls is not None and has_change(cls(**env.kwargs).dynamics)


def trained_range(config: Config, name: str) -> tuple[float, float] | None:
    """The lowest and the highest value that a task parameter could have in training.

    Args:
        config: configuration of the run.
        name: name of the parameter.

    Returns:
        The range; ``None`` if the settings do not determine it, as for an environment that samples
        its own tasks, or if the values are choices with gaps between them.
    """
    env = config.env
    family = family_of(env.name)
    if family is None:
        return _drawn_range(env, name)
    # the family's own distribution
    if not is_dynamics(env.name, name):
        has_range = {"low", "high"} <= env.kwargs.keys()
        return (env.kwargs["low"], env.kwargs["high"]) if has_range else None
    # dynamics: varied, or at the nominal value
    parameters = family.robot.parameters
    varied = parse_dynamics(env.kwargs.get("dynamics", {}), parameters)
    if name not in varied and name.startswith(CHANGED):  # no change
        return trained_range(config, name.removeprefix(CHANGED))
    if lacks_change({*varied, name}):
        return None
    if name not in varied:
        return parameters[name].nominal, parameters[name].nominal
    choices = varied[name].choices
    return _range_of(choices) if choices else (varied[name].low, varied[name].high)


def _drawn_range(env: EnvConfig, name: str) -> tuple[float, float] | None:
    """The range of a parameter in ``env.kwarg_ranges`` or ``env.task_list``."""
    tasks = env.drawn_tasks
    if tasks is None or name not in tasks.names:
        return None
    if tasks.listed:
        values = [task[name] for task in tasks.listed if name in task]
    else:
        distribution = tasks.distributions[name]
        values = list(distribution.choices)
        if not distribution.choices:
            return distribution.low, distribution.high
    return _range_of([value for value in values if type(value) in (int, float)])


def _range_of(choices: Sequence[float]) -> tuple[float, float] | None:
    """The range of choices; ``None`` if they have gaps, which training has not met."""
    present = set(choices)
    if not present:
        return None
    low, high = min(present), max(present)
    has_all = all(float(value).is_integer() for value in present) and len(present) == high - low + 1
    return (low, high) if has_all or low == high else None


def only_goals_vary(env: EnvConfig) -> bool:
    """Whether the tasks of a family differ in nothing but goals and directions.

    The dynamics are then the same in all tasks. Other environments may vary them.
    """
    cls = family_of(env.name)
    if cls is None:
        return False
    family = cls(**env.kwargs)
    names = family.task_units
    return not family.dynamics and all(name.startswith(("goal_", "direction")) for name in names)
