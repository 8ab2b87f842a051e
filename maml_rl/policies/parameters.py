"""Parameters as values: mappings from names to tensors.

A *stack* is such a mapping whose tensors have a leading task axis T.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

Params = Mapping[str, Tensor]
"""Parameters by name."""


def parameters(policy: nn.Module) -> dict[str, Tensor]:
    """Return detached copies of a policy's parameters by name."""
    return {name: value.detach().clone() for name, value in policy.named_parameters()}


def glorot_uniform(rng: np.random.Generator, fan_in: int, fan_out: int) -> Tensor:
    """Draw a weight (fan_in, fan_out) uniformly within ±√(6 / (fan_in + fan_out)), float64.

    Glorot and Bengio (2010).
    """
    bound = math.sqrt(6 / (fan_in + fan_out))
    return torch.from_numpy(rng.uniform(-bound, bound, (fan_in, fan_out)))


def make_stack(theta: Params, num_tasks: int) -> dict[str, Tensor]:
    """Return ``num_tasks`` copies of ``theta`` as a stack (T, ...), detached from theta's graph."""
    # Detached: gradients are computed per copy, and averaged over tasks later (Ranks.mean).
    return {
        name: value.detach()[None].expand(num_tasks, *value.shape).contiguous()
        for name, value in theta.items()
    }


def requiring_grad(theta: Params) -> dict[str, Tensor]:
    """Return the same values as leaves of a new graph: detached, so that gradients stop here."""
    return {name: value.detach().requires_grad_() for name, value in theta.items()}


def flatten(theta: Params, batch_dims: int = 0) -> Tensor:
    """Concatenate all parameters into a vector (P,); with ``batch_dims=1``, a stack into (T, P)."""
    parts = [value.reshape(*value.shape[:batch_dims], -1) for value in theta.values()]
    return torch.cat(parts, dim=batch_dims)


def unflatten(vector: Tensor, like: Params) -> dict[str, Tensor]:
    """Split vectors (..., P) into parameters (..., *shape), with names and shapes of ``like``."""
    parts = vector.split([value.numel() for value in like.values()], dim=-1)
    lead = vector.shape[:-1]
    return {
        name: part.reshape((*lead, *value.shape))
        for (name, value), part in zip(like.items(), parts, strict=True)
    }
