"""Generalised advantage estimation (Schulman et al. 2016) on batches of episodes."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from maml_rl.learners.linear_baseline import fit_values, returns_to_go
from maml_rl.sampling.episodes import Episodes
from maml_rl.settings.learners import BaselineConfig


def generalized_advantages(
    rewards: Tensor, values: Tensor, discount: float, gae_lambda: float
) -> Tensor:
    """Â_t = Σ_l (γλ)^l δ_{t+l} with δ_t = r_t + γ V(s_{t+1}) − V(s_t) (equations 11 and 16).

    The value after an episode's last step is zero, also at the horizon: the objective is the
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
"""Largest ratio at which a task's advantages count as rounding errors.

It is their standard deviation, divided by the root mean square of the baseline's values. In float32
rounding errors reach a ratio of 3e-5.
"""


def normalized_per_task(advantages: Tensor, mask: Tensor, smallest: Tensor | float = 0.0) -> Tensor:
    """Normalise to mean 0 and standard deviation 1 over each task's real steps; zero elsewhere.

    Args:
        advantages: (T, E, H).
        mask: (T, E, H).
        smallest: advantages with at most this standard deviation become zero; (T, 1, 1) or one for
            all tasks.

    Returns:
        (T, E, H).
    """
    count = mask.sum((1, 2), keepdim=True).clamp(min=1)
    mean = (advantages * mask).sum((1, 2), keepdim=True) / count
    centred = (advantages - mean) * mask
    std = (centred.square().sum((1, 2), keepdim=True) / count).sqrt()
    # NaN <= smallest is false: advantages that are NaN stay NaN, and the task fails.
    return torch.where(std <= smallest, 0.0, centred / (std + 1e-8))


def with_advantages(episodes: Episodes, config: BaselineConfig) -> Episodes:
    """Fit a baseline to each task's episodes, and return the episodes with advantages over it.

    If a task's baseline explains its returns up to rounding, as for a constant reward in episodes
    of equal length, its normalised advantages are zero. If the baseline cannot be fitted or its
    values overflow, the task's advantages are not finite.
    """
    values = fit_values(episodes, config.discount, config.ridge)
    advantages = generalized_advantages(
        episodes.rewards * episodes.mask, values, config.discount, config.gae_lambda
    )
    if config.normalize_advantages:
        # Root mean square of each task's values.
        count = episodes.mask.sum((1, 2), keepdim=True).clamp(min=1)
        size = (values.square().sum((1, 2), keepdim=True) / count).sqrt()
        advantages = normalized_per_task(advantages, episodes.mask, _ROUNDING * size)
    return dataclasses.replace(episodes, advantages=advantages)
