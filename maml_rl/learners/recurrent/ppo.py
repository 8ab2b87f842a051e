"""Proximal policy optimisation (Schulman et al. 2017) on whole trials."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from maml_rl.learners.recurrent.batch import TrialBatch, TrialPolicy
from maml_rl.learners.recurrent.trial_gradient import descend, mean_gradient, minibatches
from maml_rl.policies.parameters import Params
from maml_rl.settings.learners.trial_ppo import TrialPPOConfig
from maml_rl.system.distributed import Ranks


class Terms(NamedTuple):
    """Terms of the loss and of the metrics at each step, summed over each trial, (N,) each."""

    surrogate: Tensor
    """min(ρ Â, clip(ρ, 1 − ε, 1 + ε) Â) (equation 7), with ρ = π(a | s) / π_old(a | s)."""
    value_error: Tensor
    """½ (V − target)²."""
    entropy: Tensor
    """Of the policy."""
    kl: Tensor
    """KL(π_old ‖ π)."""
    clipped: Tensor
    """1 if ρ is outside [1 − ε, 1 + ε]."""


def loss_terms(
    policy: TrialPolicy, theta: Params, batch: TrialBatch, config: TrialPPOConfig
) -> Terms:
    """Return the terms of PPO's loss."""
    sequence = batch.sequence
    dist, values = policy.along_trials(
        theta, sequence.observations, sequence.previous, batch.tasks, config.truncation
    )
    old: Any = type(dist)(*batch.distribution)
    # 1 in the padding, where it could overflow and make the gradient NaN.
    is_real = sequence.mask > 0
    log_ratio = dist.log_prob(sequence.actions) - batch.log_probs
    ratio = torch.exp(torch.where(is_real, log_ratio, 0.0))
    clipped = ratio.clamp(1 - config.clip_range, 1 + config.clip_range)
    terms = Terms(
        surrogate=torch.minimum(ratio * batch.advantages, clipped * batch.advantages),
        value_error=0.5 * (values - batch.targets).square(),
        entropy=dist.entropy().expand_as(values),
        kl=old.kl(dist),
        clipped=(ratio != clipped).to(values),
    )
    return Terms(*(torch.where(is_real, term, 0.0).sum(1) for term in terms))


def loss(terms: Terms, config: TrialPPOConfig) -> Tensor:
    """Return the loss of each trial, to be minimised, (N,)."""
    return (
        -terms.surrogate
        + config.value_coefficient * terms.value_error
        - config.entropy_coefficient * terms.entropy
    )


def ppo_update(
    policy: TrialPolicy,
    theta: Params,
    state: dict[str, Tensor],
    batch: TrialBatch,
    indices: Tensor,
    num_trials: int,
    config: TrialPPOConfig,
    step_size: float,
    rng: np.random.Generator,
    ranks: Ranks,
    block_size: int,
) -> tuple[Params, dict[str, Tensor], dict[str, float]]:
    """Update policy and value by several passes over the trials.

    Args:
        policy: the architecture.
        theta: the parameters with which the trials were played.
        state: of Adam.
        batch: N trials, those of this process.
        indices: of these trials among those of all processes, (N,).
        num_trials: number of trials of all processes, including those that failed.
        config: settings.
        step_size: Adam's.
        rng: stream that divides the trials into minibatches, the same in all processes.
        ranks: the processes.
        block_size: trials whose gradient is computed at once.

    Returns:
        The new parameters, the state of Adam, and metrics.

    Raises:
        FloatingPointError: if a gradient is not finite.
    """

    def loss_and_terms(leaves: Params, trials: TrialBatch) -> tuple[Tensor, Terms]:
        terms = loss_terms(policy, leaves, trials, config)
        return loss(terms, config), terms

    steps: list[dict[str, float]] = []
    for is_chosen in minibatches(
        indices, num_trials, config.num_epochs, config.num_minibatches, rng, ranks
    ):
        part = batch.chosen(is_chosen)
        gradient, values = mean_gradient(
            loss_and_terms, len(Terms._fields), theta, part, ranks, block_size
        )
        terms = Terms(*values)
        # Before the first step, the divergence is a rounding error.
        if steps and float(terms.kl) > config.target_kl:
            break
        max_norm = config.max_gradient_norm
        theta, state, norm = descend(theta, gradient, state, step_size, max_norm)
        metrics = {f"update/{name}": float(value) for name, value in terms._asdict().items()}
        steps.append({**metrics, "update/gradient_norm": norm})
    means = {name: float(np.mean([step[name] for step in steps])) for name in steps[0]}
    means["update/kl"] = float(terms.kl)
    return theta, state, means | {"update/num_steps": float(len(steps))}
