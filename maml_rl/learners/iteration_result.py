"""The result of an iteration, from what was played and what an update learned from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from maml_rl.learners.base import Iteration, LearnerState
from maml_rl.learners.metrics import SamplingMetrics, failure_metrics
from maml_rl.learners.trials import TrainingTrial
from maml_rl.sampling.failures import ADVICE, Failure, TooManyFailures
from maml_rl.system.distributed import Ranks
from maml_rl.system.stopwatch import Stopwatch

MAX_FAILED_OUTER_STEPS = 10
"""Number of consecutive failed outer steps that stops the run."""

FAILED_OUTER_STEPS = "failed_outer_steps"
"""Counter of consecutive failed outer steps up to now; 0 if the last one succeeded."""


class Update(NamedTuple):
    """The result of an outer step, in the parts of the state that it changes.

    One that fails changes at most the statistics of observations and advantages.
    """

    groups: dict[str, Mapping[str, Tensor]]
    """The groups of the state that have changed."""
    metrics: dict[str, float]
    failure: str = ""
    """Cause of the failure; empty if the step succeeded."""
    detail: str = ""
    """Message of the error that the step raised; empty if it raised none."""


class IterationWatch(Stopwatch):
    """Seconds of the parts of an iteration, and the bytes that its processes exchange.

    Args:
        ranks: the processes.
    """

    def __init__(self, ranks: Ranks) -> None:
        super().__init__()
        self._ranks = ranks
        self._num_bytes_before = ranks.num_bytes

    def metrics(self) -> dict[str, float]:
        """Seconds of each part; with several processes, also the bytes exchanged."""
        metrics = super().metrics()
        if self._ranks.number > 1:
            metrics["time/exchanged_bytes"] = self._ranks.num_bytes - self._num_bytes_before
        return metrics


def iteration_result(
    state: LearnerState,
    played: Sequence[TrainingTrial],
    update: Update,
    ranks: Ranks,
    watch: IterationWatch,
    failed_metric: str = "update/failed",
) -> Iteration:
    """Return the next state, metrics and failures of an iteration.

    Args:
        state: before the update, with the counter ``FAILED_OUTER_STEPS``.
        played: trials of the iteration. Returns in the metrics are those of the last ones.
        update: what was learned from them.
        ranks: the processes.
        watch: was started with the iteration.
        failed_metric: tag of the metric that is 1 if the outer step failed.

    Raises:
        TooManyFailures: if ``MAX_FAILED_OUTER_STEPS`` have failed in a row. It names the last cause
            and a remedy.
    """
    rows = [row for one in played for row in one.rows]
    num_adaptation_steps = len(played[-1].trial.episodes) - 1
    failures, num_failed = _with_outer_failure(state, rows, num_adaptation_steps, update)
    samplings = [SamplingMetrics(one.trial.valid_episodes, ranks) for one in played]
    metrics = update.metrics | samplings[-1].metrics() | failure_metrics(*played) | watch.metrics()
    metrics[failed_metric] = float(bool(update.failure))
    num_env_steps = sum(sampling.num_env_steps for sampling in samplings)
    counters = {FAILED_OUTER_STEPS: num_failed}
    next_state = state.after_iteration(update.groups, num_env_steps, **counters)
    return Iteration(next_state, metrics, failures)


def _with_outer_failure(
    state: LearnerState, rows: list[Failure], num_adaptation_steps: int, update: Update
) -> tuple[list[Failure], int]:
    """Return all failures, and the number of outer steps that have failed in a row.

    Args:
        state: before the iteration.
        rows: failures of episodes and tasks.
        num_adaptation_steps: of a trial.
        update: the outer step.

    Raises:
        TooManyFailures: see :func:`iteration_result`.
    """
    cause, detail = update.failure, update.detail
    if not cause:
        return rows, 0
    num_failed = state.counters[FAILED_OUTER_STEPS] + 1
    failures = [
        *rows,
        Failure(num_adaptation_steps, cause, num_episodes=0, task=None, detail=detail),
    ]
    if num_failed >= MAX_FAILED_OUTER_STEPS:
        reason = f"{cause} ({detail})" if detail else cause
        raise TooManyFailures(
            f"{num_failed} outer steps in a row failed, the last because {reason}: {ADVICE[cause]}",
            failures,
        )
    return failures, num_failed
