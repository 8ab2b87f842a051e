"""What torch is slow at on a processor, done otherwise, with gradients of every order."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode


class Tanh(torch.autograd.Function):
    """tanh x in place of x, by NumPy, which on a processor takes a seventh of torch's time."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        """The value; what NumPy does not have (a GPU's, a type of its own, a stand-in for a graph) is torch's."""
        if type(x) is not Tensor or not x.is_cpu or x.dtype not in (torch.float32, torch.float64):
            return x.tanh_()
        values = x.detach().numpy()
        np.tanh(values, out=values)
        return x

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        """Keep what the gradient needs."""
        ctx.mark_dirty(output)
        ctx.save_for_backward(output)
        ctx.save_for_forward(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """The gradient, which can be differentiated again."""
        (y,) = ctx.saved_tensors
        return torch.ops.aten.tanh_backward(gradients[0], y)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        """The derivative along a direction, in its place as the value is."""
        (y,) = ctx.saved_tensors
        return tangents[0].mul_(1 - y * y)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int], x: Tensor) -> tuple[Tensor, int]:
        """The value under :func:`torch.vmap`: every entry's own, wherever the mapped axis is."""
        return tanh_(x), in_dims[0]


def tanh_(x: Tensor) -> Tensor:
    """As ``x.tanh_()``: the values of ``x``, a result that nothing else needs, become tanh x."""
    is_traced = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    if is_traced or is_in_torch_dispatch_mode():  # what NumPy does would not be seen
        return x.tanh_()
    return Tanh.apply(x)  # type: ignore[no-untyped-call]
