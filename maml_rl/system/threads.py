"""How torch's worker threads wait. Import nothing heavy here: it must run before torch is loaded."""

from __future__ import annotations

import os


def let_idle_threads_sleep() -> None:
    """Have OpenMP's idle threads spin for microseconds only, then sleep; what the user set in the environment stays.

    By default they spin for milliseconds, which takes the processors from the simulator's threads,
    and slows training many times over where anything else runs on the machine. OpenMP reads the
    settings when torch is loaded.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
