"""Settings of the outer steps, and the table of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from maml_rl.errors import is_of_package, name_errors
from maml_rl.settings.learners.maml import InnerConfig
from maml_rl.settings.ranges import Integer, OrNone, Positive, Range, Real, check_ranges


@dataclass(frozen=True, kw_only=True)
class OuterConfig:
    """Settings of an outer step. Its fields are the settings ``outer.*``.

    A subclass of your own (``--outer module:Class``) is the outer step, too: it defines
    ``step(theta, state, objective)`` and, for a step with a state, ``initial_state(theta)``. See
    docs/algorithms.md.
    """

    name: ClassVar[str]
    """The outer step; of a class of your own, module:Class."""
    SIZE: ClassVar[str] = "step_size"
    """The setting that falls."""

    REQUIRED: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """By group, settings that must have a certain value with this outer step."""

    decay_factor: float = 1.0
    """After decay_iterations, max_kl or step_size is this multiple of its initial value; it falls
    geometrically until then."""
    decay_iterations: int = 0
    """Iterations in which max_kl or step_size falls. 0: it is constant."""

    RANGES: ClassVar[Mapping[str, Range]] = {
        "decay_factor": Positive(1.0),
        "decay_iterations": Integer(0, 1_000_000_000),
    }

    def __init_subclass__(cls, **options: Any) -> None:
        """Name a class of the user's own, and make its errors name the method."""
        super().__init_subclass__(**options)
        if not is_of_package(cls):
            cls.name = f"{cls.__module__}:{cls.__qualname__}"
        name_errors(cls, ("at",))
        name_errors(cls, ("__post_init__",), passing=ValueError)

    def __post_init__(self) -> None:
        check_ranges(self, "outer.")
        if (self.decay_factor == 1) != (self.decay_iterations == 0):
            raise ValueError(
                f"outer.decay_factor is {self.decay_factor} and outer.decay_iterations is "
                f"{self.decay_iterations}: set both, or neither"
            )
        size = getattr(self, self.SIZE, None)
        if self.decay_iterations and not isinstance(size, (int, float)):
            raise ValueError(
                f"outer.decay_iterations must be 0: {self.name} has no setting {self.SIZE}"
            )

    @property
    def is_own(self) -> bool:
        """Whether the outer step is not built in."""
        return ":" in self.name

    def initial_state(self, theta: Mapping[str, Any]) -> dict[str, Any]:
        """Return the state of an outer step of the user's own before the first step.

        Args:
            theta: the initial meta-parameters, tensors by name.
        """
        return {}

    def at(self, iteration: int) -> Self:
        """Return the settings of an iteration, whose size follows the schedule.

        Args:
            iteration: number of finished iterations.
        """
        if not self.decay_iterations:
            return self
        share = min(1.0, iteration / self.decay_iterations)
        size = getattr(self, self.SIZE) * self.decay_factor**share
        return dataclasses.replace(self, **{self.SIZE: size})

    def notice(self, inner: InnerConfig, num_inner_steps: int) -> str | None:
        """Return lines on settings that hardly work with this outer step, or ``None``.

        Args:
            inner: settings of adaptation.
            num_inner_steps: adaptation steps in training.
        """
        return None


@dataclass(frozen=True, kw_only=True)
class TRPOConfig(OuterConfig):
    """Trust-region outer step."""

    name: ClassVar[str] = "trpo"
    SIZE: ClassVar[str] = "max_kl"

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
    states per task on average."""

    RANGES: ClassVar[Mapping[str, Range]] = {
        **OuterConfig.RANGES,
        "max_kl": Positive(),
        "cg_iterations": Integer(1, 10_000),
        "cg_damping": Real(0),
        "line_search_steps": Integer(1, 10_000),
        "line_search_shrink": Positive(0.99),
        "fisher_state_stride": OrNone(Integer(1, 1_000_000)),
    }


@dataclass(frozen=True, kw_only=True)
class PPOConfig(OuterConfig):
    """Several clipped gradient steps on the same episodes."""

    name: ClassVar[str] = "ppo"

    step_size: float = 1e-3
    """Adam's step size."""
    num_epochs: int = 5
    """Gradient steps on the same episodes."""
    clip_range: float = 0.3
    """Clip likelihood ratios to [1 - clip_range, 1 + clip_range]."""

    RANGES: ClassVar[Mapping[str, Range]] = {
        **OuterConfig.RANGES,
        "step_size": Positive(),
        "num_epochs": Integer(1, 10_000),
        "clip_range": Positive(),
    }


