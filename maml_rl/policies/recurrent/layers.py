"""Linear layers and multilayer perceptrons, as functions of parameters."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from maml_rl.policies.mlp import ACTIVATIONS
from maml_rl.policies.parameters import Params, glorot_uniform
from maml_rl.settings.policy import Nonlinearity


def add_layer(
    theta: dict[str, Tensor], name: str, fan_in: int, fan_out: int, rng: np.random.Generator
) -> None:
    """Add a linear layer: a Glorot-uniform weight (fan_in, fan_out), and a bias of zeros."""
    theta[f"{name}_weight"] = glorot_uniform(rng, fan_in, fan_out).float()
    theta[f"{name}_bias"] = torch.zeros(fan_out)


def layer(theta: Params, name: str, x: Tensor) -> Tensor:
    """Apply a linear layer to x (..., fan_in), or a stack of K layers to x (K, N, fan_in)."""
    weight, bias = theta[f"{name}_weight"], theta[f"{name}_bias"]
    if weight.dim() == 3:
        return torch.baddbmm(bias[:, None], x, weight)
    return torch.nn.functional.linear(x, weight.T, bias)


def add_perceptron(
    theta: dict[str, Tensor], name: str, sizes: Sequence[int], rng: np.random.Generator
) -> None:
    """Add the layers of a multilayer perceptron.

    Args:
        theta: to which they are added.
        name: prefix of their names.
        sizes: of the input, of each hidden layer, and of the output.
        rng: stream of the initial weights.
    """
    for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        add_layer(theta, f"{name}_{i}", fan_in, fan_out, rng)


def perceptron(
    theta: Params, name: str, num_layers: int, nonlinearity: Nonlinearity, x: Tensor
) -> Tensor:
    """Apply a multilayer perceptron, or a stack of K.

    Args:
        theta: parameters.
        name: prefix of their names.
        num_layers: number of linear layers.
        nonlinearity: between them.
        x: (..., fan_in), or (K, N, fan_in) for a stack.

    Returns:
        (..., fan_out), or (K, N, fan_out).
    """
    activation = ACTIVATIONS[nonlinearity]()
    for i in range(num_layers):
        x = activation(x) if i > 0 else x
        x = layer(theta, f"{name}_{i}", x)
    return x
