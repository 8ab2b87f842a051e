"""The tasks of an environment's family: how they are drawn, their units, names of values.

Also the check of sizes that the batch environments share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from maml_envs.engines.engine import Task
from maml_envs.family import TaskFamily, sample_tasks, task_parameters


def check_sizes(**sizes: int | None) -> None:
    """Check sizes of a batch environment, by name; ``None`` is a default.

    Raises:
        ValueError: if one is below 1.
    """
    for name, size in sizes.items():
        if size is not None and size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")


class FamilyTasks:
    """An environment with a ``family`` and a generator ``np_random``."""

    family: TaskFamily

    def sample_tasks(self: Any, num_tasks: int) -> list[dict[str, float]]:
        """Draw tasks from the family's distribution with ``self.np_random``."""
        return sample_tasks(self.family, self.np_random, num_tasks)

    @property
    def task_units(self) -> dict[str, str]:
        """Unit of each parameter that a task may have; ``"factor"``, or empty without one."""
        return {name: parameter.unit for name, parameter in task_parameters(self.family).items()}

    @property
    def task_value_names(self) -> Mapping[str, Mapping[float, str]]:
        """Names of values of task parameters; empty if the family names none."""
        return getattr(self.family, "task_value_names", {})


class BatchTasks(FamilyTasks):
    """A batch environment, in which each sub-environment has a task."""

    def _check_number(self: Any, tasks: Sequence[Task]) -> None:
        """Check that there is one task for each sub-environment.

        Raises:
            ValueError: if their number is wrong.
        """
        if len(tasks) != self.num_envs:
            raise ValueError(
                f"expected {self.num_envs} tasks, one per sub-environment, got {len(tasks)}"
            )

    def _set_tasks_of(self: Any, options: Mapping[str, Any]) -> None:
        """Set the tasks that are in the options of a reset: ``tasks``, or ``task`` for all."""
        if "tasks" in options:
            self.set_tasks(options["tasks"])
        elif "task" in options:
            self.set_tasks([options["task"]] * self.num_envs)
