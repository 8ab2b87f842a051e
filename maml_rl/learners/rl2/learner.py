"""RL² as a learner, and one iteration of its training (Duan et al. 2016, Wang et al. 2016).

Deviation: trained by PPO, because several passes over each trial need fewer control steps. Policy
and value network also read the observation, because the memory need not carry it then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from maml_rl.learners.adam import initial_state as initial_adam
from maml_rl.learners.base import Belief, Iteration, Learner, LearnerState, initial_normalizer
from maml_rl.learners.iteration_result import (
    FAILED_OUTER_STEPS,
    IterationWatch,
    iteration_result,
)
from maml_rl.learners.recurrent.actor import RecurrentActor, belief_after
from maml_rl.learners.recurrent.iteration import played_trials, updated_by_ppo
from maml_rl.learners.recurrent.value_scale import ValueScale
from maml_rl.policies.action_map import ActionMap
from maml_rl.policies.plain_network import PlainModule
from maml_rl.policies.recurrent.network import RecurrentPolicy
from maml_rl.policies.recurrent.plain_module import recurrent_module
from maml_rl.sampling.actors import Memory
from maml_rl.sampling.collector import Collector
from maml_rl.sampling.episodes import Episodes
from maml_rl.sampling.task_in_observation import TaskEncoder
from maml_rl.settings.drawn_tasks import Task
from maml_rl.settings.learners.rl2 import RL2Config
from maml_rl.system.distributed import Ranks
from maml_rl.system.random_streams import Phase, RandomStreams


@dataclass(frozen=True, kw_only=True)
class RL2(Learner):
    """RL²: a recurrent policy, trained by PPO on trials of several episodes.

    The belief is what the policy remembers: ``memory`` (T, memory_size), the state of the cell, and
    ``previous`` (T, previous_size), the action, reward and end of an episode before the next step.
    A stage is one episode; its update runs the cell over it. The groups of the state are:

    - ``theta``, ``normalizer``, and ``optimizer``, the state of Adam;
    - ``value_scale``, the running mean and deviation of the value network's targets.

    Args:
        policy: the architecture.
        config: settings.
        normalizes: whether observations are normalised.
        num_adaptation_steps: adaptation steps of a trial, unless the user asks for another number.
        num_training_stages: episodes of a trial in training.
        max_failed_share: largest share of discarded episodes, and of failed tasks, that an
            iteration tolerates.
        device: of all tensors.
        seed: of the initial parameters.
        trials_per_block: trials that are computed at once. It bounds memory, and changes results at
            most by rounding.
        task_encoder: makes vectors of tasks for the value network; ``None`` if it observes none.
    """

    CARRIED: ClassVar[tuple[str, ...]] = ("value_scale",)  # of the targets of theta's value network

    policy: RecurrentPolicy
    config: RL2Config
    normalizes: bool
    num_adaptation_steps: int
    num_training_stages: int
    max_failed_share: float
    device: torch.device
    seed: int
    trials_per_block: int
    task_encoder: TaskEncoder | None = None

    def initial_state(self) -> LearnerState:
        """Return the initial parameters, and empty statistics."""
        rng = RandomStreams(self.seed, Phase.INITIALISATION).parameters()
        theta = {
            name: value.to(self.device) for name, value in self.policy.initial_theta(rng).items()
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

    def prior(self, state: LearnerState, num_tasks: int) -> Belief:
        """Return an empty memory for every task."""
        like = next(iter(state.tensors["theta"].values()))
        return {
            "memory": like.new_zeros(num_tasks, self.policy.memory_size),
            "previous": like.new_zeros(num_tasks, self.policy.previous_size),
        }

    def draw_noise(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Draw the noise of the policy's distribution."""
        return self.policy.action_head.draw_noise(rng, shape)

    def draw_noise_on_device(self, rng: torch.Generator, shape: tuple[int, ...]) -> Tensor:
        """Draw it on a GPU."""
        return self.policy.action_head.draw_noise_on_device(rng, shape)

    def actor(
        self,
        state: LearnerState,
        belief: Belief,
        noise: Tensor | None,
        memory: Memory | None = None,
    ) -> RecurrentActor:
        """Return an actor that remembers within the episode, too."""
        theta, normalizer = state.tensors["theta"], state.normalizer
        return RecurrentActor(self.policy, theta, belief, noise, normalizer, memory)

    @torch.no_grad()
    def update(self, state: LearnerState, belief: Belief, episodes: Episodes, stage: int) -> Belief:
        """Return the memory after the episodes, which follow one another."""
        theta = state.tensors["theta"]
        return belief_after(self.policy, theta, belief, episodes, self.trials_per_block)

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
        trials = played_trials(
            self,
            state,
            collector,
            self.policy.action_head,
            streams=streams,
            ranks=ranks,
            max_failed_share=self.max_failed_share,
            watch=watch,
        )

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
        return torch.tensor([self.task_encoder(task) for task in tasks], device=self.device)
