"""A wrapper for one environment: pass it tasks, check what it returns, name it in errors."""

from __future__ import annotations

import contextlib
import copy
import random
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv, VectorWrapper
from gymnasium.wrappers import FlattenObservation, NormalizeObservation, NormalizeReward
from gymnasium.wrappers.vector import NormalizeReward as VectorNormalizeReward

from maml_rl.errors import MamlRLWarning, UserError, in_one_line
from maml_rl.settings.drawn_tasks import DrawnTasks, Task
from maml_rl.settings.env import check_argument, check_arguments


class TaskSetter(gym.Wrapper):
    """Wrapper that draws tasks and passes ``assigned_task`` to the environment.

    A task is passed in the first of these ways that applies: the environment is made again with the
    task's values as arguments (if there is ``remake``), by its ``set_task(task)``, or by
    ``reset(options={"task": task})``. Methods of wrappers count as the environment's.

    Box observations are used as they are, others are flattened:
    :class:`gymnasium.wrappers.FlattenObservation`.

    Of an environment's infos only ``is_success`` and ``unstable`` are kept, as numbers (see
    :meth:`step`). Others may change their shape from step to step, which vector environments do not
    support.

    Args:
        env: any environment.
        drawn_tasks: tasks to use instead of the environment's own.
        remake: makes the environment with a task of ``drawn_tasks`` as arguments, if it must be
            made again for each task.

    Raises:
        UserError: if observations cannot be flattened, both the environment and ``drawn_tasks``
            define tasks, or a wrapper keeps statistics that no checkpoint has.
    """

    def __init__(
        self,
        env: gym.Env,
        drawn_tasks: DrawnTasks | None = None,
        remake: Callable[..., gym.Env] | None = None,
    ) -> None:
        super().__init__(_with_box_observations(env))
        self.name = env.spec.id if env.spec is not None else type(env.unwrapped).__name__
        refuse_statistics(env, self.name)
        if drawn_tasks is not None and _method(env, "sample_tasks") is not None:
            raise UserError(
                f"{drawn_tasks.setting}: environment {self.name!r} draws its tasks itself, by "
                f"sample_tasks"
            )
        self._drawn_tasks = drawn_tasks
        self._remake = remake
        self._must_remake = False
        self._task: Task | None = None
        self._spaces = self._current_spaces()
        self._shape = self.observation_space.shape
        self.has_own_process = False
        """Whether resets seed the process's global generators of Python, NumPy and torch too."""

    @property
    def has_tasks(self) -> bool:
        """Whether tasks are drawn; otherwise the environment itself is the only task."""
        return self._drawn_tasks is not None or _method(self.env, "sample_tasks") is not None

    def draw_tasks(self, rng: np.random.Generator, num_tasks: int) -> list[Task]:
        """Draw tasks; empty mappings if the environment has no tasks.

        Raises:
            UserError: if the environment raises, or does not return tasks.
        """
        # Sample from the settings, or by the environment.
        if self._drawn_tasks is not None:
            return self._drawn_tasks.sample(rng, num_tasks)
        sample_tasks = _method(self.env, "sample_tasks")
        if sample_tasks is None:
            return [{} for _ in range(num_tasks)]
        with self._errors(f"sample_tasks({num_tasks})"):
            self.unwrapped.np_random = rng
            sampled = sample_tasks(num_tasks)
            tasks = list(sampled) if isinstance(sampled, Iterable) else []
        # Check the tasks.
        are_mappings = all(isinstance(task, Mapping) for task in tasks)
        if isinstance(sampled, Mapping) or len(tasks) != num_tasks or not are_mappings:
            raise UserError(
                f"sample_tasks({num_tasks}) of environment {self.name!r} must return {num_tasks} "
                f"tasks, each a mapping from names to values such as {{'goal': 1.0}}; got "
                f"{sampled!r:.200}"
            )
        return tasks

    @property
    def assigned_task(self) -> Task | None:
        """The current task."""
        return self._task

    @assigned_task.setter
    def assigned_task(self, task: Task) -> None:
        """Give the environment a copy of the task, at once or at the next reset.

        Raises:
            UserError: if it is not a mapping, or the environment takes no tasks or refuses it.
        """
        if not isinstance(task, Mapping):
            raise UserError(
                f"a task of environment {self.name!r} is a mapping from names to values, got "
                f"{task!r:.200}"
            )
        set_task = _method(self.env, "set_task")
        gets_by_reset = self._remake is None and set_task is None
        if task and gets_by_reset and _method(self.env, "sample_tasks") is None:
            raise UserError(
                f"environment {self.name!r} has neither set_task nor sample_tasks, so it takes no "
                f"task, got {dict(task)!r:.200}. An environment object cannot change the arguments "
                "that it was made with: make it with those of the task, or pass task without env"
            )
        # Copies, since an environment may modify its task, and others play the same one.
        self._task = copy.deepcopy(task)
        self._must_remake = False
        if not task:
            return
        if self._remake is not None:
            for name in task:
                check_argument(self.name, name, f"task: the constructor of {self.name!r}")
            self._must_remake = True
        elif set_task is not None:
            with self._errors(f"set_task({dict(task)!r:.200})", refuses="this task"):
                set_task(copy.deepcopy(task))
            self._check_spaces()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset, after passing on a task that the environment does not have yet.

        Raises:
            UserError: if the environment raises, cannot be made with this task, or its spaces
                changed.
        """
        if self.has_own_process and seed is not None:
            seed_global_generators(seed)
        # Pass on a task that goes to the constructor, or to reset.
        if self._must_remake:
            self._make_again()
        if self._task and self._remake is None and _method(self.env, "set_task") is None:
            options = {**(options or {}), "task": copy.deepcopy(self._task)}
        with self._errors("reset"):
            returned = self.env.reset(seed=seed, options=options)
        observation, _ = self._parts(returned, "reset", ("observation", "info"))
        self._check_spaces()
        return self._checked_observation(observation, "reset"), {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step the environment, and check what it returns.

        Returns:
            As :meth:`gymnasium.Env.step`. The info has ``is_success`` and ``unstable``, each 1.0 or
            0.0, or NaN if the environment does not report it with this step.

        Raises:
            UserError: if the environment raises, or returns an observation of another shape, a
                reward that is not one number, or a report that is not one truth value.
        """
        with self._errors("step"):
            returned = self.env.step(action)
        parts = ("observation", "reward", "terminated", "truncated", "info")
        observation, reward, terminated, truncated, info = self._parts(returned, "step", parts)
        observation = self._checked_observation(observation, "step")
        number = np.asarray(reward)
        if number.size != 1 or number.dtype.kind not in "biuf":
            raise UserError(
                f"step of environment {self.name!r} returned {reward!r:.100} as reward, expected "
                f"a number"
            )
        reports = {name: self._report(info, name) for name in ("is_success", "unstable")}
        return observation, number.item(), bool(terminated), bool(truncated), reports

    def _parts(self, returned: Any, method: str, expected: Sequence[str]) -> Sequence[Any]:
        """Return what a method of the environment returned, if it has the expected parts."""
        if isinstance(returned, tuple) and len(returned) == len(expected):
            return returned
        number = f"{len(returned)} values" if isinstance(returned, tuple) else "one value"
        raise UserError(
            f"{method} of environment {self.name!r} returned {number}, expected {len(expected)}: "
            f"{', '.join(expected)} (Gymnasium's interface)"
        )

    def _report(self, info: Mapping[str, Any], name: str) -> float:
        try:
            return truth_value(info.get(name))
        except ValueError as error:
            raise UserError(
                f"{name!r} in the info of environment {self.name!r}: {error}"
            ) from error

    def close(self) -> None:
        """Close the environment; warn if it raises."""
        close_env(self.env, self.name)

    def _make_again(self) -> None:
        """Make the environment again, with the task's values as arguments."""
        assert self._remake is not None
        assert self._task is not None
        with self._errors("its constructor"):
            env = self._remake(**copy.deepcopy(self._task))
        self.close()
        self.env = env  # closed with the wrapper, also if it is refused
        self.env = _with_box_observations(env)
        self._must_remake = False
        self._check_spaces()

    def _current_spaces(self) -> list[tuple[str, spaces.Space[Any]]]:
        """Spaces of the environment with and without wrappers; a wrapper may keep an old space."""
        inner = self.unwrapped
        return [
            ("observation", self.env.observation_space),
            ("observation", inner.observation_space),
            ("action", self.env.action_space),
            ("action", inner.action_space),
        ]

    def _check_spaces(self) -> None:
        """Raise if the task has changed a space, other than the bounds of observations."""
        for (kind, now), (_, before) in zip(self._current_spaces(), self._spaces, strict=True):
            if now is before:
                continue
            # The bounds of actions define what an output of the policy means.
            is_same = (
                _fixed_parts(now) == _fixed_parts(before)
                if kind == "observation"
                else now == before
            )
            if not is_same:
                raise UserError(
                    f"the {kind} space of environment {self.name!r} changes with the task: it was "
                    f"{before}, and is {now} for {dict(self._task or {})!r:.200}"
                )

    def _checked_observation(self, observation: Any, method: str) -> np.ndarray:
        """Return an observation in the dtype of its space.

        Raises:
            UserError: if its shape is another one, or the conversion would change its values by
                more than rounding.
        """
        array = np.asarray(observation)
        if array.shape != self._shape:
            raise UserError(
                f"{method} of environment {self.name!r} returned an observation of shape "
                f"{array.shape}, but its observation space has shape {self._shape}"
            )
        dtype = np.dtype(self.observation_space.dtype)
        if array.dtype == dtype:
            return array
        with np.errstate(invalid="ignore"):
            converted = array.astype(dtype)
        # A wider integer may not fit; a floating-point number is only rounded.
        is_rounding = dtype.kind == "f" and np.can_cast(array.dtype, dtype, "same_kind")
        if not is_rounding and (converted != array).any():
            raise UserError(
                f"{method} of environment {self.name!r} returned an observation of {array.dtype}, "
                f"but its observation space has {dtype}, which cannot hold its values"
            )
        return converted

    @contextlib.contextmanager
    def _errors(self, doing: str, refuses: str = "") -> Iterator[None]:
        """Turn what the environment raises into a UserError that names the environment.

        Args:
            doing: what the environment is doing.
            refuses: what it refuses if it raises a ValueError.
        """
        try:
            yield
        except (UserError, MemoryError):
            raise
        except (Exception, SystemExit) as error:
            if refuses and isinstance(error, ValueError):
                raise UserError(
                    f"environment {self.name!r} does not accept {refuses}: {error}"
                ) from error
            task = f", with the task {dict(self._task)!r:.200}," if self._task else ""
            raise UserError(
                f"environment {self.name!r}{task} raised in {doing}: {in_one_line(error)}"
            ) from error


