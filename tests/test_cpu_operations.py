"""What is done otherwise than torch does it: the same values, and gradients of every order."""

from __future__ import annotations

import torch

from maml_rl.cpu_operations import tanh


def random(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


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
