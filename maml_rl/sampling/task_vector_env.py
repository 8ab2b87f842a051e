"""The vector environment that the collector needs; built-in and custom ones implement it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from gymnasium import spaces

from maml_rl.errors import value_errors_refused
from maml_rl.settings.drawn_tasks import Task


class TaskVectorEnv(Protocol):
    """A ``gymnasium.vector.VectorEnv`` with autoreset disabled and one task per sub-environment.

    After the end of an episode, its flags stay set and its reward is zero. After it, as after a
    non-finite observation or reward, a sub-environment is either not stepped, or reset if necessary
    and stepped with the action of a zero output, whose results are not returned.

    ``info`` may contain ``"unstable"``, (num_envs,) bool: episodes to discard, since their
    simulation became unstable; and ``"is_success"``, (num_envs,) bool, or floats with NaN for no
    report: whether the task is solved in this state. The last report of an episode counts.

    If it has the attribute ``device``, a torch device, observations, rewards, flags and infos are
    tensors there, and so are the actions that it takes. A simulation whose episode has ended may
    then be stepped with the others; nothing that is returned for it is used.

    If it has the attribute ``takes_episode`` and it is true, ``reset`` takes the option
    ``episode``: how many updates were made in this trial before the episode, for tasks whose
    dynamics change from one episode to the next.
    """

    num_envs: int
    single_observation_space: spaces.Space[Any]
    single_action_space: spaces.Space[Any]
    np_random: np.random.Generator

    def sample_tasks(self, num_tasks: int) -> Sequence[Task]:
        """Draw tasks with ``self.np_random``."""

    def set_tasks(self, tasks: Sequence[Task]) -> None:
        """Give sub-environment i the task ``tasks[i]``."""

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode in every sub-environment, or in those of ``options["reset_mask"]``.

        Sub-environment i gets ``seed + i``, or ``seed[i]``. A list is passed if there are several
        tasks and fewer sub-environments than episodes.
        """

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step every unfinished sub-environment."""

    def close(self) -> None:
        """Close the environment."""


def assign_tasks(env: TaskVectorEnv, tasks: Sequence[Task]) -> None:
    """Give sub-environment i the task ``tasks[i]``.

    Raises:
        UserError: if the environment refuses a task.
    """
    with value_errors_refused():
        env.set_tasks(tasks)


def is_on_device(env: TaskVectorEnv) -> bool:
    """Whether what the environment returns and takes are tensors."""
    return isinstance(getattr(env, "device", None), torch.device)
