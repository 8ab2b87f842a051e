"""One environment that takes a task, whatever way it has to take one, and tells in one line what is wrong with it."""

from __future__ import annotations

import copy
import random
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import FlattenObservation

from maml_rl.errors import MamlRLWarning, UserError, in_one_line
from maml_rl.settings.drawn_tasks import DrawnTasks, Task

_PASSED_ON = (UserError, MemoryError)  # these are raised as they are


class TaskSetter(gym.Wrapper):
    """Draws tasks, and gives the environment the one assigned to ``assigned_task``, at its next reset at the latest.

    A task reaches the environment by its ``set_task(task)``, by making it again with the task's
    values as arguments (where the configuration describes the tasks), or by
    ``reset(options={"task": task})``. Methods of wrappers count as the environment's.

    Observations that are no vectors are flattened: :class:`gymnasium.wrappers.FlattenObservation`.

    Of an environment's infos only ``is_success`` and ``void`` are kept, as numbers (see
    :meth:`step`): the others may change their shape from step to step, which no vector environment
    can hold.

    Args:
        env: any environment.
        drawn: tasks in place of the environment's own.
        remake: makes the environment for a task of ``drawn``; default is to leave the constructor
            alone.

    Raises:
        UserError: observations that cannot be flattened, or tasks in two places.
    """

    def __init__(
        self,
        env: gym.Env,
        drawn: DrawnTasks | None = None,
        remake: Callable[..., gym.Env] | None = None,
    ) -> None:
        super().__init__(_with_vector_observations(env))
        self.name = env.spec.id if env.spec is not None else type(env.unwrapped).__name__
        if drawn is not None and _method(env, "sample_tasks") is not None:
            raise UserError(
                f"{drawn.setting}: environment {self.name!r} draws its tasks itself, by "
                f"sample_tasks"
            )
        self._drawn = drawn
        self._remake = remake
        self._must_remake = False
        self._task: Task | None = None
        self._spaces = self._current_spaces()
        self._shape = self.observation_space.shape
        self.has_own_process = False
        """Whether resets seed the process's global generators of Python, NumPy and torch too."""

    def draw_tasks(self, rng: np.random.Generator, num_tasks: int) -> list[Task]:
        """Draw tasks; empty mappings from an environment without tasks.

        Raises:
            UserError: the environment raises, or what it draws are no tasks.
        """
        if self._drawn is not None:
            return self._drawn.sample(rng, num_tasks)
        sample_tasks = _method(self.env, "sample_tasks")
        if sample_tasks is None:
            return [{} for _ in range(num_tasks)]
        self.unwrapped.np_random = rng
        try:
            tasks = sample_tasks(num_tasks)
            drawn = list(tasks)
        except _PASSED_ON:
            raise
        except Exception as error:
            raise self._raised(f"sample_tasks({num_tasks})", error) from error
        if (
            isinstance(tasks, Mapping)
            or len(drawn) != num_tasks
            or not all(isinstance(t, Mapping) for t in drawn)
        ):
            raise UserError(
                f"sample_tasks({num_tasks}) of environment {self.name!r} must return as many "
                f"tasks, each a mapping "
                f"from names to values such as {{'goal': 1.0}}; got {tasks!r:.200}"
            )
        return drawn

    @property
    def assigned_task(self) -> Task | None:
        """The task in force."""
        return self._task

    @assigned_task.setter
    def assigned_task(self, task: Task) -> None:
        """Give the environment a copy of the task, at once or at the next reset.

        Raises:
            UserError: it is not a mapping, or the environment refuses it.
        """
        if not isinstance(task, Mapping):
            raise UserError(
                f"a task of environment {self.name!r} is a mapping from names to values, got "
                f"{task!r:.200}"
            )
        # Copies: an environment may change what it is given, and others play the same task.
        self._task = copy.deepcopy(task)
        set_task = _method(self.env, "set_task")
        if not task:
            return
        if self._remake is not None:
            self._must_remake = True
        elif set_task is not None:
            try:
                set_task(copy.deepcopy(task))
            except _PASSED_ON:
                raise
            except ValueError as error:
                raise UserError(
                    f"environment {self.name!r} does not take this task: {error}"
                ) from error
            except Exception as error:
                raise self._raised(f"set_task({dict(task)!r:.200})", error) from error
            self._check_spaces()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset; a task that the environment takes by ``options``, or by its constructor, goes there.

        Raises:
            UserError: the environment raises, cannot be made with this task, or its spaces changed.
        """
        if self.has_own_process and seed is not None:
            seed_global_generators(seed)
        if self._must_remake:
            self._make_again()
        if self._task and self._remake is None and _method(self.env, "set_task") is None:
            options = {**(options or {}), "task": copy.deepcopy(self._task)}
        try:
            observation, _ = self.env.reset(seed=seed, options=options)
        except _PASSED_ON:
            raise
        except Exception as error:
            raise self._raised("reset", error) from error
        self._check_spaces()
        self._check_observation(observation, "reset")
        return observation, {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step.

        Returns:
            As an environment's step. The info holds ``is_success`` and ``void``, each 1.0 or 0.0,
            or NaN where the environment does not report it with this step.

        Raises:
            UserError: the environment raises, or returns an observation of another shape, a reward
                that is not one number, or a report that is not one truth value.
        """
        try:
            observation, reward, terminated, truncated, info = self.env.step(action)
        except _PASSED_ON:
            raise
        except Exception as error:
            raise self._raised("step", error) from error
        self._check_observation(observation, "step")
        number = np.asarray(reward)
        if number.size != 1 or number.dtype.kind not in "biuf":
            raise UserError(
                f"step of environment {self.name!r} returned {reward!r:.100} as reward, expected "
                f"a number"
            )
        reports = {name: self._report(info, name) for name in ("is_success", "void")}
        return observation, number.item(), bool(terminated), bool(truncated), reports

    def _report(self, info: Mapping[str, Any], name: str) -> float:
        try:
            return truth_value(info.get(name))
        except ValueError as error:
            raise UserError(
                f"{name!r} in the info of environment {self.name!r}: {error}"
            ) from error

    def close(self) -> None:
        """Close the environment; one that raises is warned of."""
        close_env(self.env, self.name)

    def _make_again(self) -> None:
        assert self._remake is not None
        assert self._task is not None
        try:
            env = self._remake(**copy.deepcopy(self._task))
        except _PASSED_ON:
            raise
        except Exception as error:
            raise self._raised(
                f"its constructor, given the task {dict(self._task)!r:.200}", error
            ) from error
        self.close()
        self.env = _with_vector_observations(env)
        self._must_remake = False
        self._check_spaces()

    def _current_spaces(self) -> tuple[spaces.Space[Any], ...]:
        """Those that are seen, and those that the environment itself shows now: a wrapper may remember old ones."""
        inner = self.unwrapped
        return (
            self.env.observation_space,
            inner.observation_space,
            self.env.action_space,
            inner.action_space,
        )

    def _check_spaces(self) -> None:
        spaces_now = self._current_spaces()
        for i, (now, before) in enumerate(zip(spaces_now, self._spaces, strict=True)):
            # Bounds of observations may differ; those of actions say what an output of the policy
            # means.
            if now is not before and not (_size(now) == _size(before) if i < 2 else now == before):
                raise UserError(
                    f"the {'observation' if i < 2 else 'action'} space of environment "
                    f"{self.name!r} changes with the "
                    f"task: it was {before}, and is {now} for {dict(self._task or {})!r:.200}"
                )

    def _check_observation(self, observation: Any, doing: str) -> None:
        if np.shape(observation) != self._shape:
            raise UserError(
                f"{doing} of environment {self.name!r} returned an observation of shape "
                f"{np.shape(observation)}, where "
                f"its observation space says {self._shape}"
            )

    def _raised(self, doing: str, error: Exception) -> UserError:
        return UserError(f"environment {self.name!r} raised in {doing}: {in_one_line(error)}")


