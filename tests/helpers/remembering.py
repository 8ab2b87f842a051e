"""A learner with a history: what it has learned is the mean over its last iterations.

``--learner helpers.remembering:Remembering``. A run that is resumed with another history learns
something else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from helpers.bandit import Bandit, BanditConfig
from torch import Tensor

from maml_rl.learners.base import Iteration, LearnerState, check_group
from maml_rl.sampling.collector import Collector
from maml_rl.system.distributed import Ranks
from maml_rl.system.random_streams import RandomStreams


@dataclass(frozen=True, kw_only=True)
class RememberingConfig(BanditConfig):
    """Those of the bandit, and the length of the history."""

    window: int = 3
    """Largest number of entries."""


class Remembering(Bandit):
    """A bandit whose prior is the mean over the entries of its history."""

    Config = RememberingConfig

    def iteration(
        self, state: LearnerState, collector: Collector, streams: RandomStreams, ranks: Ranks
    ) -> Iteration:
        result = super().iteration(state, collector, streams, ranks)
        counters = result.state.counters
        # The bandit sums over all processes, so every process appends the same entry.
        entry = {
            "mean_return": result.state.tensors["arms"]["mean_return"],
            "iteration": torch.tensor([counters["iteration"]]),
        }
        history = (*state.history, entry)[-self.settings.window :]
        mean = torch.stack([past["mean_return"] for past in history]).mean(0)
        next_state = state.after_iteration(
            {"arms": {"mean_return": mean}},
            counters["num_env_steps"] - state.counters["num_env_steps"],
            num_batches=counters["num_batches"],
        )
        return result._replace(state=next_state._replace(history=history))

    def check_history_entry(self, entry: Mapping[str, Tensor], source: Path) -> None:
        arms = self.initial_state().tensors["arms"]
        like = {**arms, "iteration": torch.zeros(1, dtype=torch.int64)}
        check_group(entry, like, "history entry", source)
