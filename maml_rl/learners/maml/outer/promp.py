"""Proximal meta-policy search (Rothfuss et al. 2019) as the outer step of MAML."""

from __future__ import annotations

import torch
from torch import Tensor

from maml_rl.learners.adam import initial_state as initial_adam
from maml_rl.learners.maml.losses import mean_kl
from maml_rl.learners.maml.objective import Adapted, MetaObjective
from maml_rl.learners.maml.outer.ppo import climb, clipped_surrogate
from maml_rl.policies.parameters import Params
from maml_rl.settings.learners import ProMPConfig

_TOLERANCE = 1.5
"""The coefficient η stays the same while the KL is within this factor of its target."""

_RANGE = (1e-6, 100.0)
"""Ends of η."""


def initial_promp(theta: Params, config: ProMPConfig) -> dict[str, Tensor]:
    """The state before the first step: Adam's, and η () float64."""
    eta = torch.tensor(config.kl_coefficient, dtype=torch.float64)
    return {**initial_adam(theta), "kl_coefficient": eta}


def inner_kl(adapted: Adapted) -> Tensor:
    """Mean over inner steps k of mean_t KL(π_old ‖ π_θₖ) over the support episodes of step k, (T,).

    θ₀ is theta and θₖ the parameters after k inner steps (Rothfuss et al. 2019, equation 11).
    """
    kls = [mean_kl(dist, support) for dist, support in adapted.sampled]
    return torch.stack(kls).mean(0) if kls else torch.zeros_like(adapted.batch.query.num_steps)


def promp_step(
    theta: Params, state: dict[str, Tensor], objective: MetaObjective, config: ProMPConfig
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, float]]:
    """Maximise J_clip(θ') − η KL, averaged over tasks (equation 12), by several steps of Adam.

    J_clip is :func:`maml_rl.learners.maml.outer.ppo.clipped_surrogate`, KL is :func:`inner_kl`.

    With ``adaptive_kl``, η is halved if the inner KL after the step is below its target by a factor
    of 1.5, and doubled if it is above by the same factor, as in the authors' code.

    Deviation: it stays between 10⁻⁶ and 100, or ``kl_coefficient`` if that is beyond. Adam divides
    steps by the size of their gradients, so a larger η need not lower the KL, and would double
    without end; Adam would then remember the size of its gradients for thousands of steps.

    Deviation: with several inner steps there is one η for their mean KL, because the steps share
    theta; the authors' code has one for each step.

    Args:
        theta: the meta-parameters at which the objective's episodes were sampled.
        state: of the optimiser, with η.
        objective: quantities after adaptation as functions of theta.
        config: settings.

    Returns:
        The new theta, the state, and metrics.

    Raises:
        FloatingPointError: if the meta-gradient is not finite.
    """
    eta = state["kl_coefficient"]
    clipped = clipped_surrogate(config.clip_range)

    def penalised(adapted: Adapted) -> Tensor:
        return clipped(adapted) - float(eta) * inner_kl(adapted)

    theta, optimizer, metrics = climb(
        theta, state, objective, penalised, config.num_epochs, config.step_size
    )
    # Log the inner KL, and adapt η to it.
    (kl,) = objective.mean(theta, inner_kl)
    metrics |= {"outer/inner_kl": kl, "outer/kl_coefficient": float(eta)}
    if config.adaptive_kl:
        eta = adapted_coefficient(eta, kl, config)
    return dict(theta), {**optimizer, "kl_coefficient": eta}, metrics


def adapted_coefficient(eta: Tensor, kl: float, config: ProMPConfig) -> Tensor:
    """η for the next iteration."""
    if kl < config.target_kl / _TOLERANCE:
        eta = eta / 2
    elif kl > config.target_kl * _TOLERANCE:
        eta = eta * 2
    least, most = _RANGE
    return eta.clamp(min(least, config.kl_coefficient), max(most, config.kl_coefficient))