def close_env(env: Any, name: str) -> None:
    """Close an environment; one that raises is warned of, since nothing that was computed depends on it."""
    try:
        env.close()
    except Exception as error:
        warnings.warn(
            f"environment {name!r} raised in close: {in_one_line(error)}",
            MamlRLWarning,
            stacklevel=2,
        )


def truth_value(value: Any) -> float:
    """What an environment reports as true or false: 1 or 0, and NaN for ``None`` or NaN, which report nothing.

    Args:
        value: a bool, a number, or an array of one of them.

    Raises:
        ValueError: it is something else.
    """
    if value is None:
        return np.nan
    number = np.asarray(value)
    if number.size != 1 or number.dtype.kind not in "biuf":
        raise ValueError(f"expected true, false or None, got {value!r:.100}")
    return np.nan if np.isnan(number.item()) else float(number.item() != 0)


def seed_global_generators(seed: int) -> None:
    """Seed what an environment may draw from beside its own generator, where it has the process for itself."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    if "torch" in sys.modules:  # else nobody draws from it
        sys.modules["torch"].manual_seed(seed)


def make_task_setter(make: Callable[..., gym.Env], drawn: DrawnTasks | None = None) -> TaskSetter:
    """An environment from ``make``, whose arguments the tasks of ``drawn`` are where it has no ``set_task``.

    Raises:
        UserError: it takes no such arguments, or draws tasks itself.
    """
    if drawn is None:
        return TaskSetter(make())
    if not drawn.listed:
        # An argument without a default is known from the first task on.
        return TaskSetter(make(**drawn.sample(np.random.default_rng(0), 1)[0]), drawn, make)
    env = make()
    return TaskSetter(env, drawn, None if _method(env, "set_task") is not None else make)


def _method(env: gym.Env, name: str) -> Callable[..., Any] | None:
    """A method of the environment or of one of its wrappers."""
    return env.get_wrapper_attr(name) if env.has_wrapper_attr(name) else None


def _size(space: spaces.Space[Any]) -> int | None:
    return spaces.flatdim(space) if space.is_np_flattenable else None


def _with_vector_observations(env: gym.Env) -> gym.Env:
    space = env.observation_space
    if isinstance(space, spaces.Box) and len(space.shape) == 1:
        return env
    if not space.is_np_flattenable:
        env.close()
        raise UserError(
            f"observation space {space} is not supported: it cannot be flattened to a vector"
        )
    return FlattenObservation(env)
