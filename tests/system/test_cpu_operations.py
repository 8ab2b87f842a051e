"""What is done otherwise than torch does it: the same values, and gradients of every order."""

from __future__ import annotations

import math

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from maml_rl.system.cpu_operations import tanh_


def random(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


def tanh(x: torch.Tensor) -> torch.Tensor:
    return tanh_(x.clone())


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 3e-7), (torch.float64, 1e-15)])
def test_tanh_is_right_to_rounding(dtype: torch.dtype, rtol: float) -> None:
    x = torch.tensor([0.0, 1e-30, 1e-4, 0.5, 1.0, 3.0, 20.0, 1e30, math.inf, math.nan], dtype=dtype)
    x = torch.cat([x, -x])
    expected = torch.tensor([math.tanh(value) for value in x.tolist()], dtype=torch.float64)
    torch.testing.assert_close(tanh_(x).double(), expected, rtol=rtol, atol=0, equal_nan=True)


def test_tanh() -> None:
    x = random(3, 4)
    torch.testing.assert_close(tanh(x), torch.tanh(x), rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(tanh, (x,))
    assert torch.autograd.gradgradcheck(tanh, (x,))
    assert torch.equal(tanh(x.mT), tanh(x).mT)


def test_tanh_takes_its_place() -> None:
    x = random(3, 4)
    expected = torch.tanh(x).detach()
    for values in (x.detach().clone(), x.clone()):  # without and with a graph
        assert tanh_(values) is values
        torch.testing.assert_close(values.detach(), expected, rtol=1e-12, atol=1e-12)
    with pytest.raises(RuntimeError, match="leaf"):
        tanh_(x)


def test_tanh_under_transformations() -> None:
    x = random(3, 4).detach()
    assert torch.equal(torch.vmap(tanh, in_dims=1)(x), tanh(x).mT)
    slopes = torch.vmap(torch.vmap(torch.func.grad(tanh)), in_dims=1)(x)
    torch.testing.assert_close(slopes, (1 - torch.tanh(x) ** 2).mT, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        assert torch.equal(torch.vmap(tanh)(x), tanh(x))
    direction = random(3, 4).detach() + 1
    value, moved = torch.func.jvp(tanh, (x,), (direction,))
    torch.testing.assert_close(value, torch.tanh(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(moved, direction * (1 - torch.tanh(x) ** 2), rtol=1e-12, atol=1e-12)


def test_tanh_where_numpy_has_none() -> None:
    x = torch.linspace(-2, 2, 5)
    short = x.bfloat16().requires_grad_()
    values = short.clone()
    assert tanh_(values) is values
    torch.testing.assert_close(values, torch.tanh(short))
    torch.testing.assert_close(
        *(torch.autograd.grad(y.sum(), short)[0] for y in (values, torch.tanh(short)))
    )
    assert tanh(x.to("meta")).shape == x.shape

    class Layer(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return tanh(x)

    for graph in (
        torch.export.export(Layer(), (x,)).module(),
        torch.jit.trace(Layer(), (x,)),
        make_fx(Layer())(x),
    ):
        torch.testing.assert_close(graph(x + 1), torch.tanh(x + 1))
