"""What the package logs, as lines on stdout."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator

LOGGER = logging.getLogger("maml_rl")


class StdoutHandler(logging.Handler):
    """Prints messages on what ``sys.stdout`` is at the time, and raises what printing raises."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record at once, with what the encoding lacks escaped."""
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        text = self.format(record).encode(encoding, "backslashreplace").decode(encoding)
        print(text, flush=True)  # noqa: T201


@contextlib.contextmanager
def stdout_log() -> Iterator[None]:
    """Print what the package logs at INFO; for the command line."""
    propagates = LOGGER.propagate
    LOGGER.propagate = False  # a root handler of the user's module would repeat every line
    try:
        with _handler(logging.INFO):
            yield
    finally:
        LOGGER.propagate = propagates


@contextlib.contextmanager
def default_stdout_log() -> Iterator[None]:
    """Print what the package logs at INFO, unless the user has configured logging.

    A handler of the ``maml_rl`` or the root logger takes the lines in place of stdout, and a level
    of the ``maml_rl`` logger is kept: ``logging.getLogger("maml_rl").setLevel("WARNING")`` turns
    the lines off.
    """
    if LOGGER.hasHandlers():
        yield
        return
    with _handler(LOGGER.level or logging.INFO):
        yield


@contextlib.contextmanager
def _handler(level: int) -> Iterator[None]:
    """Let a :class:`StdoutHandler` handle records of at least ``level``."""
    handler = StdoutHandler()
    level_before = LOGGER.level
    LOGGER.addHandler(handler)
    LOGGER.setLevel(level)
    try:
        yield
    finally:
        LOGGER.removeHandler(handler)
        LOGGER.setLevel(level_before)
