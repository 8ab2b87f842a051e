"""Metrics of the episodes of an iteration; docs/metrics.md explains every name."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from maml_rl.learners.trials import TrainingTrial
from maml_rl.sampling.episodes import Episodes, success_of_all
from maml_rl.sampling.failures import num_discarded_episodes
from maml_rl.system.distributed import Ranks


def per_stage(name: str, values: Tensor) -> dict[str, float]:
    """The mean over the episodes of each stage; a stage without values has no entry.

    Args:
        name: of the metric.
        values: (T, K + 1, E), NaN for no value.
    """
    means = [float(values[:, k].nanmean()) for k in range(values.shape[1])]
    return {f"{name}_after_{k}_steps": mean for k, mean in enumerate(means) if not math.isnan(mean)}


class SamplingMetrics:
    """Returns, success and lengths of the episodes of all processes.

    Args:
        stages: episodes of each stage, of the tasks of this process that did not fail.
        ranks: the processes.
    """

    def __init__(self, stages: Sequence[Episodes], ranks: Ranks) -> None:
        def gathered(values: Sequence[Tensor]) -> Tensor:  # (T, E) of K + 1 stages
            return ranks.gather(torch.stack(list(values), dim=1))

        self.returns = gathered([stage.returns for stage in stages])
        self.success = gathered([stage.success for stage in stages])
        self.lengths = gathered([stage.mask.sum(-1) for stage in stages])

    @property
    def num_env_steps(self) -> int:
        """Real control steps."""
        return int(self.lengths.sum())

    def metrics(self) -> dict[str, float]:
        """Means by name."""
        metrics = per_stage("train/return", self.returns)
        metrics |= per_stage("train/success", success_of_all(self.success, self.returns))
        return metrics | {"train/episode_length": float(self.lengths.mean())}


def failure_metrics(*played: TrainingTrial) -> dict[str, float]:
    """Numbers of discarded episodes and of failed tasks, of all processes."""
    return {
        "train/discarded_episodes": float(sum(num_discarded_episodes(one.rows) for one in played)),
        "train/failed_tasks": float(sum(int(one.failures.tasks.mask.sum()) for one in played)),
    }
