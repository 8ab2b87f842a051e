"""Proximal policy optimisation (Schulman et al. 2017) as the outer step of MAML."""

from __future__ import annotations

import torch
from torch import Tensor

from maml_rl.learners.adam import ascend
from maml_rl.learners.maml.losses import step_ratio
from maml_rl.learners.maml.objective import MetaObjective, Quantity
from maml_rl.policies.distributions import Distribution
from maml_rl.policies.parameters import Params
from maml_rl.sampling.episodes import Episodes
from maml_rl.settings.learners import PPOConfig
from maml_rl.system.stopwatch import Stopwatch


def clipped_surrogate(clip_range: float) -> Quantity:
    """mean_t min(ρ_t Â_t, clip(ρ_t, 1 − ε, 1 + ε) Â_t) over the query episodes (equation 7).

    ρ_t = π_θ'(a_t | s_t) / π_old(a_t | s_t); ε is ``clip_range``. With ``inner.early_loss_weight``
    it is a weighted mean over the episodes after each inner step.
    """

    def of_step(dist: Distribution, episodes: Episodes) -> Tensor:
        ratio = step_ratio(dist, episodes)
        advantages = episodes.flat(episodes.advantages)
        clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
        per_step = torch.minimum(ratio * advantages, clipped * advantages)
        return (episodes.step_weights * per_step).sum(-1)

    return lambda adapted: adapted.over_steps(of_step)


def ppo_step(
    theta: Params, state: dict[str, Tensor], objective: MetaObjective, config: PPOConfig
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, float]]:
    """Maximise the clipped surrogate by several steps of Adam.

    Args:
        theta: the meta-parameters at which the objective's episodes were sampled.
        state: of the optimiser.
        objective: the surrogate after adaptation as a function of theta.
        config: settings.

    Returns:
        The new theta, the state, and metrics.

    Raises:
        FloatingPointError: if the meta-gradient is not finite.
    """
    return climb(
        theta,
        state,
        objective,
        clipped_surrogate(config.clip_range),
        config.num_epochs,
        config.step_size,
    )


def climb(
    theta: Params,
    state: dict[str, Tensor],
    objective: MetaObjective,
    surrogate: Quantity,
    num_epochs: int,
    step_size: float,
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, float]]:
    """Maximise ``surrogate`` by ``num_epochs`` steps of Adam, all on the same episodes."""
    watch = Stopwatch()
    metrics: dict[str, float] = {}
    for epoch in range(num_epochs):
        value, gradient = objective.surrogate_and_gradient(theta, surrogate)
        theta, state = ascend(theta, gradient, state, step_size)
        if epoch == 0:
            metrics = {
                "outer/gradient_norm": float(gradient.norm()),
                "outer/surrogate_before": value,
            }
    watch.lap("gradient")
    metrics["outer/surrogate_after"], metrics["outer/kl"] = objective.value(theta)
    watch.lap("evaluation")
    return dict(theta), state, metrics | watch.metrics()
