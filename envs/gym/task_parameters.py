"""What a task of an environment's family consists of: units, and names of values."""

from __future__ import annotations

from collections.abc import Mapping

from maml_envs.family import TaskFamily, task_parameters


class HasTaskParameters:
    """An environment with a ``family``."""

    family: TaskFamily

    @property
    def task_units(self) -> dict[str, str]:
        """Unit of each parameter that a task may have; ``"factor"``, or empty without one."""
        return {name: parameter.unit for name, parameter in task_parameters(self.family).items()}

    @property
    def task_value_names(self) -> Mapping[str, Mapping[float, str]]:
        """Names of values of task parameters; empty if the family names none."""
        return getattr(self.family, "task_value_names", {})
