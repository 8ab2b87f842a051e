"""Settings of MAML and of joint training: adaptation and advantages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from maml_rl.settings.learners.base import LEARNER_GROUPS, LearnerConfig, check_required
from maml_rl.settings.ranges import Each, Integer, OrNone, Positive, Range, Real, check_ranges

Surrogate = Literal["log_prob", "likelihood_ratio", "dice"]
Adapts = Literal["all", "head", "context", "latent"]
LearnedStepSize = Literal["none", "scalar", "per_layer", "per_parameter"]
InnerAdvantage = Literal["gae", "learned", "sum"]


@dataclass(frozen=True, kw_only=True)
class InnerConfig:
    """Adaptation to one task."""

    num_steps: int = 1
    """Policy-gradient steps of adaptation, each on new episodes."""
    step_size: float = 0.1
    """Step size alpha of each inner step; its initial value if it is learned."""
    learned_step_size: LearnedStepSize = "none"
    """Step sizes that the outer step learns: none, one, one for each weight, bias and log std
    (per_layer), or one for each of their entries (per_parameter, Meta-SGD)."""
    learned_per_step: bool = False
    """Learned step sizes are separate for each inner step (MAML++); further steps use the last
    ones. No effect without learned step sizes."""
    test_step_sizes: tuple[float, ...] = ()
    """Step sizes of steps 1, 2, ... outside training, in place of those of training; the last one
    is repeated."""
    choose_test_step_sizes: bool = True
    """After training, choose the step sizes for use outside training, on fresh training tasks. No
    effect with test_step_sizes, or for the learner joint."""
    adapts: Adapts = "all"
    """What adapts: all parameters, last layer and log std (ANIL), the context (CAVIA), or only the
    mean and log std of the latent variable (MAESN)."""
    first_order: bool = False
    """First-order MAML: replace the Jacobian of adaptation by the identity. Cheaper and biased."""
    surrogate: Surrogate = "log_prob"
    """Inner loss. All have the same gradient at the sampling parameters; their Hessians differ."""
    exploration_credit: float = 0.0
    """Weight of E-MAML's term: episodes before adaptation get credit for the return after it."""
    latent_kl_weight: float = 0.1
    """Weight of the KL divergence of the latent variable's distribution before adaptation from a
    standard normal one, in the outer objective (MAESN)."""
    discount: float | None = None
    """Discount of the estimated advantages of inner steps. null: baseline.discount."""
    gae_lambda: float | None = None
    """Lambda of the estimated advantages of inner steps. null: baseline.gae_lambda."""
    advantage: InnerAdvantage = "gae"
    """Advantages of inner steps: estimated (gae), a learned function (NoRML), or their sum."""
    shared_advantage_scale: bool = False
    """Divide the advantages of inner steps by their standard deviation over all tasks in the
    previous iteration (1 in the first one) instead of each task's own."""
    max_kl: float | None = None
    """Bound on the KL divergence of a task's inner step; a larger step is shortened. null: none."""
    early_loss_weight: float = 0.0
    """Weight of the outer loss after each inner step but the last, whose weight is 1 (MAML++). No
    effect with one inner step."""
    early_loss_iterations: int = 0
    """Iterations in which early_loss_weight falls linearly to 0. 0: it stays constant."""

    RANGES: ClassVar[Mapping[str, Range]] = {
        "num_steps": Integer(0, 1000),
        "step_size": Positive(),
        "test_step_sizes": Each(Positive(), most=1000),
        "exploration_credit": Real(0),
        "latent_kl_weight": Real(0),
        "discount": OrNone(Real(0, 1)),
        "gae_lambda": OrNone(Real(0, 1)),
        "max_kl": OrNone(Positive()),
        "early_loss_weight": Real(0),
        "early_loss_iterations": Integer(0, 1_000_000_000),
    }

    def __post_init__(self) -> None:
        check_ranges(self, "inner.")
        if self.advantage != "gae" and self.first_order:
            raise ValueError(
                f"inner.advantage {self.advantage} must not be combined with inner.first_order "
                "true: it is learned through the inner gradient"
            )
        if self.advantage == "learned" and self.shared_advantage_scale:
            raise ValueError(
                "inner.shared_advantage_scale is for estimated advantages: it must be false if "
                "inner.advantage is learned"
            )
        if self.num_steps == 0 and (self.advantage != "gae" or self.shared_advantage_scale):
            raise ValueError(
                "inner.num_steps must be at least 1 with inner.advantage learned or sum, or "
                "inner.shared_advantage_scale true: they are learned or measured in inner steps"
            )
        if self.num_steps == 0 and self.exploration_credit:
            raise ValueError(
                "inner.num_steps must be at least 1 with inner.exploration_credit above 0, which "
                "goes to the episodes before an inner step"
            )
        if self.early_loss_iterations and not self.early_loss_weight:
            raise ValueError("inner.early_loss_iterations needs an inner.early_loss_weight above 0")

    def early_weight_at(self, iteration: int) -> float:
        """Weight of the outer loss after each inner step but the last.

        Args:
            iteration: number of finished iterations.
        """
        if not self.early_loss_iterations:
            return self.early_loss_weight
        return self.early_loss_weight * max(0.0, 1 - iteration / self.early_loss_iterations)


