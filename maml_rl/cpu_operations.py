"""Operations of the MLP that torch is slow at on a processor, done otherwise, with gradients of every order."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Tanh(torch.autograd.Function):
    """tanh x as 2 σ(2x) − 1, which is right to 2e-7: torch's own takes four times as long on a CPU."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        """The value."""
        return (2 * x).sigmoid_().mul_(2).sub_(1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        """Keep what the gradient needs."""
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """The gradient, which can be differentiated again."""
        (y,) = ctx.saved_tensors
        return torch.ops.aten.tanh_backward(gradients[0], y)


def tanh(x: Tensor) -> Tensor:
    """As :class:`Tanh`, without what a gradient would need where none is wanted."""
    return Tanh.apply(x) if torch.is_grad_enabled() else Tanh.forward(x)  # type: ignore[no-untyped-call]


_NARROW = 16
"""Columns from which a matrix product is as fast as it is narrow."""


class NarrowProduct(torch.autograd.Function):
    """A stack's products a @ b, b narrow, and those of its gradients, each by way of its transpose where it is narrow.

    A processor's matrix routines take as long for 6 columns as for 64, but gladly have 6 rows.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, b: Tensor) -> Tensor:
        """The value, (T, N, M) from (T, N, K) and (T, K, M)."""
        if b.shape[-1] >= _NARROW:
            return torch.bmm(a, b)
        return torch.bmm(b.mT, a.mT).mT.contiguous()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        """Keep what the gradient needs."""
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """The gradients, which can be differentiated again."""
        (a, b), (gradient,) = ctx.saved_tensors, gradients
        return (
            narrow_product(gradient, b.mT) if ctx.needs_input_grad[0] else None,
            narrow_product(a.mT, gradient) if ctx.needs_input_grad[1] else None,
        )


def narrow_product(a: Tensor, b: Tensor) -> Tensor:
    """As :class:`NarrowProduct`, without what a gradient would need where none is wanted."""
    return NarrowProduct.apply(a, b) if torch.is_grad_enabled() else NarrowProduct.forward(a, b)  # type: ignore[no-untyped-call]


def affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The sum x @ weight + bias of a stack: (T, N, K), (T, K, M) and (T, 1, M) make (T, N, M)."""
    if x.device.type == "cpu" and weight.shape[-1] < _NARROW:
        return narrow_product(x, weight) + bias
    return torch.baddbmm(bias, x, weight)
