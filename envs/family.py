"""What a task family is, and what the engines that simulate one offer.

A task family is one body with a distribution of tasks. Its functions are pure: they take arrays
whose leading axis counts simulations, and the array namespace ``xp`` (numpy or torch) to compute
in. So the same family drives the batch engine, the single Gymnasium environment and an engine on
another device.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from typing import (
    Any,
    ClassVar,
    Literal,
    Protocol,
    get_args,
    get_origin,
    get_type_hints,
    runtime_checkable,
)

import numpy as np
from maml_envs.engines.dynamics import DynamicsSetting, Parameter, parse
from maml_envs.engines.engine import Array, Body, State, Task, Tasks
from maml_envs.engines.markers import Marker


class TaskFamily(Protocol):
    """One body with a distribution of tasks. Implementations are frozen dataclasses: their fields are the settings.

    A family whose tasks can be fulfilled may say when one is, by a method ``success(xp, state,
    task)`` that returns (num_sims,) bool; evaluation reports how many episodes end in such a state.
    """

    body: ClassVar[Body]
    """The robot; an object whose settings change it has a body of its own in its place."""
    max_episode_steps: ClassVar[int]
    """Default horizon."""
    task_units: ClassVar[Mapping[str, str]]
    """Unit of each task parameter (empty for a pure number); its keys are the names that a task has."""
    task_limits: ClassVar[Mapping[str, tuple[float, float]]]
    """Values of each task parameter for which the reward has a meaning."""

    @property
    def dynamics(self) -> DynamicsSetting:
        """How the body varies between tasks; empty for a body that is always the same."""

    @property
    def derived_fields(self) -> Sequence[str]:
        """What observation and reward need beside the state fields that the body integrates."""

    def sample_tasks(self, rng: np.random.Generator, num_tasks: int) -> Tasks:
        """Draw tasks: a mapping from names to float64 arrays (num_tasks,)."""

    def initial_state(self, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
        """Draw the state fields that one simulation starts from (no leading axis)."""

    def observation(self, xp: Any, state: State) -> Array:
        """What the policy sees, (num_sims, observation_size). It never depends on the task."""

    def reward_terms(
        self, xp: Any, before: State, after: State, action: Array, task: Tasks
    ) -> Mapping[str, Array]:
        """Reward terms of one control step, each (num_sims,); the reward is their sum."""

    def terminated(self, xp: Any, state: State, task: Tasks) -> Array:
        """Whether the episode ends in this state, (num_sims,) bool. Time limits are not the family's business."""


@runtime_checkable
class HasMarkers(Protocol):
    """A family whose pictures show the task. A family may do without."""

    def markers(self, state: State, task: Task) -> Sequence[Marker]:
        """What to draw into a picture of one simulation: its state fields (no leading axis) and its task."""


def task_parameters(family: TaskFamily) -> dict[str, Parameter]:
    """Every parameter that a task of ``family`` may hold: the family's own, then those of the body's dynamics."""
    own = {
        name: Parameter(unit, *family.task_limits[name], math.nan)
        for name, unit in family.task_units.items()
    }
    return {**own, **family.body.parameters}


_MEMBERS = (
    *("body", "dynamics", "derived_fields", "max_episode_steps", "task_units", "task_limits"),
    *("sample_tasks", "initial_state", "observation", "reward_terms", "terminated"),
)


def check_class(family: type) -> None:
    """Refuse a class that is no task family.

    Raises:
        TypeError: it is no dataclass, or lacks a member, or its tasks' units and limits have other
            names.
    """
    if not dataclasses.is_dataclass(family):
        raise TypeError(
            f"task family {family.__name__} must be a dataclass (frozen, with keyword-only fields)"
        )
    names = {field.name for field in dataclasses.fields(family)}
    lacking = [name for name in _MEMBERS if name not in names and not hasattr(family, name)]
    if lacking:
        raise TypeError(f"task family {family.__name__} lacks {', '.join(lacking)}")
    units, limits = (
        list(getattr(family, "task_units", ())),
        list(getattr(family, "task_limits", ())),
    )
    if set(units) != set(limits):
        raise TypeError(
            f"task_units and task_limits of {family.__name__} must have the same keys: {units}, "
            f"{limits}"
        )


