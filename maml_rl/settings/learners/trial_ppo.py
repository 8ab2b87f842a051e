"""Settings of proximal policy optimisation on whole trials, which several learners share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from maml_rl.settings.learners.base import LearnerConfig, check_own_networks
from maml_rl.settings.ranges import Integer, OrNone, Positive, Range, Real


@dataclass(frozen=True, kw_only=True)
class TrialPPOConfig(LearnerConfig):
    """A policy that plays trials of several episodes, trained by PPO."""

    num_episodes: int = 2
    """Episodes of a trial in training: episodes of one task, over which the memory is kept."""
    discount: float = 0.99
    """Discount gamma of rewards, per control step of the trial."""
    gae_lambda: float = 0.95
    """Lambda of generalised advantage estimation."""
    step_size: float = 7e-4
    """Adam's step size in the first iteration."""
    final_step_size: float = 7e-5
    """Adam's step size after decay_iterations or decay_env_steps."""
    decay_iterations: int = 0
    """Iterations in which the step size falls linearly to final_step_size."""
    decay_env_steps: int = 0
    """Control steps in which the step size falls, instead of iterations: for a run with
    max_env_steps. If both are 0, it is constant."""
    num_epochs: int = 4
    """Passes over the trials of an iteration."""
    num_minibatches: int = 8
    """Minibatches of a pass, each of whole trials."""
    clip_range: float = 0.2
    """Clip likelihood ratios to [1 - clip_range, 1 + clip_range]."""
    target_kl: float = 0.03
    """End the iteration's updates once the mean KL divergence from the policy that played exceeds
    this."""
    entropy_coefficient: float = 0.01
    """Weight of the policy's entropy in the objective."""
    value_coefficient: float = 0.5
    """Weight of the squared error of the values in the loss."""
    max_gradient_norm: float = 0.5
    """Scale gradients down to this norm."""
    truncation: int | None = None
    """Steps after which backpropagation through time is cut. null: never."""

    STAGE_IS_EPISODE: ClassVar[bool] = True
    RANGES: ClassVar[Mapping[str, Range]] = {
        "num_episodes": Integer(1, 1000),
        "discount": Real(0, 1),
        "gae_lambda": Real(0, 1),
        "step_size": Positive(),
        "final_step_size": Positive(),
        "decay_iterations": Integer(0, 1_000_000_000),
        "decay_env_steps": Integer(0, 1_000_000_000_000),
        "num_epochs": Integer(1, 10_000),
        "num_minibatches": Integer(1, 10_000),
        "clip_range": Positive(),
        "target_kl": Positive(),
        "entropy_coefficient": Real(0),
        "value_coefficient": Real(0),
        "max_gradient_norm": Positive(),
        "truncation": OrNone(Integer(1, 1_000_000)),
    }

    def stage_episodes(self, num_episodes: int) -> int:
        """One episode, after which the memory is the new belief."""
        return 1

    def check(self, config: Any) -> None:
        """Refuse settings that exclude each other, and too few trials."""
        check_own_networks(config)
        if self.decay_iterations and self.decay_env_steps:
            raise ValueError(
                f"learner.decay_iterations is {self.decay_iterations} and learner.decay_env_steps "
                f"is {self.decay_env_steps}: one of them must be 0"
            )
        if self.num_minibatches > config.meta_batch_size:
            raise ValueError(
                f"learner.num_minibatches must be at most meta_batch_size "
                f"{config.meta_batch_size}, got {self.num_minibatches}: lower it, or raise "
                "meta_batch_size"
            )

    def step_size_at(self, iteration: int, num_env_steps: int) -> float:
        """Adam's step size.

        Args:
            iteration: number of finished iterations.
            num_env_steps: control steps of these.
        """
        share = 0.0
        if self.decay_iterations:
            share = iteration / self.decay_iterations
        elif self.decay_env_steps:
            share = num_env_steps / self.decay_env_steps
        return self.step_size + min(1.0, share) * (self.final_step_size - self.step_size)
