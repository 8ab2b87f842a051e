"""Random streams, one for each purpose.

Generators are not kept from one iteration to the next: random numbers depend only on the seed, the
iteration and their purpose. So results do not depend on how tasks are distributed over threads or
processes, or on whether a run was interrupted.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

_NUM_RESET_SEEDS = 2**31
"""Seeds have 31 bits, which NumPy's RandomState and simulators in C accept."""
_COLLECTIONS_PER_ITERATION = 32
"""Ranges of reset seeds per iteration; further collections reuse those of the next iteration."""


class Phase(IntEnum):
    """A phase of a run. Phases never share a stream."""

    INITIALISATION = 0
    TRAINING = 1
    EVALUATION = 2
    RECORDING = 3
    ADAPTATION = 4
    AFTER_TRAINING = 5


class _Purpose(IntEnum):
    TASKS = 0
    RESET = 1
    ACTION = 2
    PARAMETERS = 3
    MINIBATCHES = 4


@dataclass(frozen=True)
class RandomStreams:
    """The streams of one phase and iteration of a run."""

    seed: int
    phase: Phase
    iteration: int = 0

    def _sequence(
        self, purpose: _Purpose, adaptation_step: int = 0, task: int = 0
    ) -> np.random.SeedSequence:
        return np.random.SeedSequence(
            self.seed, spawn_key=(self.phase, purpose, self.iteration, adaptation_step, task)
        )

    def tasks(self) -> np.random.Generator:
        """Return the stream for sampling tasks."""
        return np.random.default_rng(self._sequence(_Purpose.TASKS))

    def reset_seed(self, adaptation_step: int, num_seeds: int) -> int:
        """Return the first reset seed of a collection.

        The collections of a phase use consecutive ranges of seeds from a random start. No two share
        a seed until all 2³¹ are used, if an iteration has at most 32 collections.

        Args:
            adaptation_step: adaptation step of the collection.
            num_seeds: N, the number of episodes of every collection of the phase.

        Returns:
            s, such that s, s + 1, ..., s + N − 1 are in [0, 2³¹).
        """
        num_ranges = _NUM_RESET_SEEDS // num_seeds
        sequence = np.random.SeedSequence(self.seed, spawn_key=(self.phase, _Purpose.RESET))
        start = int(sequence.generate_state(1, np.uint64)[0])
        index = start + self.iteration * _COLLECTIONS_PER_ITERATION + adaptation_step
        return index % num_ranges * num_seeds

    def actions(self, adaptation_step: int, task: int) -> np.random.Generator:
        """Return the stream for the action noise of one task in one collection."""
        return np.random.default_rng(self._sequence(_Purpose.ACTION, adaptation_step, task))

    def action_seed(self, adaptation_step: int, task: int) -> int:
        """Return the seed of that stream for a generator on a device, in [0, 2⁶³)."""
        sequence = self._sequence(_Purpose.ACTION, adaptation_step, task)
        return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))

    def parameters(self) -> np.random.Generator:
        """Return the stream for initial policy parameters."""
        return np.random.default_rng(self._sequence(_Purpose.PARAMETERS))

    def minibatches(self) -> np.random.Generator:
        """Return the stream of an update: for minibatches, or draws from the replay."""
        return np.random.default_rng(self._sequence(_Purpose.MINIBATCHES))
