"""Single environments under Gymnasium's vector environments, one task each."""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from maml_rl.errors import UserError, in_one_line
from maml_rl.sampling.single_env import (
    TaskSetter,
    make_task_setter,
    seed_global_generators,
    takes_episode,
    truth_value,
)
from maml_rl.settings.drawn_tasks import DrawnTasks, Task
from maml_rl.settings.env import Vectorization

_log = logging.getLogger("maml_rl")


class GymTaskVectorEnv:
    """Single environments under Gymnasium's Sync or Async vector environment, one task each.

    :class:`TaskSetter` documents how they draw and take tasks. Without tasks, the environment
    itself is the only task.

    Gymnasium's vector environments always step every sub-environment. One that has finished, or has
    returned a non-finite observation or reward, is reset and stepped again, but these steps are not
    returned. Non-finite values are returned unchanged.

    The info of a step has only ``is_success`` and ``unstable``.

    Args:
        envs: with autoreset disabled.
        sampler: draws tasks, or ``None`` if no tasks are drawn.
        takes_tasks: whether every sub-environment is a :class:`TaskSetter`.
    """

    def __init__(
        self, envs: VectorEnv, sampler: TaskSetter | None, takes_tasks: bool = False
    ) -> None:
        self.envs: Any = envs
        self.num_envs = envs.num_envs
        self.single_observation_space = envs.single_observation_space
        self.single_action_space = envs.single_action_space
        self.np_random = np.random.default_rng()
        self._name = str(envs) if sampler is None else sampler.name
        self._sampler = sampler
        self._takes_tasks = takes_tasks
        # Environments in worker processes are copies of the sampler.
        self.takes_episode = _takes_episode(envs) if sampler is None else takes_episode(sampler)
        self._options: dict[str, Any] = {}
        """Those of the last reset, without its mask."""
        self._failed = False
        self._observation: Any = None
        self._terminated = np.zeros(self.num_envs, bool)
        self._truncated = np.zeros(self.num_envs, bool)
        self._broken = np.zeros(self.num_envs, bool)
        """Sub-environments whose observation or reward was not finite in this episode."""
        self._to_reset = np.zeros(self.num_envs, bool)
        """Sub-environments that must be reset before they can be stepped again."""

    @classmethod
    def of(
        cls,
        make: Callable[..., gym.Env],
        num_envs: int,
        vectorization: Vectorization,
        drawn_tasks: DrawnTasks | None = None,
    ) -> GymTaskVectorEnv:
        """``num_envs`` environments from ``make``, in this process or in one worker process each.

        Args:
            make: takes the values of a task of ``drawn_tasks`` as arguments.
            num_envs: number of environments.
            vectorization: where they run.
            drawn_tasks: tasks to use instead of the environment's own.
        """
        # Make the sampler first, so that errors are raised in this process.
        sampler = make_task_setter(make, drawn_tasks)
        functions = [
            functools.partial(_make_sub_environment, make, drawn_tasks, os.getpid(), i)
            for i in range(num_envs)
        ]
        if num_envs > 1:
            where = "in this process" if vectorization == "sync" else "in worker processes"
            others = (
                ", and one to draw tasks"
                if sampler.has_tasks
                else "; all have the same task: vary it by env.kwarg_ranges or env.task_list"
            )
            _log.info(
                "making %d copies of environment %r %s%s", num_envs, sampler.name, where, others
            )
        try:
            if vectorization == "sync":
                envs: VectorEnv = SyncVectorEnv(functions, autoreset_mode=AutoresetMode.DISABLED)
            else:
                with _quiet_gymnasium():
                    envs = _WorkersVectorEnv(functions)
            return cls(envs, sampler, takes_tasks=True)
        except (EOFError, OSError) as error:
            sampler.close()
            raise UserError(
                f"environment {sampler.name!r} could not be made in a worker process, which "
                "printed its error above. A script that starts workers must do so under "
                '`if __name__ == "__main__":`'
            ) from error
        except BaseException:
            sampler.close()
            raise

    def sample_tasks(self, num_tasks: int) -> list[Task]:
        """Draw tasks with ``self.np_random``; empty mappings if the environment has no tasks.

        Raises:
            UserError: if the environment does not return tasks.
        """
        if self._sampler is None:
            return [{}] * num_tasks
        return self._sampler.draw_tasks(self.np_random, num_tasks)

    def set_tasks(self, tasks: Sequence[Task]) -> None:
        """Give sub-environment i the task ``tasks[i]``.

        After an empty mapping, resets pass no task, and what ``set_task`` set stays.

        Raises:
            UserError: if the sub-environments cannot take tasks, or refuse theirs.
            ValueError: if the number of tasks is wrong.
        """
        if not self._takes_tasks:
            if any(tasks):
                raise UserError(
                    f"{self.envs} takes no tasks: set them in its environments, and pass none here"
                )
            return
        if len(tasks) != self.num_envs:
            raise ValueError(
                f"expected {self.num_envs} tasks, one per sub-environment, got {len(tasks)}"
            )
        with self._errors("set_task"):
            self.envs.set_attr("assigned_task", list(tasks))

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode in every sub-environment, or in those of ``options["reset_mask"]``.

        Sub-environment i gets ``seed + i``, or ``seed[i]``.

        Raises:
            UserError: if an environment raises.
        """
        self._options = dict(options or {})
        mask = np.asarray(self._options.pop("reset_mask", np.ones(self.num_envs, bool)))
        with self._errors("reset"):
            observation, info = self.envs.reset(
                seed=seed, options=None if options is None else dict(options)
            )
        # Keep the state of sub-environments that were not reset.
        if mask.all():
            self._observation = observation
        else:
            self._observation = _where(mask, observation, self._observation)
        self._terminated = self._terminated & ~mask
        self._truncated = self._truncated & ~mask
        self._broken = np.where(mask, ~_finite_rows(observation), self._broken)
        self._to_reset = np.where(mask, self._broken, self._to_reset)
        return self._observation.copy(), info

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step every unfinished sub-environment.

        Raises:
            UserError: if an environment raises.
        """
        # Step all sub-environments, after resetting finished ones.
        with self._errors("step"):
            if self._to_reset.any():
                self.envs.reset(options={**self._options, "reset_mask": self._to_reset})
            observation, reward, terminated, truncated, info = self.envs.step(actions)
        live = ~(self._terminated | self._truncated | self._broken)
        is_unstable = self._reports(info, "unstable") == 1
        reports = {
            "unstable": live & is_unstable,
            "is_success": self._reports(info, "is_success"),
        }
        # Find those that have ended, have failed, or returned non-finite values.
        broken = is_unstable | ~(_finite_rows(observation) & np.isfinite(reward))
        self._broken = self._broken | live & broken
        self._to_reset = terminated | truncated | broken
        # Finished episodes keep their last observation and flags.
        self._observation = _where(live, observation, self._observation)
        self._terminated = np.where(live, terminated, self._terminated)
        self._truncated = np.where(live, truncated, self._truncated)
        rewards = np.where(live, reward, 0.0)
        return self._observation.copy(), rewards, self._terminated, self._truncated, reports

    def _reports(self, info: Mapping[str, Any], name: str) -> np.ndarray:
        """An entry of the infos, (num_envs,): 1 or 0, or NaN for sub-environments without it.

        Raises:
            UserError: if a value is not one truth value.
        """
        if name not in info:
            return np.full(self.num_envs, np.nan)
        values = info[name]
        is_there = info.get(f"_{name}", np.ones(self.num_envs, bool))
        try:
            pairs = zip(values, is_there, strict=True)
            return np.array([truth_value(value) if there else np.nan for value, there in pairs])
        except (TypeError, ValueError) as error:
            raise UserError(f"{name!r} in the infos of {self._name}: {error}") from error

    @contextlib.contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        """Turn errors of the sub-environments, or of their processes, into UserErrors."""
        is_async = isinstance(self.envs.unwrapped, AsyncVectorEnv)
        try:
            # Gymnasium prints the tracebacks of workers, and also raises their exceptions.
            with _quiet_gymnasium() if is_async else contextlib.nullcontext():
                yield
        except (UserError, MemoryError):
            self._failed = True
            raise
        except Exception as error:
            self._failed = True
            if is_async and isinstance(error, (EOFError, BrokenPipeError, ConnectionResetError)):
                raise UserError(
                    f"a worker process of environment {self._name!r} died in {doing}"
                ) from error
            raise UserError(
                f"environment {self._name!r} failed in {doing}: {in_one_line(error)}"
            ) from error
        except BaseException:  # Ctrl-C: workers may be in the middle of a step
            self._failed = True
            raise

    def close(self) -> None:
        """Close every sub-environment and the sampler, once; after an error, end the workers."""
        if self._failed and isinstance(self.envs, _WorkersVectorEnv):
            self.envs.end()
        else:
            self.envs.close()
        sampler, self._sampler = self._sampler, None
        if sampler is not None:
            sampler.close()


