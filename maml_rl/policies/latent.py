"""A latent variable z, drawn once per episode (MAESN: Gupta et al. 2018).

z ~ N(μ, σ²) is an input of the policy, and the same in all steps of an episode. Episodes before
adaptation then differ as a whole, and not only by the noise of single actions. μ and log σ are
parameters. z counts as part of an episode's first action: see
:class:`~maml_rl.policies.distributions.WithLatent`.

The learner reads z from the recorded observations, which end with z and with 1 for the first step
of the episode, 0 for the others.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from maml_rl.policies.action_head import ActionHead, bounded_log_std
from maml_rl.policies.distributions import Gaussian
from maml_rl.policies.parameters import Params

LATENT_MEAN = "latent_mean"
"""Name of μ (L,) in theta."""
LATENT_LOG_STD = "latent_log_std"
"""Name of log σ (L,) in theta."""


def latent_distribution(stack: Params) -> Gaussian:
    """Return N(μ, σ²) of each task; its parameters are (T, 1, L)."""
    return Gaussian(stack[LATENT_MEAN][:, None], bounded_log_std(stack[LATENT_LOG_STD]))


def drawn_latents(stack: Params, noise: Tensor | None) -> Tensor:
    """Return z of every episode, (T, E, L), or μ, (T, 1, L), if there is no noise.

    Args:
        stack: parameters, each (T, ...).
        noise: from :func:`draw_noise`, (T, E, H, ...); z uses that of the first step.
    """
    latent = latent_distribution(stack)
    if noise is None:
        return latent.mode()
    return latent.sample(noise[:, :, 0, -latent.mean.shape[-1] :])


def draw_noise(
    head: ActionHead, latent_size: int, rng: np.random.Generator, shape: tuple[int, ...]
) -> np.ndarray:
    """Draw noise of the actions, and standard normal noise of z after it.

    Args:
        head: of the actions.
        latent_size: L; with 0 the result is that of :meth:`ActionHead.draw_noise`.
        rng: stream of the actions.
        shape: leading axes.

    Returns:
        Float32 (*shape, entries of an action's noise + L).
    """
    noise = head.draw_noise(rng, shape)
    if latent_size == 0:
        return noise
    latent_noise = rng.standard_normal((*shape, latent_size), dtype=np.float32)
    return np.concatenate([noise.reshape(*shape, -1), latent_noise], axis=-1)


def draw_noise_on_device(
    head: ActionHead, latent_size: int, rng: torch.Generator, shape: tuple[int, ...]
) -> Tensor:
    """Do what :func:`draw_noise` does on the generator's device, with other values."""
    noise = head.draw_noise_on_device(rng, shape)
    latent_noise = torch.randn(*shape, latent_size, generator=rng, device=rng.device)
    return torch.cat([noise, latent_noise], dim=-1)


def action_noise(noise: Tensor, head: ActionHead, latent_size: int) -> Tensor:
    """Return the actions' part of :func:`draw_noise`, in the shape that ``sample`` takes."""
    if latent_size == 0:
        return noise
    return noise[..., :-latent_size].unflatten(-1, head.noise_shape)


def with_latents(observations: Tensor, latents: Tensor) -> Tensor:
    """Append z and the mark of first steps.

    Args:
        observations: (T, E, H, O).
        latents: z, (T, E, L), or (T, 1, L) if all episodes have the same.

    Returns:
        (T, E, H, O + L + 1).
    """
    is_first = torch.zeros_like(observations[..., :1])
    is_first[:, :, 0] = 1
    of_steps = latents[:, :, None].expand(*observations.shape[:3], -1)
    return torch.cat([observations, of_steps, is_first], dim=-1)


def without_latents(observations: Tensor, latent_size: int) -> Tensor:
    """Return what the environment observed: the inverse of :func:`with_latents`."""
    return observations if latent_size == 0 else observations[..., : -latent_size - 1]
