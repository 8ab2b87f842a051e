"""Every random draw comes from a stream named by what it is for.

No generator lives on between draws, so results depend neither on how tasks are spread over threads
or processes nor on
whether a run was interrupted: what iteration 7 draws is a function of the seed and of 7.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

_NUM_RESET_SEEDS = 2**31
"""Environments seed what takes 32 bits, or 31 with a sign: NumPy's RandomState, simulators in C."""
_COLLECTIONS_PER_ITERATION = 32
"""Room for the reset seeds of an iteration; those of later collections are the next iterations'."""


class Phase(IntEnum):
    """What the draws are for. Phases never share a stream."""

    INITIALISATION = 0
    TRAINING = 1
    EVALUATION = 2
    RECORDING = 3
    ADAPTATION = 4


class _Purpose(IntEnum):
    TASKS = 0
    RESET = 1
    ACTION = 2
    PARAMETERS = 3


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
        """The stream that tasks are drawn from."""
        return np.random.default_rng(self._sequence(_Purpose.TASKS))

    def reset_seed(self, adaptation_step: int, num_seeds: int) -> int:
        """The first of the seeds that the episodes of a collection are reset with.

        The collections of a phase follow each other from a random place on, so no two share a
        seed before 2³¹ seeds are used up.

        Args:
            adaptation_step: of the collection.
            num_seeds: N, the episodes of a collection, the same number in all of the phase.

        Returns:
            s, so that s, s + 1, ..., s + N − 1 are in [0, 2³¹).
        """
        num_places = _NUM_RESET_SEEDS // num_seeds
        start = np.random.SeedSequence(self.seed, spawn_key=(self.phase, _Purpose.RESET))
        first = int(start.generate_state(1, np.uint64)[0])
        place = first + self.iteration * _COLLECTIONS_PER_ITERATION + adaptation_step
        return place % num_places * num_seeds

    def actions(self, adaptation_step: int, task: int) -> np.random.Generator:
        """The stream of one task's action noise in one collection."""
        return np.random.default_rng(self._sequence(_Purpose.ACTION, adaptation_step, task))

    def parameters(self) -> np.random.Generator:
        """The stream that initial policy parameters are drawn from."""
        return np.random.default_rng(self._sequence(_Purpose.PARAMETERS))
