"""Count the outer steps that failed in a row, and stop a run in which too many have."""

from __future__ import annotations

from collections.abc import Sequence

from maml_rl.learners.base import LearnerState
from maml_rl.sampling.failures import ADVICE, Failure, TooManyFailures

MAX_FAILED_OUTER_STEPS = 10
"""Number of consecutive failed outer steps that stops the run."""

FAILED_OUTER_STEPS = "failed_outer_steps"
"""Counter of consecutive failed outer steps up to now; 0 if the last one succeeded."""


def with_outer_failure(
    state: LearnerState, rows: Sequence[Failure], num_updates: int, what: str, detail: str
) -> tuple[list[Failure], int]:
    """Return all failures of an iteration, and the number of outer steps that failed in a row.

    Args:
        state: before the iteration; its counter ``FAILED_OUTER_STEPS`` counts those before.
        rows: failures of episodes and tasks.
        num_updates: of a trial in training.
        what: cause of the outer step's failure; empty if it succeeded.
        detail: message of the error that it raised; empty if it raised none.

    Raises:
        TooManyFailures: if ``MAX_FAILED_OUTER_STEPS`` have failed in a row. It names the last cause
            and a remedy.
    """
    if not what:
        return list(rows), 0
    num_failed = state.counters[FAILED_OUTER_STEPS] + 1
    failure = Failure(num_updates, what, num_episodes=0, task=None, detail=detail)
    failures = [*rows, failure]
    if num_failed >= MAX_FAILED_OUTER_STEPS:
        cause = f"{what} ({detail})" if detail else what
        raise TooManyFailures(
            f"{num_failed} outer steps in a row failed, the last because {cause}: {ADVICE[what]}",
            failures,
        )
    return failures, num_failed
