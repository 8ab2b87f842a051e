"""Adam (Kingma & Ba 2015) on parameters as values."""

from __future__ import annotations

import torch
from torch import Tensor

from maml_rl.policies.parameters import Params, flatten, unflatten


def ascend(
    theta: Params, gradient: Tensor, state: dict[str, Tensor], step_size: float
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """One step of gradient ascent with torch's Adam; the arguments are not modified.

    Args:
        theta: parameters.
        gradient: (P,) float64.
        state: returned by the last call, or :func:`initial_state`.
        step_size: Adam's learning rate.

    Returns:
        The new parameters and the state: Adam's two moments (P,) and its step count.

    Raises:
        FloatingPointError: if the gradient is not finite.
    """
    if not gradient.isfinite().all():
        raise FloatingPointError("the gradient is not finite")
    vector = flatten(theta).clone().requires_grad_()
    optimizer = torch.optim.Adam([vector], lr=step_size, maximize=True)
    moments = {name: state[name].clone() for name in ("exp_avg", "exp_avg_sq", "step")}
    optimizer.load_state_dict({**optimizer.state_dict(), "state": {0: moments}})
    vector.grad = gradient.to(vector.dtype)
    optimizer.step()
    return unflatten(vector.detach(), theta), dict(optimizer.state[vector])


def initial_state(theta: Params) -> dict[str, Tensor]:
    """The state before the first step, all zero: Adam's moments (P,) and step count () float32."""
    moment = torch.zeros_like(flatten(theta))
    return {
        "step": torch.zeros((), device=moment.device),
        "exp_avg": moment,
        "exp_avg_sq": moment.clone(),
    }
