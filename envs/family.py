"""What a task family is, and what the engines that simulate one offer.

A task family is one body with a distribution of tasks. Its functions are pure: they take arrays whose leading axis
counts simulations, and the array namespace ``xp`` (numpy or torch) to compute in. So the same family drives the batch
engine, the single Gymnasium environment and an engine on another device.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import numpy as np
from gymnasium import spaces

Array = Any
"""A numpy array or a torch tensor, according to ``xp``."""

State = Mapping[str, Array]
"""State fields by name, each (num_sims, ...)."""

Task = Mapping[str, float]
"""One task: what varies between tasks, by name."""

Tasks = Mapping[str, Array]
"""Tasks of several simulations: each value is (num_sims,)."""


class Engine(Protocol):
    """Simulates ``num_sims`` copies of one body."""

    num_sims: int
    state: State
    """Live arrays: the state of every simulation now."""

    def reset(self, ids: np.ndarray, initial: Mapping[str, np.ndarray]) -> None:
        """Start simulations ``ids`` (n,) from the state fields ``initial``, each (n, ...)."""

    def step(self, ids: np.ndarray | None, action: np.ndarray) -> np.ndarray:
        """Advance simulations ``ids`` (``None``: all) by one control step of ``action`` (num_sims, action_size).

        Returns:
            (num_sims,) bool: simulations that broke down, whose state now means nothing.
        """

    def render(self) -> Any:
        """Whatever the render mode asks for; only engines of one simulation draw."""

    def close(self) -> None:
        """Free threads and rendering contexts."""


class Body(Protocol):
    """What moves: makes engines, and knows its action space and its time step."""

    @property
    def dt(self) -> float:
        """Seconds per control step."""

    @property
    def action_space(self) -> spaces.Box:
        """Bounds of one simulation's action, in actuator units."""

    def batch_engine(self, num_sims: int, num_threads: int) -> Engine:
        """An engine for many simulations on ``num_threads`` threads."""

    def single_engine(self, render_mode: str | None, **render_options: Any) -> Engine:
        """An engine for one simulation, which can draw it."""


class TaskFamily(Protocol):
    """One body with a distribution of tasks. Implementations are frozen dataclasses: their fields are the settings."""

    body: ClassVar[Body]
    max_episode_steps: ClassVar[int]
    """Default horizon."""
    task_units: ClassVar[Mapping[str, str]]
    """Unit of each task parameter (empty for a pure number); its keys are the names that a task has."""
    task_limits: ClassVar[Mapping[str, tuple[float, float]]]
    """Values of each task parameter for which the reward has a meaning."""

    def sample_tasks(self, rng: np.random.Generator, num_tasks: int) -> Tasks:
        """Draw tasks: a mapping from names to float64 arrays (num_tasks,)."""

    def initial_state(self, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
        """Draw the state fields that one simulation starts from (no leading axis)."""

    def observation(self, xp: Any, state: State) -> Array:
        """What the policy sees, (num_sims, observation_size). It never depends on the task."""

    def reward_terms(self, xp: Any, before: State, after: State, action: Array, task: Tasks) -> Mapping[str, Array]:
        """Reward terms of one control step, each (num_sims,); the reward is their sum."""

    def terminated(self, xp: Any, state: State, task: Tasks) -> Array:
        """Whether the episode ends in this state, (num_sims,) bool. Time limits are not the family's business."""


def stack_tasks(family: TaskFamily, tasks: list[Task]) -> dict[str, np.ndarray]:
    """Check ``tasks`` and put them side by side, one array (len(tasks),) per name.

    Raises:
        ValueError: a task lacks a name, has one too many, or a value without meaning.
    """
    names = list(family.task_units)
    for task in tasks:
        if not isinstance(task, Mapping) or set(task) != set(names):
            raise ValueError(f"a task of {type(family).__name__} is a mapping with the keys {names}, got {task!r}")
        for name, (low, high) in family.task_limits.items():
            value = np.asarray(task[name])
            if value.shape != () or value.dtype.kind not in "iuf" or not low <= float(value) <= high:
                raise ValueError(
                    f"task parameter {name!r} of {type(family).__name__} is one number in "
                    f"[{low}, {high}] {family.task_units[name]}".strip()
                    + f", got {task[name]!r}"
                )
    return {name: np.array([float(task[name]) for task in tasks]) for name in names}


def unstack_tasks(tasks: Tasks) -> list[dict[str, float]]:
    """The inverse of :func:`stack_tasks`: one mapping of plain floats per task."""
    names = list(tasks)
    return [
        dict(zip(names, map(float, row), strict=True)) for row in zip(*(tasks[name] for name in names), strict=True)
    ]
