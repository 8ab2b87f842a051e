"""One meta-iteration, in the order of the paper."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from maml_rl.adaptation import TASKS_PER_BLOCK, collect_through_adaptation, sample_tasks
from maml_rl.baseline import BaselineConfig
from maml_rl.collection import Collector
from maml_rl.episodes import Episodes
from maml_rl.maml import STEP_SIZE, InnerConfig, MetaBatch, MetaObjective
from maml_rl.normalizer import ObservationNormalizer
from maml_rl.outer import OUTER_STEPS
from maml_rl.policies import Params
from maml_rl.random_streams import Phase, RandomStreams
from maml_rl.stopwatch import Stopwatch


class TrainingState(NamedTuple):
    """Everything that a run carries from one meta-iteration to the next."""

    theta: Params
    outer_state: dict[str, Tensor]
    normalizer: ObservationNormalizer | None
    iteration: int = 0
    """Meta-iterations finished."""
    num_env_steps: int = 0
    """Control steps taken, without those after an episode's end."""


@dataclass(frozen=True)
class MetaTrainer:
    """MAML for reinforcement learning (Finn et al. 2017, algorithm 3).

    Args:
        collector: environment, policy, and sizes.
        inner: adaptation.
        outer: settings of the outer step; their type says which one.
        baseline: returns and advantages.
        seed: of all random streams.
    """

    collector: Collector
    inner: InnerConfig
    outer: Any
    baseline: BaselineConfig
    seed: int

    def meta_iteration(self, state: TrainingState) -> tuple[TrainingState, dict[str, float]]:
        """Sample tasks, collect, adapt, collect, and take the outer step.

        Returns:
            The next state, and metrics (docs/metrics.md).
        """
        watch = Stopwatch()
        streams = RandomStreams(self.seed, Phase.TRAINING, state.iteration)

        # Sample tasks; play each with theta, adapt, and play again, each inner step on fresh episodes.
        tasks = sample_tasks(self.collector, streams)
        episodes, _ = collect_through_adaptation(
            self.collector,
            state.theta,
            tasks,
            self.inner,
            self.baseline,
            streams=streams,
            normalizer=state.normalizer,
            watch=watch,
        )

        # Move theta to where adaptation gains more: the surrogate on the last episodes, as a function of theta.
        *supports, query = episodes
        batch = MetaBatch(tuple(supports), query)
        objective = MetaObjective(self.collector.policy, batch, self.inner, TASKS_PER_BLOCK)
        outer_step = OUTER_STEPS[type(self.outer)]
        theta, outer_state, metrics = outer_step(state.theta, state.outer_state, objective, self.outer)
        watch.lap("outer_step")

        normalizer = None if state.normalizer is None else state.normalizer.updated(episodes)
        num_env_steps = state.num_env_steps + sum(int(collected.mask.sum()) for collected in episodes)
        metrics |= _sampling_metrics(episodes, theta)
        metrics |= {f"time/{name}_s": seconds for name, seconds in watch.seconds.items()}
        metrics |= {"time/num_env_steps": num_env_steps}
        return TrainingState(theta, outer_state, normalizer, state.iteration + 1, num_env_steps), metrics


def _sampling_metrics(episodes: list[Episodes], theta: Params) -> dict[str, float]:
    metrics = {}
    for k, collected in enumerate(episodes):
        metrics[f"train/return_after_{k}_steps"] = float(collected.returns.nanmean())
    metrics["train/episode_length"] = float(torch.stack([e.mask.sum(-1).mean() for e in episodes]).mean())
    metrics["train/void_episodes"] = float(sum(int(collected.void.sum()) for collected in episodes))
    learned = [value.flatten() for name, value in theta.items() if name.startswith(STEP_SIZE)]
    if learned:
        sizes = torch.cat(learned)
        metrics |= {"train/step_size_mean": float(sizes.mean())}
        metrics |= {"train/step_size_min": float(sizes.min()), "train/step_size_max": float(sizes.max())}
    if "log_std" in theta:
        metrics["train/policy_std"] = float(theta["log_std"].exp().mean())
    return metrics
