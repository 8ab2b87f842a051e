"""Parameters as values: mappings from names to tensors, and stacks of them with a leading task axis."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

Params = Mapping[str, Tensor]
"""Parameters by name."""


def parameters(policy: nn.Module) -> dict[str, Tensor]:
    """The policy's parameters as values: detached copies by name."""
    return {name: value.detach().clone() for name, value in policy.named_parameters()}


def make_stack(theta: Params, num_tasks: int) -> dict[str, Tensor]:
    """``num_tasks`` copies of ``theta`` side by side, each (T, ...), cut off from theta's graph."""
    # Detached: gradients are taken for each task's copy and added over tasks afterwards
    # (ranks.Ranks.mean).
    return {
        name: value.detach()[None].expand(num_tasks, *value.shape).contiguous()
        for name, value in theta.items()
    }


def flatten(theta: Params, batch_dims: int = 0) -> Tensor:
    """All parameters in one vector (P,), or those of a stack in one per task, (T, P), with ``batch_dims=1``."""
    return torch.cat([value.flatten(batch_dims) for value in theta.values()], dim=batch_dims)


def unflatten(vector: Tensor, like: Params) -> dict[str, Tensor]:
    """The inverse of :func:`flatten`: shapes and names from ``like``, leading axes from ``vector``."""
    parts = vector.split([value.numel() for value in like.values()], dim=-1)
    lead = vector.shape[:-1]
    return {
        name: part.reshape(*lead, *value.shape)
        for (name, value), part in zip(like.items(), parts, strict=True)
    }
