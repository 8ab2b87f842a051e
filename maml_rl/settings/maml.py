"""Settings of MAML: adaptation, returns and advantages, and the outer steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from maml_rl.settings.ranges import Each, OrNone, Positive, Range, Real, Whole, check_ranges

Surrogate = Literal["log_prob", "likelihood_ratio", "dice"]
Adapts = Literal["all", "head", "context"]
LearnedStepSize = Literal["none", "scalar", "per_layer", "per_parameter"]


@dataclass(frozen=True, kw_only=True)
class InnerConfig:
    """Adaptation to one task."""

    num_steps: int = 1
    """Inner policy-gradient steps, each on fresh episodes."""
    step_size: float = 0.1
    """Step size alpha of each inner step; where it is learned, its initial value."""
    learned_step_size: LearnedStepSize = "none"
    """What the outer step learns beside theta: no step size, one, one per layer, or one per parameter (Meta-SGD)."""
    test_step_sizes: tuple[float, ...] = ()
    """Step sizes of inner steps 1, 2, ... outside training, the last one for all that follow; none: as in training."""
    adapts: Adapts = "all"
    """What adapts: all parameters, the last layer with the log standard deviation (ANIL), or the context (CAVIA)."""
    first_order: bool = False
    """Take adaptation's Jacobian for the identity (first-order MAML): cheaper, and less exact."""
    surrogate: Surrogate = "log_prob"
    """Inner loss. All have the policy gradient at the sampling parameters; their Hessians differ."""
    exploration_credit: float = 0.0
    """Weight of E-MAML's term, which credits the episodes that adaptation learned from with what it gained."""

    RANGES: ClassVar[Mapping[str, Range]] = {
        "num_steps": Whole(0, 1000),
        "step_size": Positive(),
        "test_step_sizes": Each(Positive(), most=1000),
        "exploration_credit": Real(0),
    }

    def __post_init__(self) -> None:
        check_ranges(self, "inner.")
        if self.test_step_sizes and self.learned_step_size != "none":
            raise ValueError("inner.test_step_sizes have no meaning where the step size is learned")


@dataclass(frozen=True, kw_only=True)
class BaselineConfig:
    """Returns, baseline and advantages."""

    discount: float = 0.99
    """Discount of rewards per control step, gamma."""
    gae_lambda: float = 1.0
    """Lambda of generalised advantage estimation; 1 gives returns minus baseline."""
    ridge: float = 1e-5
    """Added to the diagonal of the baseline's normal equations."""
    normalize_advantages: bool = True
    """Give the advantages of each task mean 0 and standard deviation 1."""

    RANGES: ClassVar[Mapping[str, Range]] = {
        "discount": Real(0, 1),
        "gae_lambda": Real(0, 1),
        "ridge": Positive(),
    }

    def __post_init__(self) -> None:
        check_ranges(self, "baseline.")


@dataclass(frozen=True, kw_only=True)
class TRPOConfig:
    """Trust-region outer step."""

    name: ClassVar[str] = "trpo"

    max_kl: float = 0.01
    """Bound on the mean KL divergence from the sampling policy after adaptation."""
    cg_iterations: int = 10
    """Conjugate-gradient iterations."""
    cg_damping: float = 1e-5
    """Multiple of the identity added to the Fisher matrix."""
    line_search_steps: int = 15
    """Step fractions tried before the step is rejected."""
    line_search_shrink: float = 0.8
    """Each step fraction is this multiple of the one before."""
    # Deviation: TRPO's product takes every state, because a twentieth of them learned as well
    # (docs/results.md).
    fisher_state_stride: int | None = None
    """The Fisher-vector product uses every so manyth state; 1 is exact. Default: 20, or less to keep 100 per task."""

    RANGES: ClassVar[Mapping[str, Range]] = {
        "max_kl": Positive(),
        "cg_iterations": Whole(1, 10_000),
        "cg_damping": Real(0),
        "line_search_steps": Whole(1, 10_000),
        "line_search_shrink": Positive(math.nextafter(1, 0)),
        "fisher_state_stride": OrNone(Whole(1, 1_000_000)),
    }

    def __post_init__(self) -> None:
        check_ranges(self, "outer.")


@dataclass(frozen=True, kw_only=True)
class PPOConfig:
    """Clipped outer steps, several on the same episodes."""

    name: ClassVar[str] = "ppo"

    step_size: float = 1e-3
    """Adam's step size."""
    num_epochs: int = 5
    """Gradient steps on the same episodes."""
    clip_range: float = 0.3
    """A likelihood ratio further than this from 1 earns nothing more."""

    RANGES: ClassVar[Mapping[str, Range]] = {
        "step_size": Positive(),
        "num_epochs": Whole(1, 10_000),
        "clip_range": Positive(),
    }

    def __post_init__(self) -> None:
        check_ranges(self, "outer.")


@dataclass(frozen=True, kw_only=True)
class ProMPConfig(PPOConfig):
    """Clipped outer steps with a penalty on how far the policy before adaptation moves."""

    name: ClassVar[str] = "promp"

    kl_coefficient: float = 5e-4
    """Weight eta of the inner KL divergence; where it adapts, its initial value."""
    adaptive_kl: bool = False
    """Halve or double the weight after each iteration whose inner KL is far from the target."""
    target_kl: float = 0.01
    """What the adaptive weight aims at."""

    RANGES: ClassVar[Mapping[str, Range]] = {
        **PPOConfig.RANGES,
        "kl_coefficient": Real(0),
        "target_kl": Positive(),
    }


@dataclass(frozen=True, kw_only=True)
class AdamConfig:
    """Plain policy-gradient outer step, one of Adam's for each batch of episodes."""

    name: ClassVar[str] = "adam"

    step_size: float = 1e-3
    """Adam's step size."""

    RANGES: ClassVar[Mapping[str, Range]] = {"step_size": Positive()}

    def __post_init__(self) -> None:
        check_ranges(self, "outer.")


@dataclass(frozen=True, kw_only=True)
class ReptileConfig:
    """Interpolation between theta and the mean of the adapted parameters; meant for several inner steps."""

    name: ClassVar[str] = "reptile"

    step_size: float = 1.0
    """Share epsilon of the way from theta to the mean of the adapted parameters."""

    RANGES: ClassVar[Mapping[str, Range]] = {"step_size": Positive()}

    def __post_init__(self) -> None:
        check_ranges(self, "outer.")

    def notice(self, num_inner_steps: int) -> str | None:
        """What the user should know about these settings with so many inner steps."""
        if num_inner_steps > 1:
            return None
        return (
            "notice: with fewer than two inner steps Reptile trains on all tasks jointly; it "
            "needs several "
            "(--inner.num_steps 3) to learn to adapt"
        )


OuterConfig = TRPOConfig | ProMPConfig | PPOConfig | AdamConfig | ReptileConfig
"""Settings of an outer step."""

OUTER_CONFIGS: dict[str, type[OuterConfig]] = {
    config.name: config
    for config in (TRPOConfig, ProMPConfig, PPOConfig, AdamConfig, ReptileConfig)
}
"""Settings of each outer step by its name."""
