"""Matplotlib's backend in the environment. Import nothing heavy here: it runs with the package."""

from __future__ import annotations

import importlib.util
import os


def ignore_missing_backend() -> None:
    """Remove an MPLBACKEND that names a module which is not installed here.

    A notebook's kernel sets it to its own backend, and commands that are started from the notebook
    inherit it. Where that module is missing, Matplotlib could not be imported at all. Figures of
    this package need no backend: they have an Agg canvas of their own.
    """
    prefix, _, module = os.environ.get("MPLBACKEND", "").partition("://")
    if prefix == "module" and importlib.util.find_spec(module.partition(".")[0]) is None:
        del os.environ["MPLBACKEND"]
