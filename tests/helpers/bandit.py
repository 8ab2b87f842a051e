"""A learner of a few lines: which of two fixed ways to act earns more in this task?

``--learner helpers.bandit:Bandit``. A stage is one episode. The belief holds the number of episodes
of each arm and the return of its last one. An actor plays an arm that has not been tried, or else
the better one. Its actions grow with the steps that it remembers, so an agent that forgets them
acts differently.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from maml_rl.learners.base import Belief, Iteration, Learner, LearnerState
from maml_rl.learners.metrics import SamplingMetrics, failure_metrics
from maml_rl.learners.trials import training_trial
from maml_rl.sampling.actors import Actor, Memory
from maml_rl.sampling.collector import Collector
from maml_rl.sampling.episodes import Episodes
from maml_rl.settings.learners import LearnerConfig
from maml_rl.system.distributed import Ranks
from maml_rl.system.random_streams import RandomStreams


@dataclass(frozen=True, kw_only=True)
class BanditConfig(LearnerConfig):
    """Two arms: constant actions of one sign or the other."""

    size: float = 1.0
    """Size of the first action of an episode."""
    growth: float = 0.1
    """Relative growth of the actions with every step."""

    def stage_episodes(self, num_episodes: int) -> int:
        """One episode per stage."""
        return 1


class Bandit(Learner):
    """Learns the mean return of each arm over all batches of tasks, as a prior."""

    Config = BanditConfig
    ACTING = ("arms",)
    num_adaptation_steps = 2
    num_training_stages = 3

    def __init__(self, config, observation_space, action_space, device):
        self.settings = config.learner
        self.max_failed_share = config.max_failed_share
        self.action_size = action_space.shape[0]
        self.device = device

    def initial_state(self) -> LearnerState:
        arms = {"mean_return": torch.zeros(2, dtype=torch.float64, device=self.device)}
        return LearnerState.initial({"arms": arms}, num_batches=0)

    def prior(self, state: LearnerState, num_tasks: int) -> Belief:
        mean = state.tensors["arms"]["mean_return"].expand(num_tasks, 2).clone()
        return {"mean_return": mean, "count": torch.zeros_like(mean)}

    def draw_noise(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return rng.standard_normal((*shape, self.action_size), dtype=np.float32)

    def actor(
        self,
        state: LearnerState,
        belief: Belief,
        noise: Tensor | None,
        memory: Memory | None = None,
    ) -> Actor:
        signs = 1.0 - 2.0 * chosen_arm(belief).float()
        return BanditActor(self.settings, signs.cpu().numpy(), self.action_size, noise, memory)

    def update(self, state: LearnerState, belief: Belief, episodes: Episodes, stage: int) -> Belief:
        arm = torch.nn.functional.one_hot(chosen_arm(belief), 2)
        count = belief["count"] + arm
        mean = torch.where(arm > 0, episodes.returns.double(), belief["mean_return"])
        return {"mean_return": mean, "count": count}

    def iteration(
        self, state: LearnerState, collector: Collector, streams: RandomStreams, ranks: Ranks
    ) -> Iteration:
        played = training_trial(
            self,
            state,
            collector,
            num_adaptation_steps=2,
            streams=streams,
            ranks=ranks,
            max_failed_share=self.max_failed_share,
        )
        valid = ~played.trial.failed_tasks.mask
        new = ranks.mean(played.trial.beliefs[-1]["mean_return"][valid])
        num_batches = state.counters["num_batches"]
        old = state.tensors["arms"]["mean_return"]
        arms = {"mean_return": (num_batches * old + new) / (num_batches + 1)}
        sampling = SamplingMetrics([stage.chosen(valid) for stage in played.trial.episodes], ranks)
        next_state = state.after_iteration(
            {"arms": arms}, sampling.num_env_steps, num_batches=num_batches + 1
        )
        metrics = sampling.metrics() | failure_metrics(played)
        return Iteration(next_state, metrics, played.rows)


class WithContext(Bandit):
    """Has a group ``theta`` with a tensor ``context``, names that MAML also uses."""

    ACTING = ("arms", "theta")

    def initial_state(self) -> LearnerState:
        state = super().initial_state()
        context = {"context": torch.zeros(3, device=self.device)}
        return state._replace(tensors={**state.tensors, "theta": context})


def chosen_arm(belief: Belief) -> Tensor:
    """An untried arm, or the better one, (T,)."""
    untried = belief["count"] == 0
    return torch.where(untried.any(1), untried.int().argmax(1), belief["mean_return"].argmax(1))


class BanditWithOptimizer(Bandit):
    """A bandit with one more group, on which acting does not depend."""

    def initial_state(self) -> LearnerState:
        state = super().initial_state()
        return state._replace(tensors={**state.tensors, "optimizer": {"momentum": torch.ones(1)}})


class BanditActor(Actor):
    """Plays one arm in every task."""

    def __init__(self, settings, signs, action_size, noise, memory):
        self.settings, self.signs, self.action_size = settings, signs, action_size
        self.noise, self.initial_memory = noise, memory

    def start(self, episodes: slice) -> None:
        num_envs = len(self.signs) * len(range(*episodes.indices(10**6)))
        self.memory = self.initial_memory or (np.zeros(num_envs, np.float32),)
        self.part = None if self.noise is None else self.noise[:, episodes].cpu().numpy()

    def act(self, observations: np.ndarray, t: int) -> np.ndarray:
        (steps,) = self.memory
        size = self.settings.size * (1 + self.settings.growth * steps)
        signs = np.repeat(self.signs, len(observations) // len(self.signs))
        outputs = np.repeat((signs * size)[:, None], self.action_size, axis=1)
        if self.part is not None:
            outputs = outputs + 0.01 * self.part[:, :, t].reshape(outputs.shape)
        self.memory = (steps + 1,)
        return outputs.astype(np.float32)
