"""Adam (Kingma & Ba 2015) as the outer step; PPO and ProMP use it as their optimiser."""

from __future__ import annotations

import torch
from torch import Tensor

from maml_rl.learners.maml.objective import MetaObjective
from maml_rl.policies.parameters import Params, flatten, unflatten
from maml_rl.settings.learners import AdamConfig
from maml_rl.system.stopwatch import Stopwatch


def adam_step(
    theta: Params, state: dict[str, Tensor], objective: MetaObjective, config: AdamConfig
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, float]]:
    """One step of Adam along the meta-gradient (Finn et al. 2017, algorithm 3, line 10).

    Args:
        theta: the meta-parameters at which the objective's episodes were sampled.
        state: of the optimiser; empty at first.
        objective: the surrogate after adaptation as a function of theta.
        config: settings.

    Returns:
        The new theta, the state, and metrics.

    Raises:
        FloatingPointError: if the meta-gradient is not finite.
    """
    watch = Stopwatch()
    surrogate, gradient = objective.surrogate_and_gradient(theta)
    watch.lap("time/gradient_s")
    new_theta, state = ascend(theta, gradient, state, config.step_size)
    metrics = {"outer/gradient_norm": float(gradient.norm()), "outer/surrogate_before": surrogate}
    return new_theta, state, metrics | watch.seconds


def ascend(
    theta: Params, gradient: Tensor, state: dict[str, Tensor], step_size: float
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """One step of gradient ascent with torch's Adam; the arguments are not modified.

    Args:
        theta: parameters.
        gradient: (P,) float64.
        state: returned by the last call, or an empty mapping.
        step_size: Adam's learning rate.

    Returns:
        The new parameters and the state: Adam's two moments (P,) and its step count.

    Raises:
        FloatingPointError: if the gradient is not finite.
    """
    if not gradient.isfinite().all():
        raise FloatingPointError("the meta-gradient is not finite")
    vector = flatten(theta).clone().requires_grad_()
    optimizer = torch.optim.Adam([vector], lr=step_size, maximize=True)
    if state:
        moments = {name: state[name].clone() for name in ("exp_avg", "exp_avg_sq", "step")}
        optimizer.load_state_dict({**optimizer.state_dict(), "state": {0: moments}})
    vector.grad = gradient.to(vector.dtype)
    optimizer.step()
    return unflatten(vector.detach(), theta), {
        name: value.clone() for name, value in optimizer.state[vector].items()
    }


def initial_state(theta: Params) -> dict[str, Tensor]:
    """A state as ``ascend`` returns it, all zero: Adam's moments (P,) and step count () float32."""
    moment = torch.zeros_like(flatten(theta))
    return {
        "step": torch.zeros((), device=moment.device),
        "exp_avg": moment,
        "exp_avg_sq": moment.clone(),
    }
