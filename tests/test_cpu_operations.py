"""Operations done otherwise than torch does them: the same values, and gradients of every order."""

from __future__ import annotations

import pytest
import torch

from maml_rl.cpu_operations import affine, narrow_product, tanh

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
def test_gradients_of_a_product(shape: tuple[int, int, int]) -> None:
    n, k, m = shape
    a, b = random(2, n, k), random(2, k, m)
    assert torch.autograd.gradcheck(narrow_product, (a, b))
    assert torch.autograd.gradgradcheck(narrow_product, (a, b))


@pytest.mark.parametrize("constant", [0, 1])
def test_only_one_factor_needs_a_gradient(constant: int) -> None:
    factors = [random(2, 4, 5), random(2, 5, 3)]
    factors[constant] = factors[constant].detach()
    moving = factors[1 - constant]
    (gradient,) = torch.autograd.grad(narrow_product(*factors).square().sum(), moving)
    (expected,) = torch.autograd.grad((factors[0] @ factors[1]).square().sum(), moving)
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
