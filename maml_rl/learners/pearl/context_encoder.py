"""From transitions to the posterior of the latent variable z, for a stack of T tasks.

What an encoder knows of the transitions so far is a belief, (T, ...) by name. Zeros are the belief
without any transition, and ``add`` is the belief with some more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from maml_rl.learners.base import Belief
from maml_rl.learners.pearl.networks import initial_perceptron
from maml_rl.policies.parameters import Params
from maml_rl.policies.recurrent.cell import add_cell, run_gru
from maml_rl.policies.recurrent.layers import layer, perceptron

_SMALLEST_VARIANCE = 1e-7


class Posterior(NamedTuple):
    """q(z | c) = N(mean, variance), diagonal."""

    mean: Tensor
    """(..., latent_size)."""
    variance: Tensor
    """(..., latent_size)."""

    def sample(self, noise: Tensor) -> Tensor:
        """Return z = mean + √variance · noise, with the shape of the noise, (..., latent_size)."""
        return self.mean + self.variance.sqrt() * noise

    def kl(self) -> Tensor:
        """Return KL(q ‖ N(0, I)) = ½ Σ_i [σ_i² + μ_i² − 1 − log σ_i²], (...)."""
        terms = self.variance + self.mean.square() - 1 - self.variance.log()
        return 0.5 * terms.sum(-1)


@dataclass(frozen=True, kw_only=True)
class ProductEncoder:
    """q(z | c) ∝ Π_n N(z; f_μ(c_n), f_σ²(c_n)): one Gaussian factor per transition.

    The order of transitions does not matter (Rakelly et al. 2019, section 4.1). The belief is the
    sum of the factors' natural parameters: ``precision`` Σ 1/σ_n² and ``weighted_mean`` Σ μ_n/σ_n².
    """

    transition_size: int
    """Number of entries of c_n."""
    latent_size: int
    """Number of entries of z."""
    hidden_sizes: tuple[int, ...]
    """Width of each hidden layer."""

    def initial_parameters(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Draw parameters."""
        sizes = (self.transition_size, *self.hidden_sizes, 2 * self.latent_size)
        return initial_perceptron("encoder", sizes, rng)

    def empty(self, num_tasks: int, like: Tensor) -> dict[str, Tensor]:
        """Return natural parameters of no factors."""
        zeros = like.new_zeros(num_tasks, self.latent_size)
        return {"precision": zeros, "weighted_mean": zeros.clone()}

    def add(self, theta: Params, belief: Belief, context: Tensor, mask: Tensor) -> Belief:
        """Multiply the factors of more transitions: add their natural parameters."""
        mean, variance = _gaussians(
            perceptron(theta, "encoder", len(self.hidden_sizes) + 1, "relu", context)
        )
        precision = mask[..., None] / variance
        return {
            "precision": belief["precision"] + precision.sum(1),
            "weighted_mean": belief["weighted_mean"] + (precision * mean).sum(1),
        }

    def posterior(self, theta: Params, belief: Belief) -> Posterior:
        """Return mean and variance of the product."""
        precision, is_empty = belief["precision"], belief["precision"] == 0
        variance = 1 / torch.where(is_empty, 1.0, precision)
        return Posterior(variance * belief["weighted_mean"], variance)


@dataclass(frozen=True, kw_only=True)
class GRUEncoder:
    """q(z | c) from the memory of a GRU that has read the transitions in their order.

    The belief is this ``memory``, and ``num_transitions`` (T, 1) that it has read.
    """

    transition_size: int
    """Number of entries of c_n."""
    latent_size: int
    """Number of entries of z."""
    hidden_sizes: tuple[int, ...]
    """Width of each hidden layer before the GRU, and of the GRU."""

    def initial_parameters(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Draw parameters; those of the GRU are uniform in ±1/√size, as in torch."""
        *hidden, size = self.hidden_sizes
        num_inputs = hidden[-1] if hidden else self.transition_size
        parameters: dict[str, Tensor] = {}
        if hidden:
            # Its last layer is a hidden one, too: take the initial weights of one.
            sizes = (self.transition_size, *hidden, 1)
            with_output = initial_perceptron("encoder", sizes, rng)
            parameters = {k: v for k, v in with_output.items() if f"_{len(hidden)}_" not in k}
        add_cell(parameters, "encoder_gru", "gru", num_inputs, size, rng)
        return parameters | initial_perceptron("encoder_head", (size, 2 * self.latent_size), rng)

    def empty(self, num_tasks: int, like: Tensor) -> dict[str, Tensor]:
        """Return the memory before the first transition."""
        return {
            "memory": like.new_zeros(num_tasks, self.hidden_sizes[-1]),
            "num_transitions": like.new_zeros(num_tasks, 1),
        }

    def add(self, theta: Params, belief: Belief, context: Tensor, mask: Tensor) -> Belief:
        """Read more transitions; in ``mask``, the real ones of a task come first."""
        num_hidden = len(self.hidden_sizes) - 1
        x = perceptron(theta, "encoder", num_hidden, "relu", context)
        x = torch.relu(x) if num_hidden else x
        outputs, _ = run_gru(theta, "encoder_gru", belief["memory"], x)
        # The memory after each task's last real transition.
        lengths = mask.sum(1).long()
        last = (lengths - 1).clamp(min=0)[:, None, None].expand(-1, 1, outputs.shape[-1])
        memory = torch.where(lengths[:, None] > 0, outputs.gather(1, last)[:, 0], belief["memory"])
        num_transitions = belief["num_transitions"] + lengths[:, None]
        return {"memory": memory, "num_transitions": num_transitions}

    def posterior(self, theta: Params, belief: Belief) -> Posterior:
        """Return mean and variance, a linear layer of the memory."""
        mean, variance = _gaussians(layer(theta, "encoder_head_0", belief["memory"]))
        is_empty = belief["num_transitions"] == 0
        return Posterior(torch.where(is_empty, 0.0, mean), torch.where(is_empty, 1.0, variance))


ContextEncoder = ProductEncoder | GRUEncoder
"""Turns transitions c_n = (s, a, r) or (s, a, r, s') into a posterior."""


def _gaussians(outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance, each (..., latent_size), the variance by softplus."""
    mean, raw = outputs.chunk(2, dim=-1)
    return mean, torch.nn.functional.softplus(raw).clamp(min=_SMALLEST_VARIANCE)
