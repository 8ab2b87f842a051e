"""A recurrent policy and its value network, as functions of parameters (RL², Duan et al. 2016).

At every step the recurrent cell reads the observation, and the action, the reward and the end of an
episode that came before it. Policy and value read the cell's output and the observation.

The axes are (trial, time, feature). N is the number of trials, L their length.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from maml_rl.policies.action_head import ActionHead, bounded_log_std
from maml_rl.policies.distributions import Distribution
from maml_rl.policies.mlp import ACTIVATIONS
from maml_rl.policies.parameters import Params
from maml_rl.policies.recurrent.hypernetwork import generated_layer, initial_hypernetwork
from maml_rl.settings.learners.rl2 import Cell
from maml_rl.settings.policy import Nonlinearity

ENCODING_SIZES = {"observation": 32, "action": 16, "reward": 16}
"""Outputs of the encoder of each input of the cell; those of the reward include the end of an
episode. The sizes are those of VariBAD's RL² (Zintgraf et al. 2020)."""

_NUM_GATES: dict[Cell, int] = {"gru": 3, "lstm": 4}


@dataclass(frozen=True, kw_only=True)
class RecurrentPolicy:
    """An architecture; its parameters are values that are passed in.

    Encoders, then the cell, then two multilayer perceptrons: ``policy`` and ``value``. The
    Gaussian's log standard deviation does not depend on the state.
    """

    observation_size: int
    """Number of entries of an observation."""
    action_head: ActionHead
    """From the outputs of ``policy`` to the distribution of actions."""
    cell: Cell
    hidden_size: int
    """Size of the cell's output."""
    hidden_sizes: tuple[int, ...]
    """Width of each hidden layer of ``policy`` and ``value``."""
    nonlinearity: Nonlinearity
    """Between the layers of ``policy`` and ``value``."""
    init_std: float
    """Initial standard deviation of the Gaussian."""
    generated: tuple[str, ...] = ()
    """Which of ``policy`` and ``value`` have weights that a hypernetwork generates."""
    latent_size: int = 0
    """Size of the hypernetwork's input."""
    task_size: int = 0
    """Entries of a task that ``value`` reads; 0 for none."""

    @property
    def memory_size(self) -> int:
        """Size of the cell's state: its output, and for an LSTM its cell state."""
        return self.hidden_size * (2 if self.cell == "lstm" else 1)

    @property
    def previous_size(self) -> int:
        """Size of what came before a step: the action, the reward, the end of an episode."""
        return self.action_head.size + 2

    def initial_theta(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Draw initial parameters, float32.

        Weights are Glorot-uniform and biases zero; those of the cell are uniform in
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
            _add_layer(theta, f"{name}_encoder", fan_in, ENCODING_SIZES[name], rng)
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
        # Policy and value.
        for name, num_outputs in {"policy": self.action_head.size, "value": 1}.items():
            self._add_network(theta, name, num_outputs, rng)
        if not self.action_head.discrete:
            theta["log_std"] = torch.full((self.action_head.size,), math.log(self.init_std))
        return theta

    def _add_network(
        self, theta: dict[str, Tensor], name: str, num_outputs: int, rng: np.random.Generator
    ) -> None:
        """Add the parameters of ``policy`` or ``value``."""
        is_generated = name in self.generated
        num_inputs = self.observation_size + (self.task_size if name == "value" else 0)
        if is_generated:
            _add_layer(theta, f"{name}_latent", self.hidden_size, self.latent_size, rng)
        else:
            num_inputs += self.hidden_size
        sizes = [num_inputs, *self.hidden_sizes, num_outputs]
        for i in range(len(sizes) - 1):
            _add_layer(theta, f"{name}_{i}", sizes[i], sizes[i + 1], rng)
            if is_generated:
                hyper = initial_hypernetwork(self.latent_size, sizes[i], sizes[i + 1])
                theta[f"{name}_{i}_hypernetwork"] = hyper

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
                torch.relu(_layer(theta, f"{name}_encoder", values))
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

    def distribution(self, theta: Params, outputs: Tensor, observations: Tensor) -> Distribution:
        """Return action distributions, with the leading axes (N, L).

        Args:
            theta: parameters.
            outputs: of the cell, (N, L, hidden_size).
            observations: normalised, (N, L, observation_size).
        """
        values = self.means_or_logits(theta, outputs, observations)
        if self.action_head.discrete:
            return self.action_head.distribution(values, None)
        log_std = bounded_log_std(theta["log_std"][None]).expand(len(values), -1, -1)
        return self.action_head.distribution(values, log_std)

    def means_or_logits(self, theta: Params, outputs: Tensor, observations: Tensor) -> Tensor:
        """Return the parameters of action distributions that depend on the state, (..., size).

        Args:
            theta: parameters.
            outputs: of the cell, (..., hidden_size).
            observations: normalised, (..., observation_size).
        """
        return self._network(theta, "policy", outputs, observations)

    def values(
        self, theta: Params, outputs: Tensor, observations: Tensor, tasks: Tensor | None
    ) -> Tensor:
        """Return values, (N, L).

        Args:
            theta: parameters.
            outputs: of the cell, (N, L, hidden_size).
            observations: normalised, (N, L, observation_size).
            tasks: (N, task_size); ``None`` if the value network does not observe them.
        """
        inputs = observations
        if tasks is not None:
            tasks = tasks[:, None].expand(-1, observations.shape[1], -1)
            inputs = torch.cat([observations, tasks], dim=-1)
        return self._network(theta, "value", outputs, inputs)[..., 0]

    def _network(self, theta: Params, name: str, outputs: Tensor, inputs: Tensor) -> Tensor:
        """Apply ``policy`` or ``value``."""
        is_generated = name in self.generated
        latent = _layer(theta, f"{name}_latent", outputs) if is_generated else None
        x = inputs if is_generated else torch.cat([outputs, inputs], dim=-1)
        for i in range(len(self.hidden_sizes) + 1):
            x = ACTIVATIONS[self.nonlinearity]()(x) if i > 0 else x
            shared = _layer(theta, f"{name}_{i}", x)
            if latent is None:
                x = shared
            else:
                x = shared + generated_layer(theta[f"{name}_{i}_hypernetwork"], latent, x)
        return x


def _cell_weights(theta: Params) -> list[Tensor]:
    """The cell's weights in the order of torch's recurrent networks."""
    return [theta[f"cell_{name}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]


def in_one_buffer(weights: Sequence[Tensor]) -> list[Tensor]:
    """Return the weights as consecutive parts of one tensor, without which cuDNN copies them."""
    buffer = torch.cat([weight.flatten() for weight in weights])
    parts = buffer.split([weight.numel() for weight in weights])
    return [part.view_as(weight) for part, weight in zip(parts, weights, strict=True)]


def _add_layer(
    theta: dict[str, Tensor], name: str, fan_in: int, fan_out: int, rng: np.random.Generator
) -> None:
    """Add a linear layer: a Glorot-uniform weight (fan_in, fan_out), and a bias of zeros."""
    bound = math.sqrt(6 / (fan_in + fan_out))
    values = rng.uniform(-bound, bound, (fan_in, fan_out)).astype(np.float32)
    theta[f"{name}_weight"] = torch.from_numpy(values)
    theta[f"{name}_bias"] = torch.zeros(fan_out)


def _layer(theta: Params, name: str, x: Tensor) -> Tensor:
    """Apply a linear layer to x (..., fan_in)."""
    return torch.nn.functional.linear(x, theta[f"{name}_weight"].T, theta[f"{name}_bias"])
