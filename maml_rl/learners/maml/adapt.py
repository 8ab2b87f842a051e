"""One inner step of gradient descent, for a stack of tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from maml_rl.learners.maml.inner_step import StepSize
from maml_rl.policies.parameters import Params

Batch = TypeVar("Batch")


def adapt(
    theta: Params,
    supports: Sequence[Batch],
    loss: Callable[[Params, Batch], Tensor],
    *,
    step_size: StepSize | Sequence[StepSize],
    first_order: bool,
) -> dict[str, Tensor]:
    """theta_prime = theta − α ∇L(theta), once for each support batch (equation 1).

    Where theta (or a step size) requires gradients, theta_prime is a function of it: differentiated
    through the inner gradients, or, with ``first_order``, as if they were constant. Otherwise
    theta_prime is a value.

    Args:
        theta: a stack of parameters, each (T, ...).
        supports: a batch per inner step; batch k was sampled at the parameters that step k starts
            from.
        loss: the losses (T,) of a stack on a batch.
        step_size: α, the same for every inner step or one for each. A mapping names the parameters
            that adapt; the others stay. Gradients flow into tensors.
        first_order: leave the inner gradients out of the graph.

    Returns:
        theta_prime, a stack.
    """
    steps = list(step_size) if isinstance(step_size, Sequence) else [step_size] * len(supports)
    learned = [
        a
        for size in steps
        if isinstance(size, Mapping)
        for a in size.values()
        if isinstance(a, Tensor)
    ]
    differentiable = any(value.requires_grad for value in (*theta.values(), *learned))
    theta_prime = dict(theta)
    for support, size in zip(supports, steps, strict=True):
        alpha = size if isinstance(size, Mapping) else dict.fromkeys(theta, size)
        with torch.enable_grad():
            # A value has no graph yet: this step's own, for its gradient.
            start = {name: theta_prime[name] for name in alpha}
            start = {
                name: value
                if differentiable and value.requires_grad
                else value.detach().requires_grad_()
                for name, value in start.items()
            }
            gradients = torch.autograd.grad(
                loss({**theta_prime, **start}, support).sum(),
                list(start.values()),
                create_graph=differentiable and not first_order,
                retain_graph=differentiable,  # for what else follows from the same pass
            )
            theta_prime |= {
                name: value - along(alpha[name], value) * gradient
                for (name, value), gradient in zip(start.items(), gradients, strict=True)
            }
        if not differentiable:  # a value was given, a value is returned
            theta_prime = {name: value.detach() for name, value in theta_prime.items()}
    return theta_prime


def along(size: float | Tensor, value: Tensor) -> float | Tensor:
    """A step size, of which a tensor (T, 1) is one per task, in a shape that multiplies ``value`` (T, ...)."""
    if isinstance(size, Tensor) and size.shape != value.shape:
        return size.reshape(-1, *[1] * (value.dim() - 1))
    return size


def requiring_grad(stack: Params) -> dict[str, Tensor]:
    """The same values as leaves of a new graph: detached, so that gradients stop here."""
    return {name: value.detach().requires_grad_() for name, value in stack.items()}
