"""The context: transitions of an episode or of the replay, as the encoder reads them."""

from __future__ import annotations

import torch
from torch import Tensor

from maml_rl.learners.pearl.replay import Transitions
from maml_rl.policies.normalizer import ObservationNormalizer
from maml_rl.sampling.episodes import Episodes


def episode_steps(
    episodes: Episodes, number: int, action_scale: float, reads_next: bool
) -> tuple[Transitions, Tensor]:
    """Return the steps of an episode of each task, and a mask (T, H) of those to read.

    Args:
        episodes: with raw observations.
        number: of the episode.
        action_scale: by which outputs are multiplied to be in [−1, 1].
        reads_next: whether a step is read only if its next observation is finite.
    """
    # The next observation of each step; after the last one it may be unknown.
    observations, mask = episodes.observations[:, number], episodes.mask[:, number]
    last = episodes.last_observations[:, number].flatten(1)
    is_last = episodes.is_last[:, number] > 0
    shifted = torch.cat([observations[:, 1:], observations[:, -1:]], 1)
    following = torch.where(is_last[..., None], last[:, None], shifted)
    if reads_next:
        is_known = following.isfinite().all(-1)
        mask = mask * is_known
        following = torch.where(is_known[..., None], following, 0.0)
    steps = Transitions(
        observations=observations,
        actions=action_scale * episodes.actions[:, number],
        rewards=episodes.rewards[:, number],
        terminated=is_last * episodes.terminated[:, number, None],
        next_observations=following,
    )
    return steps, mask


def encoder_inputs(
    steps: Transitions, normalizer: ObservationNormalizer | None, reads_next: bool
) -> Tensor:
    """Return what the encoder reads of transitions: (s, a, r) or (s, a, r, s').

    Args:
        steps: N of each of T tasks.
        normalizer: of observations.
        reads_next: whether the encoder reads s'.

    Returns:
        (T, N, transition_size).
    """
    observed = [steps.observations, steps.next_observations] if reads_next else [steps.observations]
    if normalizer is not None:
        observed = [normalizer.normalize(observations) for observations in observed]
    first, *others = observed
    return torch.cat([first, steps.actions, steps.rewards[..., None], *others], dim=-1)
