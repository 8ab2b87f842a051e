"""Settings of MAML: adaptation, returns and advantages, and the outer steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from maml_rl.settings.ranges import Each, Integer, OrNone, Positive, Range, Real, check_ranges

Surrogate = Literal["log_prob", "likelihood_ratio", "dice"]
Adapts = Literal["all", "head", "context"]
LearnedStepSize = Literal["none", "scalar", "per_layer", "per_parameter"]


@dataclass(frozen=True, kw_only=True)
class InnerConfig:
    """Adaptation to one task."""

    num_steps: int = 1
    """Inner policy-gradient steps, each on new episodes."""
    step_size: float = 0.1
    """Step size alpha of each inner step; its initial value if it is learned."""
    learned_step_size: LearnedStepSize = "none"
    """Step sizes that the outer step learns: none, one, per layer, or per parameter (Meta-SGD)."""
    test_step_sizes: tuple[float, ...] = ()
    """Step sizes of steps 1, 2, ... outside training; the last one is repeated. []: step_size."""
    adapts: Adapts = "all"
    """What adapts: all parameters, last layer and log std (ANIL), or the context (CAVIA)."""
    first_order: bool = False
    """First-order MAML: replace the Jacobian of adaptation by the identity. Cheaper and biased."""
    surrogate: Surrogate = "log_prob"
    """Inner loss. All have the same gradient at the sampling parameters; their Hessians differ."""
    exploration_credit: float = 0.0
    """Weight of E-MAML's term: episodes before adaptation get credit for the return after it."""

    RANGES: ClassVar[Mapping[str, Range]] = {
        "num_steps": Integer(0, 1000),
        "step_size": Positive(),
        "test_step_sizes": Each(Positive(), most=1000),
        "exploration_credit": Real(0),
    }

    def __post_init__(self) -> None:
        check_ranges(self, "inner.")
        if self.test_step_sizes and self.learned_step_size != "none":
            raise ValueError(
                "inner.test_step_sizes must be [] if inner.learned_step_size is not none"
            )


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
class TRPOConfig:
    """Trust-region outer step."""

    name: ClassVar[str] = "trpo"

    max_kl: float = 0.01
    """Bound on the mean KL divergence between adapted policies before and after the step."""
    cg_iterations: int = 10
    """Conjugate-gradient iterations."""
    cg_damping: float = 1e-5
    """Multiple of the identity added to the Fisher matrix."""
    line_search_steps: int = 15
    """Step fractions to try before the step is rejected."""
    line_search_shrink: float = 0.8
    """Ratio of each step fraction to the previous one."""
    # Deviation: the default does not use every state; runs with every 20th learned as well
    # (docs/results.md).
    fisher_state_stride: int | None = None
    """Use every n-th state in the Fisher-vector product; 1 uses all. null: 20, or less to keep 100
    states per task."""

    RANGES: ClassVar[Mapping[str, Range]] = {
        "max_kl": Positive(),
        "cg_iterations": Integer(1, 10_000),
        "cg_damping": Real(0),
        "line_search_steps": Integer(1, 10_000),
        "line_search_shrink": Positive(math.nextafter(1, 0)),
        "fisher_state_stride": OrNone(Integer(1, 1_000_000)),
    }

    def __post_init__(self) -> None:
        check_ranges(self, "outer.")


@dataclass(frozen=True, kw_only=True)
class PPOConfig:
    """Several clipped gradient steps on the same episodes."""

    name: ClassVar[str] = "ppo"

    step_size: float = 1e-3
    """Adam's step size."""
    num_epochs: int = 5
    """Gradient steps on the same episodes."""
    clip_range: float = 0.3
    """Clip likelihood ratios to [1 - clip_range, 1 + clip_range]."""

    RANGES: ClassVar[Mapping[str, Range]] = {
        "step_size": Positive(),
        "num_epochs": Integer(1, 10_000),
        "clip_range": Positive(),
    }

    def __post_init__(self) -> None:
        check_ranges(self, "outer.")


@dataclass(frozen=True, kw_only=True)
class ProMPConfig(PPOConfig):
    """PPO with a penalty on the KL divergence of the policy before adaptation."""

    name: ClassVar[str] = "promp"

    kl_coefficient: float = 5e-4
    """Weight eta of the inner KL divergence; its initial value if adaptive_kl is true."""
    adaptive_kl: bool = False
    """Halve or double the weight after each iteration whose inner KL is far from the target."""
    target_kl: float = 0.01
    """Inner KL divergence that the adaptive weight aims at."""

    RANGES: ClassVar[Mapping[str, Range]] = {
        **PPOConfig.RANGES,
        "kl_coefficient": Real(0),
        "target_kl": Positive(),
    }


@dataclass(frozen=True, kw_only=True)
class AdamConfig:
    """One policy-gradient step of Adam per batch of episodes."""

    name: ClassVar[str] = "adam"

    step_size: float = 1e-3
    """Adam's step size."""

    RANGES: ClassVar[Mapping[str, Range]] = {"step_size": Positive()}

    def __post_init__(self) -> None:
        check_ranges(self, "outer.")


@dataclass(frozen=True, kw_only=True)
class ReptileConfig:
    """Interpolation of theta and the mean of the adapted parameters; needs several inner steps."""

    name: ClassVar[str] = "reptile"

    step_size: float = 1.0
    """Step size epsilon: fraction of the way from theta to the mean of the adapted parameters."""

    RANGES: ClassVar[Mapping[str, Range]] = {"step_size": Positive()}

    def __post_init__(self) -> None:
        check_ranges(self, "outer.")

    def notice(self, num_inner_steps: int) -> str | None:
        """A notice if there are too few inner steps, or ``None``."""
        if num_inner_steps > 1:
            return None
        return (
            "notice: with fewer than two inner steps Reptile trains on all tasks jointly; to learn "
            "to adapt it needs several (--inner.num_steps 3)"
        )


OuterConfig = TRPOConfig | ProMPConfig | PPOConfig | AdamConfig | ReptileConfig
"""Settings of an outer step."""

OUTER_CONFIGS: dict[str, type[OuterConfig]] = {
    config.name: config
    for config in (TRPOConfig, ProMPConfig, PPOConfig, AdamConfig, ReptileConfig)
}
"""Settings of each outer step by its name."""