@dataclass(frozen=True, kw_only=True)
class BaselineConfig:
    """Returns, baseline and advantages."""

    discount: float = 0.99
    """Discount gamma of rewards, per control step."""
    gae_lambda: float = 1.0
    """Lambda of generalised advantage estimation; 1 gives return minus baseline."""
    ridge: float = 1e-5
    """Value added to the diagonal of the baseline's normal equations."""
    normalize_advantages: bool = True
    """Scale the advantages of each task to mean 0 and standard deviation 1."""

    RANGES: ClassVar[Mapping[str, Range]] = {
        "discount": Real(0, 1),
        "gae_lambda": Real(0, 1),
        "ridge": Positive(),
    }

    def __post_init__(self) -> None:
        check_ranges(self, "baseline.")


@dataclass(frozen=True, kw_only=True)
class MAMLConfig(LearnerConfig):
    """Adaptation by policy gradient, learned through the outer step."""

    name: str = "maml"

    GROUPS: ClassVar[tuple[str, ...]] = LEARNER_GROUPS
    IMPLEMENTATION: ClassVar[str] = "maml_rl.learners.maml.make:maml"
    ON_DEVICE: ClassVar[bool] = True

    def check(self, config: Any) -> None:
        """Refuse what the outer step cannot learn, and E-MAML's credit for a single task."""
        check_required(config, config.outer.REQUIRED, f"outer.name is {config.outer.name}")
        if config.outer.name == "reptile" and config.inner.adapts == "context":
            raise ValueError(
                "inner.adapts must not be context if outer.name is reptile, which learns only what "
                "inner steps change: a context starts at zero in every task"
            )
        if config.inner.exploration_credit and config.meta_batch_size == 1:
            raise ValueError(
                "meta_batch_size must be at least 2 with inner.exploration_credit above 0, which "
                "compares the returns of tasks"
            )


@dataclass(frozen=True, kw_only=True)
class JointConfig(LearnerConfig):
    """One policy for all tasks, trained without adaptation; fine-tuned by inner.* afterwards."""

    name: str = "joint"

    GROUPS: ClassVar[tuple[str, ...]] = LEARNER_GROUPS
    IMPLEMENTATION: ClassVar[str] = "maml_rl.learners.maml.make:maml"
    ON_DEVICE: ClassVar[bool] = True
    REQUIRED: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "inner": {
            "learned_step_size": "none",
            "learned_per_step": False,
            "advantage": "gae",
            "exploration_credit": 0.0,
            "shared_advantage_scale": False,
            "early_loss_weight": 0.0,
            "early_loss_iterations": 0,
        }
    }

    def check(self, config: Any) -> None:
        """Refuse settings that need adaptation during training."""
        check_required(config, self.REQUIRED, "learner.name is joint")
        if config.outer.name == "reptile":
            raise ValueError(
                "outer.name must not be reptile if learner.name is joint: Reptile moves towards "
                "adapted parameters"
            )
