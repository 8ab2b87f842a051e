"""Imperfections between policy and robot: delayed actions and sensor noise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class ActionDelay:
    """Delays actions by control steps; until the first one arrives, the action is zero.

    The delay of a simulation takes effect at its first reset.

    Args:
        num_steps: (num_sims,) control steps of delay, non-negative integers.
        action_size: entries of one action.
        longest: the largest delay, also after changes.
    """

    def __init__(self, num_steps: np.ndarray, action_size: int, longest: int) -> None:
        self._num_steps = num_steps.astype(int)
        self._active_delay = np.zeros_like(self._num_steps)
        self._sims = np.arange(len(num_steps))
        # ring buffer over time
        self._actions = np.zeros((longest + 1, len(num_steps), action_size))
        self._now = 0

    def reset(self, ids: np.ndarray) -> None:
        """Clear the pending actions of simulations ``ids``; their delay takes effect."""
        self._actions[:, ids] = 0
        self._active_delay[ids] = self._num_steps[ids]

    def change(self, ids: np.ndarray, num_steps: np.ndarray) -> None:
        """Set the delay of simulations ``ids`` at once, (n,).

        Actions keep their order: a longer delay repeats the last ones, a shorter one skips some.
        """
        self._num_steps[ids] = self._active_delay[ids] = num_steps

    def delayed(self, action: np.ndarray) -> np.ndarray:
        """Store the actions of this step; return those to apply now, (num_sims, action_size)."""
        self._now = (self._now + 1) % len(self._actions)
        self._actions[self._now] = action
        times = (self._now - self._active_delay) % len(self._actions)
        return self._actions[times, self._sims]


class ObservationNoise:
    """Adds Gaussian noise to observations, with a separate random stream for each simulation.

    Args:
        std: (num_sims,) standard deviation of every entry, in the unit of the entry.
        observation_size: entries of one observation.
    """

    _CHUNK = 64  # noise is drawn for this many steps at once

    def __init__(self, std: np.ndarray, observation_size: int) -> None:
        self._std = std.copy()
        self._rngs: dict[int, np.random.Generator] = {}
        self._was_reset = np.zeros(len(std), bool)
        self._chunk = np.zeros((len(std), self._CHUNK, observation_size))
        self._next = np.full(len(std), self._CHUNK)
        self._noise = np.zeros((len(std), observation_size))

    def reset(self, ids: np.ndarray, rngs: Sequence[np.random.Generator]) -> None:
        """Spawn new random streams from ``rngs`` for simulations ``ids``, and draw noise."""
        for i in ids:
            self._rngs[i] = rngs[i].spawn(1)[0]
        self._was_reset[ids] = True
        self._next[ids] = self._CHUNK
        self.draw(ids)

    def change(self, ids: np.ndarray, std: np.ndarray) -> None:
        """Set the standard deviation of simulations ``ids``, (n,), from the next draw on."""
        self._std[ids] = std

    def draw(self, ids: np.ndarray) -> None:
        """Draw new noise for simulations ``ids``, except those that were never reset."""
        ids = ids[self._was_reset[ids]]
        for i in ids[self._next[ids] == self._CHUNK]:
            self._rngs[i].standard_normal(out=self._chunk[i])
            self._next[i] = 0
        self._noise[ids] = self._std[ids, None] * self._chunk[ids, self._next[ids]]
        self._next[ids] += 1

    def added_to(self, observation: np.ndarray) -> np.ndarray:
        """``observation`` plus noise, (num_sims, observation_size)."""
        return observation + self._noise
