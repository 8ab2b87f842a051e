"""Operations done otherwise than torch does them: the same values, and gradients of every order."""

from __future__ import annotations

import pytest
import torch

from maml_rl.cpu_operations import affine, tanh

SHAPES = [(5, 7, 3), (20, 7, 3), (5, 20, 3), (5, 7, 20), (20, 20, 20), (1, 1, 1)]
"""N, K, M on both sides of what is narrow."""


def random(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize("shape", SHAPES)
def test_affine_is_the_product_and_the_bias(shape: tuple[int, int, int]) -> None:
    n, k, m = shape
    x, weight, bias = random(2, n, k), random(2, k, m), random(2, 1, m)
    expected = torch.einsum("tnk,tkm->tnm", x, weight) + bias
    torch.testing.assert_close(affine(x, weight, bias), expected, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        value = affine(x, weight, bias)
    torch.testing.assert_close(value, expected.detach(), rtol=1e-12, atol=1e-12)
    assert value.is_contiguous()


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_of_affine(shape: tuple[int, int, int]) -> None:
    n, k, m = shape
    inputs = random(2, n, k), random(2, k, m), random(2, 1, m)
    assert torch.autograd.gradcheck(affine, inputs)
    assert torch.autograd.gradgradcheck(affine, inputs)


@pytest.mark.parametrize("moving", [0, 1, 2])
def test_only_one_input_needs_a_gradient(moving: int) -> None:
    inputs = [random(2, 4, 5), random(2, 5, 3), random(2, 1, 3)]
    inputs = [value if i == moving else value.detach() for i, value in enumerate(inputs)]
    (gradient,) = torch.autograd.grad(affine(*inputs).square().sum(), inputs[moving])
    x, weight, bias = inputs
    (expected,) = torch.autograd.grad((x @ weight + bias).square().sum(), inputs[moving])
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12)


def test_tanh() -> None:
    x = random(3, 4)
    torch.testing.assert_close(tanh(x), torch.tanh(x), rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(tanh, (x,))
    assert torch.autograd.gradgradcheck(tanh, (x,))
    before = x.detach().clone()
    with torch.no_grad():
        value = tanh(x)
    torch.testing.assert_close(value, torch.tanh(before), rtol=1e-12, atol=1e-12)
    assert torch.equal(x.detach(), before)
