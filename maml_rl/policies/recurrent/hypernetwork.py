"""Layers whose weights a linear hypernetwork generates (Beck et al. 2022).

The hypernetwork maps a latent z (K) to the weights of a layer x ↦ x W + b:

    W(z) = W₀ + Σ_k z_k V_k,    b(z) = b₀ + Σ_k z_k c_k

W₀ and b₀ are the bias of the hypernetwork, V and c its weight. Bias-HyperInit: V and c are zero at
first, and W₀ and b₀ are what the layer's initial weights would be without a hypernetwork. So every
task starts with the same well-scaled layer.

The weights W(z) are never formed: x W(z) + b(z) is linear in z ⊗ (x, 1), which has K (fan_in + 1)
entries at each state, where W(z) would have fan_in · fan_out.
"""

from __future__ import annotations

import torch
from torch import Tensor


def initial_hypernetwork(latent_size: int, fan_in: int, fan_out: int) -> Tensor:
    """Return V and c of one layer, zeros (K, fan_in + 1, fan_out); c is the last row."""
    return torch.zeros(latent_size, fan_in + 1, fan_out)


def generated_layer(hypernetwork: Tensor, latent: Tensor, x: Tensor) -> Tensor:
    """Return Σ_k z_k (x V_k + c_k), what z adds to the layer x W₀ + b₀.

    Args:
        hypernetwork: V and c, (K, fan_in + 1, fan_out).
        latent: z, (..., K).
        x: (..., fan_in).

    Returns:
        (..., fan_out).
    """
    with_one = torch.cat([x, torch.ones_like(x[..., :1])], dim=-1)
    products = latent[..., :, None] * with_one[..., None, :]
    return products.flatten(-2) @ hypernetwork.flatten(0, 1)
