"""What a run or an evaluation is doing, and how long it will take."""

from __future__ import annotations

import math
import time
from typing import Any

from tqdm import tqdm

LONG_S = 5.0
"""An iteration or evaluation that takes longer says what it is doing."""
_REFRESH_S = 0.5


class Activity:
    """Shows in a progress bar what is being done, once that has lasted five seconds.

    After an iteration or evaluation that was as long, the next one shows it from the beginning:
    while it learns, it says so only once.

    Args:
        bar: the bar; without a terminal it is disabled, and nothing is shown.
    """

    def __init__(self, bar: tqdm[Any]) -> None:
        self._bar = bar
        self._num_done = bar.n
        self._started_s = time.monotonic()
        self._is_long = False
        self._what = ""
        self._shown_s = -math.inf

    def __call__(self, text: str) -> None:
        """Show what is being done now, in place of what the bar said.

        Counts are shown twice a second at most.

        Args:
            text: such as ``"stage 2: control step 45 of 100"``; the count follows the colon.
        """
        if self._bar.disable:
            return
        now = time.monotonic()
        is_long = now - self._started_s >= LONG_S
        if self._bar.n != self._num_done:  # the next iteration or evaluation has begun
            self._num_done = self._bar.n
            self._started_s = now
            self._is_long = is_long
        what = text.partition(":")[0]
        is_due = what != self._what or now - self._shown_s >= _REFRESH_S
        if (is_long or self._is_long) and is_due:
            self._what = what
            self._shown_s = now
            self._bar.set_postfix_str(text)


class Pace:
    """Estimates how long the iterations of this process take.

    The first one, which also warms up, does not count.

    Args:
        total: number of iterations at the end.
        num_finished: number of those of earlier processes.
    """

    def __init__(self, total: int, num_finished: int) -> None:
        self.num_iterations = total - num_finished
        """Iterations of this process."""
        self._num_done = 0
        self._started_s = time.monotonic()
        self._first_ended_s = self._started_s

    def count(self) -> None:
        """Count an iteration that has just ended."""
        self._num_done += 1
        if self._num_done == 1:
            self._first_ended_s = time.monotonic()

    @property
    def left_s(self) -> float | None:
        """Seconds until the last iteration ends; ``None`` before two have ended."""
        if self._num_done < 2:
            return None
        each_s = (time.monotonic() - self._first_ended_s) / (self._num_done - 1)
        return each_s * (self.num_iterations - self._num_done)

    @property
    def whole_s(self) -> float | None:
        """Seconds of all iterations of this process, just after the second one, else ``None``."""
        if self._num_done != 2 or self.left_s is None:
            return None
        return time.monotonic() - self._started_s + self.left_s
