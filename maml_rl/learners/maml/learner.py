"""One meta-iteration, in the order of the paper."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from maml_rl.learners.maml.inner_loop import collect_through_adaptation
from maml_rl.learners.maml.metrics import sampling_metrics
from maml_rl.learners.maml.objective import MetaObjective
from maml_rl.learners.maml.outer import OUTER
from maml_rl.learners.trials import Trial, sample_tasks
from maml_rl.policies.normalizer import ObservationNormalizer
from maml_rl.policies.parameters import Params
from maml_rl.sampling.collector import Collector
from maml_rl.sampling.episodes import Episodes, MetaBatch
from maml_rl.sampling.failures import (
    LINE_SEARCH,
    OUTER_STEP,
    Failure,
    TooManyFailures,
    TrialFailures,
    check_outer_steps,
    example,
    num_discarded_episodes,
)
from maml_rl.settings.drawn_tasks import Task
from maml_rl.settings.learners import BaselineConfig, InnerConfig, OuterConfig
from maml_rl.system.distributed import Ranks
from maml_rl.system.random_streams import Phase, RandomStreams
from maml_rl.system.stopwatch import Stopwatch
from maml_rl.system.thread_pool import tasks_per_block

MAX_FAILED_OUTER_STEPS = 10
"""Number of consecutive failed outer steps that stops the run."""


class TrainingState(NamedTuple):
    """Everything that a run carries from one meta-iteration to the next."""

    theta: Params
    outer_state: dict[str, Tensor]
    normalizer: ObservationNormalizer | None
    iteration: int = 0
    """Meta-iterations finished."""
    num_env_steps: int = 0
    """Control steps of valid episodes, of the tasks that did not fail."""
    failed_outer_steps: int = 0
    """Number of consecutive failed outer steps up to now; 0 if the last one succeeded."""


class MetaIteration(NamedTuple):
    """The result of a meta-iteration."""

    state: TrainingState
    """The state after it."""
    metrics: dict[str, float]
    """Metrics by name, which docs/metrics.md explains."""
    failures: list[Failure]
    """Failures that did not stop the run (docs/reliability.md)."""


class _OuterResult(NamedTuple):
    """The result of an outer step; one that fails leaves theta and the state unchanged."""

    theta: Params
    state: dict[str, Tensor]
    metrics: dict[str, float]
    failure: str = ""
    """Cause of the failure; empty if the step succeeded."""
    detail: str = ""
    """Message of the error that the step raised; empty if it raised none."""


@dataclass(frozen=True)
class MetaTrainer:
    """MAML for reinforcement learning (Finn et al. 2017, algorithm 3).

    Args:
        collector: environment, policy, and sizes.
        inner: settings of adaptation.
        outer: settings of the outer step; their ``name`` selects it.
        baseline: settings of returns and advantages.
        seed: of all random streams.
        max_failed_share: largest share of discarded episodes, and of failed tasks, that a
            meta-iteration tolerates.
        ranks: the processes that share the tasks.
        tasks_per_block: tasks that the outer step computes at once; default depends on the device.
            It bounds memory, and changes results at most by rounding.
    """

    collector: Collector
    inner: InnerConfig
    outer: OuterConfig
    baseline: BaselineConfig
    seed: int
    max_failed_share: float
    ranks: Ranks = field(default_factory=Ranks)
    tasks_per_block: int | None = None

    def meta_iteration(self, state: TrainingState) -> MetaIteration:
        """Sample tasks, collect, adapt, collect, and take the outer step.

        Raises:
            TooManyFailures: if more than ``max_failed_share`` of the episodes or of the tasks
                failed, or all tasks of one process, or ``MAX_FAILED_OUTER_STEPS`` outer steps in a
                row.
        """
        watch = Stopwatch()
        num_bytes = self.ranks.num_bytes
        streams = RandomStreams(self.seed, Phase.TRAINING, state.iteration)

        # Sample tasks; play each with theta, adapt, and play again. Each inner step has fresh
        # episodes.
        tasks = sample_tasks(self.collector, streams)
        first = self.collector.first_task
        trial = collect_through_adaptation(
            self.collector,
            state.theta,
            tasks[first : first + self.collector.num_tasks],
            self.inner,
            self.baseline,
            streams=streams,
            normalizer=state.normalizer,
            watch=watch,
        )

        # Stop if too many episodes or tasks failed.
        failures, rows = self._contained_failures(trial, tasks, state.iteration + 1)
        self.collector.check_stop()

        # Outer step, on the tasks that did not fail.
        batch = _valid_part(trial)
        block_size = self.tasks_per_block or tasks_per_block(self.collector.device)
        objective = MetaObjective(self.collector.policy, batch, self.inner, block_size, self.ranks)
        outer = self._outer_step(state, objective)
        num_failed = state.failed_outer_steps + 1 if outer.failure else 0
        if outer.failure:
            step = self.inner.num_steps
            rows.append(
                Failure(step, outer.failure, num_episodes=0, task=None, detail=outer.detail)
            )
            check_outer_steps(rows, num_failed, MAX_FAILED_OUTER_STEPS)
        watch.lap("outer_step")

        # Update the normaliser and the counters; compute metrics.
        episodes = [*batch.supports, batch.query]
        normalizer = state.normalizer
        if normalizer is not None:
            observations = torch.cat([stage.real_observations for stage in episodes])
            normalizer = normalizer.updated(observations, self.ranks)
        lengths = self._gathered([stage.mask.sum(-1) for stage in episodes])
        next_state = TrainingState(
            theta=outer.theta,
            outer_state=outer.state,
            normalizer=normalizer,
            iteration=state.iteration + 1,
            num_env_steps=state.num_env_steps + int(lengths.sum()),
            failed_outer_steps=num_failed,
        )
        metrics = outer.metrics | self._sampling_metrics(episodes, lengths, outer.theta)
        metrics |= _failure_metrics(failures, rows, bool(outer.failure))
        metrics |= {f"time/{name}_s": seconds for name, seconds in watch.seconds.items()}
        metrics["time/num_env_steps"] = next_state.num_env_steps
        if self.ranks.number > 1:
            metrics["time/exchanged_bytes"] = self.ranks.num_bytes - num_bytes
        return MetaIteration(next_state, metrics, rows)

    def _contained_failures(
        self, trial: Trial, tasks: Sequence[Task], iteration: int
    ) -> tuple[TrialFailures, list[Failure]]:
        """Failures of all processes, and their rows in failures.csv.

        Args:
            trial: of this process.
            tasks: of all processes.
            iteration: number of this meta-iteration.

        Raises:
            TooManyFailures: if too many episodes or tasks failed, or all tasks of one process.
        """
        failures = trial.failures.gathered(self.ranks)
        rows = failures.rows(tasks)
        # Every process needs a task for the outer step.
        if self.ranks.number > 1:
            has_no_task = trial.failed_tasks.mask.all()[None]
            if float(self.ranks.sum(has_no_task)) > 0:
                number = self.ranks.number
                raise TooManyFailures(
                    f"all tasks of one of {number} processes failed: {example(rows)}", rows
                )
        failures.check(rows, self.max_failed_share, f"meta-iteration {iteration}")
        return failures, rows

    def _gathered(self, per_stage: Sequence[Tensor]) -> Tensor:
        """Stack values (T, E) of K + 1 stages; return those of all processes, (T, K + 1, E)."""
        return self.ranks.gather(torch.stack(list(per_stage), dim=1))

    def _sampling_metrics(
        self, episodes: Sequence[Episodes], lengths: Tensor, theta: Params
    ) -> dict[str, float]:
        returns = self._gathered([stage.returns for stage in episodes])
        success = self._gathered([stage.success for stage in episodes])
        return sampling_metrics(returns, success, lengths, theta)

    def _outer_step(self, state: TrainingState, objective: MetaObjective) -> _OuterResult:
        """Take the outer step; if it fails, keep theta and the state."""
        unchanged = _OuterResult(
            theta=state.theta, state=state.outer_state, metrics={}, failure=OUTER_STEP
        )
        step = OUTER[self.outer.name].step
        try:
            theta, outer_state, metrics = step(
                state.theta, state.outer_state, objective, self.outer
            )
        except FloatingPointError as error:
            return unchanged._replace(detail=str(error))
        # Refuse non-finite results.
        results = torch.tensor(list(metrics.values())), *theta.values(), *outer_state.values()
        if not all(value.isfinite().all() for value in results):
            finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
            return unchanged._replace(metrics=finite)
        # A zero gradient, as with equal returns, leaves nothing to improve: not a failure.
        is_rejected = metrics.get("outer/accepted") == 0 and metrics["outer/gradient_norm"] > 0
        return _OuterResult(theta, outer_state, metrics, LINE_SEARCH if is_rejected else "")


def _valid_part(trial: Trial) -> MetaBatch:
    """Episodes and parameters of the tasks that did not fail."""
    *supports, query = trial.episodes
    batch = MetaBatch(tuple(supports), query, tuple(trial.stacks))
    failed = trial.failed_tasks.mask
    return batch.chosen(~failed) if failed.any() else batch


def _failure_metrics(
    failures: TrialFailures, rows: Sequence[Failure], outer_failed: bool
) -> dict[str, float]:
    return {
        "train/void_episodes": float(num_discarded_episodes(rows)),
        "train/failed_tasks": float(failures.tasks.mask.sum()),
        "outer/failed": float(outer_failed),
    }
