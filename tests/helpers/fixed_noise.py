"""A generator that returns known noise, to play by hand what a collector plays."""

from __future__ import annotations

import numpy as np


class FixedNoise(np.random.Generator):
    """Returns the noise of an episode, one time step after the other."""

    def __init__(self, noise: np.ndarray) -> None:
        super().__init__(np.random.PCG64(0))
        self.noise = iter(noise)

    def standard_normal(self, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        return next(self.noise).reshape(shape).astype(dtype)

    def gumbel(self, size: tuple[int, ...]) -> np.ndarray:
        return next(self.noise).reshape(size)
