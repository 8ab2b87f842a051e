"""Tasks as part of the observation, for a task-conditioned policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from maml_rl.errors import UserError
from maml_rl.sampling.task_vector_env import TaskVectorEnv
from maml_rl.settings.drawn_tasks import Task


class TaskEncoder:
    """Tasks as vectors: their values, in alphabetical order of their names, not scaled.

    Args:
        env: draws a task, for the names. Its generator does not advance.
        name: of the environment, as the user wrote it.
        setting: that needs the vectors, for messages.
        values_of: returns the values of a task to encode; default is all.

    Raises:
        UserError: if the environment draws no tasks, or a task has values that are not numbers.
    """

    def __init__(
        self,
        env: TaskVectorEnv,
        name: str,
        setting: str,
        values_of: Callable[[Task], Task] = lambda task: task,
    ) -> None:
        self._name = name
        self._setting = setting
        generator = env.np_random
        env.np_random = np.random.default_rng(0)
        (task,) = env.sample_tasks(1)
        env.np_random = generator
        if not task:
            raise UserError(f"{setting}: {name!r} draws no tasks, so there is none to observe")
        values = values_of(task)
        self._names = sorted(values)
        self([values])  # refuse values that are not numbers

    @property
    def size(self) -> int:
        """Number of values of a task."""
        return len(self._names)

    def __call__(self, tasks: Sequence[Task]) -> np.ndarray:
        """Return the values of N tasks in the order of their names, (N, size) float64.

        Raises:
            UserError: if the names differ from those of the first task, or a value is not a number.
        """
        return np.array([self._vector(task) for task in tasks], np.float64)

    def _vector(self, task: Task) -> list[float]:
        try:
            if set(task) != set(self._names):
                raise KeyError
            if any(isinstance(value, str) for value in task.values()):  # float() would parse it
                raise TypeError
            return [float(task[name]) for name in self._names]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise UserError(
                f"{self._setting}: a task of {self._name!r} must have one number for each of "
                f"{self._names}, got {dict(task)!r:.200}"
            ) from error


class TaskObserver:
    """Append the task's values to every observation, in alphabetical order of their names.

    If the dynamics of a task family change within a task, these are the values in force in the
    next control step; when and to what they change is not observed.

    Observations of several axes are flattened first. The values are not scaled. If they are far
    from 1, use ``policy.normalize_observations``.

    Args:
        env: with Box observations.
        name: of the environment, as the user wrote it.

    Raises:
        UserError: if the environment draws no tasks, or a task has values that are not numbers.
    """

    def __init__(self, env: TaskVectorEnv, name: str) -> None:
        space = spaces.flatten_space(env.single_observation_space)
        assert isinstance(space, spaces.Box), "make_task_vector_env refuses other spaces"
        self._env: Any = env
        self._name = name
        self.num_envs = env.num_envs
        self.single_action_space = env.single_action_space
        self.takes_episode = getattr(env, "takes_episode", False)
        self.device: torch.device | None = getattr(env, "device", None)
        self.task_units = getattr(env, "task_units", {})
        self.task_value_names = getattr(env, "task_value_names", {})
        # Values before and after a change of the dynamics; other environments have no changes.
        self._versions: Callable[[Task], tuple[Task, Task]] = getattr(
            env, "before_and_after", lambda task: (task, task)
        )
        self._encoder = TaskEncoder(
            env, name, "env.observe_task", lambda task: self._versions(task)[0]
        )
        self._values: Any = None
        self._changed_values: np.ndarray | None = None
        # Extend the observation space.
        self._dtype = np.result_type(space.dtype, np.float32)
        unbounded = np.full(self._encoder.size, np.inf)
        self.single_observation_space: spaces.Space[Any] = spaces.Box(
            np.concatenate([space.low, -unbounded]).astype(self._dtype),
            np.concatenate([space.high, unbounded]).astype(self._dtype),
            dtype=self._dtype.type,
        )

    @property
    def np_random(self) -> np.random.Generator:
        """The generator that draws tasks."""
        return self._env.np_random

    @np_random.setter
    def np_random(self, generator: np.random.Generator) -> None:
        self._env.np_random = generator

    def sample_tasks(self, num_tasks: int) -> Sequence[Task]:
        """Draw tasks with ``self.np_random``."""
        return self._env.sample_tasks(num_tasks)

    def set_tasks(self, tasks: Sequence[Task]) -> None:
        """Give sub-environment i the task ``tasks[i]``, and append it to observations from now on.

        Raises:
            UserError: if a task's names differ from the first one's, or a value is not a number.
        """
        versions = [self._before_and_after(task) for task in tasks]
        values, changed_values = (
            self._encoder(version).astype(self._dtype) for version in zip(*versions, strict=True)
        )
        self._env.set_tasks(tasks)
        on_device = self.device is not None
        self._values = torch.from_numpy(values).to(self.device) if on_device else values
        has_changes = not np.array_equal(values, changed_values, equal_nan=True)
        self._changed_values = changed_values if has_changes else None

    def _before_and_after(self, task: Task) -> tuple[Task, Task]:
        try:
            return self._versions(task)
        except ValueError:  # the encoder, or the environment, says what is wrong with the task
            return task, task

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start episodes.

        Raises:
            UserError: if no tasks have been set, or ``options`` contain tasks.
        """
        if self._values is None or any(name in (options or {}) for name in ("task", "tasks")):
            raise UserError(
                f"env.observe_task: call set_tasks before reset of {self._name!r}; options cannot "
                "contain tasks"
            )
        observation, info = self._env.reset(seed=seed, options=options)
        return self._with_task(observation), info

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step every unfinished sub-environment."""
        observation, *rest = self._env.step(actions)
        return self._with_task(observation), *rest

    def _with_task(self, observation: Any) -> Any:
        values = self._values
        assert values is not None, "reset has checked this"
        if self._changed_values is not None:
            values = np.where(self._env.is_changed[:, None], self._changed_values, values)
        vectors = observation.reshape(len(observation), -1)
        if isinstance(observation, torch.Tensor):  # on a device, no task has changed values
            return torch.cat([vectors, values.to(vectors)], dim=1)
        return np.concatenate([vectors, values], axis=1, dtype=self._dtype)

    def close(self) -> None:
        """Close the environment."""
        self._env.close()
