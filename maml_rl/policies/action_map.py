"""From the output of a policy to the action that an environment gets."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

_LARGEST_BOUND = 1e10
"""Larger bounds of actions mean that there is none, as ±float32's maximum does."""


@dataclass(frozen=True)
class ActionMap:
    """From the policy's outputs to the environment's actions.

    A Box action is middle + scale · half-range · output, clipped to the bounds: with ``scale`` 0.1
    an output of ±1 spans a tenth of the range. The learner sees the output itself. An axis without
    a bound on
    either side, or on both, has no range: there an action is the output itself, shifted by the
    bound that is nearest to 0 where 0 is out of bounds. A bound beyond ±10¹⁰ counts as none.
    Discrete choices, which the policy counts from 0, are counted from the space's ``start``.
    """

    space: spaces.Space[Any]
    scale: float

    def __call__(self, actions: np.ndarray) -> np.ndarray:
        """Map outputs (N, action_size), choices (N,) or (N, D) to actions (N, *shape of the space's)."""
        if not isinstance(self.space, spaces.Box):
            assert isinstance(self.space, (spaces.Discrete, spaces.MultiDiscrete)), (
                "action_size refuses other spaces"
            )
            return (actions + self.space.start).astype(self.space.dtype, copy=False)
        low, high, offset, gain = self._range
        actions = offset + gain * actions.reshape(len(actions), *self.space.shape)
        return actions.clip(low, high)

    @property
    def gain_and_offset(self) -> tuple[np.ndarray, np.ndarray]:
        """Of a Box action before clipping: gain · output + offset, float64, of the space's shape."""
        assert isinstance(self.space, spaces.Box), "discrete actions are not mapped"
        low, high = self.space.low.astype(np.float64), self.space.high.astype(np.float64)
        bounded = has_two_bounds(self.space)
        offset = np.clip(np.zeros_like(low), low, high)
        gain = np.ones_like(low)
        offset[bounded] = (low[bounded] + high[bounded]) / 2
        gain[bounded] = self.scale * (high[bounded] - low[bounded]) / 2
        return gain, offset

    @functools.cached_property
    def _range(self) -> list[np.ndarray]:
        """Of a Box: low, high, offset and gain, of the space's type."""
        assert isinstance(self.space, spaces.Box)
        gain, offset = (values.astype(self.space.dtype) for values in self.gain_and_offset)
        # One number in place of equal ones: NumPy takes it several times as fast.
        values = (self.space.low, self.space.high, offset, gain)
        return [v.flat[0] if (v == v.flat[0]).all() else v for v in values]


def has_two_bounds(space: spaces.Box) -> np.ndarray:
    """Whether each axis of an action space has a lower and an upper bound, of the space's shape."""
    return (space.low > -_LARGEST_BOUND) & (space.high < _LARGEST_BOUND)
