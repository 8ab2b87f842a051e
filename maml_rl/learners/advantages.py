"""Generalised advantage estimation (Schulman et al. 2016) on batches of episodes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from maml_rl.learners.linear_baseline import fit_values, returns_to_go
from maml_rl.sampling.episodes import Episodes
from maml_rl.settings.learners import BaselineConfig, InnerConfig


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


_ROUNDING = 1e-6
"""Largest ratio at which a task's advantages count as rounding errors.

The ratio is their standard deviation, divided by the root mean square of the baseline's values. The
errors are those of rewards in float32, about 6e-8 of a reward; all else is in float64.
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
    centred = centred_per_task(advantages, mask, smallest)
    std = _root_mean_square(centred, mask)
    return centred / torch.where(std == 0, 1.0, std)


def centred_per_task(advantages: Tensor, mask: Tensor, smallest: Tensor | float = 0.0) -> Tensor:
    """Shift to mean 0 over each task's real steps; zero elsewhere.

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
    std = _root_mean_square(centred, mask)
    # NaN <= smallest is false: advantages that are NaN stay NaN, and the task fails.
    return torch.where(std <= smallest, 0.0, centred)


def _root_mean_square(values: Tensor, mask: Tensor) -> Tensor:
    """Of each task's values over its real steps, (T, 1, 1); ``values`` are zero elsewhere."""
    count = mask.sum((1, 2), keepdim=True).clamp(min=1)
    return (values.square().sum((1, 2), keepdim=True) / count).sqrt()


def with_advantages(
    episodes: Episodes, config: BaselineConfig, inner: InnerConfig | None = None
) -> Episodes:
    """Fit a baseline to each task's episodes, and return the episodes with advantages over it.

    ``inner_advantages`` differ from ``advantages`` if the settings of inner steps have a discount
    or lambda of their own, or ask for a standard deviation that all tasks share. In the second case
    they are centred, but not scaled.

    If a task's baseline explains its returns up to rounding, as for a constant reward in episodes
    of equal length, its normalised advantages are zero. If the baseline cannot be fitted or its
    values overflow, the task's advantages are not finite.
    """
    inner_config = _inner_config(config, inner)
    values = {
        discount: fit_values(episodes, discount, config.ridge)
        for discount in {config.discount, inner_config.discount}
    }
    normalize = normalized_per_task if config.normalize_advantages else None
    advantages = _advantages(episodes, values[config.discount], config, normalize)
    # The advantages of inner steps, if they differ.
    inner_advantages = advantages
    shares_scale = inner is not None and inner.shared_advantage_scale
    if inner_config != config or shares_scale:
        normalize = centred_per_task if shares_scale else normalize
        inner_advantages = _advantages(
            episodes, values[inner_config.discount], inner_config, normalize
        )
    return dataclasses.replace(episodes, advantages=advantages, inner_advantages=inner_advantages)


def _inner_config(config: BaselineConfig, inner: InnerConfig | None) -> BaselineConfig:
    """``config`` with the discount and lambda of inner steps."""
    if inner is None:
        return config
    return dataclasses.replace(
        config,
        discount=config.discount if inner.discount is None else inner.discount,
        gae_lambda=config.gae_lambda if inner.gae_lambda is None else inner.gae_lambda,
    )


def _advantages(
    episodes: Episodes,
    values: Tensor,
    config: BaselineConfig,
    normalize: Callable[[Tensor, Tensor, Tensor], Tensor] | None,
) -> Tensor:
    """Advantages over ``values``, (T, E, H), passed through ``normalize``.

    They are computed in float64: they can be small differences of large returns.
    """
    rewards = (episodes.rewards * episodes.mask).double()
    advantages = generalized_advantages(rewards, values, config.discount, config.gae_lambda)
    if normalize is not None:
        smallest = _ROUNDING * _root_mean_square(values, episodes.mask)
        advantages = normalize(advantages, episodes.mask, smallest)
    return advantages.to(episodes.rewards.dtype)
