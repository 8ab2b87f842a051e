"""The linear feature baseline (Duan et al. 2016, appendix 2), fitted for all tasks at once.

Deviation: one more feature, the return-to-go of a constant reward. A cubic polynomial of time fits
it only up to a residual of about 1e-3, which normalisation of the advantages would scale to
standard deviation 1. Inner steps on a constant reward would then be large, instead of zero.

Deviation: observations are not clipped at ±10 as in ProMP's public code, because in other
units most of them could lie outside this range.

Deviation: time is the only feature if observations have more than ``MOST_FEATURE_ENTRIES`` entries.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from maml_rl.sampling.episodes import Episodes
from maml_rl.system.thread_pool import block_ends, map_blocks, tasks_per_block

MOST_FEATURE_ENTRIES = 500
"""With more entries in an observation, the baseline uses time only.

A task of 20 episodes of 100 steps has 2,000 returns. If they are pure noise, 2 × 500 features still
explain half of their variance, and 2 × 1,000 all of it: the advantages would be rounding errors.
Memory grows with the square of the entries, time with the cube (docs/custom_networks.md).
"""


def baseline_notice(observation_shape: tuple[int, ...], num_env_steps: int) -> str | None:
    """Return a line for the log if the baseline uses time only or has many features, or ``None``.

    Args:
        observation_shape: of one observation.
        num_env_steps: largest number of control steps of a task to which the baseline is fitted.
    """
    num_entries = math.prod(observation_shape)
    if num_entries > MOST_FEATURE_ENTRIES:
        return (
            "notice: the value baseline uses time only: observations have "
            f"{num_entries} entries, more than {MOST_FEATURE_ENTRIES}"
        )
    num_features = 2 * num_entries + 5
    if num_features >= num_env_steps:
        return (
            f"notice: the value baseline has {num_features} features for {num_env_steps} steps of "
            "a task, so it can explain every return, and then nothing is learned: play more or "
            "longer episodes"
        )
    return None


def baseline_features(observations: Tensor, mask: Tensor, discount: float) -> Tensor:
    """[s, s², t, t², t³, 1, g_t] with t in units of 100 steps; without s and s² if s is large.

    g_t is the return-to-go of a constant reward in the task's longest episode: the sum of γ^k over
    the remaining steps.

    Args:
        observations: (T, E, H, *observation_shape).
        mask: (T, E, H), 1 for real steps.
        discount: γ.

    Returns:
        (T, 2 · number of entries + 5, E, H), or (T, 5, E, H) with more than
        ``MOST_FEATURE_ENTRIES`` entries, float64: features first, so that sums over states read
        contiguous memory.
    """
    num_tasks, num_episodes, horizon = mask.shape
    t = torch.arange(horizon, dtype=torch.float64, device=observations.device) / 100
    time = torch.stack([t, t**2, t**3, torch.ones_like(t)]).expand(num_tasks, 4, horizon)
    # Return-to-go of a constant reward, (T, H): amax is the mask of the longest episode.
    constant = returns_to_go(mask.amax(dim=1).to(t), discount)
    time = torch.cat([time, constant[:, None]], dim=1)[:, :, None].expand(-1, -1, num_episodes, -1)
    if math.prod(observations.shape[3:]) > MOST_FEATURE_ENTRIES:
        return time.contiguous()
    s = observations.flatten(3).movedim(-1, 1)
    return torch.cat([s, s**2, time], dim=1)


def returns_to_go(rewards: Tensor, discount: float) -> Tensor:
    """Discounted sum of the rewards from each step on.

    Args:
        rewards: (..., H), zero after an episode's end.
        discount: per step.

    Returns:
        (..., H).
    """
    *earlier, running = rewards.unbind(-1)
    returns = [running]
    for reward in reversed(earlier):
        running = torch.add(reward, running, alpha=discount)
        returns.append(running)
    return torch.stack(returns[::-1], dim=-1)


def fit_values(episodes: Episodes, discount: float, ridge: float) -> Tensor:
    """Fit each task's baseline to its own returns by ridge regression; return its values.

    Returns, normal equations and values are in float64. If a task's matrix is singular in spite of
    the ridge, its ridge is multiplied by ten until it is not. A task whose equations are not finite
    gets NaN.

    Args:
        episodes: of T tasks.
        discount: of the returns.
        ridge: added to the diagonal of the Gram matrix.

    Returns:
        (T, E, H) values, zero after an episode's end.
    """
    returns = returns_to_go((episodes.rewards * episodes.mask).double(), discount)
    device = episodes.mask.device
    if device.type != "cpu":
        # The first use of a GPU's linear algebra loads a library. If that happens in two threads at
        # once, torch fails (https://github.com/pytorch/pytorch/issues/90613).
        torch.linalg.cholesky_ex(torch.eye(1, device=device))

    def of_block(start: int, stop: int) -> Tensor:
        return _fitted(episodes.chosen(slice(start, stop)), returns[start:stop], discount, ridge)

    return torch.cat(map_blocks(of_block, block_ends(episodes.num_tasks, tasks_per_block(device))))


def _fitted(episodes: Episodes, returns: Tensor, discount: float, ridge: float) -> Tensor:
    """Values of a block of tasks, fitted to ``returns`` (T, E, H)."""
    features = baseline_features(episodes.observations, episodes.mask, discount)
    x = features.mul_(episodes.mask[:, None]).flatten(2)  # (T, F, E·H)
    y = episodes.flat(returns)[..., None]
    # Normal equations. A non-finite matrix has no Cholesky factor with any ridge: set it to zero,
    # and its moment to NaN, so that the values of the task are NaN.
    gram = x @ x.mT
    moment = x @ y
    is_finite = gram.isfinite().all(-1).all(-1) & moment.isfinite().all(-1).all(-1)
    if not is_finite.all():
        gram = gram.masked_fill(~is_finite[:, None, None], 0.0)
        moment = moment.masked_fill(~is_finite[:, None, None], torch.nan)
    # Increase the ridge of singular tasks until all have a Cholesky factor.
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    ridges = torch.full_like(gram[:, :1, :1], ridge)
    while True:
        factor, failed = torch.linalg.cholesky_ex(gram + ridges * eye)
        if not failed.any():
            break
        ridges = torch.where(failed[:, None, None] > 0, 10 * ridges, ridges)
    values = torch.cholesky_solve(moment, factor).mT @ x
    return values.reshape(episodes.rewards.shape)
