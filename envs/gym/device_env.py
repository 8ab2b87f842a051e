"""A batch of simulations of one task family whose results stay on a torch device."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from maml_envs.engines.changes import CHANGE_TIMES, CHANGED, PUSH, has_change
from maml_envs.engines.engine import HasDeviceEngine, Task
from maml_envs.family import TaskFamily, sample_tasks, stack_tasks, unstack_tasks
from maml_envs.gym.device_imperfections import DeviceDelay, DeviceNoise
from maml_envs.gym.family_tasks import BatchTasks, check_sizes
from maml_envs.gym.seeding import reset_mask, seeded_generators, task_generator
from torch import Tensor


class DeviceVectorEnv(BatchTasks, VectorEnv):
    """``num_envs`` simulations of a task family on a device, each with its own task.

    It is used as :class:`~maml_envs.gym.vector_env.FamilyVectorEnv` is, but takes actions and
    returns observations, rewards, flags and infos as tensors on ``device``. Between two resets
    nothing is copied to the CPU, and the CPU never waits for the device. Sub-environment i starts
    in the state of the other's sub-environment i, up to the precision of the engine. Simulations
    whose episode has ended are stepped with the others, and the results are ignored.

    Args:
        family: the task family. Its robot must have engines for devices.
        num_envs: number of simulations.
        max_episode_steps: horizon; default is that of the family.
        device: torch device, such as ``"cuda"``.

    Raises:
        ValueError: if a size is below 1, or the family cannot be simulated on a device.
    """

    single_observation_space: spaces.Box
    single_action_space: spaces.Box

    def __init__(
        self,
        family: TaskFamily,
        num_envs: int = 1,
        max_episode_steps: int | None = None,
        device: str | torch.device = "cuda",
    ) -> None:
        check_sizes(num_envs=num_envs, max_episode_steps=max_episode_steps)
        robot = family.robot
        if not isinstance(robot, HasDeviceEngine):
            raise ValueError(
                f"the robot of {type(family).__name__}, a {type(robot).__name__}, cannot be "
                "simulated on a device: use the engine mujoco"
            )
        _refuse_change(family, family.dynamics)
        self.family = family
        self.num_envs = num_envs
        self.max_episode_steps = (
            family.max_episode_steps if max_episode_steps is None else max_episode_steps
        )
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED, "render_modes": []}
        # With its index, which "cuda" lacks: Warp needs it.
        self.device = torch.empty(0, device=device).device
        self.engine = robot.device_engine(num_envs, self.device, family.derived_fields)
        self._dtype = next(iter(self.engine.state.values())).dtype
        self._set_spaces()
        # Tasks and generators.
        self._tasks: dict[str, np.ndarray] | None = None
        self._device_tasks: dict[str, Tensor] = {}
        self._delay: DeviceDelay | None = None
        self._noise: DeviceNoise | None = None
        self._rngs: list[np.random.Generator] = []
        # Episodes; not stepped before the first reset.
        self._num_steps = self._zeros(torch.int32)
        self._terminated = self._zeros(torch.bool)
        self._truncated = ~self._terminated
        self._observation: Tensor | None = None
        self._success: Tensor | None = None

    def _zeros(self, dtype: torch.dtype) -> Tensor:
        return torch.zeros(self.num_envs, dtype=dtype, device=self.device)

    def _observation_size(self) -> int:
        """Call the functions of the family with tensors, and return the observation size.

        Raises:
            ValueError: if one of them raises, as NumPy does for tensors of a GPU.
        """
        family: Any = self.family
        state = self.engine.state
        tasks = self._on_device(
            stack_tasks(family, sample_tasks(family, np.random.default_rng(0), self.num_envs))
        )
        size = math.prod(family.robot.action_space.shape)
        action = torch.zeros(self.num_envs, size, dtype=self._dtype, device=self.device)
        try:
            family.reward_terms(torch, state, state, action, tasks)
            family.terminated(torch, state, tasks)
            if hasattr(family, "success"):
                family.success(torch, state, tasks)
            return family.observation(torch, state).shape[1]
        except Exception as error:  # whatever a family of the user raises
            raise ValueError(
                f"{type(family).__name__} cannot compute with tensors on {self.device}, its "
                f"functions must use the array namespace xp: {type(error).__name__}: {error}"
            ) from error

    def _on_device(self, tasks: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
        return {
            name: torch.from_numpy(value).to(self.device, self._dtype)
            for name, value in tasks.items()
        }

    def _set_spaces(self) -> None:
        """Set the spaces, and the bounds of actions."""
        size = self._observation_size()
        self.single_observation_space = spaces.Box(-np.inf, np.inf, (size,), np.float64)
        self.single_action_space = self.family.robot.action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._low, self._high = (
            torch.from_numpy(bound).to(self.device, self._dtype)
            for bound in (self.single_action_space.low, self.single_action_space.high)
        )

    def set_tasks(self, tasks: Sequence[Task]) -> None:
        """Set the task of sub-environment i to ``tasks[i]``, for this and later episodes.

        Action delay and observation noise in force end at once; those of the tasks begin at the
        next reset.

        Raises:
            ValueError: if the number of tasks is wrong, a task is invalid for this family, or its
                dynamics change within the task.
        """
        self._check_number(tasks)
        values = stack_tasks(self.family, tasks)
        _refuse_change(self.family, values)
        parameters = self.family.robot.parameters
        self.engine.set_dynamics({n: v for n, v in values.items() if n in parameters})
        self._tasks = values
        self._device_tasks = self._on_device(values)
        self._delay = None
        if "action_delay" in values:
            self._delay = DeviceDelay(values["action_delay"], self._low)
        self._noise = None
        if "observation_noise" in values:
            size = self.single_observation_space.shape[0]
            self._noise = DeviceNoise(self._device_tasks["observation_noise"], size)

    @property
    def tasks(self) -> list[dict[str, float]] | None:
        """Task of each sub-environment; ``None`` before the first reset or :meth:`set_tasks`."""
        return None if self._tasks is None else unstack_tasks(self._tasks, self.num_envs)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Tensor, dict[str, Any]]:
        """Start new episodes.

        Args:
            seed: sub-environment i, if reset, gets ``seed + i`` or ``seed[i]``; with ``None`` its
                generator continues. The first seed is that of the sensor noise of all of them, too.
            options: ``reset_mask`` (num_envs,) NumPy bool, which sub-environments to reset;
                ``task``, one task for all of them, or ``tasks``, one for each.

        Returns:
            Observations (num_envs, observation_size), and an empty info.
        """
        options = dict(options or {})
        if isinstance(seed, (int, np.integer)):
            super().reset(seed=int(seed))
        mask = reset_mask(options, self.num_envs)
        self._rngs = seeded_generators(self._rngs, seed, mask, self.np_random)
        # Tasks.
        self._set_tasks_of(options)
        if self._tasks is None:
            generators = [task_generator(rng) for rng in self._rngs]
            self.set_tasks([sample_tasks(self.family, rng, 1)[0] for rng in generators])
        # Initial states, drawn on the CPU and copied once.
        is_reset = torch.from_numpy(mask).to(self.device)
        self.engine.reset(is_reset, self._initial_states(np.flatnonzero(mask)))
        # Episodes, delay and noise.
        self._num_steps.masked_fill_(is_reset, 0)
        self._terminated = self._terminated & ~is_reset  # the caller has the old ones
        self._truncated = self._truncated & ~is_reset
        if self._delay is not None:
            self._delay.reset(is_reset)
        if self._noise is not None:
            first: Any = seed
            if seed is not None and not isinstance(seed, (int, np.integer)):
                first = seed[0]
            if first is None and not self._noise.is_seeded:
                first = self._rngs[0].spawn(1)[0].integers(2**63)
            if first is not None:
                self._noise.seed(int(first))
        observation = self._observed()
        if self._observation is not None:
            observation = torch.where(is_reset[:, None], observation, self._observation)
        self._observation = observation
        return self._observation, {}

    def _initial_states(self, ids: np.ndarray) -> dict[str, Tensor]:
        """Initial states of the simulations ``ids``, each (num_envs, ...); zero in others."""
        initial = [self.family.initial_state(self._rngs[i]) for i in ids]
        states = {}
        for name in initial[0]:
            values = np.zeros((self.num_envs, *np.shape(initial[0][name])))
            values[ids] = [state[name] for state in initial]
            states[name] = torch.from_numpy(values).to(self.device, self._dtype)
        return states

    def _observed(self) -> Tensor:
        """Observations including noise, (num_envs, observation_size)."""
        observation = self.family.observation(torch, self.engine.state)
        if self._noise is None or not self._noise.is_seeded:  # not before the next reset
            return observation
        return self._noise.added_to(observation)

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]:
        """Advance every simulation by one control step.

        Args:
            actions: (num_envs, action_size) on the device, in actuator units; clipped to the action
                space.

        Returns:
            Observations (num_envs, observation_size), rewards, terminated and truncated
            (num_envs,), and an info with every reward term, ``unstable``, and ``is_success`` if the
            family defines success, each (num_envs,), with Gymnasium's ``_name`` masks.

        Raises:
            ValueError: if the actions have another shape.
            ResetNeeded: before the first reset.
        """
        if self._observation is None:
            raise gym.error.ResetNeeded("call reset() before step()")
        if actions.shape != self.action_space.shape:
            raise ValueError(
                f"expected actions of shape {self.action_space.shape}, got {tuple(actions.shape)}"
            )
        live = ~(self._terminated | self._truncated)
        # Physics.
        actions = actions.to(self._dtype).clamp(self._low, self._high)
        state = self.engine.state
        before = {name: value.clone() for name, value in state.items()}
        self.engine.step(actions if self._delay is None else self._delay.delayed(actions))
        # Rewards and ends of episodes.
        unstable = live & (self.engine.failure != 0)
        terms = {
            name: torch.where(live, term, 0.0)
            for name, term in self.family.reward_terms(
                torch, before, state, actions, self._device_tasks
            ).items()
        }
        ends = self.family.terminated(torch, state, self._device_tasks)
        self._terminated = self._terminated | (live & ~unstable & ends)
        self._num_steps += live
        is_late = self._num_steps >= self.max_episode_steps
        self._truncated = self._truncated | (live & (unstable | is_late))
        # Observations and success; those of ended episodes stay.
        self._observation = torch.where(live[:, None], self._observed(), self._observation)
        info: dict[str, Any] = {**terms, "unstable": unstable}
        if hasattr(self.family, "success"):
            success = self.family.success(torch, state, self._device_tasks)
            if self._success is not None:
                success = torch.where(live, success, self._success)
            info["is_success"] = self._success = success
        info.update({f"_{name}": live for name in info})
        reward = functools.reduce(torch.add, terms.values())
        return self._observation, reward, self._terminated, self._truncated, info

    def close_extras(self, **kwargs: Any) -> None:
        """Free the engine."""
        self.engine.close()


def _refuse_change(family: TaskFamily, names: Mapping[str, Any]) -> None:
    """Refuse parameters of a task, or settings of the dynamics, that describe a change.

    Raises:
        ValueError: if there are such parameters.
    """
    if has_change(names):
        changes = [
            name for name in names if name in (*CHANGE_TIMES, PUSH) or name.startswith(CHANGED)
        ]
        raise ValueError(
            f"the dynamics of {type(family).__name__} change within a task ({', '.join(changes)}), "
            "which only the engine mujoco supports"
        )
