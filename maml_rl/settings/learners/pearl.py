"""Settings of PEARL."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from maml_rl.settings.learners.base import LearnerConfig, check_own_networks
from maml_rl.settings.ranges import Each, Integer, OrNone, Positive, Range, Real

Encoder = Literal["product", "gru"]


@dataclass(frozen=True, kw_only=True)
class PEARLConfig(LearnerConfig):
    """A policy that reads a latent variable z of the task, trained off-policy by SAC."""

    name: str = "pearl"
    latent_size: int = 5
    """Number of entries of z."""
    encoder: Encoder = "product"
    """How transitions become the distribution of z: product multiplies one Gaussian per transition;
    gru reads them in their order."""
    encoder_hidden_sizes: tuple[int, ...] = (200, 200, 200)
    """Width of each hidden layer of the encoder; the last one is the size of the GRU."""
    hidden_sizes: tuple[int, ...] = (256, 256)
    """Width of each hidden layer of the actor and of the critics; policy.hidden_sizes has no
    effect."""
    next_observation_in_context: bool | None = None
    """Whether the encoder also reads the next observation. null: true, except in a built-in family
    in which only goals and directions vary between tasks."""
    num_training_tasks: int = 100
    """Tasks to train on, drawn once. 0: new ones in every iteration."""
    num_initial_episodes: int = 2
    """Episodes of every training task before the first update, with z from the prior."""
    num_prior_episodes: int = 1
    """First episodes of a trial in training, which are played with z from the prior."""
    num_posterior_episodes: int = 2
    """Further episodes of a trial in training; z is from the posterior given the earlier ones."""
    num_updates: int = 500
    """Updates of encoder, critics and actor in an iteration whose episodes last the horizon; in
    proportion to the control steps if they end earlier."""
    tasks_per_update: int = 8
    """Tasks in each update."""
    batch_size: int = 128
    """Transitions of each task in an update, for actor and critics."""
    context_size: int = 64
    """Transitions from which z of each task is inferred in an update."""
    context_window: int = 2
    """Number of newest episodes with z from the prior from which the context of a task is drawn."""
    capacity: int = 1_000_000
    """Largest number of transitions to keep; the oldest iterations are dropped."""
    discount: float = 0.99
    """Discount gamma of rewards, per control step."""
    step_size: float = 3e-4
    """Adam's step size."""
    polyak: float = 0.005
    """Share by which the target critics approach the critics in each update."""
    reward_scale: float = 5.0
    """Factor of rewards in the critics' targets: it weighs them against the KL divergence and the
    entropy."""
    kl_weight: float = 0.1
    """Weight of the KL divergence of the posterior from the prior."""
    temperature: float = 1.0
    """Weight alpha of the entropy; with automatic_temperature, its initial value."""
    automatic_temperature: bool = True
    """Learn the temperature so that the mean entropy is target_entropy."""
    target_entropy: float | None = None
    """Entropy of an action, in units of half its range. null: minus the number of its entries."""

    STAGE_IS_EPISODE: ClassVar[bool] = True
    IMPLEMENTATION: ClassVar[str] = "maml_rl.learners.pearl.make:pearl"
    OUTPUTS_ARE_BOUNDED: ClassVar[bool] = True
    ON_DEVICE: ClassVar[bool] = True
    RANGES: ClassVar[Mapping[str, Range]] = {
        "latent_size": Integer(1, 1 << 10),
        "encoder_hidden_sizes": Each(Integer(1, 1 << 12), most=16),
        "hidden_sizes": Each(Integer(1, 1 << 12), most=16),
        "num_training_tasks": Integer(0, 100_000),
        "num_initial_episodes": Integer(1, 10_000),
        "num_prior_episodes": Integer(1, 1000),
        "num_posterior_episodes": Integer(0, 1000),
        "num_updates": Integer(1, 1_000_000),
        "tasks_per_update": Integer(1, 10_000),
        "batch_size": Integer(1, 100_000),
        "context_size": Integer(1, 100_000),
        "context_window": Integer(1, 100_000),
        "capacity": Integer(1, 1_000_000_000),
        "discount": Real(0, 1),
        "step_size": Positive(),
        "polyak": Positive(1),
        "reward_scale": Positive(),
        "kl_weight": Real(0),
        "temperature": Positive(),
        "target_entropy": OrNone(Real(-1e6)),
    }

    @property
    def num_stages(self) -> int:
        """Episodes of a trial in training."""
        return self.num_prior_episodes + self.num_posterior_episodes

    def stage_episodes(self, num_episodes: int) -> int:
        """One episode, after which the posterior is the new belief."""
        return 1

    def check(self, config: Any) -> None:
        """Refuse networks that PEARL cannot have, and a capacity below one iteration."""
        check_own_networks(config)
        if not self.encoder_hidden_sizes:
            raise ValueError("learner.encoder_hidden_sizes must have at least one layer, got []")
        # The first iteration has the initial episodes of all training tasks, in whole meta-batches.
        num_groups = math.ceil(self.num_training_tasks / config.meta_batch_size)
        num_episodes = self.num_stages + num_groups * self.num_initial_episodes
        num_steps = config.meta_batch_size * num_episodes * config.horizon
        if self.capacity < num_steps:
            raise ValueError(
                f"learner.capacity must hold the first iteration, {num_steps} transitions, got "
                f"{self.capacity}"
            )