def close_env(env: Any, name: str) -> None:
    """Close an environment; warn if it raises, since no result depends on it."""
    try:
        env.close()
    except (Exception, SystemExit) as error:
        warnings.warn(
            f"environment {name!r} raised in close: {in_one_line(error)}",
            MamlRLWarning,
            stacklevel=2,
        )


def truth_value(value: Any) -> float:
    """1 for true, 0 for false, and NaN for no report.

    Args:
        value: a bool, a number, or an array of one of them; ``None`` or NaN for no report.

    Raises:
        ValueError: if it is something else.
    """
    if value is None:
        return np.nan
    number = np.asarray(value)
    if number.size != 1 or number.dtype.kind not in "biuf":
        raise ValueError(f"expected true, false or None, got {value!r:.100}")
    return np.nan if np.isnan(number.item()) else float(number.item() != 0)


def seed_global_generators(seed: int) -> None:
    """Seed the global generators of a process that runs one environment only."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    if "torch" in sys.modules:  # otherwise the environment does not use it
        sys.modules["torch"].manual_seed(seed)


def make_task_setter(make: Callable[..., gym.Env], drawn_tasks: DrawnTasks | None) -> TaskSetter:
    """Make an environment and wrap it in a :class:`TaskSetter`.

    Args:
        make: makes the environment.
        drawn_tasks: tasks to use instead of the environment's own, or ``None``. They are arguments
            of ``make``, except for listed tasks of an environment with ``set_task``.

    Raises:
        UserError: if observations cannot be flattened, or the environment draws its tasks itself.
    """
    if drawn_tasks is None:
        return _task_setter(make())
    if not drawn_tasks.listed:
        # Pass the values of some task, since an argument need not have a default.
        (task,) = drawn_tasks.sample(np.random.default_rng(0), 1)
        return _task_setter(make(**task), drawn_tasks, make)
    try:
        env = make()
    except TypeError:  # an argument of the listed tasks without a default
        env = make(**drawn_tasks.listed[0])
    if _method(env, "set_task") is not None:
        return _task_setter(env, drawn_tasks)
    if env.spec is not None:
        check_arguments(env.spec.id, drawn_tasks)
    return _task_setter(env, drawn_tasks, make)


def _task_setter(env: gym.Env, *arguments: Any) -> TaskSetter:
    """Wrap an environment that was made here; close it if it is refused."""
    try:
        return TaskSetter(env, *arguments)
    except UserError:
        close_env(env, str(env))
        raise


def _method(env: gym.Env, name: str) -> Callable[..., Any] | None:
    """A method of the environment or of one of its wrappers, or ``None``."""
    return env.get_wrapper_attr(name) if env.has_wrapper_attr(name) else None


def takes_episode(env: gym.Env) -> bool:
    """Whether resets of an environment, or of one of its wrappers, take the option ``episode``."""
    return env.has_wrapper_attr("takes_episode") and bool(env.get_wrapper_attr("takes_episode"))


def refuse_statistics(env: gym.Env | VectorEnv, name: str) -> None:
    """Refuse wrappers with running statistics: no checkpoint has them, and every copy has its own.

    Raises:
        UserError: if there is one.
    """
    while isinstance(env, (gym.Wrapper, VectorWrapper)):
        if isinstance(env, NormalizeObservation):
            raise UserError(
                f"environment {name!r} normalises observations by statistics that no checkpoint "
                "has: leave out NormalizeObservation, and set policy.normalize_observations"
            )
        if isinstance(env, (NormalizeReward, VectorNormalizeReward)):
            raise UserError(
                f"environment {name!r} normalises rewards by statistics that no checkpoint has: "
                "leave out NormalizeReward; advantages are normalised anyway"
            )
        env = env.env


def _fixed_parts(space: spaces.Space[Any]) -> Any:
    """What a task must not change of a space: all but the bounds of its numbers."""
    if isinstance(space, spaces.Box):
        return space.shape, space.dtype
    if isinstance(space, spaces.Dict):
        return {name: _fixed_parts(part) for name, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return [_fixed_parts(part) for part in space.spaces]
    return space


def has_box_observations(space: spaces.Space[Any]) -> bool:
    """Whether observations are arrays of at least one axis, so that they need not be flattened."""
    return isinstance(space, spaces.Box) and len(space.shape) > 0


def _with_box_observations(env: gym.Env) -> gym.Env:
    space = env.observation_space
    if space.is_np_flattenable and spaces.flatdim(space) == 0:
        raise UserError(
            f"observation space {space} has no entries: return a constant, such as Box(0, 1, (1,))"
        )
    if has_box_observations(space):
        return env
    if not space.is_np_flattenable:
        raise UserError(
            f"observation space {space} is not supported: it cannot be flattened to a vector"
        )
    return FlattenObservation(env)
