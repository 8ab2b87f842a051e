"""Running mean and variance of observations, fixed within a meta-iteration."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from maml_rl.system.distributed import Ranks


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

    def updated(self, raw: Tensor, ranks: Ranks) -> ObservationNormalizer:
        """Return statistics that include further observations (Chan et al. 1979).

        Args:
            raw: observations (N, *observation_shape), not normalised.
            ranks: the processes; the observations of all of them are included.
        """
        raw = raw.double()
        # Statistics of the new observations.
        num_new = ranks.sum(raw.new_ones(len(raw)))
        mean = ranks.sum(raw) / num_new
        # Merge with the previous statistics.
        num_states = self.num_states + num_new
        delta = mean - self.mean
        between = delta.square() * self.num_states * num_new / num_states
        squares = self.squares + ranks.sum((raw - mean).square()) + between
        return ObservationNormalizer(num_states, self.mean + delta * num_new / num_states, squares)
