"""Distributions that task parameters are drawn from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Distribution:
    """Uniform over a range, log-uniform over a range, or uniform over choices."""

    low: float = 0.0
    high: float = 0.0
    is_log: bool = False
    """Whether a range is log-uniform instead of uniform."""
    choices: tuple[Any, ...] = ()
    """Values with equal probability; empty for a range."""

    def sample(self, rng: np.random.Generator, num_tasks: int) -> list[Any]:
        """Draw ``num_tasks`` values: floats from a range, or choices as they are."""
        if self.choices:
            return [self.choices[i] for i in rng.integers(len(self.choices), size=num_tasks)]
        if self.is_log:
            return np.exp(rng.uniform(math.log(self.low), math.log(self.high), num_tasks)).tolist()
        return rng.uniform(self.low, self.high, num_tasks).tolist()
