"""An inner step of MAML: which parameters it changes, with which step sizes, on which loss."""

from __future__ import annotations

import torch
from torch import Tensor

from maml_rl.learners.maml.adapt import adapt
from maml_rl.learners.maml.losses import policy_gradient_loss
from maml_rl.policies.parameters import Params, parameters
from maml_rl.policies.policy import Policy
from maml_rl.sampling.episodes import Episodes
from maml_rl.settings.learners import InnerConfig
from maml_rl.system.thread_pool import block_ends, map_blocks, tasks_per_block

STEP_SIZE = "step_size"
"""Name of the learned step size in theta, or the prefix if there are many: step_size/weight_0."""


def adapting(policy: Policy, inner: InnerConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the parameters that inner steps change."""
    if inner.adapts == "context":
        return {name: tuple(value.shape[1:]) for name, value in policy.initial_context(1).items()}
    shapes = {name: tuple(value.shape) for name, value in policy.named_parameters()}
    if inner.adapts == "all":
        return shapes
    return {name: shapes[name] for name in policy.head}


def initial_theta(policy: Policy, inner: InnerConfig) -> dict[str, Tensor]:
    """The meta-parameters: the policy's parameters, and the step sizes if they are learned."""
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
    policy: Policy, inner: InnerConfig, stack: Params, step: int = 0
) -> dict[str, float | Tensor]:
    """The step size of each adapting parameter: from ``stack`` if learned, else from the settings.

    Args:
        policy: the architecture.
        inner: settings.
        stack: parameters, each (T, ...).
        step: number of inner steps so far, for ``inner.test_step_sizes``.
    """
    size = inner.step_size
    if inner.test_step_sizes:
        size = inner.test_step_sizes[min(step, len(inner.test_step_sizes) - 1)]
    sizes: dict[str, float | Tensor] = {}
    for name in adapting(policy, inner):
        key = step_size_key(name, inner)
        sizes[name] = size if key is None else stack[key]
    return sizes


def step_size_key(name: str, inner: InnerConfig) -> str | None:
    """Name in theta of the step size of parameter ``name``; ``None`` if it is not learned."""
    if inner.learned_step_size == "none":
        return None
    return STEP_SIZE if inner.learned_step_size == "scalar" else f"{STEP_SIZE}/{name}"


def with_context(policy: Policy, stack: Params) -> dict[str, Tensor]:
    """Add the initial context of a context policy (CAVIA) to ``stack``, unless it has one."""
    num_tasks = next(iter(stack.values())).shape[0]
    return {**policy.initial_context(num_tasks), **stack}


def inner_step(
    policy: Policy, stack: Params, support: Episodes, inner: InnerConfig, step: int
) -> dict[str, Tensor]:
    """The stack after one inner step, as a value, computed in blocks of tasks.

    If a task's step overflows, its parameters are not finite.
    :meth:`maml_rl.learners.maml.objective.MetaObjective.inner_step` is the same step as a function
    of theta.

    Args:
        policy: the architecture.
        stack: parameters, each (T, ...).
        support: episodes of T tasks, played with the stack, with advantages.
        inner: how to adapt.
        step: number of inner steps so far.
    """
    loss = policy_gradient_loss(policy, inner.surrogate)

    def of_block(start: int, stop: int) -> dict[str, Tensor]:
        block = {name: value[start:stop] for name, value in stack.items()}
        size = step_sizes(policy, inner, block, step)
        # No second derivatives: the result is a value.
        return adapt(block, [support.tasks(start, stop)], loss, step_size=size, first_order=True)

    blocks = map_blocks(
        of_block, block_ends(support.num_tasks, tasks_per_block(support.mask.device))
    )
    return {name: torch.cat([block[name] for block in blocks]) for name in stack}
