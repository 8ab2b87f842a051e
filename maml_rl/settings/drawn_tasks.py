"""Tasks that the configuration describes, for environments that draw none themselves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class ArgumentDistribution:
    """Where one constructor argument is drawn from: a range or a list of choices."""

    low: float = 0.0
    high: float = 0.0
    is_log: bool = False
    """Whether the logarithm is uniform, rather than the value."""
    choices: tuple[Any, ...] = ()

    def sample(self, rng: np.random.Generator, num_tasks: int) -> list[Any]:
        """Draw ``num_tasks`` values: floats, or choices as they were given."""
        if self.choices:
            return [self.choices[i] for i in rng.integers(len(self.choices), size=num_tasks)]
        if self.is_log:
            return np.exp(rng.uniform(math.log(self.low), math.log(self.high), num_tasks)).tolist()
        return rng.uniform(self.low, self.high, num_tasks).tolist()


@dataclass(frozen=True)
class DrawnTasks:
    """A distribution of tasks: of constructor arguments, each drawn on its own, or over an explicit list."""

    distributions: Mapping[str, ArgumentDistribution]
    listed: tuple[Task, ...] = ()

    @property
    def setting(self) -> str:
        """The setting that describes them."""
        return "env.task_list" if self.listed else "env.kwarg_ranges"

    @property
    def names(self) -> list[str]:
        """Everything that a task may hold."""
        return sorted({name for task in self.listed for name in task} | set(self.distributions))

    def sample(self, rng: np.random.Generator, num_tasks: int) -> list[Task]:
        """Draw tasks."""
        if self.listed:
            return [self.listed[i] for i in rng.integers(len(self.listed), size=num_tasks)]
        columns = [self.distributions[name].sample(rng, num_tasks) for name in self.names]
        return [dict(zip(self.names, row, strict=True)) for row in zip(*columns, strict=True)]


def parse(kwarg_ranges: Any, task_list: Any) -> DrawnTasks | None:
    """The tasks that the settings of the environment describe, or ``None`` where they are empty.

    Args:
        kwarg_ranges: by constructor argument, ``[low, high]`` (uniform), ``{low, high}`` with
            ``log: true`` for a uniform logarithm, or ``{choices: [...]}``.
        task_list: mappings from names to values.

    Raises:
        ValueError: they describe no tasks.
    """
    if not isinstance(kwarg_ranges, Mapping):
        raise ValueError(
            f"env.kwarg_ranges must be a mapping such as {{g: [5, 15]}}, got {kwarg_ranges!r}"
        )
    is_list = isinstance(task_list, Sequence) and not isinstance(task_list, str)
    if not is_list or not all(isinstance(task, Mapping) and task for task in task_list):
        raise ValueError(
            f"env.task_list must be a list of tasks such as [{{goal: 1}}, {{goal: 2}}], got "
            f"{task_list!r}"
        )
    for names in (kwarg_ranges, *task_list):
        if not all(isinstance(name, str) for name in names):
            raise ValueError(
                f"names in env.kwarg_ranges and env.task_list are text, got {list(names)!r:.200}"
            )
    if kwarg_ranges and task_list:
        raise ValueError(
            "tasks are drawn from env.kwarg_ranges or from env.task_list: give one of the two"
        )
    if not kwarg_ranges and not task_list:
        return None
    found = {name: _distribution(name, value) for name, value in kwarg_ranges.items()}
    return DrawnTasks(found, tuple(task_list))


def _distribution(name: str, value: Any) -> ArgumentDistribution:
    problem = ValueError(
        f"env.kwarg_ranges: {name!r} must be a range [low, high] or {{low, high, log: true}} of "
        f"finite numbers with "
        f"low <= high (above 0 where log), or {{choices: [...]}}; a fixed value belongs in "
        f"env.kwargs; got {value!r}"
    )
    if isinstance(value, Mapping) and set(value) == {"choices"}:
        choices = value["choices"]
        if not isinstance(choices, Sequence) or isinstance(choices, str) or len(choices) == 0:
            raise problem
        return ArgumentDistribution(choices=tuple(choices))
    is_log: Any = False
    if isinstance(value, Mapping):
        if not {"low", "high"} <= value.keys() <= {"low", "high", "log"}:
            raise problem
        low, high, is_log = value["low"], value["high"], value.get("log", False)
    elif isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2:
        low, high = value
    else:
        raise problem
    if not (_is_finite(low) and _is_finite(high) and low <= high and isinstance(is_log, bool)) or (
        is_log and low <= 0
    ):
        raise problem
    return ArgumentDistribution(float(low), float(high), is_log)


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


Task = Mapping[str, Any]
"""One task by the names of what varies; its values are plain numbers for our families."""
