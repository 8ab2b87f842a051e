"""MAML's objective: the surrogate after adaptation (Finn et al. 2017, algorithm 3).

All T tasks of a meta-batch are computed at once, on a stack with one copy of the parameters for
each. Task i's loss depends on copy i only, so the gradient of the summed losses with respect to
copy i is that of task i.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from maml_rl.learners.maml.inner_step import policy_gradient_step, with_context
from maml_rl.learners.maml.losses import mean_kl, step_ratio
from maml_rl.policies.distributions import Distribution, Gaussian
from maml_rl.policies.latent import latent_distribution
from maml_rl.policies.parameters import Params, flatten, make_stack, requiring_grad
from maml_rl.policies.policy import Policy
from maml_rl.sampling.episodes import Episodes
from maml_rl.settings.learners import InnerConfig
from maml_rl.system.distributed import Ranks
from maml_rl.system.thread_pool import block_ends, map_blocks


class MetaBatch(NamedTuple):
    """Episodes of one meta-iteration: a support set per inner step, then the query set."""

    supports: tuple[Episodes, ...]
    query: Episodes
    stacks: tuple[Mapping[str, Tensor], ...]
    """Parameters that sampled each set, each (T, ...); those of the query set last."""
    credit: Tensor | None = None
    """(T,): by how much E-MAML's term credits each task; ``None`` without that term."""

    def chosen(self, tasks: slice | Tensor) -> MetaBatch:
        """The episodes and parameters of some tasks: a slice, as views, or a mask (T,) bool."""
        *supports, query = (episodes.chosen(tasks) for episodes in (*self.supports, self.query))
        stacks = tuple(
            {name: value[tasks] for name, value in stack.items()} for stack in self.stacks
        )
        credit = None if self.credit is None else self.credit[tasks]
        return MetaBatch(tuple(supports), query, stacks, credit)


@dataclass(frozen=True)
class Adapted:
    """A block of tasks after adaptation; every term of a meta-objective is computed from it."""

    policy: Policy
    batch: MetaBatch
    stacks: tuple[Params, ...]
    """Parameters after 0, 1, ... K inner steps, as functions of theta."""
    sampled: list[tuple[Distribution, Episodes]]
    """For each inner step k: π_θₖ at the states of its support episodes, and these episodes."""
    early_weight: float = 0.0
    """Weight of the loss after each inner step but the last, whose weight is 1."""

    def over_steps(self, quantity: Callable[[Distribution, Episodes], Tensor]) -> Tensor:
        """Weighted mean of a quantity over the inner steps, (T,).

        Args:
            quantity: from π_θₖ at the states of the episodes played after k steps, and these
                episodes, to (T,).
        """
        last = quantity(self.query_distribution, self.batch.query)
        if not self.early_weight or len(self.sampled) < 2:
            return last
        early = [quantity(dist, episodes) for dist, episodes in self.sampled[1:]]
        total = last + self.early_weight * torch.stack(early).sum(0)
        return total / (1 + self.early_weight * len(early))

    @functools.cached_property
    def query_distribution(self) -> Distribution:
        """π_θ' at the query states."""
        query = self.batch.query
        return self.policy.distribution(self.stacks[-1], query.flat(query.observations))


Quantity = Callable[[Adapted], Tensor]
"""Computes a quantity of each adapted task, (T,)."""


def ratio_surrogate(adapted: Adapted) -> Tensor:
    """mean_t π_θ'(a_t | s_t) / π_old(a_t | s_t) Â_t over the query episodes of each task, (T,).

    With ``inner.early_loss_weight`` it is a weighted mean over the episodes after each inner step.
    """

    def of_step(dist: Distribution, episodes: Episodes) -> Tensor:
        advantages = episodes.flat(episodes.advantages)
        return (episodes.step_weights * advantages * step_ratio(dist, episodes)).sum(-1)

    return adapted.over_steps(of_step)


def query_kl(adapted: Adapted) -> Tensor:
    """mean_t KL(π_old ‖ π_θ') over the query episodes of each task, (T,).

    With ``inner.early_loss_weight`` it is a weighted mean over the episodes after each inner step.
    """
    return adapted.over_steps(mean_kl)


def exploration_surrogate(adapted: Adapted) -> Tensor:
    """E-MAML's term Σ_k mean_t π_θₖ(a_t | s_t) / π_old(a_t | s_t) · credit of each task, (T,).

    The mean is over the support episodes of inner step k. At the sampling parameters the gradient
    is that of Σ log π_θ(τ) R(θ') (Stadie et al. 2018, equation 5).

    Deviations: it averages over time steps instead of summing, and R(θ') is the credit of
    :func:`with_credit`, a constant.
    """
    credit = adapted.batch.credit
    assert credit is not None, "the batch is not from with_credit"
    total = torch.zeros_like(credit)
    for dist, support in adapted.sampled:
        total = total + (support.step_weights * step_ratio(dist, support)).sum(-1)
    return total * credit


def with_credit(batch: MetaBatch, ranks: Ranks) -> MetaBatch:
    """Set the credit: each task's mean query return, standardised over the tasks of all ranks.

    It is zero if the returns differ by rounding errors only.
    """
    returns = batch.query.returns.nanmean(1)
    of_all = ranks.gather(returns)
    std = of_all.std(correction=0)
    centred = returns - of_all.mean()
    # A sum of a hundred rewards in float32 has an error of up to 1e-5 of its size.
    is_constant = std <= 1e-5 * of_all.square().mean().sqrt()
    credit = torch.where(is_constant, 0.0, centred / std.clamp(min=1e-8))
    return batch._replace(credit=credit)


