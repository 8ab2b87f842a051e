"""Proximal policy optimisation (Schulman et al. 2017) on whole trials of a recurrent policy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from maml_rl.learners.adam import ascend
from maml_rl.learners.rl2.sequence import TrialSequence
from maml_rl.policies.distributions import Distribution
from maml_rl.policies.parameters import Params
from maml_rl.policies.recurrent.network import RecurrentPolicy
from maml_rl.settings.learners.rl2 import RL2Config
from maml_rl.system.distributed import Ranks
from maml_rl.system.thread_pool import block_ends, map_blocks

TRIALS_PER_BLOCK = 13
"""Trials whose gradient a thread computes at once on a CPU."""


class TrialBatch(NamedTuple):
    """What PPO learns from N trials."""

    sequence: TrialSequence
    """Their steps."""
    tasks: Tensor | None
    """(N, task_size) if the value network observes them."""
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

        def part(value: Tensor) -> Tensor:
            return value[trials]

        return TrialBatch(
            sequence=TrialSequence(*map(part, self.sequence)),
            tasks=None if self.tasks is None else self.tasks[trials],
            distribution=tuple(map(part, self.distribution)),
            log_probs=self.log_probs[trials],
            advantages=self.advantages[trials],
            targets=self.targets[trials],
        )


def evaluate_trials(
    policy: RecurrentPolicy,
    theta: Params,
    sequence: TrialSequence,
    tasks: Tensor | None,
    truncation: int | None = None,
) -> tuple[Distribution, Tensor]:
    """Return the action distributions (N, L) and values (N, L) of whole trials.

    Args:
        policy: the architecture.
        theta: parameters.
        sequence: trials that begin with an empty memory.
        tasks: (N, task_size) if the value network observes them.
        truncation: steps after which backpropagation through time is cut; ``None`` for never.
    """
    inputs = policy.encode(theta, sequence.observations, sequence.previous)
    memory = inputs.new_zeros(len(inputs), policy.memory_size)
    outputs = []
    for part in inputs.split(truncation or inputs.shape[1], dim=1):
        # Detached: truncated, no gradient flows to the steps before.
        output, memory = policy.unroll(theta, memory.detach(), part)
        outputs.append(output)
    whole = torch.cat(outputs, dim=1)
    dist = policy.distribution(theta, whole, sequence.observations)
    return dist, policy.values(theta, whole, sequence.observations, tasks)


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
    policy: RecurrentPolicy, theta: Params, batch: TrialBatch, config: RL2Config
) -> Terms:
    """Return the terms of PPO's loss."""
    sequence = batch.sequence
    dist, values = evaluate_trials(policy, theta, sequence, batch.tasks, config.truncation)
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


def loss(terms: Terms, config: RL2Config) -> Tensor:
    """Return the loss of each trial, to be minimised, (N,)."""
    return (
        -terms.surrogate
        + config.value_coefficient * terms.value_error
        - config.entropy_coefficient * terms.entropy
    )


class _Minibatch(NamedTuple):
    """The result of a minibatch, over all processes."""

    gradient: Tensor
    """Of the loss to be minimised, (P,) float64."""
    means: Terms
    """Mean of each term over the steps, () float64."""


def _minibatch(
    policy: RecurrentPolicy,
    theta: Params,
    batch: TrialBatch,
    config: RL2Config,
    ranks: Ranks,
    block_size: int,
) -> _Minibatch:
    """Return gradient and terms of the trials of a minibatch, added in blocks.

    Args:
        policy: the architecture.
        theta: parameters.
        batch: this process's trials of the minibatch; there may be none.
        config: settings.
        ranks: the processes that share the minibatch.
        block_size: trials whose gradient is computed at once.
    """
    num_steps = ranks.sum(batch.sequence.mask.sum(1))

    def of_block(start: int, stop: int) -> Tensor:
        with torch.enable_grad():
            leaves = {name: value.detach().requires_grad_() for name, value in theta.items()}
            terms = loss_terms(policy, leaves, batch.chosen(slice(start, stop)), config)
            gradients = torch.autograd.grad(loss(terms, config).sum(), list(leaves.values()))
        sums = torch.stack([term.detach().sum(dtype=torch.float64) for term in terms])
        return torch.cat([*(gradient.flatten().double() for gradient in gradients), sums])

    blocks = map_blocks(of_block, block_ends(len(batch.log_probs), block_size))
    size = sum(value.numel() for value in theta.values()) + len(Terms._fields)
    rows = torch.stack(blocks) if blocks else num_steps.new_zeros(0, size)
    total = ranks.sum(rows) / num_steps
    num_terms = len(Terms._fields)
    return _Minibatch(total[:-num_terms], Terms(*total[-num_terms:]))


def _minibatches(
    rng: np.random.Generator, num_trials: int, config: RL2Config
) -> Iterator[np.ndarray]:
    """Indices of the trials of each minibatch, of all processes, for all epochs."""
    for _ in range(config.num_epochs):
        yield from np.array_split(rng.permutation(num_trials), config.num_minibatches)


def ppo_update(
    policy: RecurrentPolicy,
    theta: Params,
    state: dict[str, Tensor],
    batch: TrialBatch,
    indices: Tensor,
    num_trials: int,
    config: RL2Config,
    step_size: float,
    rng: np.random.Generator,
    ranks: Ranks,
    block_size: int,
) -> tuple[Params, dict[str, Tensor], dict[str, float]]:
    """Update policy and value by several passes over the trials.

    Args:
        policy: the architecture.
        theta: the parameters with which the trials were played.
        state: of Adam; empty at first.
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
    steps: list[dict[str, float]] = []
    for chosen in _minibatches(rng, num_trials, config):
        is_chosen = torch.isin(indices, torch.from_numpy(chosen).to(indices))
        if float(ranks.sum(is_chosen)) == 0:
            continue  # all its trials have failed
        result = _minibatch(policy, theta, batch.chosen(is_chosen), config, ranks, block_size)
        # Before the first step, the divergence is a rounding error.
        if steps and float(result.means.kl) > config.target_kl:
            break
        norm = float(result.gradient.norm())
        scale = min(1.0, config.max_gradient_norm / norm) if norm > 0 else 1.0
        theta, state = ascend(theta, -scale * result.gradient, state, step_size)
        metrics = {f"update/{name}": float(value) for name, value in result.means._asdict().items()}
        steps.append({**metrics, "update/gradient_norm": norm})
    means = {name: float(np.mean([step[name] for step in steps])) for name in steps[0]}
    means["update/kl"] = float(result.means.kl)
    return theta, state, means | {"update/num_steps": float(len(steps))}
