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

    If an iteration or evaluation was as long, the next one shows what it does from its start.

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
    """Estimates how many iterations a run has, and how long those of this process take.

    A budget of control steps or hours may end the run before its last iteration. The first
    iteration, which also warms up, does not count once there is a second one.

    Args:
        total: number of iterations at the end, unless a budget ends the run earlier.
        num_finished: number of those of earlier processes.
        max_env_steps: control steps at which the run ends, if any.
        num_env_steps: control steps that the run has taken so far.
        steps_per_iteration: control steps of an iteration, before the first one has been counted.
        max_hours: of this process, if any.
    """

    def __init__(
        self,
        total: int,
        num_finished: int,
        *,
        max_env_steps: int | None = None,
        num_env_steps: int = 0,
        steps_per_iteration: int = 1,
        max_hours: float | None = None,
    ) -> None:
        self._most = total
        self._num_finished = num_finished
        self._max_env_steps = max_env_steps
        self._first_env_steps = num_env_steps
        self._num_env_steps = num_env_steps
        self._steps_per_iteration: float = steps_per_iteration
        self._max_s = None if max_hours is None else 3600 * max_hours
        self._num_done = 0
        self._started_s = time.monotonic()
        self._first_ended_s = self._started_s

    def count(self, num_env_steps: int = 0) -> None:
        """Count an iteration that has just ended.

        Args:
            num_env_steps: control steps since the start of the run.
        """
        self._num_done += 1
        if num_env_steps > self._first_env_steps:
            num_counted = max(1, self._num_done - 1)
            self._steps_per_iteration = (num_env_steps - self._first_env_steps) / num_counted
        if self._num_done == 1:
            self._first_ended_s = time.monotonic()
            self._first_env_steps = num_env_steps
        self._num_env_steps = num_env_steps

    @property
    def total(self) -> int:
        """Iterations at the end of the run; an estimate if a budget is expected to end it."""
        totals = [self._most]
        done = self._num_finished + self._num_done
        if self._max_env_steps is not None:
            num_left = max(0, self._max_env_steps - self._num_env_steps)
            totals.append(done + math.ceil(num_left / self._steps_per_iteration))
        if self._max_s is not None and self._each_s:
            left_s = max(0.0, self._max_s - (time.monotonic() - self._started_s))
            totals.append(done + math.ceil(left_s / self._each_s))
        return min(totals)

    @property
    def is_exact(self) -> bool:
        """Whether no budget is expected to end the run before its last iteration."""
        return self.total == self._most

    @property
    def total_text(self) -> str:
        """``"300"``, or ``"about 40"`` if a budget is expected to end the run."""
        return str(self.total) if self.is_exact else f"about {self.total}"

    @property
    def num_iterations(self) -> int:
        """Iterations of this process."""
        return self.total - self._num_finished

    @property
    def _each_s(self) -> float | None:
        """Seconds of an iteration; ``None`` before two have ended."""
        if self._num_done < 2:
            return None
        return (time.monotonic() - self._first_ended_s) / (self._num_done - 1)

    @property
    def left_s(self) -> float | None:
        """Seconds until the last iteration ends; ``None`` before two have ended."""
        if self._each_s is None:
            return None
        return self._each_s * (self.num_iterations - self._num_done)

    @property
    def whole_s(self) -> float | None:
        """Seconds of all iterations of this process, just after the second one, else ``None``."""
        if self._num_done != 2 or self.left_s is None:
            return None
        return time.monotonic() - self._started_s + self.left_s
