"""A memory of the last steps, without parameters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from maml_rl.policies.parameters import Params


@dataclass(frozen=True, kw_only=True)
class Window:
    """The inputs of the last W steps, oldest first, and zeros where a trial has had fewer."""

    observation_size: int
    """Number of entries of an observation."""
    previous_size: int
    """Size of what came before a step: the action, the reward, the end of an episode."""
    num_steps: int
    """W, of which the last one is the present step."""

    @property
    def memory_size(self) -> int:
        """Number of entries of W inputs."""
        return self.num_steps * self._input_size

    @property
    def _input_size(self) -> int:
        return self.observation_size + self.previous_size

    def initial_parameters(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Return no parameters."""
        return {}

    def encode(self, theta: Params, observations: Tensor, previous: Tensor) -> Tensor:
        """Return what the memory keeps of a step, (..., observation_size + previous_size)."""
        return torch.cat([observations, previous], dim=-1)

    def step(self, theta: Params, memory: Tensor, inputs: Tensor) -> Tensor:
        """Return the window that ends with the inputs (N, I), (N, memory_size)."""
        return torch.cat([memory[:, self._input_size :], inputs], dim=-1)

    def unroll(self, theta: Params, memory: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the window at each step, (N, L, memory_size), and the last one.

        Args:
            theta: not read.
            memory: before the first step, (N, memory_size).
            inputs: of :meth:`encode`, (N, L, I).
        """
        before = memory.unflatten(-1, (self.num_steps, self._input_size))
        # Windows of W steps, (N, L, I, W), without the one before the first step.
        windows = torch.cat([before[:, 1:], inputs], dim=1).unfold(1, self.num_steps, 1)
        outputs = windows.transpose(2, 3).flatten(2)
        return outputs, outputs[:, -1]

    def outputs_of(self, memory: Tensor) -> Tensor:
        """Return the whole memory."""
        return memory
