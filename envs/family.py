"""What a task family is: its protocol, its settings, and its tasks.

A task family is one robot with a distribution of tasks. Its functions are pure: they take arrays
whose leading axis counts simulations, and the array namespace ``xp`` (numpy or torch) to compute
in. So the same family runs in the batch engine, in the single Gymnasium environment, and on
engines for other devices.
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
)

import numpy as np
from maml_envs.engines.changes import CHANGED, has_change
from maml_envs.engines.dynamics import DynamicsSetting, Parameter
from maml_envs.engines.dynamics_setting import name_hint, parse_dynamics
from maml_envs.engines.engine import Array, Robot, State, Task, Tasks


class TaskFamily(Protocol):
    """One robot with a distribution of tasks: a frozen dataclass whose fields are its settings.

    A family may also define success by a method ``success(xp, state, task)`` that returns
    (num_sims,) bool; evaluation then reports the share of episodes that end in such a state.

    A pair ``shown_quantity`` (name and unit) and a method ``shown_value(xp, before, after, task)``
    that returns (num_sims,) put a number into the captions of videos, as the forward velocity.

    A method ``markers(state, task)`` returns a sequence of
    :data:`maml_envs.engines.markers.Marker`, which show the task in frames of one simulation; its
    state fields have no leading axis.

    A class attribute ``task_value_names`` names values of task parameters for captions and plots,
    such as ``{"direction": {1.0: "forward", -1.0: "backward"}}``.
    """

    robot: ClassVar[Robot]
    """The robot; ``frame_skip`` replaces it on an instance, see ``set_frame_skip``."""
    max_episode_steps: ClassVar[int]
    """Default horizon."""
    task_units: ClassVar[Mapping[str, str]]
    """Unit of each task parameter, by name; ``"factor"`` if it multiplies, empty without one."""
    task_limits: ClassVar[Mapping[str, tuple[float, float]]]
    """Valid range of each task parameter."""

    @property
    def dynamics(self) -> DynamicsSetting:
        """Dynamics that vary between tasks; empty if none do."""

    @property
    def derived_fields(self) -> Sequence[str]:
        """State fields that observation and reward need besides positions and velocities."""

    def sample_tasks(self, rng: np.random.Generator, num_tasks: int) -> Tasks:
        """Draw tasks: a mapping from names to float64 arrays (num_tasks,)."""

    def initial_state(self, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
        """Draw the state fields that one simulation starts from (no leading axis)."""

    def observation(self, xp: Any, state: State) -> Array:
        """Observation (num_sims, observation_size). It never depends on the task."""

    def reward_terms(
        self, xp: Any, before: State, after: State, action: Array, task: Tasks
    ) -> Mapping[str, Array]:
        """Reward terms of one control step, each (num_sims,); the reward is their sum."""

    def terminated(self, xp: Any, state: State, task: Tasks) -> Array:
        """Whether the episode ends in this state, (num_sims,) bool; excludes time limits."""


def task_parameters(family: TaskFamily) -> dict[str, Parameter]:
    """Every parameter that a task may have: first the family's, then those of the dynamics."""
    parameters = {
        name: Parameter(unit, *family.task_limits[name], math.nan)
        for name, unit in family.task_units.items()
    }
    return {**parameters, **family.robot.parameters}


_MEMBERS = (
    "robot",
    "dynamics",
    "derived_fields",
    "max_episode_steps",
    "task_units",
    "task_limits",
    "sample_tasks",
    "initial_state",
    "observation",
    "reward_terms",
    "terminated",
)
"""Members that every task family must have."""


def check_class(family: type) -> None:
    """Check that a class is a task family.

    Raises:
        TypeError: if it is not a dataclass, lacks a member, if ``task_units`` and ``task_limits``
            have different keys, if ``task_value_names`` names values of other parameters, or if
            one of ``shown_value`` and ``shown_quantity`` is missing or not what it should be.
    """
    if not dataclasses.is_dataclass(family):
        raise TypeError(
            f"task family {family.__name__} must be a dataclass (frozen, with keyword-only fields)"
        )
    names = {field.name for field in dataclasses.fields(family)}
    missing = [name for name in _MEMBERS if name not in names and not hasattr(family, name)]
    if missing:
        raise TypeError(f"task family {family.__name__} lacks {', '.join(missing)}")
    units = list(getattr(family, "task_units", ()))
    limits = list(getattr(family, "task_limits", ()))
    if set(units) != set(limits):
        raise TypeError(
            f"task_units and task_limits of {family.__name__} must have the same keys: {units}, "
            f"{limits}"
        )
    quantity = getattr(family, "shown_quantity", ("", ""))
    is_pair = isinstance(quantity, tuple) and [*map(type, quantity)] == [str, str]
    if not is_pair or hasattr(family, "shown_quantity") != hasattr(family, "shown_value"):
        raise TypeError(
            f"task family {family.__name__} must have both or none of shown_value and "
            f"shown_quantity, a pair of name and unit such as ('velocity', 'm/s'); got {quantity!r}"
        )
    unknown = set(getattr(family, "task_value_names", ())) - set(units)
    if unknown:
        raise TypeError(
            f"task_value_names of {family.__name__} has {', '.join(sorted(unknown))}, which is not "
            f"in task_units: {units}"
        )


