"""Delayed actions and sensor noise of simulations on a torch device."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class DeviceDelay:
    """Delays actions by control steps; until the first one arrives, the action is zero.

    The delay of a simulation takes effect at its first reset.

    Args:
        num_steps: (num_sims,) control steps of delay, non-negative integers.
        like: (action_size,), with the device and type of actions.
    """

    def __init__(self, num_steps: np.ndarray, like: Tensor) -> None:
        self._num_steps = torch.from_numpy(num_steps.astype(np.int64)).to(like.device)
        self._active_delay = torch.zeros_like(self._num_steps)
        self._sims = torch.arange(len(num_steps), device=like.device)
        # Ring buffer over time.
        self._actions = like.new_zeros(int(num_steps.max()) + 1, len(num_steps), len(like))
        self._now = 0

    def reset(self, is_reset: Tensor) -> None:
        """Clear the pending actions of some simulations, (num_sims,) bool; start their delay."""
        self._actions.masked_fill_(is_reset[:, None], 0.0)
        self._active_delay = torch.where(is_reset, self._num_steps, self._active_delay)

    def delayed(self, action: Tensor) -> Tensor:
        """Store the actions of this step; return those to apply now, (num_sims, action_size)."""
        self._now = (self._now + 1) % len(self._actions)
        self._actions[self._now].copy_(action)
        times = (self._now - self._active_delay) % len(self._actions)
        return self._actions[times, self._sims]


class DeviceNoise:
    """Adds Gaussian noise to observations, from one generator for all simulations.

    Args:
        std: (num_sims,) standard deviation of every entry, in the unit of the entry.
        observation_size: entries of one observation.
    """

    def __init__(self, std: Tensor, observation_size: int) -> None:
        self._std = std[:, None]
        self._shape = (len(std), observation_size)
        self._rng = torch.Generator(std.device)
        self.is_seeded = False

    def seed(self, seed: int) -> None:
        """Seed the generator, at the first reset or later."""
        self._rng.manual_seed(seed)
        self.is_seeded = True

    def added_to(self, observation: Tensor) -> Tensor:
        """``observation`` plus new noise, (num_sims, observation_size)."""
        std = self._std
        noise = torch.randn(self._shape, generator=self._rng, device=std.device, dtype=std.dtype)
        return observation + std * noise
