"""MAML: adapt by policy gradient, and differentiate what adaptation reaches (Finn et al. 2017, algorithm 3).

The T tasks of a meta-batch are one stack of parameters. Since task i's loss depends on copy i
alone, one gradient of the summed losses holds every task's own gradient.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from maml_rl.learners.maml.adapt import adapt, requiring_grad
from maml_rl.learners.maml.inner_step import step_sizes, with_context
from maml_rl.learners.maml.losses import mean_kl, policy_gradient_loss, step_ratio
from maml_rl.policies.distributions import Distribution
from maml_rl.policies.mlp import distribution
from maml_rl.policies.parameters import Params, flatten, make_stack
from maml_rl.sampling.episodes import Episodes, MetaBatch
from maml_rl.settings.maml import InnerConfig
from maml_rl.system.distributed import Ranks
from maml_rl.system.thread_pool import block_ends, map_blocks


@dataclass(frozen=True)
class Adapted:
    """Adaptation of a block of tasks, from which every term of a meta-objective is computed."""

    policy: nn.Module
    batch: MetaBatch
    stacks: tuple[Params, ...]
    """Parameters after 0, 1, ... K inner steps, as functions of theta."""
    credit: Tensor
    """What each task's adaptation led to, (T,)."""
    sampled: list[tuple[Distribution, Episodes]]
    """Of each inner step, the support episodes, and π at their states with the parameters that it starts from."""

    @functools.cached_property
    def query_distribution(self) -> Distribution:
        """π_θ' at the query states."""
        return distribution(
            self.policy, self.stacks[-1], self.batch.query.flat(self.batch.query.observations)
        )

    @property
    def query_ratio(self) -> Tensor:
        """π_θ'(a_t | s_t) / π_old(a_t | s_t) at the query steps, (T, E·H)."""
        return step_ratio(self.query_distribution, self.batch.query)


Quantity = Callable[[Adapted], Tensor]
"""A quantity (T,) of each adapted task."""


def ratio_surrogate(adapted: Adapted) -> Tensor:
    """mean_t π_θ'(a_t | s_t) / π_old(a_t | s_t) Â_t over the query episodes of each task, (T,)."""
    query = adapted.batch.query
    return (query.step_weights * query.flat(query.advantages) * adapted.query_ratio).sum(-1)


def query_kl(adapted: Adapted) -> Tensor:
    """mean_t KL(π_old ‖ π_θ') over the query episodes of each task, (T,)."""
    return mean_kl(adapted.query_distribution, adapted.batch.query)


def exploration_surrogate(adapted: Adapted) -> Tensor:
    """Σ_k mean_t π_θₖ(a_t | s_t) / π_old(a_t | s_t) · credit over the support episodes of each task, (T,).

    At the sampling parameters its gradient is that of E-MAML's term, Σ log π_θ(τ) R(θ') (Stadie et
    al. 2018, equation 5), up to the mean over steps in place of the sum.
    """
    total = torch.zeros_like(adapted.credit)
    for dist, support in adapted.sampled:
        total = total + (support.step_weights * step_ratio(dist, support)).sum(-1)
    return total * adapted.credit