_AT_LEAST_ZERO = ("_weight", "_scale", "radius", "_tolerance")
"""Endings of the names of settings that must not be negative."""
_TASK_RANGE = ("low", "high")
"""Settings that bound the task distribution; ``_check_task_range`` checks them."""


def check_settings(family: Any, at_least_zero: Collection[str] = ()) -> None:
    """Check the settings of a family by their types and names; call it in ``__post_init__``.

    | setting | rule |
    | --- | --- |
    | bool or ``Literal`` | one of the choices |
    | float | finite |
    | ``..._weight``, ``..._scale``, ``...radius``, ``..._tolerance``, ``at_least_zero`` | ≥ 0 |
    | ``min_x`` and ``max_x`` | ``min_x`` ≤ ``max_x`` |
    | ``low`` and ``high`` | ordered, and within the limits of every task parameter |
    | ``goal_radius`` | at most the smallest upper limit of a task parameter |
    | ``dynamics`` | valid for ``parse_dynamics`` of ``dynamics_setting``, no task parameters |

    Args:
        family: a dataclass instance.
        at_least_zero: names of further settings that must not be negative.

    Raises:
        ValueError: if a setting is invalid; the message has its name, value and rule.
    """
    types = get_type_hints(type(family))
    for field in dataclasses.fields(family):
        name = field.name
        value = getattr(family, name)
        kind = types[name]
        if kind is bool or get_origin(kind) is Literal:
            _check_choice(name, value, (True, False) if kind is bool else get_args(kind))
        elif kind is float:
            is_size = name.endswith(_AT_LEAST_ZERO) or name in at_least_zero
            _check_number(name, value, is_size)
    _check_order({name: getattr(family, name) for name, kind in types.items() if kind is float})
    _check_task_range(family)
    _check_dynamics(family)


def _check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    """Check a setting with choices."""
    if not isinstance(value, (bool, str)) or value not in choices:
        raise ValueError(f"{name} must be one of {list(choices)}, got {value!r}")


