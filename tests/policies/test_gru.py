"""The GRU over sequences on a CPU: torch's own, and finite differences."""

from __future__ import annotations

import pytest
import torch
from helpers.scripts import load_script
from torch import Tensor

from maml_rl.policies.recurrent.gru import gru_on_cpu

gru_of_torch = load_script("benchmarks/gru.py").gru_of_torch


def make_arguments(
    num_sequences: int = 3, length: int = 4, num_inputs: int = 2, size: int = 5
) -> list[Tensor]:
    """Inputs, memory and weights, float64, that require gradients."""
    generator = torch.Generator().manual_seed(0)
    shapes = [
        (num_sequences, length, num_inputs),
        (num_sequences, size),
        (3 * size, num_inputs),
        (3 * size, size),
        (3 * size,),
        (3 * size,),
    ]
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        for shape in shapes
    ]


@pytest.mark.parametrize("length", [1, 6])
@pytest.mark.parametrize("used", [(True, True), (True, False), (False, True)])
def test_values_and_gradients_are_those_of_torch(length: int, used: tuple[bool, bool]) -> None:
    """With a loss of the outputs, of the last memory, and of both."""
    arguments = make_arguments(length=length)
    results = []
    for gru in (gru_on_cpu, gru_of_torch):
        outputs, last = gru(*arguments)
        factors = torch.linspace(-1, 2, outputs.numel(), dtype=torch.float64).view_as(outputs)
        loss = used[0] * (factors * outputs).sum() + used[1] * (last**2).sum()
        results.append([outputs, last, *torch.autograd.grad(loss, arguments)])
    for own, expected in zip(*results, strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-11, atol=1e-12)


def test_gradients_are_those_of_finite_differences() -> None:
    assert torch.autograd.gradcheck(gru_on_cpu, make_arguments())


def test_a_memory_that_is_passed_on_continues_the_sequence() -> None:
    inputs, memory, *weights = make_arguments()
    outputs, last = gru_on_cpu(inputs, memory, *weights)
    first, memory = gru_on_cpu(inputs[:, :1], memory, *weights)
    second, memory = gru_on_cpu(inputs[:, 1:], memory, *weights)
    torch.testing.assert_close(torch.cat([first, second], dim=1), outputs)
    torch.testing.assert_close(memory, last)


def test_arguments_and_results_stay_as_they_are() -> None:
    """Nothing is changed in place that the caller can see, nor by a second backward pass."""
    arguments = make_arguments()
    before = [argument.detach().clone() for argument in arguments]
    outputs, last = gru_on_cpu(*arguments)
    kept = outputs.detach().clone()
    loss = outputs.sum() + last.sum()
    first = torch.autograd.grad(loss, arguments, retain_graph=True)
    second = torch.autograd.grad(loss, arguments)
    assert outputs.equal(kept)
    assert all(map(torch.equal, arguments, before))
    assert all(map(torch.equal, first, second))


def test_a_second_derivative_is_refused() -> None:
    """Else an outer gradient through an update of the memory would lack terms without a word."""
    arguments = make_arguments()
    outputs, _ = gru_on_cpu(*arguments)
    (gradient,) = torch.autograd.grad((outputs**2).sum(), arguments[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
