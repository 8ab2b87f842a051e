"""The floor that speeds are compared with: a replay of a run's own physics through bare ``Batch.step``."""

from __future__ import annotations

import resource
import sys
import time
from typing import Any

import numpy as np


class Recorder:
    """Notes what a vector environment asks of its simulations, and replays it.

    Args:
        env: a batch environment of a MuJoCo family.
    """

    def __init__(self, env: Any) -> None:
        self._batch = env.unwrapped.engine.batch
        self._control = self._batch.bind("ctrl")
        self._calls: list[tuple[Any, ...]] = []
        self.inside_s = 0.0
        """Seconds that the environment's own steps took inside ``Batch.step``."""
        step, forward = self._batch.step, self._batch.forward

        def noted_step(ids: np.ndarray | None = None, nstep: int = 1) -> None:
            self._calls.append((ids, nstep, self._control.copy()))
            start = time.perf_counter()
            step(ids, nstep=nstep)
            self.inside_s += time.perf_counter() - start

        def noted_forward(ids: np.ndarray | None = None, **stage: int) -> None:
            forward(ids, **stage)
            if not stage:  # where the episodes start, and not what a family derives from a state
                self._calls.append((self._batch.state.copy(),))

        self._batch.step, self._batch.forward, self._step = noted_step, noted_forward, step

    def clear(self) -> None:
        """Forget what was noted."""
        self._calls.clear()
        self.inside_s = 0.0

    @property
    def num_steps(self) -> int:
        """Control steps noted, over all simulations."""
        num_sims = len(self._batch.state)
        return sum(
            num_sims if call[0] is None else len(call[0]) for call in self._calls if len(call) > 1
        )

    def replay_s(self) -> float:
        """Seconds that the noted steps take with nothing around them."""
        seconds = 0.0
        for call in self._calls:
            if len(call) == 1:
                self._batch.state[:] = call[0]
                continue
            ids, nstep, ctrl = call
            start = time.perf_counter()
            self._control[:] = ctrl
            self._step(ids, nstep=nstep)
            seconds += time.perf_counter() - start
        return seconds


def peak_memory_gib() -> float:
    """Peak resident memory of this process."""
    unit = 1024**3 if sys.platform == "darwin" else 1024**2
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def summary(values: list[float]) -> str:
    """Median and range."""
    return f"{np.median(values):.3f}  (min {min(values):.3f}, max {max(values):.3f}, n = {len(values)})"
