"""Print the package's log on stdout."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator

LOGGER = logging.getLogger("maml_rl")


class StdoutHandler(logging.Handler):
    """Print records on the current ``sys.stdout``; errors of ``print`` propagate."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record and flush; escape characters that the encoding lacks."""
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        text = self.format(record).encode(encoding, "backslashreplace").decode(encoding)
        print(text, flush=True)  # noqa: T201


@contextlib.contextmanager
def stdout_log() -> Iterator[None]:
    """Print what the package logs at INFO or above; for the command line."""
    propagates = LOGGER.propagate
    LOGGER.propagate = False  # a root handler, as of a user's environment, would repeat every line
    try:
        with _handler(logging.INFO):
            yield
    finally:
        LOGGER.propagate = propagates


@contextlib.contextmanager
def default_stdout_log() -> Iterator[None]:
    """Print what the package logs at INFO or above, unless the user has configured logging.

    If the ``maml_rl`` or the root logger has a handler, this prints nothing. A level that is set on
    the ``maml_rl`` logger is kept: ``logging.getLogger("maml_rl").setLevel("WARNING")`` turns the
    lines off.
    """
    if LOGGER.hasHandlers():
        yield
        return
    with _handler(LOGGER.level or logging.INFO):
        yield


@contextlib.contextmanager
def _handler(level: int) -> Iterator[None]:
    """Print records of at least ``level`` inside the context."""
    handler = StdoutHandler()
    level_before = LOGGER.level
    LOGGER.addHandler(handler)
    LOGGER.setLevel(level)
    try:
        yield
    finally:
        LOGGER.removeHandler(handler)
        LOGGER.setLevel(level_before)
