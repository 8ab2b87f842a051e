"""A recurrent cell and the encoders of its inputs, as functions of parameters."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from maml_rl.policies.action_head import ActionHead
from maml_rl.policies.parameters import Params
from maml_rl.policies.recurrent.gru import gru_on_cpu
from maml_rl.policies.recurrent.layers import add_layer, layer
from maml_rl.settings.learners.rl2 import Cell

ENCODING_SIZES = {"observation": 32, "action": 16, "reward": 16}
"""Outputs of the encoder of each input of the cell; those of the reward include the end of an
episode. The sizes are those of VariBAD's RL² (Zintgraf et al. 2020)."""

_NUM_GATES: dict[Cell, int] = {"gru": 3, "lstm": 4}
_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
"""Names of a cell's weights, in the order of torch's recurrent networks."""
_OPTIONS = (True, 1, 0.0, True, False, True)
"""Of torch's recurrent networks: biases; one layer, no dropout; in training mode, without which
cuDNN has no gradient; one direction; axis 0 is that of the sequences."""


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
        add_cell(theta, "cell", self.cell, sum(ENCODING_SIZES.values()), self.hidden_size, rng)
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
        weights = _weights(theta, "cell")
        if self.cell == "gru":
            return torch.gru_cell(inputs, memory, *weights)
        output, cell_state = memory.split(self.hidden_size, dim=-1)
        return torch.cat(torch.lstm_cell(inputs, (output, cell_state), *weights), dim=-1)

    def unroll(self, theta: Params, memory: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Run the cell over whole trials.

        Args:
            theta: parameters.
            memory: before the first step, (N, memory_size).
            inputs: of :meth:`encode`, (N, L, 64).

        Returns:
            The cell's outputs, (N, L, hidden_size), and the memory after the last step,
            (N, memory_size).
        """
        if self.cell == "gru":
            return run_gru(theta, "cell", memory, inputs)
        start = [part.contiguous() for part in memory[None].split(self.hidden_size, dim=-1)]
        weights = _weights_of_sequences(theta, "cell")
        outputs, output, cell_state = torch.lstm(inputs, start, weights, *_OPTIONS)
        return outputs, torch.cat([output, cell_state], dim=-1)[0]

    def outputs_of(self, memory: Tensor) -> Tensor:
        """The cell's output, which is the first part of its memory (..., memory_size)."""
        return memory[..., : self.hidden_size]


def add_cell(
    theta: dict[str, Tensor],
    name: str,
    cell: Cell,
    num_inputs: int,
    hidden_size: int,
    rng: np.random.Generator,
) -> None:
    """Add the weights of a recurrent cell, uniform in ±1/√hidden_size, with the shapes of torch.

    Args:
        theta: to which they are added.
        name: prefix of their names.
        cell: which cell.
        num_inputs: entries of its input.
        hidden_size: entries of its output.
        rng: stream of the initial weights.
    """
    bound = 1 / math.sqrt(hidden_size)
    rows = _NUM_GATES[cell] * hidden_size
    shapes = ((rows, num_inputs), (rows, hidden_size), (rows,), (rows,))
    for weight, shape in zip(_WEIGHTS, shapes, strict=True):
        values = rng.uniform(-bound, bound, shape).astype(np.float32)
        theta[f"{name}_{weight}"] = torch.from_numpy(values)


def run_gru(theta: Params, name: str, memory: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Run a GRU over N sequences; on a GPU in one call of torch.

    Args:
        theta: parameters.
        name: prefix of the GRU's.
        memory: before the first step, (N, hidden_size).
        inputs: (N, L, num_inputs).

    Returns:
        The outputs, (N, L, hidden_size), and the memory after the last step, (N, hidden_size).
    """
    if inputs.device.type == "cpu":
        return gru_on_cpu(inputs, memory, *_weights(theta, name))
    weights = _weights_of_sequences(theta, name)
    outputs, last = torch.gru(inputs, memory[None], weights, *_OPTIONS)
    return outputs, last[0]


def _weights(theta: Params, name: str) -> list[Tensor]:
    """The weights of a cell in the order of torch's recurrent networks."""
    return [theta[f"{name}_{weight}"] for weight in _WEIGHTS]


def _weights_of_sequences(theta: Params, name: str) -> list[Tensor]:
    """The same; on a GPU as consecutive parts of one tensor, without which cuDNN copies them."""
    weights = _weights(theta, name)
    if not weights[0].is_cuda:
        return weights
    buffer = torch.cat([weight.flatten() for weight in weights])
    parts = buffer.split([weight.numel() for weight in weights])
    return [part.view_as(weight) for part, weight in zip(parts, weights, strict=True)]
