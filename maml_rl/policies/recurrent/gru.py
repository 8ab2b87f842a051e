"""A gated recurrent unit over sequences on a CPU, with its gradient.

torch runs a GRU on a CPU as a dozen operations per step, each with a node of its own for
backpropagation. Here a step is six operations, and three in the backward pass: all that does not
depend on the memory is computed for all steps at once. The two loops over time are TorchScript,
which runs without Python's lock, so that several threads can run at once. As plain Python they
would give the same results, only slower.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
_tanh_backward = torch.ops.aten.tanh_backward


def gru_on_cpu(
    inputs: Tensor,
    memory: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor,
    bias_hh: Tensor,
) -> tuple[Tensor, Tensor]:
    """Run a GRU over N sequences of L steps: ``torch.gru`` of one layer, up to rounding.

    r = σ(W_ir x + b_ir + W_hr h + b_hr), z = σ(W_iz x + b_iz + W_hz h + b_hz),
    n = tanh(W_in x + b_in + r (W_hn h + b_hn)), and the next memory is (1 − z) n + z h
    (`torch.nn.GRU`, after Cho et al. 2014).

    Args:
        inputs: x, (N, L, I).
        memory: h before the first step, (N, H).
        weight_ih: W_ir, W_iz, W_in one below the other, (3 H, I).
        weight_hh: W_hr, W_hz, W_hn, (3 H, H).
        bias_ih: b_ir, b_iz, b_in, (3 H,).
        bias_hh: b_hr, b_hz, b_hn, (3 H,).

    Returns:
        The memory after each step, (N, L, H), and after the last one, (N, H). They can be
        differentiated once.
    """
    outputs, last = _GRU.apply(inputs, memory, weight_ih, weight_hh, bias_ih, bias_hh)  # type: ignore[no-untyped-call]
    return outputs, last


class _GRU(torch.autograd.Function):
    """Inside, time is the first axis: (L, N, ...)."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        memory: Tensor,
        weight_ih: Tensor,
        weight_hh: Tensor,
        bias_ih: Tensor,
        bias_hh: Tensor,
    ) -> tuple[Tensor, Tensor]:
        (num_sequences, length, num_inputs), size = inputs.shape, memory.shape[1]
        # What the inputs add to the gates and to the new state, for all steps
        x = inputs.transpose(0, 1).reshape(-1, num_inputs)
        biases = bias_ih[: 2 * size] + bias_hh[: 2 * size]
        gates = torch.addmm(biases, x, weight_ih[: 2 * size].T).view(length, num_sequences, -1)
        new = torch.addmm(bias_ih[2 * size :], x, weight_ih[2 * size :].T).view_as(
            gates[..., :size]
        )
        # Step by step
        from_memory = torch.empty_like(new)  # W_hn h + b_hn
        memories = torch.cat([memory[None], torch.empty_like(new)])
        gates_weight, new_weight = weight_hh.T.split([2 * size, size], dim=1)
        weights = gates_weight.contiguous(), new_weight.contiguous(), bias_hh[2 * size :]
        _run_forwards(memories, gates, new, from_memory, *weights)
        ctx.save_for_backward(x, weight_ih, weight_hh, gates, new, from_memory, memories)
        return memories[1:].transpose(0, 1), memories[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_outputs: Tensor, of_last: Tensor) -> tuple[Tensor, ...]:
        x, weight_ih, weight_hh, gates, new, from_memory, memories = ctx.saved_tensors
        length, num_sequences, size = new.shape
        r, z = gates.split(size, dim=-1)
        # Derivatives of the next memory by W_ir x + ..., W_iz x + ... and W_hn h + b_hn, and by
        # W_in x + ..., for all steps
        by_new = _tanh_backward(1 - z, new)
        local = new.new_empty(length, num_sequences, 3, size)
        _sigmoid_backward(by_new * from_memory, r, grad_input=local[:, :, 0])
        _sigmoid_backward(memories[:-1] - new, z, grad_input=local[:, :, 1])
        torch.mul(by_new, r, out=local[:, :, 2])
        # From the last step to the first: gradients by the memory, and by the terms of the next one
        of_memories = torch.cat([torch.zeros_like(of_last)[None], of_outputs.transpose(0, 1)])
        of_memories[-1] += of_last
        of_terms = torch.empty_like(local)
        _run_backwards(of_memories, of_terms, local, z, weight_hh)
        # Gradients by inputs and weights, for all steps
        of_new = by_new.mul_(of_memories[1:]).flatten(0, 1)
        of_terms = of_terms.view(-1, 3 * size)
        of_gates = of_terms[:, : 2 * size]
        of_x = torch.addmm(of_new @ weight_ih[2 * size :], of_gates, weight_ih[: 2 * size])
        of_sums = of_terms.sum(0)
        return (
            of_x.view(length, num_sequences, -1).transpose(0, 1),
            of_memories[0],
            torch.cat([of_gates.T @ x, of_new.T @ x]),
            of_terms.T @ memories[:-1].flatten(0, 1),
            torch.cat([of_sums[: 2 * size], of_new.sum(0)]),
            of_sums,
        )


def _forwards(
    memories: Tensor,
    gates: Tensor,
    new: Tensor,
    from_memory: Tensor,
    gates_weight: Tensor,
    new_weight: Tensor,
    new_bias: Tensor,
) -> None:
    """Fill the memories after each step; complete gates and new states in place."""
    r, z = gates.chunk(2, dim=-1)
    for t in range(new.shape[0]):
        h, from_h = memories[t], from_memory[t]
        gates[t].addmm_(h, gates_weight).sigmoid_()
        torch.addmm(new_bias, h, new_weight, out=from_h)
        n = new[t].addcmul_(r[t], from_h).tanh_()
        torch.lerp(n, h, z[t], out=memories[t + 1])


def _backwards(
    of_memories: Tensor, of_terms: Tensor, local: Tensor, z: Tensor, weight_hh: Tensor
) -> None:
    """Add to the gradients by each memory those that come from the next; fill ``of_terms``."""
    for i in range(z.shape[0]):
        t = z.shape[0] - 1 - i
        of_next = of_memories[t + 1]
        torch.mul(of_next.unsqueeze(1), local[t], out=of_terms[t])
        of_memories[t].addcmul_(of_next, z[t]).addmm_(of_terms[t].flatten(1), weight_hh)


def _scripted(function: Callable[..., None]) -> Callable[..., None]:
    """Compile a function to TorchScript."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch recommends torch.compile
        return torch.jit.script(function)


_run_forwards, _run_backwards = _scripted(_forwards), _scripted(_backwards)
