"""What stands between a policy and its body: commands that arrive late, and sensors that are noisy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class ActionDelay:
    """Hands out each action some control steps after it was given; until then the actuators get zero.

    Before its first reset a simulation gets every action at once.

    Args:
        num_steps: (num_sims,) control steps of delay, whole numbers.
        action_size: entries of one action.
    """

    def __init__(self, num_steps: np.ndarray, action_size: int) -> None:
        self._num_steps = num_steps.astype(int)
        self._in_force = np.zeros_like(self._num_steps)
        self._sims = np.arange(len(num_steps))
        self._given = np.zeros(
            (self._num_steps.max() + 1, len(num_steps), action_size)
        )  # a ring over time
        self._now = 0

    def reset(self, ids: np.ndarray) -> None:
        """Forget what simulations ``ids`` were given."""
        self._given[:, ids] = 0
        self._in_force[ids] = self._num_steps[ids]

    def delayed(self, action: np.ndarray) -> np.ndarray:
        """Take the action given now, (num_sims, action_size), and return the one that arrives now."""
        self._now = (self._now + 1) % len(self._given)
        self._given[self._now] = action
        return self._given[(self._now - self._in_force) % len(self._given), self._sims]


class ObservationNoise:
    """Adds Gaussian noise to observations, each simulation's from a stream of its own.

    Args:
        std: (num_sims,) standard deviation of every entry, in the entry's unit.
        observation_size: entries of one observation.
    """

    _CHUNK = 64  # steps drawn at once

    def __init__(self, std: np.ndarray, observation_size: int) -> None:
        self._std = std
        self._rngs: dict[int, np.random.Generator] = {}
        self._was_reset = np.zeros(len(std), bool)
        self._drawn = np.zeros((len(std), self._CHUNK, observation_size))
        self._next = np.full(len(std), self._CHUNK)
        self._noise = np.zeros((len(std), observation_size))

    def reset(self, ids: np.ndarray, rngs: Sequence[np.random.Generator]) -> None:
        """Start new streams for simulations ``ids``, children of their generators, and draw the first noise."""
        for i in ids:
            self._rngs[i] = rngs[i].spawn(1)[0]
        self._was_reset[ids] = True
        self._next[ids] = self._CHUNK
        self.draw(ids)

    def draw(self, ids: np.ndarray) -> None:
        """New noise for simulations ``ids`` that were reset; the others keep theirs."""
        ids = ids[self._was_reset[ids]]
        for i in ids[self._next[ids] == self._CHUNK]:
            self._drawn[i] = self._std[i] * self._rngs[i].standard_normal(self._drawn.shape[1:])
            self._next[i] = 0
        self._noise[ids] = self._drawn[ids, self._next[ids]]
        self._next[ids] += 1

    def added_to(self, observation: np.ndarray) -> np.ndarray:
        """The observation (num_sims, observation_size) as the sensors show it."""
        return observation + self._noise