def _check_number(name: str, value: Any, is_size: bool) -> None:
    """Check a float setting; of ``low`` and ``high`` only the type."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if is_number and name in _TASK_RANGE:
        return
    if not is_number or not math.isfinite(value) or (is_size and value < 0):
        expected = "finite and at least 0" if is_size else "finite" if is_number else "a number"
        raise ValueError(f"{name} must be {expected}, got {value!r}")


def _check_order(values: Mapping[str, float]) -> None:
    """Check that each setting ``min_x`` is at most its ``max_x``."""
    for low, least in values.items():
        high = "max_" + low.removeprefix("min_")
        if low.startswith("min_") and high in values and least > values[high]:
            raise ValueError(f"{low} must be at most {high}, got {least} and {values[high]}")


def _check_task_range(family: Any) -> None:
    """Check that the task distribution is within the limits of the task parameters."""
    if hasattr(family, "low") and hasattr(family, "high"):
        for name, (low, high) in family.task_limits.items():
            if not low <= family.low <= family.high <= high:
                raise ValueError(
                    f"low and high must satisfy {low:g} <= low <= high <= {high:g} "
                    f"({family.task_units[name]}), got {family.low}, {family.high}"
                )
    if hasattr(family, "goal_radius"):
        limit = min(high for _, high in family.task_limits.values())
        if family.goal_radius > limit:
            raise ValueError(f"goal_radius must be at most {limit:g} m, got {family.goal_radius}")


def _check_dynamics(family: Any) -> None:
    """Check that ``dynamics`` is valid and names no task parameter of the family."""
    setting = family.dynamics if isinstance(family.dynamics, Mapping) else {}
    drawn = [name for name in setting if name in family.task_units and setting[name] is not None]
    if drawn:
        raise ValueError(
            f"{type(family).__name__} draws {', '.join(drawn)} itself: remove it from dynamics"
        )
    has_change(parse_dynamics(family.dynamics, family.robot.parameters))


def sample_tasks(
    family: TaskFamily, rng: np.random.Generator, num_tasks: int
) -> list[dict[str, float]]:
    """Draw tasks: first the family's parameters, then those of its ``dynamics`` setting.

    Raises:
        ValueError: if ``sample_tasks`` of the family returns no mapping, other names than
            ``task_units`` has, or an array of another shape.
    """
    sampled = family.sample_tasks(rng, num_tasks)
    _check_sampled(family, sampled, num_tasks)
    tasks = dict(sampled)
    for name, distribution in parse_dynamics(family.dynamics, family.robot.parameters).items():
        tasks[name] = np.array(distribution.sample(rng, num_tasks))
    return unstack_tasks(tasks, num_tasks)


def _check_sampled(family: TaskFamily, sampled: Any, num_tasks: int) -> None:
    """Check names and shapes of what ``family.sample_tasks`` returns; values are checked later."""
    method = f"sample_tasks of {type(family).__name__}"
    if not isinstance(sampled, Mapping):
        raise ValueError(
            f"{method} must return a mapping from names to arrays (num_tasks,), got "
            f"{sampled!r:.200}"
        )
    required = family.task_units
    unknown = [name for name in sampled if name not in required]
    missing = [name for name in required if name not in sampled]
    if unknown or missing:
        what = f"{unknown[0]!r} is not in task_units" if unknown else f"{missing[0]!r} is missing"
        raise ValueError(
            f"{method} must return the names in task_units ({', '.join(required) or 'none'}), got "
            f"{', '.join(map(repr, sampled)) or 'none'}: {what}"
        )
    for name, values in sampled.items():
        if np.shape(values) != (num_tasks,):
            raise ValueError(
                f"{method}: {name!r} has shape {np.shape(values)}, expected {(num_tasks,)}"
            )


def stack_tasks(family: TaskFamily, tasks: Sequence[Task]) -> dict[str, np.ndarray]:
    """Check ``tasks`` and convert them to one array (len(tasks),) per name.

    A task must have all parameters of the family, and may have any of the dynamics. If only some
    tasks set a parameter of the dynamics, the others get its nominal value; for ``changed/NAME``
    their value of NAME.

    Raises:
        ValueError: if a task lacks a name, has an unknown one, or an invalid value.
    """
    known = task_parameters(family)
    for task in tasks:
        _check_task(family, task, known)
    used = {name for task in tasks for name in task}
    used |= {name.removeprefix(CHANGED) for name in used}
    return {
        name: np.array([_value(task, name, known) for task in tasks])
        for name in known
        if name in used
    }


def _value(task: Task, name: str, known: Mapping[str, Parameter]) -> float:
    """Value of a parameter, or its default."""
    if name in task:
        return float(task[name])
    if name.startswith(CHANGED):
        return _value(task, name.removeprefix(CHANGED), known)
    return known[name].nominal


def _check_task(family: TaskFamily, task: Any, known: Mapping[str, Parameter]) -> None:
    """Check the names and values of one task."""
    required = list(family.task_units)
    names = list(task) if isinstance(task, Mapping) else []
    missing = [name for name in required if name not in names]
    unknown = [name for name in names if name not in known]
    if not isinstance(task, Mapping) or missing or unknown:
        quantities = [name for name in known if name not in required and "/" not in name]
        also = f", and optionally any of {quantities}" if quantities else ""
        problem = ""
        if unknown and missing:
            problem = f": {unknown[0]!r} is unknown, and {', '.join(missing)} missing"
        elif unknown:
            problem = f": {unknown[0]!r} is unknown.{name_hint(str(unknown[0]), known)}"
        elif names and missing:
            problem = f": {', '.join(missing)} missing"
        raise ValueError(
            f"a task of {type(family).__name__} must be a mapping with the keys {required}{also}, "
            f"got {task!r}{problem}"
        )
    for name, value in task.items():
        if not known[name].accepts(value):
            raise ValueError(
                f"task parameter {name!r} of {type(family).__name__} must be {known[name]}, got "
                f"{value!r}"
            )
    has_change(task)


def unstack_tasks(tasks: Tasks, num_tasks: int) -> list[dict[str, float]]:
    """The inverse of :func:`stack_tasks`: one mapping of plain floats per task."""
    return [{name: float(values[i]) for name, values in tasks.items()} for i in range(num_tasks)]
