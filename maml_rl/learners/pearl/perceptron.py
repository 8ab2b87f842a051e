"""Multilayer perceptrons with ReLU, as functions of parameters."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from maml_rl.policies.parameters import Params

_LAST_BOUND = 3e-3
"""Bound of the initial weights of a last layer: outputs are close to 0 at first."""


def initial_perceptron(
    name: str, sizes: Sequence[int], rng: np.random.Generator, num_networks: int | None = None
) -> dict[str, Tensor]:
    """Draw parameters, float32: weights uniform in ±1/√fan_in, ±0.003 in the last layer; no biases.

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


def perceptron(theta: Params, name: str, num_layers: int, x: Tensor) -> Tensor:
    """Apply a network, or a stack of K.

    Args:
        theta: parameters.
        name: prefix of their names.
        num_layers: number of linear layers.
        x: (..., fan_in), or (K, N, fan_in) for a stack.

    Returns:
        (..., fan_out), or (K, N, fan_out).
    """
    for i in range(num_layers):
        x = torch.relu(x) if i > 0 else x
        weight, bias = theta[f"{name}_{i}_weight"], theta[f"{name}_{i}_bias"]
        if weight.dim() == 3:
            x = torch.baddbmm(bias[:, None], x, weight)
        else:
            x = torch.nn.functional.linear(x, weight.T, bias)
    return x