def latent_kl(adapted: Adapted) -> Tensor:
    """KL(N(μ, σ²) ‖ N(0, I)) of the latent variable's distribution before adaptation, (T,).

    Deviation: all tasks share μ and σ, because a new task then starts as those of training did. In
    MAESN each training task has its own, and a new one starts with N(0, I) (Gupta et al. 2018).
    """
    latent = latent_distribution(adapted.stacks[0])
    zeros = torch.zeros_like(latent.mean)
    return latent.kl(Gaussian(zeros, zeros))[:, 0]


@dataclass(frozen=True)
class MetaObjective:
    """What outer steps are computed from: a surrogate after adaptation, as a function of theta.

    Means are over the tasks of all ``ranks``, in float64. Tasks are computed in blocks of
    ``block_size``, which bounds memory and keeps a block's tensors in cache; it changes results at
    most by rounding.
    """

    policy: Policy
    batch: MetaBatch
    inner: InnerConfig
    block_size: int
    ranks: Ranks = field(default_factory=Ranks)
    advantage_std: float = 1.0
    """Standard deviation that the advantages of inner steps are divided by."""
    early_weight: float = 0.0
    """Weight of the loss after each inner step but the last, whose weight is 1."""

    def value(self, theta: Params) -> tuple[float, float]:
        """Surrogate and KL, each a mean over tasks.

        - surrogate: mean_i mean_t π_θ'ᵢ(a_t | s_t) / π_old(a_t | s_t) Â_t, with the further terms
          that the settings ask for
        - kl: mean_i mean_t KL(π_old ‖ π_θ'ᵢ)

        mean_t is over the query episodes, which π_old sampled. θ'ᵢ is theta adapted to task i. With
        ``inner.early_loss_weight`` both are weighted means over the episodes after each inner step.
        """
        surrogate, kl = self.mean(theta, self._with_terms(ratio_surrogate), query_kl)
        return surrogate, kl

    def mean(self, theta: Params, *quantities: Quantity) -> list[float]:
        """Means over tasks of quantities after adaptation, without gradients."""

        def of_block(block: MetaBatch) -> list[Tensor]:
            adapted = self.adapted(make_stack(theta, block.query.num_tasks), block)
            with torch.no_grad():
                return [quantity(adapted) for quantity in quantities]

        values = map_blocks(of_block, self.blocks())
        per_task = [torch.cat(parts) for parts in zip(*values, strict=True)]
        return self.ranks.mean(torch.stack(per_task, dim=1)).tolist()

    def surrogate_and_gradient(
        self, theta: Params, surrogate: Quantity = ratio_surrogate
    ) -> tuple[float, Tensor]:
        """The surrogate, and its gradient through adaptation, (P,) float64.

        Args:
            theta: where to evaluate both.
            surrogate: what to maximise; the settings may add further terms.

        Raises:
            FloatingPointError: if the gradient is not finite.
        """
        of_task = self._with_terms(surrogate)

        def of_block(block: MetaBatch) -> tuple[Tensor, Tensor]:
            stack = requiring_grad(make_stack(theta, block.query.num_tasks))
            surrogates = of_task(self.adapted(stack, block))
            gradients = torch.autograd.grad(
                surrogates.sum(), list(stack.values()), allow_unused=True, materialize_grads=True
            )
            per_task = flatten(dict(zip(stack, gradients, strict=True)), batch_dims=1)
            return surrogates.detach(), per_task.detach()

        values, gradients = zip(*map_blocks(of_block, self.blocks()), strict=True)
        value, gradient = self.ranks.mean(torch.cat(values)), self.ranks.mean(torch.cat(gradients))
        if not gradient.isfinite().all():
            raise FloatingPointError("the meta-gradient is not finite")
        return float(value), gradient

    def _with_terms(self, surrogate: Quantity) -> Quantity:
        """``surrogate``, plus E-MAML's term and minus the latent variable's KL, if set."""
        terms: list[tuple[float, Quantity]] = []
        if self.inner.exploration_credit:
            terms.append((self.inner.exploration_credit, exploration_surrogate))
        if self.policy.latent_size > 0 and self.inner.latent_kl_weight:
            terms.append((-self.inner.latent_kl_weight, latent_kl))

        def total(adapted: Adapted) -> Tensor:
            value = surrogate(adapted)
            for weight, term in terms:
                value = value + weight * term(adapted)
            return value

        return total

    def blocks(self) -> Iterator[tuple[MetaBatch]]:
        """Parts of the batch with ``block_size`` tasks each, for ``map_blocks``."""
        for start, stop in block_ends(self.batch.query.num_tasks, self.block_size):
            yield (self.batch.chosen(slice(start, stop)),)

    def inner_step(
        self, stack: Params, support: Episodes, step: int
    ) -> tuple[dict[str, Tensor], Distribution]:
        """One inner step as a function of ``stack``; see :func:`policy_gradient_step`."""
        factor = 1 / self.advantage_std
        return policy_gradient_step(self.policy, stack, support, self.inner, step, factor)

    def adapted(self, stack: Params, block: MetaBatch) -> Adapted:
        """Adapt to a block of tasks, as a function of ``stack`` if it requires gradients."""
        stacks: list[Params] = [with_context(self.policy, stack)]
        sampled = []
        for step, support in enumerate(block.supports):
            theta_prime, dist = self.inner_step(stacks[-1], support, step)
            stacks.append(theta_prime)
            sampled.append((dist, support))
        return Adapted(
            policy=self.policy,
            batch=block,
            stacks=tuple(stacks),
            sampled=sampled,
            early_weight=self.early_weight,
        )
