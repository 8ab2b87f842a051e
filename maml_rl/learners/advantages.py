"""Generalised advantage estimation (Schulman et al. 2016) on batches of episodes."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from maml_rl.learners.linear_baseline import fit_values, returns_to_go
from maml_rl.sampling.episodes import Episodes
from maml_rl.settings.maml import BaselineConfig


def generalized_advantages(
    rewards: Tensor, values: Tensor, discount: float, gae_lambda: float
) -> Tensor:
    """Â_t = Σ_l (γλ)^l δ_{t+l} with δ_t = r_t + γ V(s_{t+1}) − V(s_t) (equations 11 and 16).

    The value after an episode's last step is zero, at the horizon too: the objective is the
    finite-horizon return.

    Args:
        rewards: (T, E, H), zero after an episode's end.
        values: (T, E, H), zero after an episode's end.
        discount: γ.
        gae_lambda: λ.

    Returns:
        (T, E, H) advantages.
    """
    next_values = torch.cat([values[..., 1:], torch.zeros_like(values[..., :1])], dim=-1)
    return returns_to_go(rewards + discount * next_values - values, discount * gae_lambda)


_ROUNDING = 5e-5
"""Share of the values below which advantages are rounding errors; measured ones in float32 reach 3e-5."""


def normalized_per_task(advantages: Tensor, mask: Tensor, smallest: Tensor | float = 0.0) -> Tensor:
    """Shift and scale to mean 0 and standard deviation 1 over each task's real steps; zero elsewhere.

    Args:
        advantages: (T, E, H).
        mask: (T, E, H).
        smallest: standard deviation up to which a task's advantages are zero, (T, 1, 1) or one for
            all.

    Returns:
        (T, E, H).
    """
    count = mask.sum((1, 2), keepdim=True).clamp(min=1)
    mean = (advantages * mask).sum((1, 2), keepdim=True) / count
    centred = (advantages - mean) * mask
    std = (centred.square().sum((1, 2), keepdim=True) / count).sqrt()
    # Where it is NaN, so is what is returned.
    return torch.where(std <= smallest, 0.0, centred / (std + 1e-8))


def with_advantages(episodes: Episodes, config: BaselineConfig) -> Episodes:
    """The same episodes with their advantages over a baseline fitted to them, task by task.

    Normalised, they are zero for a task whose returns the baseline explains to rounding, as those
    of a constant reward. The advantages of a task whose baseline cannot be fitted, or does not fit
    into their type, are not finite.
    """
    values = fit_values(episodes, config.discount, config.ridge)
    advantages = generalized_advantages(
        episodes.rewards * episodes.mask, values, config.discount, config.gae_lambda
    )
    advantages = advantages * episodes.mask
    if config.normalize_advantages:
        count = episodes.mask.sum((1, 2), keepdim=True).clamp(min=1)
        size = (values.square().sum((1, 2), keepdim=True) / count).sqrt()
        advantages = normalized_per_task(advantages, episodes.mask, _ROUNDING * size)
    return dataclasses.replace(episodes, advantages=advantages)
