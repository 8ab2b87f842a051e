"""Measure how a meta-iteration spends its time."""

from __future__ import annotations

import time


class Stopwatch:
    """Seconds spent in each part of a meta-iteration."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Add the time since the last lap to ``name``."""
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now

    def metrics(self) -> dict[str, float]:
        """Seconds of each part, as metrics."""
        return {f"time/{name}_s": value for name, value in self.seconds.items()}
