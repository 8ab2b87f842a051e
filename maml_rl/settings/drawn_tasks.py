"""Tasks, and those that the configuration describes for environments that draw none themselves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from maml_envs.distributions import Distribution

from maml_rl.errors import UserError, did_you_mean
from maml_rl.system.safe_yaml import check_types, plain_values

Task = Mapping[str, Any]
"""One task: values by parameter name. Values of built-in families are numbers."""


@dataclass(frozen=True)
class DrawnTasks:
    """A distribution of tasks: independent constructor arguments, or an explicit list of tasks."""

    distributions: Mapping[str, Distribution]
    """By constructor argument."""
    listed: tuple[Task, ...] = ()

    @property
    def setting(self) -> str:
        """Name of the setting that describes the tasks."""
        return "env.task_list" if self.listed else "env.kwarg_ranges"

    @property
    def names(self) -> list[str]:
        """Every parameter name that a task may contain, sorted."""
        return sorted({name for task in self.listed for name in task} | set(self.distributions))

    def sample(self, rng: np.random.Generator, num_tasks: int) -> list[Task]:
        """Draw ``num_tasks`` tasks."""
        if self.listed:
            return [self.listed[i] for i in rng.integers(len(self.listed), size=num_tasks)]
        columns = [self.distributions[name].sample(rng, num_tasks) for name in self.names]
        return [dict(zip(self.names, row, strict=True)) for row in zip(*columns, strict=True)]


def parse(kwarg_ranges: Any, task_list: Any) -> DrawnTasks | None:
    """The tasks that the settings of the environment describe, or ``None`` if both are empty.

    Args:
        kwarg_ranges: by constructor argument, ``[low, high]`` (uniform), ``{low, high}`` with
            ``log: true`` for a log-uniform value, or ``{choices: [...]}``.
        task_list: one mapping from names to values per task.

    Raises:
        ValueError: if a setting is invalid, or if both are set.
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
                f"names in env.kwarg_ranges and env.task_list must be strings, "
                f"got {list(names)!r:.200}"
            )
    if kwarg_ranges and task_list:
        raise ValueError(
            "tasks are drawn from env.kwarg_ranges or from env.task_list: set only one of the two"
        )
    if not kwarg_ranges and not task_list:
        return None
    distributions = {name: _distribution(name, value) for name, value in kwarg_ranges.items()}
    return DrawnTasks(distributions, tuple(task_list))


def _distribution(name: str, value: Any) -> Distribution:
    """The distribution of one constructor argument.

    Raises:
        ValueError: if ``value`` is neither a range nor choices.
    """
    problem = ValueError(
        f"env.kwarg_ranges: {name!r} must be a range [low, high] or {{low, high, log: true}} of "
        f"finite numbers with low <= high (above 0 if log), or {{choices: [...]}}; a fixed value "
        f"belongs in env.kwargs; got {value!r}"
    )
    # choices
    if isinstance(value, Mapping) and set(value) == {"choices"}:
        choices = value["choices"]
        if not isinstance(choices, Sequence) or isinstance(choices, str) or len(choices) == 0:
            raise problem
        return Distribution(choices=tuple(choices))
    # range: a mapping, or a list of two numbers
    is_log: Any = False
    if isinstance(value, Mapping):
        if not {"low", "high"} <= value.keys() <= {"low", "high", "log"}:
            raise problem
        low, high, is_log = value["low"], value["high"], value.get("log", False)
    elif isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2:
        low, high = value
    else:
        raise problem
    # check its ends
    is_range = _is_finite(low) and _is_finite(high) and low <= high
    if not is_range or not isinstance(is_log, bool) or (is_log and low <= 0):
        raise problem
    return Distribution(low=float(low), high=float(high), is_log=is_log)


def _is_finite(value: Any) -> bool:
    is_number = isinstance(value, (int, float, np.integer, np.floating))
    return is_number and not isinstance(value, bool) and math.isfinite(value)


def with_fixed(task: Task, fixed: Mapping[str, float], env_name: str) -> Task:
    """Return ``task`` with the values in ``fixed``, as integers where old and new are integral.

    Raises:
        UserError: if the task has no numeric value with such a name, or a new one is not a finite
            number.
    """
    if not isinstance(fixed, Mapping):
        raise UserError(f"fixed must map names of task values to numbers, got {fixed!r:.100}")
    changed = dict(task)
    for name, value in fixed.items():
        old = task.get(name)
        if not isinstance(old, (int, float, np.integer, np.floating)) or isinstance(old, bool):
            plain = plain_values(task)
            valid_names = [key for key in plain if type(plain[key]) in (int, float)]
            hint = did_you_mean(name, valid_names)
            valid = "Its tasks have no numeric values."
            if valid_names:
                valid = f"Valid are {', '.join(valid_names)}."
            raise UserError(f"a task of {env_name} has no numeric value {name!r}.{hint} {valid}")
        if not _is_finite(value):
            raise UserError(f"{name} must be a finite number, got {value!r:.100}")
        stays_integer = isinstance(old, (int, np.integer)) and float(value).is_integer()
        changed[name] = int(value) if stays_integer else value
    return changed if fixed else task


def plain_task(task: Task, env_name: str) -> dict[str, Any]:
    """Convert a task to plain values for files: NumPy scalars and arrays to numbers and lists.

    Args:
        task: drawn by an environment, or chosen by the user.
        env_name: the environment's name, for the error message.

    Raises:
        UserError: if it has a value that a file cannot hold.
    """
    plain: dict[str, Any] = plain_values(task)
    check_types(plain, f"a task of environment {env_name!r}: task")
    return plain
