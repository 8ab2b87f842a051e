"""RL² as a learner, and one iteration of its training (Duan et al. 2016, Wang et al. 2016).

Deviation: trained by PPO, because several passes over each trial need fewer control steps. Policy
and value network also read the observation, because the memory need not carry it then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from maml_rl.learners.adam import initial_state as initial_adam
from maml_rl.learners.base import Belief, Iteration, LearnerState, initial_normalizer
from maml_rl.learners.iteration_result import (
    FAILED_OUTER_STEPS,
    IterationWatch,
    iteration_result,
)
from maml_rl.learners.recurrent.iteration import played_trials, updated_by_ppo
from maml_rl.learners.recurrent.learner import MemoryLearner
from maml_rl.learners.recurrent.value_scale import ValueScale
from maml_rl.policies.action_map import ActionMap
from maml_rl.policies.parameters import Params
from maml_rl.policies.plain_network import PlainModule
from maml_rl.policies.recurrent.network import RecurrentPolicy
from maml_rl.policies.recurrent.plain_module import recurrent_module
from maml_rl.sampling.collector import Collector
from maml_rl.sampling.task_in_observation import TaskEncoder
from maml_rl.settings.drawn_tasks import Task
from maml_rl.settings.learners.rl2 import RL2Config
from maml_rl.system.distributed import Ranks
from maml_rl.system.random_streams import Phase, RandomStreams


@dataclass(frozen=True, kw_only=True)
class RL2(MemoryLearner):
    """RL²: a recurrent policy, trained by PPO on trials of several episodes.

    The memory is the state of the recurrent cell. The groups of the state are:

    - ``theta``, ``normalizer``, and ``optimizer``, the state of Adam;
    - ``value_scale``, the running mean and deviation of the value network's targets.

    Args:
        policy: the architecture.
        config: settings.
        task_encoder: makes vectors of tasks for the value network; ``None`` if it observes none.
    """

    CARRIED: ClassVar[tuple[str, ...]] = ("value_scale",)  # of the targets of theta's value network

    policy: RecurrentPolicy
    config: RL2Config
    task_encoder: TaskEncoder | None = None

    def initial_state(self) -> LearnerState:
        """Return the initial parameters, and empty statistics."""
        rng = RandomStreams(self.seed, Phase.INITIALISATION).parameters()
        theta = {
            name: value.to(self.device)
            for name, value in self.policy.initial_parameters(rng).items()
        }
        observation_shape = (self.policy.observation_size,)
        return LearnerState.initial(
            {
                "theta": theta,
                "normalizer": initial_normalizer(self.normalizes, observation_shape, self.device),
                "optimizer": initial_adam(theta),
                "value_scale": ValueScale.empty(self.device)._asdict(),
            },
            **{FAILED_OUTER_STEPS: 0},
        )

    @property
    def player(self) -> RecurrentPolicy:
        """The policy."""
        return self.policy

    def parameters(self, state: LearnerState) -> Params:
        """Return theta."""
        return state.tensors["theta"]

    def describe(self, state: LearnerState) -> dict[str, Any]:
        """Say what a step is."""
        return {
            "note": "the return after k steps is that of episode k + 1, in which the memory "
            "already adapts"
        }

    def plain_module(
        self, state: LearnerState, belief: Belief, action_map: ActionMap
    ) -> PlainModule:
        """Return the policy, which begins with the belief."""
        (memory,), (previous,) = belief["memory"], belief["previous"]
        theta = state.tensors["theta"]
        return recurrent_module(self.policy, theta, memory, previous, state.normalizer, action_map)

    def iteration(
        self, state: LearnerState, collector: Collector, streams: RandomStreams, ranks: Ranks
    ) -> Iteration:
        """Sample tasks, play a trial in each, and update policy and value by PPO."""
        watch = IterationWatch(ranks)

        # Sample tasks, and play a trial of several episodes in each.
        trials = played_trials(self, state, collector, streams, ranks, watch)

        # Update policy, value and normaliser on the trials that did not fail.
        update = updated_by_ppo(
            self.policy,
            state,
            trials,
            self._vectors(trials.tasks),
            self.config,
            across=self.config.credit_across_episodes,
            rng=streams.minibatches(),
            ranks=ranks,
            block_size=self.trials_per_block,
            watch=watch,
        )
        return iteration_result(state, [trials.played], update, ranks, watch)

    def _vectors(self, tasks: Sequence[Task]) -> Tensor | None:
        """Return tasks as vectors (N, task_size), if the value network observes them."""
        if self.task_encoder is None:
            return None
        return torch.from_numpy(self.task_encoder(tasks)).float().to(self.device)
