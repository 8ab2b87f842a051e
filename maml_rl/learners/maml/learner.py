"""One meta-iteration, in the order of the paper."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from maml_rl.learners.maml.metrics import sampling_metrics
from maml_rl.learners.maml.objective import MetaObjective
from maml_rl.learners.maml.outer import OUTER
from maml_rl.learners.trials import collect_through_adaptation, sample_tasks
from maml_rl.policies.normalizer import ObservationNormalizer
from maml_rl.policies.parameters import Params
from maml_rl.sampling.collector import Collector
from maml_rl.sampling.episodes import MetaBatch
from maml_rl.sampling.failures import LINE_SEARCH, OUTER_STEP, Failure, Failures
from maml_rl.settings.maml import BaselineConfig, InnerConfig
from maml_rl.system.distributed import Ranks
from maml_rl.system.random_streams import Phase, RandomStreams
from maml_rl.system.stopwatch import Stopwatch
from maml_rl.system.thread_pool import tasks_per_block

MAX_FAILED_OUTER_STEPS = 10
"""So many that fail one after the other stop the run."""


class TrainingState(NamedTuple):
    """Everything that a run carries from one meta-iteration to the next."""

    theta: Params
    outer_state: dict[str, Tensor]
    normalizer: ObservationNormalizer | None
    iteration: int = 0
    """Meta-iterations finished."""
    num_env_steps: int = 0
    """Control steps taken, without those after an episode's end."""
    failed_outer_steps: int = 0
    """The last so many outer steps failed."""


class MetaIteration(NamedTuple):
    """What a meta-iteration led to."""

    state: TrainingState
    """The next one."""
    metrics: dict[str, float]
    """docs/metrics.md."""
    failures: list[Failure]
    """What went wrong and was contained (docs/reliability.md)."""


@dataclass(frozen=True)
class MetaTrainer:
    """MAML for reinforcement learning (Finn et al. 2017, algorithm 3).

    Args:
        collector: environment, policy, and sizes.
        inner: adaptation.
        outer: settings of the outer step; their type says which one.
        baseline: returns and advantages.
        seed: of all random streams.
        max_failed_share: of void episodes, and of failed tasks, in one meta-iteration; more stop
            it.
        ranks: the processes that share the tasks.
        tasks_per_block: tasks that the outer step handles at once; default depends on the device.
            It bounds memory, and results depend on it by rounding at most.
    """

    collector: Collector
    inner: InnerConfig
    outer: Any
    baseline: BaselineConfig
    seed: int
    max_failed_share: float
    ranks: Ranks = field(default_factory=Ranks)
    tasks_per_block: int | None = None

    def meta_iteration(self, state: TrainingState) -> MetaIteration:
        """Sample tasks, collect, adapt, collect, and take the outer step.

        Raises:
            TooManyFailures: numbers went wrong in more than ``max_failed_share`` of the episodes or
                of the tasks, or in ``MAX_FAILED_OUTER_STEPS`` outer steps in a row.
        """
        watch, num_bytes = Stopwatch(), self.ranks.num_bytes
        streams = RandomStreams(self.seed, Phase.TRAINING, state.iteration)

        # Sample tasks; play each with theta, adapt, and play again, each inner step on fresh
        # episodes.
        drawn, first = sample_tasks(self.collector, streams), self.collector.first_task
        episodes, stacks, own_failures = collect_through_adaptation(
            self.collector,
            state.theta,
            drawn[first : first + self.collector.num_tasks],
            self.inner,
            self.baseline,
            streams=streams,
            normalizer=state.normalizer,
            watch=watch,
        )
        failures = own_failures.of_all(self.ranks, drawn, first)
        failures.check(self.max_failed_share, f"meta-iteration {state.iteration + 1}")
        self.collector.check_stop()

        # Move theta to where adaptation gains more: the surrogate on the last episodes, as a
        # function of theta.
        batch = _without_failed(
            MetaBatch(tuple(episodes[:-1]), episodes[-1], tuple(stacks)), own_failures
        )
        episodes = [*batch.supports, batch.query]
        block_size = self.tasks_per_block or tasks_per_block(self.collector.device)
        objective = MetaObjective(self.collector.policy, batch, self.inner, block_size, self.ranks)
        theta, outer_state, metrics, problem = self._outer_step(state, objective)
        failed_outer_steps = state.failed_outer_steps + 1 if problem else 0
        if problem:
            failures.outer_step(
                self.inner.num_steps, *problem, failed_outer_steps, MAX_FAILED_OUTER_STEPS
            )
        watch.lap("outer_step")

        normalizer = state.normalizer
        if normalizer is not None:
            normalizer = normalizer.updated(
                torch.cat([part.real_observations for part in episodes]), self.ranks
            )
        lengths = self.ranks.gather(
            torch.stack([collected.mask.sum(-1) for collected in episodes], dim=1)
        )
        num_env_steps = state.num_env_steps + int(lengths.sum())
        returns = self.ranks.gather(
            torch.stack([collected.returns for collected in episodes], dim=1)
        )
        success = self.ranks.gather(
            torch.stack([collected.success for collected in episodes], dim=1)
        )
        metrics |= sampling_metrics(returns, success, lengths, theta)
        metrics |= {
            "train/void_episodes": float(failures.num_void_episodes),
            "train/failed_tasks": float(failures.failed.sum()),
            "outer/failed": float(problem is not None),
        }
        metrics |= {f"time/{name}_s": seconds for name, seconds in watch.seconds.items()}
        metrics |= {"time/num_env_steps": num_env_steps}
        if self.ranks.number > 1:
            metrics["time/exchanged_bytes"] = self.ranks.num_bytes - num_bytes
        counters = (state.iteration + 1, num_env_steps, failed_outer_steps)
        return MetaIteration(
            TrainingState(theta, outer_state, normalizer, *counters), metrics, failures.rows
        )

    def _outer_step(
        self, state: TrainingState, objective: MetaObjective
    ) -> tuple[Params, dict[str, Tensor], dict[str, float], tuple[str, str] | None]:
        """Theta, the optimiser's state and metrics after the outer step; why it failed, if it did, and its own words.

        One that fails leaves theta and the optimiser as they were.
        """
        stays = state.theta, state.outer_state
        try:
            theta, outer_state, metrics = OUTER[self.outer.name].step(*stays, objective, self.outer)
        except FloatingPointError as error:
            return *stays, {}, (OUTER_STEP, str(error))
        numbers = torch.tensor(list(metrics.values())), *theta.values(), *outer_state.values()
        if not all(value.isfinite().all() for value in numbers):
            return (
                *stays,
                {name: value for name, value in metrics.items() if math.isfinite(value)},
                (OUTER_STEP, ""),
            )
        # Without a gradient there is nothing to search along: where every return is the same,
        # nothing is wrong.
        is_rejected = metrics.get("outer/accepted") == 0 and metrics["outer/gradient_norm"] > 0
        return theta, outer_state, metrics, (LINE_SEARCH, "") if is_rejected else None


def _without_failed(batch: MetaBatch, failures: Failures) -> MetaBatch:
    """The part of the tasks that did not fail."""
    if not failures.failed.any():
        return batch
    return batch.chosen(torch.from_numpy(~failures.failed).to(batch.query.mask.device))
