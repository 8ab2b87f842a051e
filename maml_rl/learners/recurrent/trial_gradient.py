"""Minibatches of whole trials, the gradient of a mean over their steps, and a step along it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from maml_rl.learners.adam import ascend
from maml_rl.policies.parameters import Params, requiring_grad
from maml_rl.system.distributed import Ranks
from maml_rl.system.thread_pool import block_ends, map_blocks

Batch = TypeVar("Batch", bound=Any)  # with ``chosen`` and ``sequence``

_TRIALS_PER_BLOCK = 13
"""Trials whose gradient a thread computes at once on a CPU."""


def trials_per_block(device: torch.device) -> int:
    """Return the number of trials to compute at once."""
    return _TRIALS_PER_BLOCK if device.type == "cpu" else 1 << 20


def minibatches(
    indices: Tensor,
    num_trials: int,
    num_epochs: int,
    num_minibatches: int,
    rng: np.random.Generator,
    ranks: Ranks,
) -> Iterator[Tensor]:
    """Divide the trials of all processes into minibatches, differently in each epoch.

    Args:
        indices: of this process's trials among those of all processes, (N,).
        num_trials: number of trials of all processes, including those that failed.
        num_epochs: passes over the trials.
        num_minibatches: minibatches of a pass.
        rng: stream of the division, the same in all processes.
        ranks: the processes.

    Yields:
        (N,) bool: which of this process's trials are in a minibatch. One whose trials have all
        failed is left out.
    """
    for _ in range(num_epochs):
        for chosen in np.array_split(rng.permutation(num_trials), num_minibatches):
            is_chosen = torch.isin(indices, torch.from_numpy(chosen).to(indices))
            if float(ranks.sum(is_chosen)) > 0:
                yield is_chosen


def mean_gradient(
    loss: Callable[[Params, Batch], tuple[Tensor, Sequence[Tensor]]],
    num_terms: int,
    theta: Params,
    batch: Batch,
    ranks: Ranks,
    block_size: int,
) -> tuple[Tensor, Tensor]:
    """Return the gradient of a loss that is a mean over steps, and means of its terms.

    Args:
        loss: (parameters, batch) -> loss of each trial, and terms (N,) to log, all summed over the
            steps of a trial.
        num_terms: number of these terms.
        theta: parameters.
        batch: this process's trials; there may be none.
        ranks: the processes that share the trials.
        block_size: trials whose gradient is computed at once.

    Returns:
        (P,) and (num_terms,), float64, over the trials of all processes.
    """
    mask = batch.sequence.mask
    num_steps = ranks.sum(mask.sum(1))

    def of_block(start: int, stop: int) -> Tensor:
        with torch.enable_grad():
            leaves = requiring_grad(theta)
            losses, terms = loss(leaves, batch.chosen(slice(start, stop)))
            gradients = torch.autograd.grad(losses.sum(), list(leaves.values()))
        sums = torch.stack([term.detach().sum(dtype=torch.float64) for term in terms])
        return torch.cat([*(gradient.flatten().double() for gradient in gradients), sums])

    blocks = map_blocks(of_block, block_ends(len(mask), block_size))
    size = sum(value.numel() for value in theta.values()) + num_terms
    rows = torch.stack(blocks) if blocks else num_steps.new_zeros(0, size)
    total = ranks.sum(rows) / num_steps
    return total[:-num_terms], total[-num_terms:]


def descend(
    theta: Params, gradient: Tensor, state: dict[str, Tensor], step_size: float, max_norm: float
) -> tuple[dict[str, Tensor], dict[str, Tensor], float]:
    """Take one step of Adam along the negative gradient.

    Args:
        theta: parameters.
        gradient: (P,) float64; it is scaled down to ``max_norm`` if its norm is larger.
        state: of Adam.
        step_size: Adam's.
        max_norm: largest norm of the gradient.

    Returns:
        The new parameters, the state of Adam, and the norm of the gradient before it is scaled.

    Raises:
        FloatingPointError: if the gradient is not finite.
    """
    norm = float(gradient.norm())
    scale = min(1.0, max_norm / norm) if norm > 0 else 1.0
    theta, state = ascend(theta, -scale * gradient, state, step_size)
    return theta, state, norm
