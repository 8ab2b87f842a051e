"""A recurrent cell and the encoders of its inputs, as functions of parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from maml_rl.policies.action_head import ActionHead
from maml_rl.policies.parameters import Params
from maml_rl.policies.recurrent.layers import add_layer, layer
from maml_rl.settings.learners.rl2 import Cell

ENCODING_SIZES = {"observation": 32, "action": 16, "reward": 16}
"""Outputs of the encoder of each input of the cell; those of the reward include the end of an
episode. The sizes are those of VariBAD's RL² (Zintgraf et al. 2020)."""

_NUM_GATES: dict[Cell, int] = {"gru": 3, "lstm": 4}


@dataclass(frozen=True, kw_only=True)
class RecurrentCell:
    """An architecture; its parameters are values that are passed in."""

    observation_size: int
    """Number of entries of an observation."""
    action_head: ActionHead
    """Encodes actions as vectors."""
    cell: Cell
    hidden_size: int
    """Size of the cell's output."""

    @property
    def memory_size(self) -> int:
        """Size of the cell's state: its output, and for an LSTM its cell state."""
        return self.hidden_size * (2 if self.cell == "lstm" else 1)

    @property
    def previous_size(self) -> int:
        """Size of what came before a step: the action, the reward, the end of an episode."""
        return self.action_head.size + 2

    def initial_parameters(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Draw initial parameters, float32.

        Weights of the encoders are Glorot-uniform and biases zero; those of the cell are uniform in
        ±1/√hidden_size, as in torch.

        Args:
            rng: stream of the initial weights.
        """
        theta: dict[str, Tensor] = {}
        sizes = {
            "observation": self.observation_size,
            "action": self.action_head.size,
            "reward": 2,
        }
        for name, fan_in in sizes.items():
            add_layer(theta, f"{name}_encoder", fan_in, ENCODING_SIZES[name], rng)
        # The cell, with the names and shapes of torch.
        bound = 1 / math.sqrt(self.hidden_size)
        rows = _NUM_GATES[self.cell] * self.hidden_size
        for name, shape in {
            "weight_ih": (rows, sum(ENCODING_SIZES.values())),
            "weight_hh": (rows, self.hidden_size),
            "bias_ih": (rows,),
            "bias_hh": (rows,),
        }.items():
            values = rng.uniform(-bound, bound, shape).astype(np.float32)
            theta[f"cell_{name}"] = torch.from_numpy(values)
        return theta

    def encode(self, theta: Params, observations: Tensor, previous: Tensor) -> Tensor:
        """Return the inputs of the cell.

        Args:
            theta: parameters.
            observations: normalised, (..., observation_size).
            previous: the action before, as a vector, the reward, and 1 if it ended an episode,
                (..., previous_size); zeros at the start of a trial.

        Returns:
            (..., 64).
        """
        actions, rewards = previous.split((self.action_head.size, 2), dim=-1)
        inputs = {"observation": observations, "action": actions, "reward": rewards}
        return torch.cat(
            [
                torch.relu(layer(theta, f"{name}_encoder", values))
                for name, values in inputs.items()
            ],
            dim=-1,
        )

    def step(self, theta: Params, memory: Tensor, inputs: Tensor) -> Tensor:
        """Return the memory after one step, (N, memory_size).

        Args:
            theta: parameters.
            memory: before it, (N, memory_size); zeros at the start of a trial.
            inputs: of :meth:`encode`, (N, 64).
        """
        weights = _cell_weights(theta)
        if self.cell == "gru":
            return torch.gru_cell(inputs, memory, *weights)
        output, cell_state = memory.split(self.hidden_size, dim=-1)
        return torch.cat(torch.lstm_cell(inputs, (output, cell_state), *weights), dim=-1)

    def unroll(self, theta: Params, memory: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Run the cell over whole trials, in one call of torch's recurrent network.

        Args:
            theta: parameters.
            memory: before the first step, (N, memory_size).
            inputs: of :meth:`encode`, (N, L, 64).

        Returns:
            The cell's outputs, (N, L, hidden_size), and the memory after the last step,
            (N, memory_size).
        """
        # Biases; one layer, no dropout; in training mode, without which cuDNN has no gradient; one
        # direction; axis 0 is that of the trials.
        options = (True, 1, 0.0, True, False, True)
        weights = _cell_weights(theta)
        if inputs.is_cuda:
            weights = in_one_buffer(weights)
        if self.cell == "gru":
            outputs, last = torch.gru(inputs, memory[None], weights, *options)
            return outputs, last[0]
        start = [part.contiguous() for part in memory[None].split(self.hidden_size, dim=-1)]
        outputs, output, cell_state = torch.lstm(inputs, start, weights, *options)
        return outputs, torch.cat([output, cell_state], dim=-1)[0]

    def outputs_of(self, memory: Tensor) -> Tensor:
        """The cell's output, which is the first part of its memory (..., memory_size)."""
        return memory[..., : self.hidden_size]


def _cell_weights(theta: Params) -> list[Tensor]:
    """The cell's weights in the order of torch's recurrent networks."""
    return [theta[f"cell_{name}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]


def in_one_buffer(weights: Sequence[Tensor]) -> list[Tensor]:
    """Return the weights as consecutive parts of one tensor, without which cuDNN copies them."""
    buffer = torch.cat([weight.flatten() for weight in weights])
    parts = buffer.split([weight.numel() for weight in weights])
    return [part.view_as(weight) for part, weight in zip(parts, weights, strict=True)]
