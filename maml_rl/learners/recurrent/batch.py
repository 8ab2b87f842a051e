"""What PPO learns from: trials with log-probabilities, advantages and the values' targets."""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from maml_rl.learners.recurrent.sequence import TrialSequence, trial_advantages
from maml_rl.learners.recurrent.value_scale import ValueScale
from maml_rl.policies.distributions import Distribution
from maml_rl.policies.parameters import Params
from maml_rl.settings.learners.trial_ppo import TrialPPOConfig
from maml_rl.system.distributed import Ranks
from maml_rl.system.thread_pool import block_ends, map_blocks


class TrialPolicy(Protocol):
    """A policy and its value network."""

    def along_trials(
        self,
        theta: Params,
        observations: Tensor,
        previous: Tensor,
        tasks: Tensor | None,
        truncation: int | None,
    ) -> tuple[Distribution, Tensor]:
        """Return the action distributions (N, L) and values (N, L) of whole trials.

        Args:
            theta: parameters.
            observations: normalised, (N, L, observation_size).
            previous: what came before each step, (N, L, previous_size).
            tasks: (N, task_size) if a network observes them.
            truncation: steps after which backpropagation through time is cut; ``None`` for never.
        """


class TrialBatch(NamedTuple):
    """What PPO learns from N trials."""

    sequence: TrialSequence
    """Their steps."""
    tasks: Tensor | None
    """(N, task_size) if a network observes them."""
    distribution: tuple[Tensor, ...]
    """Parameters of the distribution that actions were sampled from, each (N, L or 1, ...)."""
    log_probs: Tensor
    """(N, L): log-probability of each action when it was sampled."""
    advantages: Tensor
    """(N, L), normalised."""
    targets: Tensor
    """(N, L): what the value network should return."""

    def chosen(self, trials: Tensor | slice) -> TrialBatch:
        """The batch of some trials: indices, a mask (N,) bool, or a slice."""
        return TrialBatch(
            sequence=self.sequence.chosen(trials),
            tasks=None if self.tasks is None else self.tasks[trials],
            distribution=tuple(value[trials] for value in self.distribution),
            log_probs=self.log_probs[trials],
            advantages=self.advantages[trials],
            targets=self.targets[trials],
        )


Evaluated = tuple[Distribution, Tensor, Tensor]
"""Distributions (N, L), log-probabilities of the actions (N, L), and values (N, L) of N trials."""


def evaluated_trials(
    policy: TrialPolicy,
    theta: Params,
    sequence: TrialSequence,
    tasks: Tensor | None,
    block_size: int,
) -> Evaluated:
    """Evaluate whole trials, without gradients.

    Args:
        policy: the architecture.
        theta: parameters.
        sequence: N trials.
        tasks: (N, task_size) if a network observes them.
        block_size: trials that are computed at once.
    """

    def of_block(start: int, stop: int) -> Evaluated:
        block = sequence.chosen(slice(start, stop))
        tasks_of_block = None if tasks is None else tasks[start:stop]
        with torch.no_grad():
            dist, values = policy.along_trials(
                theta, block.observations, block.previous, tasks_of_block, None
            )
            return dist, dist.log_prob(block.actions), values

    blocks = block_ends(len(sequence.mask), block_size)
    dists, log_probs, values = zip(*map_blocks(of_block, blocks), strict=True)
    dist = type(dists[0])(*(torch.cat(parts) for parts in zip(*dists, strict=True)))
    return dist, torch.cat(log_probs), torch.cat(values)


def trial_batch(
    sequence: TrialSequence,
    tasks: Tensor | None,
    evaluated: Evaluated,
    scale: ValueScale,
    config: TrialPPOConfig,
    across: bool,
    ranks: Ranks,
) -> tuple[TrialBatch, ValueScale, dict[str, float]]:
    """Return what PPO learns from, the new scale of the values' targets, and metrics.

    Args:
        sequence: N trials, those of this process.
        tasks: (N, task_size) if a network observes them.
        evaluated: these trials, by the parameters that played them.
        scale: in whose units the values are.
        config: settings.
        across: whether credit crosses the borders of episodes.
        ranks: the processes.
    """
    dist, log_probs, values = evaluated
    # Advantages and targets, in units of the reward.
    values = scale.denormalize(values)
    advantages = trial_advantages(sequence, values, config.discount, config.gae_lambda, across)
    targets = advantages + values
    # Normalise advantages over all trials, and targets by their running statistics.
    is_real = sequence.mask > 0
    empty = ValueScale.empty(values.device)
    of_advantages = empty.updated(advantages[is_real], ranks)
    of_targets = empty.updated(targets[is_real], ranks)
    scale = scale.updated(targets[is_real], ranks)
    batch = TrialBatch(
        sequence=sequence,
        tasks=tasks,
        distribution=tuple(dist),
        log_probs=log_probs,
        advantages=of_advantages.normalize(advantages) * sequence.mask,
        targets=scale.normalize(targets) * sequence.mask,
    )
    # Share of the targets' variance that the values explain; the advantages are the errors.
    variance = float(of_targets.variance)
    explained = 1 - float(of_advantages.square) / variance if variance else math.nan
    return batch, scale, {"update/explained_variance": explained}
