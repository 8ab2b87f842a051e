"""The floor of collection time: a run's physics replayed through ``Batch.step``."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from maml_rl.errors import UserError


class Recorder:
    """Records the physics steps of a batch environment, and replays them.

    Args:
        env: a batch environment of a MuJoCo family.
    """

    def __init__(self, env: Any) -> None:
        self._batch = env.unwrapped.engine.batch
        self._control = self._batch.bind("ctrl")
        self._calls: list[tuple[Any, ...]] = []
        self.inside_s = 0.0
        """Seconds that the recorded steps took inside ``Batch.step``."""
        step, forward = self._batch.step, self._batch.forward

        def recorded_step(ids: np.ndarray | None = None, nstep: int = 1) -> None:
            self._calls.append((ids, nstep, self._control.copy()))
            start = time.perf_counter()
            step(ids, nstep=nstep)
            self.inside_s += time.perf_counter() - start

        def recorded_forward(ids: np.ndarray | None = None, **stage: int) -> None:
            forward(ids, **stage)
            if not stage:  # a reset; calls with a stage only compute derived fields
                self._calls.append((self._batch.state.copy(),))

        self._batch.step = recorded_step
        self._batch.forward = recorded_forward
        self._step = step

    def clear(self) -> None:
        """Delete the recording."""
        self._calls.clear()
        self.inside_s = 0.0

    @property
    def num_steps(self) -> int:
        """Recorded control steps, summed over simulations."""
        num_sims = len(self._batch.state)
        return sum(
            num_sims if call[0] is None else len(call[0]) for call in self._calls if len(call) > 1
        )

    def replay_s(self) -> float:
        """Replay the recorded steps and return their seconds."""
        seconds = 0.0
        for call in self._calls:
            # reset
            if len(call) == 1:
                self._batch.state[:] = call[0]
                continue
            # step
            ids, nstep, ctrl = call
            start = time.perf_counter()
            self._control[:] = ctrl
            self._step(ids, nstep=nstep)
            seconds += time.perf_counter() - start
        return seconds


def peak_memory_gib() -> float:
    """Return the peak resident memory of this process."""
    unit = 1024**3 if sys.platform == "darwin" else 1024**2
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def summary(values: list[float]) -> str:
    """Format median, range and number of values."""
    low, high = min(values), max(values)
    return f"{np.median(values):.3f}  (min {low:.3f}, max {high:.3f}, n = {len(values)})"


def run(main: Callable[[], None]) -> None:
    """Call the function of a command; a mistake of the user ends it with one line."""
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
