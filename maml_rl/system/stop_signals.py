"""Ctrl-C, SIGTERM (a cluster's preemption) and SIGHUP (a closed terminal), told apart and kept waiting."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

_STOP_SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]


class StopSignal(KeyboardInterrupt):
    """A signal other than Ctrl-C asks the process to stop; what passes Ctrl-C on passes this on."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextlib.contextmanager
def _handled(
    handle: Callable[[int, FrameType | None], Any], wanted: Callable[[int, Any], bool]
) -> Iterator[None]:
    """Handle those signals whose handler so far is ``wanted``, until the end of the block."""
    if threading.current_thread() is not threading.main_thread():  # only there do signals arrive
        yield
        return
    before = {number: signal.getsignal(number) for number in _STOP_SIGNALS}
    before = {
        number: handler
        for number, handler in before.items()
        if handler is not None and wanted(number, handler)
    }
    try:
        for number in before:
            signal.signal(number, handle)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def stop_signals_raise() -> Iterator[Callable[[], None]]:
    """Have SIGTERM and SIGHUP raise :class:`StopSignal` in the main thread, unless someone handles or ignores them.

    Yields:
        A function that raises it again for a signal that has come: Python drops what is raised
        while an object is deleted, or in a callback of a weak reference.
    """
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        received.append(number)
        raise StopSignal(number)

    def raise_dropped() -> None:
        if received:
            raise StopSignal(received[0])

    with _handled(stop, lambda number, handler: handler is signal.SIG_DFL):
        yield raise_dropped


@contextlib.contextmanager
def stop_signals_wait() -> Iterator[list[int]]:
    """Keep Ctrl-C, SIGTERM and SIGHUP from the block.

    Yields:
        Those that come meanwhile; ``signal.raise_signal`` has them take effect.
    """
    received: list[int] = []
    with _handled(
        lambda number, frame: received.append(number),
        lambda number, handler: handler is not signal.SIG_IGN,
    ):
        yield received
