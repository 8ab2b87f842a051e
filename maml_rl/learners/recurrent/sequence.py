"""The episodes of a trial as one sequence of steps, and the advantages along it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from maml_rl.policies.action_head import ActionHead
from maml_rl.sampling.episodes import Episodes


class TrialSequence(NamedTuple):
    """N trials of up to L steps: the real steps of their episodes, one after another, then padding.

    Nothing in the padding is meaningful but ``mask``.
    """

    observations: Tensor
    """Normalised, (N, L, observation_size)."""
    previous: Tensor
    """What came before a step: encoded action, reward, end of an episode, (N, L, A + 2)."""
    actions: Tensor
    """Outputs of the policy, (N, L, ...)."""
    rewards: Tensor
    """(N, L), raw."""
    mask: Tensor
    """(N, L): 1 for a step, 0 for padding."""
    ends: Tensor
    """(N, L): 1 if the step is the last one of an episode."""
    times: Tensor
    """(N, L): time of the step in the trial, if every episode took its whole horizon."""
    last: Tensor
    """What came before the step after the last one, (N, A + 2)."""

    def chosen(self, trials: Tensor | slice) -> TrialSequence:
        """Some of the trials: indices, a mask (N,) bool, or a slice."""
        return TrialSequence(*(value[trials] for value in self))


def trial_sequence(
    stages: Sequence[Episodes], previous: Tensor, action_head: ActionHead
) -> TrialSequence:
    """Join the episodes of T trials.

    Args:
        stages: episodes in the order in which they were played, of T tasks each.
        previous: what came before the first step, (T, A + 2).
        action_head: encodes actions as vectors.
    """
    # One after another, with gaps where an episode ended early: (T, E, H, ...) to (T, E·H, ...).
    mask = torch.cat([stage.mask.flatten(1, 2) for stage in stages], dim=1)
    # Close the gaps: real steps first, in their order.
    order = (mask == 0).int().argsort(dim=1, stable=True)[:, : int(mask.sum(1).max().clamp(min=1))]

    def joined(parts: Sequence[Tensor]) -> Tensor:
        whole = torch.cat([part.flatten(1, 2) for part in parts], dim=1)
        index = order.reshape(*order.shape, *[1] * (whole.dim() - 2))
        return whole.gather(1, index.expand(*order.shape, *whole.shape[2:]))

    mask = mask.gather(1, order)
    actions = joined([stage.actions for stage in stages])
    rewards = joined([stage.rewards for stage in stages])
    ends = joined([stage.is_last for stage in stages])
    # What came before each step is what the step before it did.
    results = torch.stack([rewards, ends], dim=-1)
    outcomes = torch.cat([action_head.encoded(actions), results], dim=-1)
    lengths = mask.sum(1).long()
    index = (lengths - 1).clamp(min=0)[:, None, None].expand(-1, 1, outcomes.shape[-1])
    last = torch.where(lengths[:, None] > 0, outcomes.gather(1, index)[:, 0], previous)
    return TrialSequence(
        observations=joined([stage.observations for stage in stages]),
        previous=torch.cat([previous[:, None], outcomes[:, :-1]], dim=1),
        actions=actions,
        rewards=rewards,
        mask=mask,
        ends=ends,
        times=order.to(mask),
        last=last,
    )


def trial_advantages(
    sequence: TrialSequence, values: Tensor, discount: float, gae_lambda: float, across: bool
) -> Tensor:
    """Generalised advantages along each trial (Schulman et al. 2016, equation 16).

    Â_t = δ_t + γ λ Â_{t+1} with δ_t = r_t + γ V_{t+1} − V_t. After the last step of the trial,
    value and advantage are zero.

    Deviation: after an episode that ended k steps before the horizon, γ is γ^{1+k}, as if the next
    one began at the horizon. Otherwise it would come sooner, and a robot that falls would lose
    little.

    Args:
        sequence: N trials.
        values: V, (N, L).
        discount: γ.
        gae_lambda: λ.
        across: whether credit crosses the borders of episodes; otherwise value and advantage are
            zero after the last step of every episode.

    Returns:
        (N, L), zero in the padding.
    """
    values = values * sequence.mask
    # γ to the power of the time until the next step; 0 where credit ends.
    discounts = torch.ones_like(values) if across else 1 - sequence.ends
    discounts[:, :-1] *= discount ** sequence.times.diff().clamp(min=1)
    advantages = torch.zeros_like(values)
    next_value = next_advantage = torch.zeros_like(values[:, 0])
    for t in reversed(range(values.shape[1])):
        future = discounts[:, t]
        delta = sequence.rewards[:, t] + future * next_value - values[:, t]
        next_advantage = (delta + gae_lambda * future * next_advantage) * sequence.mask[:, t]
        next_value = values[:, t]
        advantages[:, t] = next_advantage
    return advantages