@dataclass(frozen=True, kw_only=True)
class ProMPConfig(PPOConfig):
    """PPO with a penalty on the KL divergence of the policy before adaptation."""

    name: ClassVar[str] = "promp"

    kl_coefficient: float = 5e-4
    """Weight eta of the inner KL divergence; its initial value if adaptive_kl is true."""
    adaptive_kl: bool = False
    """Halve or double the weight after each iteration whose inner KL is far from the target; it
    stays from 1e-6 to 100."""
    target_kl: float = 0.01
    """Inner KL divergence that the adaptive weight aims at. No effect without adaptive_kl."""

    RANGES: ClassVar[Mapping[str, Range]] = {
        **PPOConfig.RANGES,
        "kl_coefficient": Real(0),
        "target_kl": Positive(),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.adaptive_kl and self.kl_coefficient == 0:
            raise ValueError(
                "outer.kl_coefficient must be above 0 with outer.adaptive_kl true, which doubles "
                "or halves it"
            )

    def notice(self, inner: InnerConfig, num_inner_steps: int) -> str | None:
        """Say that there is nothing to penalise without inner steps."""
        if num_inner_steps > 0:
            return None
        return (
            "notice: without inner steps in training ProMP has no penalty, and is the same as "
            "--outer ppo"
        )


@dataclass(frozen=True, kw_only=True)
class AdamConfig(OuterConfig):
    """One policy-gradient step of Adam per batch of episodes."""

    name: ClassVar[str] = "adam"

    step_size: float = 1e-3
    """Adam's step size."""

    RANGES: ClassVar[Mapping[str, Range]] = {**OuterConfig.RANGES, "step_size": Positive()}


@dataclass(frozen=True, kw_only=True)
class ReptileConfig(OuterConfig):
    """Interpolation of theta and the mean of the adapted parameters; needs several inner steps."""

    name: ClassVar[str] = "reptile"
    # What only an outer gradient can learn. Not learned_step_size: resumed runs of earlier versions
    # may have it, and keep their sizes.
    REQUIRED: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "inner": {
            "learned_per_step": False,
            "advantage": "gae",
            "exploration_credit": 0.0,
            "early_loss_weight": 0.0,
            "early_loss_iterations": 0,
        }
    }

    step_size: float = 1.0
    """Step size epsilon: fraction of the way from theta to the mean of the adapted parameters."""

    RANGES: ClassVar[Mapping[str, Range]] = {**OuterConfig.RANGES, "step_size": Positive()}

    def notice(self, inner: InnerConfig, num_inner_steps: int) -> str | None:
        """Say that there are too few inner steps, and what is not learned."""
        notices = []
        if num_inner_steps < 2:
            notices.append(
                "notice: with fewer than two inner steps Reptile trains on all tasks jointly; to "
                "learn to adapt it needs several (--inner.num_steps 3)"
            )
        if inner.learned_step_size != "none":
            notices.append(
                "notice: Reptile does not learn step sizes: all stay at inner.step_size "
                f"{inner.step_size:g}, as with --inner.learned_step_size none"
            )
        if inner.adapts != "all":
            notices.append(
                "notice: Reptile learns only what inner steps change: with inner.adapts "
                f"{inner.adapts} all other parameters keep their initial values"
            )
        return "\n".join(notices) or None


OUTER_CONFIGS: dict[str, type[OuterConfig]] = {
    config.name: config
    for config in (TRPOConfig, ProMPConfig, PPOConfig, AdamConfig, ReptileConfig)
}
"""Settings of each built-in outer step by its name."""
