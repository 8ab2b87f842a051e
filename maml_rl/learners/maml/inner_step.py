"""What an inner step changes, and how far: all parameters, a head or a context, with step sizes that may be learned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from maml_rl.policies.mlp import MLPPolicy, Params, initial_context, parameters
from maml_rl.settings.ranges import Each, Positive, Range, Real, Whole, check_ranges

Surrogate = Literal["log_prob", "likelihood_ratio", "dice"]
Adapts = Literal["all", "head", "context"]
LearnedStepSize = Literal["none", "scalar", "per_layer", "per_parameter"]
StepSize = float | Mapping[str, float | Tensor]
"""One for all parameters, or one for each that adapts, (T, ...) where tasks or entries have their own."""

STEP_SIZE = "step_size"
"""Name of the learned step size, or the beginning of its names: ``step_size/weight_0``."""


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


def adapting(policy: nn.Module, inner: InnerConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the parameters that inner steps change."""
    if inner.adapts == "context":
        return {name: tuple(value.shape[1:]) for name, value in initial_context(policy, 1).items()}
    own = {name: tuple(value.shape) for name, value in policy.named_parameters()}
    if inner.adapts == "all":
        return own
    assert isinstance(policy, MLPPolicy), "only an MLP says which parameters are its head"
    return {name: own[name] for name in policy.head}


def initial_theta(policy: nn.Module, inner: InnerConfig) -> dict[str, Tensor]:
    """The meta-parameters: the policy's, and the step sizes that are learned beside them."""
    theta = parameters(policy)
    like = next(iter(theta.values()))
    if inner.learned_step_size == "scalar":
        theta[STEP_SIZE] = like.new_full((1,), inner.step_size)
    elif inner.learned_step_size != "none":
        for name, shape in adapting(policy, inner).items():
            size = (1,) if inner.learned_step_size == "per_layer" else shape
            theta[f"{STEP_SIZE}/{name}"] = like.new_full(size, inner.step_size)
    return theta


def step_sizes(policy: nn.Module, inner: InnerConfig, stack: Params, step: int = 0) -> dict[str, float | Tensor]:
    """The step size of each parameter that adapts: the setting, or what ``stack`` holds where it is learned.

    Args:
        policy: the architecture.
        inner: settings.
        stack: parameters, each (T, ...).
        step: number of inner steps before, for ``inner.test_step_sizes``.
    """
    size = (
        inner.test_step_sizes[min(step, len(inner.test_step_sizes) - 1)] if inner.test_step_sizes else inner.step_size
    )
    names = adapting(policy, inner)
    return {name: size if (key := step_size_key(name, inner)) is None else stack[key] for name in names}


def step_size_key(name: str, inner: InnerConfig) -> str | None:
    """The meta-parameter that is the step size of parameter ``name``; ``None`` where it is not learned."""
    if inner.learned_step_size == "none":
        return None
    return STEP_SIZE if inner.learned_step_size == "scalar" else f"{STEP_SIZE}/{name}"


def with_context(policy: nn.Module, stack: Params) -> dict[str, Tensor]:
    """``stack`` with every task's context at zero, unless it has adapted already (CAVIA)."""
    num_tasks = next(iter(stack.values())).shape[0]
    return {**initial_context(policy, num_tasks), **stack}
