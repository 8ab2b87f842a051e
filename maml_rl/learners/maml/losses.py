"""Inner losses and divergences, each as one value per task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from maml_rl.policies.distributions import Distribution
from maml_rl.sampling.episodes import Episodes
from maml_rl.settings.learners import Surrogate


def surrogate_loss(
    dist: Distribution,
    episodes: Episodes,
    surrogate: Surrogate,
    advantages: Tensor,
) -> Tensor:
    """The inner loss of every task, to be minimised.

    Means are over a task's real steps; Â_t are advantages, ρ_t = π(a_t | s_t) / π_old(a_t | s_t).

    - ``log_prob``: −mean_t log π(a_t | s_t) Â_t (REINFORCE with a baseline). Its Hessian ignores
      that the sampling of actions depends on theta.
    - ``likelihood_ratio``: −mean_t ρ_t Â_t (Rothfuss et al. 2019, section 5). Its Hessian includes
      the product ∇log π_t ∇log π_tᵀ of each time step, but none of two different steps.
    - ``dice``: −mean_t (□_t − □_{t−1}) Â_t, □_t = ∏_{t' ≤ t} ρ_t' (Loaded DiCE: Farquhar et al.
      2019, equation 13). Its Hessian includes all products, and is unbiased if the advantages are
      exact.

    Args:
        dist: π at the episodes' states.
        episodes: of T tasks.
        surrogate: which loss.
        advantages: Â_t, (T, E, H).

    Returns:
        (T,).
    """
    factor = FACTORS[surrogate](dist.log_prob(episodes.flat(episodes.actions)), episodes)
    return -(episodes.step_weights * episodes.flat(advantages) * factor).sum(-1)


def step_ratio(dist: Distribution, episodes: Episodes) -> Tensor:
    """π(a_t | s_t) / π_old(a_t | s_t), (T, E·H); 1 at masked steps, where it could overflow."""
    return _log_ratio(dist.log_prob(episodes.flat(episodes.actions)), episodes).exp()


def _log_ratio(log_prob: Tensor, episodes: Episodes) -> Tensor:
    """Logarithm of :func:`step_ratio`, (T, E·H); 0 at masked steps."""
    log_ratio = log_prob - episodes.flat(episodes.log_probs)
    return log_ratio.masked_fill(episodes.flat(episodes.mask) == 0, 0.0)


def _dice(log_prob: Tensor, episodes: Episodes) -> Tensor:
    """□_t − □_{t−1} at every step, (T, E·H)."""
    log_ratio = _log_ratio(log_prob, episodes).unflatten(1, episodes.mask.shape[1:])
    until = log_ratio.cumsum(-1)
    return (until.exp() - (until - log_ratio).exp()).flatten(1)


FACTORS: dict[Surrogate, Callable[[Tensor, Episodes], Tensor]] = {
    "log_prob": lambda log_prob, episodes: log_prob,
    "likelihood_ratio": lambda log_prob, episodes: _log_ratio(log_prob, episodes).exp(),
    "dice": _dice,
}
"""By surrogate: what advantages are multiplied by, of log π(a_t | s_t), (T, E·H), and episodes."""


def mean_kl(dist: Distribution, episodes: Episodes) -> Tensor:
    """mean_t KL(π_old ‖ dist) of each task, (T,)."""
    old: Any = type(dist)(*episodes.distribution)
    return (episodes.step_weights * old.kl(dist)).sum(-1)
