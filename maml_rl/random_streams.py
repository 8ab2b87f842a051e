"""Every random draw comes from a stream named by what it is for.

No generator lives on between draws, so results depend neither on how tasks are spread over threads or processes nor on
whether a run was interrupted: what iteration 7 draws is a function of the seed and of 7.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np


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

    def _sequence(self, purpose: _Purpose, adaptation_step: int = 0, task: int = 0) -> np.random.SeedSequence:
        return np.random.SeedSequence(self.seed, spawn_key=(self.phase, purpose, self.iteration, adaptation_step, task))

    def tasks(self) -> np.random.Generator:
        """The stream that tasks are drawn from."""
        return np.random.default_rng(self._sequence(_Purpose.TASKS))

    def reset_seed(self, adaptation_step: int) -> int:
        """The seed of the first sub-environment's reset before a collection; the others count up from it."""
        return int(self._sequence(_Purpose.RESET, adaptation_step).generate_state(1, np.uint64)[0] >> 16)

    def actions(self, adaptation_step: int, task: int) -> np.random.Generator:
        """The stream of one task's action noise in one collection."""
        return np.random.default_rng(self._sequence(_Purpose.ACTION, adaptation_step, task))

    def parameters(self) -> np.random.Generator:
        """The stream that initial policy parameters are drawn from."""
        return np.random.default_rng(self._sequence(_Purpose.PARAMETERS))
