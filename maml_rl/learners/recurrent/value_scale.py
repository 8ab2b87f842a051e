"""Running mean and standard deviation of the value network's targets."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from maml_rl.system.distributed import Ranks

_DECAY = 0.95
"""Weight of the earlier iterations: returns grow while a policy learns."""


class ValueScale(NamedTuple):
    """Exponentially weighted statistics; immutable: an update returns new ones."""

    weight: Tensor
    """() float64: sum of the weights of all iterations, 0 before the first."""
    mean: Tensor
    """() float64."""
    square: Tensor
    """() float64: mean of the squares."""

    @classmethod
    def empty(cls, device: torch.device) -> ValueScale:
        """Return empty statistics, with which ``normalize`` is the identity."""
        return cls(*torch.zeros(3, dtype=torch.float64, device=device).unbind())

    @property
    def variance(self) -> Tensor:
        """Variance, () float64; 0 without data, or if it could be a rounding error of the mean."""
        variance = self.square - self.mean.square()
        return torch.where(variance > 1e-12 * self.square, variance, 0.0)

    @property
    def std(self) -> Tensor:
        """Standard deviation, () float64; 1 without variance."""
        return torch.where(self.variance > 0, self.variance.sqrt(), 1.0)

    def normalize(self, values: Tensor) -> Tensor:
        """Return (value − mean) / std."""
        return (values - self.mean.to(values)) / self.std.to(values)

    def denormalize(self, values: Tensor) -> Tensor:
        """Undo :meth:`normalize`."""
        return values * self.std.to(values) + self.mean.to(values)

    def updated(self, targets: Tensor, ranks: Ranks) -> ValueScale:
        """Return statistics that include the targets (N,) of one more iteration.

        Args:
            targets: of this process.
            ranks: the processes; the targets of all of them are included.
        """
        x = targets.double()
        mean, square = ranks.mean(torch.stack([x, x.square()], dim=1))
        old = _DECAY * self.weight
        weight = old + 1
        return ValueScale(
            weight, (old * self.mean + mean) / weight, (old * self.square + square) / weight
        )
