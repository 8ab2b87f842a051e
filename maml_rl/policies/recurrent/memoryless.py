"""The recurrent policy without its memory, to measure what the memory is good for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from maml_rl.policies.parameters import Params
from maml_rl.policies.recurrent.network import RecurrentPolicy


@dataclass(frozen=True, kw_only=True)
class MemorylessPolicy(RecurrentPolicy):
    """The same networks; but at every step the memory is empty, as at the start of a trial."""

    def encode(self, theta: Params, observations: Tensor, previous: Tensor) -> Tensor:
        """Return the inputs of the cell, as if nothing came before, (..., 64)."""
        return super().encode(theta, observations, torch.zeros_like(previous))

    def step(self, theta: Params, memory: Tensor, inputs: Tensor) -> Tensor:
        """Return the memory after one step from an empty one, (N, memory_size)."""
        return super().step(theta, torch.zeros_like(memory), inputs)

    def unroll(self, theta: Params, memory: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Run the cell from an empty memory at every step.

        Args:
            theta: parameters.
            memory: has no effect, (N, memory_size).
            inputs: of :meth:`encode`, (N, L, 64).

        Returns:
            The cell's outputs, (N, L, hidden_size), and the memory after the last step,
            (N, memory_size).
        """
        after = self.step(
            theta, memory.repeat_interleave(inputs.shape[1], dim=0), inputs.flatten(0, 1)
        ).unflatten(0, inputs.shape[:2])
        return self.outputs_of(after), after[:, -1]