def _takes_episode(envs: VectorEnv) -> bool:
    """Whether resets of a user's vector environment take the option ``episode``."""
    inner: Any = envs.unwrapped
    if getattr(inner, "takes_episode", False):  # a batch of a family
        return True
    if not isinstance(inner, SyncVectorEnv | AsyncVectorEnv):
        return False
    return all(inner.call("has_wrapper_attr", "takes_episode")) and all(
        inner.get_attr("takes_episode")
    )


def _where(chosen: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return rows of ``one`` (N, ...) where ``chosen`` (N,) is true, else rows of ``other``."""
    return np.where(chosen.reshape(-1, *[1] * (one.ndim - 1)), one, other)


def _finite_rows(observation: np.ndarray) -> np.ndarray:
    """Return which observations of (N, *observation_shape) are finite, (N,) bool."""
    return np.isfinite(observation).reshape(len(observation), -1).all(1)


class _WorkersVectorEnv(AsyncVectorEnv):
    """An AsyncVectorEnv that ends its workers on request, or if it cannot be made."""

    def __init__(self, functions: Sequence[Callable[[], gym.Env]]) -> None:
        # Free unused objects before forking: one with threads would block a worker that frees it,
        # since a forked process has no copies of these threads.
        gc.collect()
        try:
            super().__init__(functions, autoreset_mode=AutoresetMode.DISABLED)
        except BaseException:
            self.end()
            raise

    def end(self) -> None:
        """Terminate the worker processes."""
        for process in getattr(self, "processes", []):
            if process.pid is not None:
                process.terminate()
                process.join()
        self.closed = True


@contextlib.contextmanager
def _quiet_gymnasium() -> Iterator[None]:
    """Turn off Gymnasium's logger inside the context."""
    level = gym.logger.min_level
    gym.logger.min_level = gym.logger.ERROR + 1
    try:
        yield
    finally:
        gym.logger.min_level = level


def _make_sub_environment(
    make: Callable[..., gym.Env], drawn_tasks: DrawnTasks | None, parent: int, index: int
) -> TaskSetter:
    """Make sub-environment ``index``, in the process ``parent`` or in a worker of its own."""
    is_worker = os.getpid() != parent
    if is_worker:
        gc.freeze()  # the parent's objects are freed in the parent
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and ends workers
        _use_one_torch_thread()
        seed_global_generators(index)  # until the first reset
    setter = make_task_setter(make, drawn_tasks)
    setter.has_own_process = is_worker
    return setter


def _use_one_torch_thread() -> None:
    """Run torch on one thread: a forked process would wait forever for its parent's threads."""
    os.environ["OMP_NUM_THREADS"] = "1"  # if torch is imported later
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
