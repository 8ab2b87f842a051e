"""Map the outputs of a policy to the actions of an environment."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

_LARGEST_BOUND = 1e10
"""An action bound beyond this counts as no bound; some environments use the largest float32."""


@dataclass(frozen=True)
class ActionMap:
    """Map from the policy's outputs to the environment's actions.

    A Box action is middle + scale · half-range · output, clipped to the bounds: with ``scale`` 0.1,
    outputs in [−1, 1] span a tenth of the range. The learner works with the outputs, not with the
    mapped actions. A dimension without both bounds is not scaled: its action is the output, plus
    the bound nearest to 0 if 0 is out of bounds. A bound beyond ±10¹⁰ counts as no bound. The
    policy numbers discrete choices from 0, the space from ``start``.
    """

    space: spaces.Space[Any]
    """The environment's action space: Box, Discrete or MultiDiscrete."""
    scale: float
    """Share of the half-range that an output of 1 spans (Box actions)."""

    def __call__(self, actions: np.ndarray) -> np.ndarray:
        """Map outputs (N, action_size), or choices (N,) or (N, D), to actions (N, *space.shape)."""
        if not isinstance(self.space, spaces.Box):
            assert isinstance(self.space, (spaces.Discrete, spaces.MultiDiscrete)), (
                "ActionHead.of refuses other spaces"
            )
            return (actions + self.space.start).astype(self.space.dtype, copy=False)
        low, high, offset, gain = self._scalars
        actions = offset + gain * actions.reshape(len(actions), *self.space.shape)
        return actions.clip(low, high).astype(self.space.dtype, copy=False)

    def for_tensors(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        """Return the map for Box actions as tensors on a device: (N, action_size) to the same."""
        assert isinstance(self.space, spaces.Box), "built-in families have Box actions"
        low, high, offset, gain = (torch.from_numpy(a).to(device) for a in self._range)
        return lambda outputs: (offset + gain * outputs).clamp(low, high)

    @functools.cached_property
    def num_outputs(self) -> int:
        """Outputs of an actor per action: entries of a Box, or discrete choices."""
        return math.prod(self.space.shape or ())

    @property
    def gain_and_offset(self) -> tuple[np.ndarray, np.ndarray]:
        """Gain and offset of a Box action before clipping: float64, each of the space's shape."""
        assert isinstance(self.space, spaces.Box), "discrete actions are not mapped"
        low = self.space.low.astype(np.float64)
        high = self.space.high.astype(np.float64)
        bounded = has_two_bounds(self.space)
        # Without both bounds: the output, shifted into the bounds.
        offset = np.clip(np.zeros_like(low), low, high)
        gain = np.ones_like(low)
        # With both bounds: middle and scaled half-range.
        offset[bounded] = (low[bounded] + high[bounded]) / 2
        gain[bounded] = self.scale * (high[bounded] - low[bounded]) / 2
        return gain, offset

    @property
    def _range(self) -> tuple[np.ndarray, ...]:
        """Low, high, offset and gain of a Box in the space's dtype."""
        assert isinstance(self.space, spaces.Box)
        gain, offset = (values.astype(self.space.dtype) for values in self.gain_and_offset)
        return self.space.low, self.space.high, offset, gain

    @functools.cached_property
    def _scalars(self) -> list[np.ndarray]:
        """The range, with a scalar for each array of equal entries: NumPy is faster with it."""
        return [a.flat[0] if (a == a.flat[0]).all() else a for a in self._range]


def has_two_bounds(space: spaces.Box) -> np.ndarray:
    """Return whether each dimension has a lower and an upper bound, bool of the space's shape."""
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    return (low > -_LARGEST_BOUND) & (high < _LARGEST_BOUND)


def have_same_actions(one: spaces.Space[Any], other: spaces.Space[Any]) -> bool:
    """Return whether two spaces of one type have the same actions; dtypes of a Box may differ."""
    return actions_text(one) == actions_text(other)


def actions_text(space: spaces.Space[Any]) -> str:
    """Return a text that is equal for spaces with the same actions: in a Box, bounds in float32."""
    if not isinstance(space, spaces.Box):
        return str(space)
    with np.errstate(over="ignore"):
        low, high = (bound.astype(np.float32).tolist() for bound in (space.low, space.high))
    return f"Box({low}, {high})"
