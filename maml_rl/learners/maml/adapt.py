"""Inner steps of gradient descent for a stack of tasks (Finn et al. 2017, algorithm 1, line 6)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from maml_rl.policies.parameters import Params

Batch = TypeVar("Batch")
Auxiliary = TypeVar("Auxiliary")

StepSize = float | Mapping[str, float | Tensor]
"""One for all parameters, or one for each parameter that adapts.

A tensor has one step size per task (T, 1), or one per task and entry (T, *shape).
"""


def adapt(
    theta: Params,
    supports: Sequence[Batch],
    loss: Callable[[Params, Batch], Tensor],
    *,
    step_size: StepSize | Sequence[StepSize],
    first_order: bool,
) -> dict[str, Tensor]:
    """theta_prime = theta − α ∇L(theta), once for each support batch.

    If theta or a step size requires gradients, theta_prime can be differentiated with respect to
    it; with ``first_order``, the inner gradients are then constants. Otherwise theta_prime is a
    value without a graph.

    Args:
        theta: a stack of parameters, each (T, ...).
        supports: a batch per inner step; batch k was sampled at the parameters that step k starts
            from.
        loss: the losses (T,) of a stack on a batch.
        step_size: α, the same for every inner step or one for each. A mapping names the parameters
            that adapt; the others stay. Step sizes that are tensors can be differentiated.
        first_order: treat the inner gradients as constants.

    Returns:
        theta_prime, a stack.
    """
    steps = list(step_size) if isinstance(step_size, Sequence) else [step_size] * len(supports)
    theta_prime = dict(theta)
    for support, size in zip(supports, steps, strict=True):
        # gradient_step expects a second result of the loss; there is none here.
        def of_stack(stack: Params, support: Batch = support) -> tuple[Tensor, None]:
            return loss(stack, support), None

        theta_prime, _ = gradient_step(
            theta_prime, of_stack, step_size=size, first_order=first_order
        )
    return theta_prime


def gradient_step(
    theta: Params,
    loss: Callable[[Params], tuple[Tensor, Auxiliary]],
    *,
    step_size: StepSize,
    first_order: bool,
) -> tuple[dict[str, Tensor], Auxiliary]:
    """One step theta − α ∇L(theta), as a function of theta or as a value (see :func:`adapt`).

    Args:
        theta: a stack of parameters, each (T, ...).
        loss: the losses (T,) of a stack, and a result that is passed on.
        step_size: α.
        first_order: treat the gradient as a constant.

    Returns:
        theta_prime, and the second result of ``loss`` at theta.
    """
    alpha = step_size if isinstance(step_size, Mapping) else dict.fromkeys(theta, step_size)
    inputs = [*theta.values(), *(a for a in alpha.values() if isinstance(a, Tensor))]
    is_function = any(value.requires_grad for value in inputs)
    with torch.enable_grad():
        # Parameters that do not require gradients become leaves: this step needs theirs too.
        start = {
            name: theta[name] if theta[name].requires_grad else _leaf(theta[name]) for name in alpha
        }
        losses, auxiliary = loss({**theta, **start})
        gradients = torch.autograd.grad(
            losses.sum(),
            list(start.values()),
            create_graph=is_function and not first_order,
            retain_graph=is_function,  # the outer objective differentiates the same forward pass
        )
    # A step of values needs no graph beyond its gradient.
    with torch.set_grad_enabled(is_function):
        return {**theta, **_descended(start, alpha, gradients)}, auxiliary


def _descended(
    start: Params, alpha: Mapping[str, float | Tensor], gradients: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Each parameter minus α times its gradient."""
    return {
        name: value - along(alpha[name], value) * gradient
        for (name, value), gradient in zip(start.items(), gradients, strict=True)
    }


def along(size: float | Tensor, value: Tensor) -> float | Tensor:
    """Reshape a step size (T, 1) to (T, 1, ..., 1), so that it multiplies ``value`` (T, ...)."""
    if isinstance(size, Tensor) and size.shape != value.shape:
        return size.reshape(-1, *[1] * (value.dim() - 1))
    return size


def _leaf(value: Tensor) -> Tensor:
    """The same value as a leaf of a new graph: detached, so that gradients stop here."""
    return value.detach().requires_grad_()