@dataclass(frozen=True)
class MetaObjective:
    """What the outer step maximises: the policy surrogate after adaptation, as a function of theta.

    Means are over the tasks of all ``ranks``, added in float64 in task order: they do not depend on
    how tasks are grouped.

    Everything is computed in blocks of ``block_size`` tasks, which bounds memory and keeps a
    block's tensors in cache; results depend on it by the rounding of a task's own sums at most.
    """

    policy: nn.Module
    batch: MetaBatch
    inner: InnerConfig
    block_size: int
    ranks: Ranks = field(default_factory=Ranks)

    def value(self, theta: Params) -> tuple[float, float]:
        """Surrogate and KL, each a mean over tasks.

        surrogate = mean_i mean_t π_θ'ᵢ(a_t | s_t) / π_old(a_t | s_t) Â_t and kl = mean_i mean_t
        KL(π_old ‖ π_θ'ᵢ) over the query episodes, θ'ᵢ being theta adapted to task i and π_old the
        policy that sampled them. With ``inner.exploration_credit`` the surrogate holds E-MAML's
        term too.
        """
        surrogate, kl = self.mean(theta, self._with_exploration(ratio_surrogate), query_kl)
        return surrogate, kl

    def mean(self, theta: Params, *quantities: Quantity) -> list[float]:
        """Means over tasks of quantities after adaptation, without gradients."""

        def of_block(block: MetaBatch, credit: Tensor) -> list[Tensor]:
            adapted = self.adapted(make_stack(theta, block.query.num_tasks), block, credit)
            with torch.no_grad():
                return [quantity(adapted) for quantity in quantities]

        values = map_blocks(of_block, self.blocks())
        per_task = [torch.cat(parts) for parts in zip(*values, strict=True)]
        return self.ranks.mean(torch.stack(per_task, dim=1)).tolist()

    def surrogate_and_gradient(
        self, theta: Params, surrogate: Quantity = ratio_surrogate
    ) -> tuple[float, Tensor]:
        """The surrogate, and its gradient through adaptation (with ``first_order``, past it), (P,) float64.

        Args:
            theta: where.
            surrogate: what to maximise; E-MAML's term is added to it if the settings ask for it.
        """

        def of_block(block: MetaBatch, credit: Tensor) -> tuple[Tensor, Tensor]:
            stack = requiring_grad(make_stack(theta, block.query.num_tasks))
            adapted = self.adapted(stack, block, credit)
            surrogates = self._with_exploration(surrogate)(adapted)
            leaves = list(stack.values())
            gradients = torch.autograd.grad(
                surrogates.sum(), leaves, allow_unused=True, materialize_grads=True
            )
            return surrogates.detach(), flatten(
                dict(zip(stack, gradients, strict=True)), batch_dims=1
            ).detach()

        values, per_task = zip(*map_blocks(of_block, self.blocks()), strict=True)
        return float(self.ranks.mean(torch.cat(values))), self.ranks.mean(torch.cat(per_task))

    def _with_exploration(self, surrogate: Quantity) -> Quantity:
        """``surrogate``, with E-MAML's term if the settings ask for it."""
        weight = self.inner.exploration_credit
        return (
            (lambda adapted: surrogate(adapted) + weight * exploration_surrogate(adapted))
            if weight
            else surrogate
        )

    def blocks(self) -> Iterator[tuple[MetaBatch, Tensor]]:
        """Parts of the batch of ``block_size`` tasks, with the credit of each task, which is relative to all."""
        credit = self.credit
        for start, stop in block_ends(self.batch.query.num_tasks, self.block_size):
            yield self.batch.tasks(start, stop), credit[start:stop]

    @functools.cached_property
    def credit(self) -> Tensor:
        """Mean query return of each task, standardised over all tasks, (T,): what adaptation is credited with."""
        returns = self.batch.query.returns.nanmean(1)
        of_all = self.ranks.gather(returns)
        return (returns - of_all.mean()) / of_all.std(correction=0).clamp(min=1e-8)

    def inner_step(
        self, stack: Params, support: Episodes, seen: list[Distribution] | None = None
    ) -> dict[str, Tensor]:
        """One inner step; in training all have the same step sizes, so that the number of the step does not matter."""
        loss = policy_gradient_loss(self.policy, self.inner.surrogate, seen)
        sizes = step_sizes(self.policy, self.inner, stack)
        return adapt(stack, [support], loss, step_size=sizes, first_order=self.inner.first_order)

    def adapted(self, stack: Params, block: MetaBatch, credit: Tensor) -> Adapted:
        """Adaptation of a block of tasks, a function of ``stack`` where that requires gradients."""
        stacks, seen = [with_context(self.policy, stack)], list[Distribution]()
        for support in block.supports:
            stacks.append(self.inner_step(stacks[-1], support, seen))
        return Adapted(
            self.policy, block, tuple(stacks), credit, list(zip(seen, block.supports, strict=True))
        )
