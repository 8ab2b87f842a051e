"""What torch is slow at on a processor, done otherwise, with gradients of every order."""

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
