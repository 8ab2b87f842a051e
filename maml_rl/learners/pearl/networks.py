"""The actor and the critics of PEARL, as functions of parameters (Haarnoja et al. 2018a)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from maml_rl.policies.parameters import Params
from maml_rl.policies.recurrent.layers import perceptron

_LOG_STD_RANGE = (-20.0, 2.0)
_LAST_BOUND = 3e-3
"""Bound of the initial weights of a last layer: outputs are close to 0 at first."""
NUM_CRITICS = 2


class SquashedGaussian(NamedTuple):
    """a = tanh(u) with u ~ N(mean, exp(log_std)²), of A dimensions."""

    mean: Tensor
    """(..., A)."""
    log_std: Tensor
    """(..., A)."""

    def sample(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return actions (..., A) and their log-probabilities (...).

        log π(a) = Σ_i [log N(u_i) − log(1 − tanh²(u_i))] (Haarnoja et al. 2018a, equation 21). Here
        log(1 − tanh²(u)) = 2 (log 2 − u − softplus(−2u)), which does not overflow.

        Args:
            noise: standard normal, (..., A).
        """
        u = self.mean + torch.exp(self.log_std) * noise
        of_gaussian = -0.5 * noise.square() - self.log_std - 0.5 * math.log(2 * math.pi)
        log_slope = 2 * (math.log(2) - u - torch.nn.functional.softplus(-2 * u))
        return torch.tanh(u), (of_gaussian - log_slope).sum(-1)

    def mode(self) -> Tensor:
        """Return tanh(mean), (..., A)."""
        return torch.tanh(self.mean)


@dataclass(frozen=True, kw_only=True)
class Networks:
    """The architecture of actor and critics; both read z next to the observation."""

    observation_size: int
    """Number of entries of an observation."""
    action_size: int
    """Number of entries of an action."""
    latent_size: int
    """Number of entries of z."""
    hidden_sizes: tuple[int, ...]
    """Width of each hidden layer."""

    def initial_actor(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Draw parameters of the actor."""
        num_inputs = self.observation_size + self.latent_size
        sizes = (num_inputs, *self.hidden_sizes, 2 * self.action_size)
        return initial_perceptron("actor", sizes, rng)

    def initial_critics(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Draw parameters of the two critics, each (2, ...)."""
        num_inputs = self.observation_size + self.action_size + self.latent_size
        return initial_perceptron("critic", (num_inputs, *self.hidden_sizes, 1), rng, NUM_CRITICS)

    def actions(self, theta: Params, observations: Tensor, latents: Tensor) -> SquashedGaussian:
        """Return the distribution of actions in units of half their range, π(a | s, z).

        Args:
            theta: parameters of the actor.
            observations: normalised, (..., observation_size).
            latents: z, (..., latent_size).
        """
        x = torch.cat([observations, latents], dim=-1)
        outputs = perceptron(theta, "actor", len(self.hidden_sizes) + 1, "relu", x)
        mean, log_std = outputs.chunk(2, dim=-1)
        return SquashedGaussian(mean, log_std.clamp(*_LOG_STD_RANGE))

    def values(
        self, critics: Params, observations: Tensor, actions: Tensor, latents: Tensor
    ) -> Tensor:
        """Return Q_1(s, a, z) and Q_2(s, a, z), (2, ...).

        Args:
            critics: parameters, each (2, ...).
            observations: normalised, (..., observation_size).
            actions: (..., action_size), in [−1, 1].
            latents: z, (..., latent_size).
        """
        x = torch.cat([observations, actions, latents], dim=-1)
        stacked = x.flatten(0, -2).expand(NUM_CRITICS, -1, -1)
        values = perceptron(critics, "critic", len(self.hidden_sizes) + 1, "relu", stacked)
        return values[..., 0].unflatten(1, x.shape[:-1])


def initial_perceptron(
    name: str, sizes: Sequence[int], rng: np.random.Generator, num_networks: int | None = None
) -> dict[str, Tensor]:
    """Draw parameters, float32: weights uniform in ±1/√fan_in, ±0.003 in the last layer; biases 0.

    Args:
        name: prefix of their names.
        sizes: of the input, of each hidden layer, and of the output.
        rng: stream of the initial weights.
        num_networks: K, to draw a stack of K networks; ``None`` for one without a leading axis.
    """
    lead = () if num_networks is None else (num_networks,)
    parameters = {}
    for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        bound = _LAST_BOUND if i == len(sizes) - 2 else 1 / math.sqrt(fan_in)
        values = rng.uniform(-bound, bound, (*lead, fan_in, fan_out)).astype(np.float32)
        parameters[f"{name}_{i}_weight"] = torch.from_numpy(values)
        parameters[f"{name}_{i}_bias"] = torch.zeros(*lead, fan_out)
    return parameters
