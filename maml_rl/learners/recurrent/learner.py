"""What the learners of policies with a memory share: RL², and a teacher with its student."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from maml_rl.learners.base import Belief, Learner, LearnerState
from maml_rl.learners.recurrent.actor import RecurrentActor, belief_after
from maml_rl.policies.parameters import Params
from maml_rl.policies.recurrent.memory import MemoryPolicy
from maml_rl.sampling.actors import Memory
from maml_rl.sampling.episodes import Episodes


@dataclass(frozen=True, kw_only=True)
class MemoryLearner(Learner):
    """A learner that adapts by the memory of its policy.

    The belief is what the policy remembers: ``memory`` (T, memory_size), and ``previous``
    (T, previous_size), the action, reward and end of an episode before the next step. A stage is
    one episode; its update runs the memory over it.

    Args:
        normalizes: whether observations are normalised.
        num_adaptation_steps: adaptation steps of a trial, unless the user asks for another number.
        num_training_stages: episodes of a trial in training.
        max_failed_share: largest share of discarded episodes, and of failed tasks, that an
            iteration tolerates.
        device: of all tensors.
        seed: of the initial parameters.
        trials_per_block: trials that are computed at once. It bounds memory, and changes results at
            most by rounding.
    """

    normalizes: bool
    num_adaptation_steps: int
    num_training_stages: int
    max_failed_share: float
    device: torch.device
    seed: int
    trials_per_block: int

    @property
    @abstractmethod
    def player(self) -> MemoryPolicy:
        """The architecture that acts."""

    @abstractmethod
    def parameters(self, state: LearnerState) -> Params:
        """Return the parameters of :attr:`player`."""

    def prior(self, state: LearnerState, num_tasks: int) -> Belief:
        """Return an empty memory for every task."""
        like = next(iter(state.tensors["theta"].values()))
        return {
            "memory": like.new_zeros(num_tasks, self.player.memory_size),
            "previous": like.new_zeros(num_tasks, self.player.previous_size),
        }

    def draw_noise(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Draw the noise of the policy's distribution."""
        return self.player.action_head.draw_noise(rng, shape)

    def draw_noise_on_device(self, rng: torch.Generator, shape: tuple[int, ...]) -> Tensor:
        """Draw it on a GPU."""
        return self.player.action_head.draw_noise_on_device(rng, shape)

    def actor(
        self,
        state: LearnerState,
        belief: Belief,
        noise: Tensor | None,
        memory: Memory | None = None,
    ) -> RecurrentActor:
        """Return an actor that remembers within the episode, too."""
        theta = self.parameters(state)
        return RecurrentActor(self.player, theta, belief, noise, state.normalizer, memory)

    @torch.no_grad()
    def update(self, state: LearnerState, belief: Belief, episodes: Episodes, stage: int) -> Belief:
        """Return the memory after the episodes, which follow one another."""
        theta = self.parameters(state)
        return belief_after(self.player, theta, belief, episodes, self.trials_per_block)
