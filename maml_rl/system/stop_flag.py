"""A flag that Ctrl-C, SIGTERM (preemption on a cluster) and SIGHUP (a closed terminal) set."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

_STOP_SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]


class StopSignal(KeyboardInterrupt):
    """A stop signal was received; caught wherever Ctrl-C is caught."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class StopFlag:
    """Remembers the first stop signal, so that the running code can choose where it stops.

    Inside :meth:`deferred` the first signal sets the flag, which :meth:`check` reads, and a second
    signal raises at once. Outside, every signal raises at once.

    Args:
        notice: a line printed to stderr when Ctrl-C sets the flag; empty for none.
    """

    def __init__(self, notice: str = "") -> None:
        self.number: int | None = None
        """The first signal received."""
        self._notice = notice
        self._is_deferring = False

    @contextlib.contextmanager
    def handling(self) -> Iterator[None]:
        """Handle the stop signals, except those that the user handles or ignores.

        Only the main thread can handle signals; elsewhere the flag is never set.
        """
        with _handlers_replaced(self._handle, _is_default):
            yield

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Delay the first signal to the next :meth:`check` or the end of the block.

        Raises:
            StopSignal: at the end of the block, if a signal has been received and the block has
                not raised.
        """
        with self._mode(is_deferring=True):
            yield
        self.check()

    @contextlib.contextmanager
    def immediate(self) -> Iterator[None]:
        """Let a signal raise at once again, within :meth:`deferred`.

        Raises:
            StopSignal: if a signal has been received.
        """
        with self._mode(is_deferring=False):
            self.check()
            yield

    def check(self) -> None:
        """Raise if a signal has been received.

        Needed also where signals raise at once: Python drops the exception of a signal handler that
        runs in a ``__del__`` method or a weak reference's callback.

        Raises:
            StopSignal: with the number of the first signal.
        """
        if self.number is not None:
            raise StopSignal(self.number)

    @contextlib.contextmanager
    def _mode(self, is_deferring: bool) -> Iterator[None]:
        before = self._is_deferring
        self._is_deferring = is_deferring
        try:
            yield
        finally:
            self._is_deferring = before

    def _handle(self, number: int, frame: FrameType | None) -> None:
        """Set the flag, and raise unless this is the first signal and it is deferred."""
        is_first = self.number is None
        if is_first:
            self.number = number
        if not (is_first and self._is_deferring):
            raise StopSignal(number)
        if self._notice and number == signal.SIGINT:
            # Python raises RuntimeError if the signal has interrupted another write to stderr
            with contextlib.suppress(RuntimeError, OSError, ValueError, AttributeError):
                sys.stderr.write(f"\n{self._notice}\n")
                sys.stderr.flush()


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Delay the stop signals, including those that the user handles, to the end of the block.

    If the block raises, they are dropped.
    """
    received: list[int] = []
    with _handlers_replaced(lambda number, frame: received.append(number), _is_not_ignored):
        yield
    for number in received:
        signal.raise_signal(number)


def _is_default(handler: Any) -> bool:
    return handler in (signal.SIG_DFL, signal.default_int_handler)


def _is_not_ignored(handler: Any) -> bool:
    return handler is not signal.SIG_IGN


@contextlib.contextmanager
def _handlers_replaced(
    handle: Callable[[int, FrameType | None], Any], is_replaced: Callable[[Any], bool]
) -> Iterator[None]:
    """Replace the handlers that satisfy ``is_replaced``, until the end of the block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {}
    for number in _STOP_SIGNALS:
        handler = signal.getsignal(number)
        if handler is not None and is_replaced(handler):  # None: it was not installed from Python
            before[number] = handler
    try:
        for number in before:
            signal.signal(number, handle)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
