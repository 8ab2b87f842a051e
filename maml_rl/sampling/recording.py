"""Record a round of episodes, in sub-environments whose results are NumPy arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from maml_rl.policies.action_map import ActionMap
from maml_rl.sampling.actors import Actor, checked_outputs
from maml_rl.sampling.failures import ACTION, CODES, OBSERVATION, REWARD, SIMULATION


class Recorded(NamedTuple):
    """Episodes padded to H steps, before their log-probabilities are computed.

    As recorded, a round of N sub-environments: the axes are (H, N, ...), flags are bool, and the
    mask has the steps before the end or the failure of each episode. In task order, for a
    collector: the axes are (T, E, H, ...), flags are 0 or 1, and failed episodes are masked.
    """

    observations: Tensor
    """Raw, (H, N, *observation_shape)."""
    actions: Tensor
    """Outputs of the actor, (H, N, ...)."""
    rewards: Tensor
    """(H, N)."""
    mask: Tensor
    """(H, N): real steps."""
    cause: Tensor
    """(N,) int8: code of the failure, or 0."""
    success: Tensor
    """(N,): last report, or NaN."""
    terminated: Tensor
    """(N,): whether the episode ended in a terminal state."""
    last_observations: Tensor
    """Raw, after the last step, (N, *observation_shape); NaN if unknown."""


class Recording:
    """Records a round step by step: an episode in each of N sub-environments on the CPU.

    The axes are (step, sub-environment, ...), so that the values of one step are contiguous.

    Args:
        horizon: H.
        num_envs: N.
        observation_shape: of one sub-environment.
        dtype: of observations and rewards.
        pin_memory: whether to allocate page-locked memory, from which a GPU copies without waiting
            for the CPU.
        action_map: from outputs to actions.
    """

    def __init__(
        self,
        horizon: int,
        num_envs: int,
        observation_shape: tuple[int, ...],
        dtype: torch.dtype,
        pin_memory: bool,
        action_map: ActionMap,
    ) -> None:
        shape = (horizon, num_envs, *observation_shape)
        observations = torch.zeros(shape, dtype=dtype, pin_memory=pin_memory)
        self.observations: np.ndarray = observations.numpy()
        self.action_map = action_map
        self.actions: list[np.ndarray] = []
        self.rewards: np.ndarray = torch.zeros(horizon, num_envs, dtype=dtype).numpy()
        self.mask = np.zeros((horizon, num_envs), bool)
        self.cause = np.zeros(num_envs, np.int8)
        self.live = np.ones(num_envs, bool)
        self.success = np.full(num_envs, np.nan)
        self.terminated = np.zeros(num_envs, bool)
        self.last_observations = np.full((num_envs, *observation_shape), np.nan)

    def act(self, t: int, observation: Any, actor: Actor) -> np.ndarray:
        """Compute the actor's outputs (N, ...) at step t; record them and the observation.

        Those of episodes that are over are set to zero, since the actor or the environment could
        raise for a non-finite value.
        """
        # Record the observation, and compute the outputs.
        row = self.observations[t]
        # count_nonzero is three times as fast as any() and all().
        with np.errstate(over="ignore", invalid="ignore"):
            row[:] = observation
            if np.count_nonzero(np.isfinite(row)) < row.size:
                self._discard(~np.isfinite(row).reshape(len(row), -1).all(1), OBSERVATION)
            row[~self.live] = 0
            # Copied, since an actor may return the same or a read-only array at every step.
            outputs = checked_outputs(actor.act(row, t), len(row), self.action_map).copy()
        # Record the outputs.
        is_finite: Any = np.isfinite(outputs)
        if np.count_nonzero(is_finite) < is_finite.size:
            self._discard(~is_finite.reshape(len(self.live), -1).all(1), ACTION)
        outputs[~self.live] = 0
        self.actions.append(outputs)
        self.mask[t] = self.live
        return outputs

    def record(
        self,
        t: int,
        observation: Any,
        reward: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
        info: Mapping[str, Any],
    ) -> None:
        """Record what the environment returned for step t.

        Args:
            t: index of the step.
            observation: (N, *observation_shape), raw.
            reward: (N,).
            terminated: (N,) bool.
            truncated: (N,) bool.
            info: may have ``unstable`` and ``is_success``, each (N,).
        """
        with np.errstate(over="ignore"):  # too large a reward becomes infinite
            self.rewards[t] = reward
        # Discard episodes that failed in this step.
        unstable = np.asarray(info.get("unstable", False), bool)
        if np.count_nonzero(unstable):
            self._discard(unstable, SIMULATION)
        is_finite = np.isfinite(self.rewards[t])
        if np.count_nonzero(is_finite) < len(is_finite):
            self._discard(~is_finite, REWARD)
        # Keep the last report of success of each episode.
        if "is_success" in info:
            reported = np.asarray(info["is_success"], float)
            is_reported = self.live & info.get("_is_success", True) & ~np.isnan(reported)
            self.success = np.where(is_reported, reported, self.success)
        # Keep the last observation of each episode.
        is_over = terminated | truncated
        ends = self.live if t == len(self.rewards) - 1 else self.live & is_over
        if np.count_nonzero(ends):
            self.terminated |= ends & terminated
            self.last_observations[ends] = np.asarray(observation)[ends]
        self.live &= ~is_over

    def _discard(self, failed: np.ndarray, what: str) -> None:
        """End the live episodes in ``failed`` (N,) bool, and record their cause."""
        ended = self.live & failed
        self.cause[ended] = CODES[what]
        self.live[ended] = False

    def finished(self) -> Recorded:
        """Return the round as tensors; one that ended before the horizon is padded."""
        num_missing = len(self.rewards) - len(self.actions)
        padding = [np.zeros_like(self.actions[0])] * num_missing
        return Recorded(
            observations=torch.from_numpy(self.observations),
            actions=torch.from_numpy(np.stack(self.actions + padding)),
            rewards=torch.from_numpy(self.rewards),
            mask=torch.from_numpy(self.mask),
            cause=torch.from_numpy(self.cause),
            success=torch.from_numpy(self.success),
            terminated=torch.from_numpy(self.terminated),
            last_observations=torch.from_numpy(self.last_observations),
        )
