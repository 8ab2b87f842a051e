"""A recurrent policy and its value network, as functions of parameters (RL², Duan et al. 2016).

At every step the recurrent cell reads the observation, and the action, the reward and the end of an
episode that came before it. Policy and value read the cell's output and the observation.

The axes are (trial, time, feature). N is the number of trials, L their length.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from maml_rl.policies.distributions import Distribution
from maml_rl.policies.mlp import ACTIVATIONS
from maml_rl.policies.parameters import Params
from maml_rl.policies.recurrent.cell import RecurrentCell
from maml_rl.policies.recurrent.hypernetwork import generated_layer, initial_hypernetwork
from maml_rl.policies.recurrent.layers import add_layer, layer
from maml_rl.policies.recurrent.memory import action_distribution, outputs_along_trials
from maml_rl.settings.policy import Nonlinearity


@dataclass(frozen=True, kw_only=True)
class RecurrentPolicy(RecurrentCell):
    """An architecture; its parameters are values that are passed in.

    Encoders, then the cell, then two multilayer perceptrons: ``policy`` and ``value``. The
    Gaussian's log standard deviation does not depend on the state.
    """

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

    def initial_parameters(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Draw initial parameters, float32, of the cell first.

        Weights are Glorot-uniform and biases zero; those of the cell are uniform in
        ±1/√hidden_size, as in torch.

        Args:
            rng: stream of the initial weights.
        """
        theta = super().initial_parameters(rng)
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
            add_layer(theta, f"{name}_latent", self.hidden_size, self.latent_size, rng)
        else:
            num_inputs += self.hidden_size
        sizes = [num_inputs, *self.hidden_sizes, num_outputs]
        for i in range(len(sizes) - 1):
            add_layer(theta, f"{name}_{i}", sizes[i], sizes[i + 1], rng)
            if is_generated:
                hyper = initial_hypernetwork(self.latent_size, sizes[i], sizes[i + 1])
                theta[f"{name}_{i}_hypernetwork"] = hyper

    def along_trials(
        self,
        theta: Params,
        observations: Tensor,
        previous: Tensor,
        tasks: Tensor | None,
        truncation: int | None,
    ) -> tuple[Distribution, Tensor]:
        """Return the action distributions (N, L) and values (N, L) of whole trials.

        Args:
            theta: parameters.
            observations: normalised, (N, L, observation_size).
            previous: what came before each step, (N, L, previous_size).
            tasks: (N, task_size); ``None`` if the value network does not observe them.
            truncation: steps after which backpropagation through time is cut; ``None`` for never.
        """
        outputs = outputs_along_trials(self, theta, observations, previous, truncation)
        dist = action_distribution(self, theta, outputs, observations)
        return dist, self.values(theta, outputs, observations, tasks)

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
        latent = layer(theta, f"{name}_latent", outputs) if is_generated else None
        x = inputs if is_generated else torch.cat([outputs, inputs], dim=-1)
        activation = ACTIVATIONS[self.nonlinearity]()
        for i in range(len(self.hidden_sizes) + 1):
            x = activation(x) if i > 0 else x
            shared = layer(theta, f"{name}_{i}", x)
            if latent is None:
                x = shared
            else:
                x = shared + generated_layer(theta[f"{name}_{i}_hypernetwork"], latent, x)
        return x
