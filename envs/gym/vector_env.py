"""A batch of simulations of one task family as a Gymnasium vector environment."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from maml_envs.engines.engine import Task
from maml_envs.family import TaskFamily
from maml_envs.gym.family_tasks import BatchTasks, check_sizes
from maml_envs.gym.seeding import reset_mask, seeded_generators
from maml_envs.gym.simulations import Simulations


def available_cpus() -> int:
    """Number of CPUs that this process may use, divided by the processes of ``torchrun``."""
    if hasattr(os, "sched_getaffinity"):
        num_cpus = len(os.sched_getaffinity(0))
    else:
        num_cpus = os.cpu_count() or 1
    return max(1, num_cpus // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


class FamilyVectorEnv(BatchTasks, VectorEnv):
    """``num_envs`` simulations of a task family, stepped together, each with its own task.

    Autoreset is disabled: a simulation whose episode has ended is not stepped until it is reset.
    Until then its observation stays the same, its reward is zero, and its ``terminated`` or
    ``truncated`` flag stays set. ``info["unstable"]`` marks simulations that became unstable; their
    episodes are truncated, and their data is meaningless. Sub-environment i after a reset with seed
    s equals the single environment after a reset with seed s + i, bit for bit, for any number of
    threads.

    Args:
        family: the task family.
        num_envs: number of simulations.
        max_episode_steps: horizon; default is that of the family.
        num_threads: simulator threads; default is the number of CPUs that this process may use.

    Raises:
        ValueError: if a size is below 1, or a function of the family returns something wrong.
    """

    takes_episode = True
    """Whether ``reset`` takes the option ``episode``."""

    single_observation_space: spaces.Box
    single_action_space: spaces.Box

    def __init__(
        self,
        family: TaskFamily,
        num_envs: int = 1,
        max_episode_steps: int | None = None,
        num_threads: int | None = None,
    ) -> None:
        check_sizes(num_envs=num_envs, max_episode_steps=max_episode_steps, num_threads=num_threads)
        self.family = family
        self.num_envs = num_envs
        self.max_episode_steps = (
            family.max_episode_steps if max_episode_steps is None else max_episode_steps
        )
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED, "render_modes": []}
        num_threads = available_cpus() if num_threads is None else num_threads
        self.engine = family.robot.batch_engine(num_envs, num_threads, family.derived_fields)
        self._simulations = Simulations(family, self.engine)
        self.single_observation_space = self._simulations.observation_space
        self.single_action_space = self._simulations.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._rngs: list[np.random.Generator] = []
        self._num_steps = np.zeros(num_envs, int)
        self._terminated = np.zeros(num_envs, bool)
        self._truncated = np.ones(num_envs, bool)  # not stepped before the first reset

    def set_tasks(self, tasks: Sequence[Task]) -> None:
        """Set the task of sub-environment i to ``tasks[i]``, for this and later episodes.

        Action delay and observation noise in force end at once; those of the task begin at the next
        reset, which starts its first episode.

        Raises:
            ValueError: if the number of tasks is wrong, or a task is invalid for this family.
        """
        self._check_number(tasks)
        self._simulations.set_tasks(list(tasks))

    @property
    def tasks(self) -> list[dict[str, float]] | None:
        """Task of each sub-environment; ``None`` before the first reset or :meth:`set_tasks`."""
        return self._simulations.tasks

    def before_and_after(self, task: Task) -> tuple[dict[str, float], dict[str, float]]:
        """Parameters of a task before and after the change of its dynamics, with equal names.

        Raises:
            ValueError: if the task is invalid for this family.
        """
        return self._simulations.before_and_after(task)

    @property
    def is_changed(self) -> np.ndarray:
        """Where the changed dynamics are in force in the next control step, (num_envs,) bool."""
        return self._simulations.is_changed

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start new episodes.

        Args:
            seed: sub-environment i, if reset, gets ``seed + i`` or ``seed[i]``; with ``None`` its
                generator continues.
            options: ``reset_mask`` (num_envs,) bool, which sub-environments to reset; ``task``, one
                task for all of them, or ``tasks``, one for each; ``episode``, the index of the
                episodes in their tasks, for tasks whose dynamics change (default: one more than
                that of the last).

        Returns:
            Observations (num_envs, observation_size) float64, and an empty info.
        """
        options = dict(options or {})
        if isinstance(seed, (int, np.integer)):
            super().reset(seed=int(seed))
        mask = reset_mask(options, self.num_envs)
        self._rngs = seeded_generators(self._rngs, seed, mask, self.np_random)
        ids = np.flatnonzero(mask)
        self._set_tasks_of(options)
        # episodes
        self._num_steps[ids] = 0
        self._terminated[ids] = self._truncated[ids] = False
        return self._simulations.reset(ids, self._rngs, options.get("episode")), {}

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Advance every unfinished simulation by one control step.

        Args:
            actions: (num_envs, action_size), in actuator units; clipped to the action space.

        Returns:
            Observations (num_envs, observation_size), rewards, terminated and truncated
            (num_envs,), and an info with every reward term, ``unstable``, and ``is_success`` if the
            family defines success, each (num_envs,), with Gymnasium's ``_name`` masks.

        Raises:
            ValueError: if the actions have another shape.
            ResetNeeded: before the first reset.
        """
        actions = np.asarray(actions, np.float64)
        if actions.shape != self.action_space.shape:
            raise ValueError(
                f"expected actions of shape {self.action_space.shape}, got {actions.shape}"
            )
        # step
        live = ~(self._terminated | self._truncated)
        observation, terms, terminated, unstable = self._simulations.step(actions, live)
        self._num_steps += live
        self._terminated |= terminated
        self._truncated |= unstable | (self._num_steps >= self.max_episode_steps)
        # info: reward terms, instability, success
        info: dict[str, Any] = {**terms, "unstable": unstable}
        success = self._simulations.success()
        if success is not None:
            info["is_success"] = success
        info.update({f"_{name}": live for name in info})
        reward = functools.reduce(np.add, terms.values())
        return observation, reward, self._terminated.copy(), self._truncated.copy(), info

    def close_extras(self, **kwargs: Any) -> None:
        """Free the engine."""
        self.engine.close()