def check_settings(family: Any, at_least_zero: Collection[str] = ()) -> None:
    """Check the settings of a family, which is a dataclass, by their types and names; called when one is made.

    Choices must be among those of their ``Literal``; numbers finite; weights, scales, radii and
    tolerances at least 0; ``min_...`` at most ``max_...`` of the same; ``low`` and ``high`` a range
    within the limits of every task parameter; ``dynamics`` what
    :func:`maml_envs.engines.dynamics.parse` understands.

    Args:
        family: to check.
        at_least_zero: names of further settings that must not be negative.

    Raises:
        ValueError: names the setting, its value, and what is expected.
    """
    hints = get_type_hints(type(family))
    for field in dataclasses.fields(family):
        name, value, kind = field.name, getattr(family, field.name), hints[field.name]
        choices = (
            (True, False)
            if kind is bool
            else get_args(kind)
            if get_origin(kind) is Literal
            else None
        )
        if choices is not None and not (isinstance(value, (bool, str)) and value in choices):
            raise ValueError(f"{name} must be one of {list(choices)}, got {value!r}")
        if kind is float:
            is_size = name.endswith(("_weight", "_scale", "radius", "_tolerance"))
            least = 0 if is_size or name in at_least_zero else -math.inf
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not is_number or (
                name not in ("low", "high") and not (math.isfinite(value) and value >= least)
            ):
                expected = (
                    "finite and at least 0" if least == 0 else "finite" if is_number else "a number"
                )
                raise ValueError(f"{name} must be {expected}, got {value!r}")
    _check_ends({name: getattr(family, name) for name, kind in hints.items() if kind is float})
    if hasattr(family, "low"):
        for name, (low, high) in family.task_limits.items():
            if not low <= family.low <= family.high <= high:
                raise ValueError(
                    f"low and high must satisfy {low:g} <= low <= high <= {high:g} "
                    f"({family.task_units[name]}), "
                    f"got {family.low}, {family.high}"
                )
    if hasattr(family, "goal_radius"):
        most = min(high for _, high in family.task_limits.values())
        if family.goal_radius > most:
            raise ValueError(f"goal_radius must be at most {most:g} m, got {family.goal_radius}")
    both = family.task_units.keys() & parse(family.dynamics, family.body.parameters).keys()
    if both:
        raise ValueError(
            f"{type(family).__name__} draws {', '.join(both)} itself, by its own settings: leave "
            f"it out of dynamics"
        )


def _check_ends(values: Mapping[str, float]) -> None:
    """Refuse a setting ``min_...`` above the ``max_...`` of the same."""
    for low, least in values.items():
        high = "max_" + low.removeprefix("min_")
        if low.startswith("min_") and high in values and least > values[high]:
            raise ValueError(f"{low} must be at most {high}, got {least} and {values[high]}")


def sample_tasks(
    family: TaskFamily, rng: np.random.Generator, num_tasks: int
) -> list[dict[str, float]]:
    """Draw tasks: the family's own parameters, then those that its ``dynamics`` setting names."""
    drawn = dict(family.sample_tasks(rng, num_tasks))
    for name, distribution in parse(family.dynamics, family.body.parameters).items():
        drawn[name] = distribution.sample(rng, num_tasks)
    return unstack_tasks(drawn, num_tasks)


def stack_tasks(family: TaskFamily, tasks: Sequence[Task]) -> dict[str, np.ndarray]:
    """Check ``tasks`` and put them side by side, one array (len(tasks),) per name.

    A task holds all of the family's own parameters and any of the body's dynamics; where only some
    tasks name one of these, the others get its nominal value.

    Raises:
        ValueError: a task lacks a name, has an unknown one, or a value without meaning.
    """
    known, own = task_parameters(family), list(family.task_units)
    for task in tasks:
        if not isinstance(task, Mapping) or not set(own) <= set(task) <= set(known):
            quantities = [name for name in known if name not in own and "/" not in name]
            also = f", and any of {quantities}" if quantities else ""
            missing = [name for name in own if isinstance(task, Mapping) and name not in task]
            lacks = f": {', '.join(missing)} missing" if missing else ""
            raise ValueError(
                f"a task of {type(family).__name__} is a mapping with the keys {own}{also}, got "
                f"{task!r}{lacks}"
            )
        for name, value in task.items():
            if not known[name].accepts(value):
                raise ValueError(
                    f"task parameter {name!r} of {type(family).__name__} is {known[name]}, got "
                    f"{value!r}"
                )
    names = [
        name for name in (*own, *family.body.parameters) if any(name in task for task in tasks)
    ]
    names = list(dict.fromkeys(names))
    return {
        name: np.array([float(task.get(name, known[name].nominal)) for task in tasks])
        for name in names
    }


def unstack_tasks(tasks: Tasks, num_tasks: int) -> list[dict[str, float]]:
    """The inverse of :func:`stack_tasks`: one mapping of plain floats per task."""
    return [{name: float(values[i]) for name, values in tasks.items()} for i in range(num_tasks)]
