"""Running mean and variance of observations, fixed within a meta-iteration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from maml_rl.system.distributed import Ranks

_BLOCK_SIZE = 1 << 16
"""Observations that are in float64 at once: all of them would take most of a run's memory."""


class ObservationNormalizer(NamedTuple):
    """Statistics of raw observations; immutable: an update returns new ones."""

    num_states: Tensor
    """() float64: number of states."""
    mean: Tensor
    """observation_shape, float64."""
    squares: Tensor
    """observation_shape, float64: sum of squared deviations from the mean."""

    @classmethod
    def empty(
        cls, observation_shape: tuple[int, ...], device: torch.device
    ) -> ObservationNormalizer:
        """Return statistics of no observations, with which ``normalize`` is the identity."""
        zeros = torch.zeros(observation_shape, dtype=torch.float64, device=device)
        return cls(torch.zeros((), dtype=torch.float64, device=device), zeros, zeros.clone())

    @property
    def std(self) -> Tensor:
        """Standard deviation, observation_shape, float64; 1 without data or without variance."""
        variance = self.squares / self.num_states.clamp(min=1)
        return torch.where(variance > 1e-12, variance.sqrt(), torch.ones_like(variance))

    def normalize(self, observations: Tensor) -> Tensor:
        """Return (observation − mean) / std for observations (..., *observation_shape)."""
        return (observations - self.mean.to(observations)) / self.std.to(observations)

    def denormalize(self, normalized: Tensor) -> Tensor:
        """Return the raw observations, float64, of normalised ones (..., *observation_shape)."""
        return normalized.double() * self.std + self.mean

    def updated(
        self, observations: Sequence[Tensor], ranks: Ranks, *, are_normalized: bool
    ) -> ObservationNormalizer:
        """Return statistics that include further observations (Chan et al. 1979).

        Args:
            observations: one or several (N, *observation_shape).
            ranks: the processes; the observations of all of them are included.
            are_normalized: whether they are normalised by these statistics, or raw.
        """
        blocks = [block for part in observations for block in part.split(_BLOCK_SIZE)]

        def raw(block: Tensor) -> Tensor:
            return self.denormalize(block) if are_normalized else block.double()

        # Statistics of the new observations.
        num_new = ranks.sum(self.num_states.new_tensor([len(block) for block in blocks]))
        mean = ranks.sum(torch.stack([raw(block).sum(0) for block in blocks])) / num_new
        deviations = torch.stack([(raw(block) - mean).square().sum(0) for block in blocks])
        # Merge with the previous statistics.
        num_states = self.num_states + num_new
        delta = mean - self.mean
        between = delta.square() * self.num_states * num_new / num_states
        squares = self.squares + ranks.sum(deviations) + between
        return ObservationNormalizer(num_states, self.mean + delta * num_new / num_states, squares)
