"""Environment variables that other libraries read when they are loaded.

The package adjusts them when it is imported, before torch and Matplotlib are. This module imports
only the standard library.
"""

from __future__ import annotations

import importlib.util
import os


def let_idle_threads_sleep() -> None:
    """Limit how long idle OpenMP threads spin, unless the user has set it.

    By default they spin for milliseconds, which takes CPU time from the simulator's threads and
    makes training several times slower when other processes use the machine. OpenMP reads these
    variables when torch is loaded.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")


def ignore_missing_backend() -> None:
    """Remove ``MPLBACKEND`` if it names a module that is not installed.

    A notebook kernel sets it, and commands started from the notebook inherit it. If the module is
    missing, importing Matplotlib fails. The figures of this package draw on an Agg canvas and use
    no backend.
    """
    prefix, _, module = os.environ.get("MPLBACKEND", "").partition("://")
    if prefix == "module" and importlib.util.find_spec(module.partition(".")[0]) is None:
        del os.environ["MPLBACKEND"]
