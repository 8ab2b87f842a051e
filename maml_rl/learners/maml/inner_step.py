"""What an inner step changes, and how far: all parameters, a head or a context, with step sizes that may be learned."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from maml_rl.policies.mlp import MLPPolicy, initial_context
from maml_rl.policies.parameters import Params, parameters
from maml_rl.settings.maml import InnerConfig

StepSize = float | Mapping[str, float | Tensor]
"""One for all parameters, or one for each that adapts, (T, ...) where tasks or entries have their own."""

STEP_SIZE = "step_size"
"""Name of the learned step size, or the beginning of its names: ``step_size/weight_0``."""


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


def step_sizes(
    policy: nn.Module, inner: InnerConfig, stack: Params, step: int = 0
) -> dict[str, float | Tensor]:
    """The step size of each parameter that adapts: the setting, or what ``stack`` holds where it is learned.

    Args:
        policy: the architecture.
        inner: settings.
        stack: parameters, each (T, ...).
        step: number of inner steps before, for ``inner.test_step_sizes``.
    """
    size = (
        inner.test_step_sizes[min(step, len(inner.test_step_sizes) - 1)]
        if inner.test_step_sizes
        else inner.step_size
    )
    names = adapting(policy, inner)
    return {
        name: size if (key := step_size_key(name, inner)) is None else stack[key] for name in names
    }


def step_size_key(name: str, inner: InnerConfig) -> str | None:
    """The meta-parameter that is the step size of parameter ``name``; ``None`` where it is not learned."""
    if inner.learned_step_size == "none":
        return None
    return STEP_SIZE if inner.learned_step_size == "scalar" else f"{STEP_SIZE}/{name}"


def with_context(policy: nn.Module, stack: Params) -> dict[str, Tensor]:
    """``stack`` with every task's context at zero, unless it has adapted already (CAVIA)."""
    num_tasks = next(iter(stack.values())).shape[0]
    return {**initial_context(policy, num_tasks), **stack}
