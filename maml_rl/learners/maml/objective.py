"""MAML: adapt by policy gradient, and differentiate what adaptation reaches (Finn et al. 2017, algorithm 3).

The T tasks of a meta-batch are one stack of parameters. Since task i's loss depends on copy i alone, one gradient of
the summed losses holds every task's own gradient.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from maml_rl.learners.maml.inner_step import InnerConfig, StepSize, Surrogate, step_sizes, with_context
from maml_rl.policies.mlp import Distribution, Params, distribution, flatten, make_stack
from maml_rl.sampling.episodes import Episodes, MetaBatch
from maml_rl.system.distributed import Ranks
from maml_rl.system.thread_pool import block_ends, map_blocks

Batch = TypeVar("Batch")


def adapt(
    theta: Params,
    supports: Sequence[Batch],
    loss: Callable[[Params, Batch], Tensor],
    *,
    step_size: StepSize | Sequence[StepSize],
    first_order: bool,
) -> dict[str, Tensor]:
    """theta_prime = theta − α ∇L(theta), once for each support batch (equation 1).

    Where theta (or a step size) requires gradients, theta_prime is a function of it: differentiated through the inner
    gradients, or, with ``first_order``, as if they were constant. Otherwise theta_prime is a value.

    Args:
        theta: a stack of parameters, each (T, ...).
        supports: a batch per inner step; batch k was sampled at the parameters that step k starts from.
        loss: the losses (T,) of a stack on a batch.
        step_size: α, the same for every inner step or one for each. A mapping names the parameters that adapt; the
            others stay. Gradients flow into tensors.
        first_order: leave the inner gradients out of the graph.

    Returns:
        theta_prime, a stack.
    """
    steps = list(step_size) if isinstance(step_size, Sequence) else [step_size] * len(supports)
    learned = [a for size in steps if isinstance(size, Mapping) for a in size.values() if isinstance(a, Tensor)]
    differentiable = any(value.requires_grad for value in (*theta.values(), *learned))
    theta_prime = dict(theta)
    for support, size in zip(supports, steps, strict=True):
        alpha = size if isinstance(size, Mapping) else dict.fromkeys(theta, size)
        with torch.enable_grad():
            # A value has no graph yet: this step's own, for its gradient.
            start = {name: theta_prime[name] for name in alpha}
            start = {
                name: value if differentiable and value.requires_grad else value.detach().requires_grad_()
                for name, value in start.items()
            }
            gradients = torch.autograd.grad(
                loss({**theta_prime, **start}, support).sum(),
                list(start.values()),
                create_graph=differentiable and not first_order,
                retain_graph=differentiable,  # for what else follows from the same pass
            )
            theta_prime |= {
                name: value - along(alpha[name], value) * gradient
                for (name, value), gradient in zip(start.items(), gradients, strict=True)
            }
        if not differentiable:  # a value was given, a value is returned
            theta_prime = {name: value.detach() for name, value in theta_prime.items()}
    return theta_prime


def along(size: float | Tensor, value: Tensor) -> float | Tensor:
    """A step size, of which a tensor (T, 1) is one per task, in a shape that multiplies ``value`` (T, ...)."""
    if isinstance(size, Tensor) and size.shape != value.shape:
        return size.reshape(-1, *[1] * (value.dim() - 1))
    return size


def policy_gradient_loss(
    policy: nn.Module, surrogate: Surrogate, seen: list[Distribution] | None = None
) -> Callable[[Params, Episodes], Tensor]:
    """The inner loss of every task, to be minimised.

    The means are over a task's real steps; Â_t are advantages, ρ_t = π(a_t | s_t) / π_old(a_t | s_t).

    - ``log_prob``: −mean_t log π(a_t | s_t) Â_t (REINFORCE with a baseline). Its Hessian treats Â_t as constant and
      leaves out that theta decides which actions are drawn.
    - ``likelihood_ratio``: −mean_t ρ_t Â_t (Rothfuss et al. 2019, section 5). Its Hessian has the step's own
      ∇log π ∇log πᵀ, but not the products of different time steps.
    - ``dice``: −mean_t (□_t − □_{t−1}) Â_t, □_t = ∏_{t' ≤ t} ρ_t' (Loaded DiCE with λ = 0: Farquhar et al. 2019,
      equation 13). All products are there: the Hessian is unbiased where the advantages are exact.

    Returns:
        A function of a stack of parameters and the episodes of T tasks; its value is (T,). At every call it adds π at
        the episodes' states to ``seen``.
    """

    def loss(stack: Params, episodes: Episodes) -> Tensor:
        dist = distribution(policy, stack, episodes.flat(episodes.observations))
        if seen is not None:
            seen.append(dist)
        factor = _FACTORS[surrogate](dist.log_prob(episodes.flat(episodes.actions)), episodes)
        return -(episodes.step_weights * episodes.flat(episodes.advantages) * factor).sum(-1)

    return loss


def step_ratio(dist: Distribution, episodes: Episodes) -> Tensor:
    """π(a_t | s_t) / π_old(a_t | s_t) at real steps, 1 at others (where it could overflow), (T, E·H)."""
    return _log_ratio(dist.log_prob(episodes.flat(episodes.actions)), episodes).exp()


def _log_ratio(log_prob: Tensor, episodes: Episodes) -> Tensor:
    """Log-ratio log π − log π_old at real steps, 0 at others (where it could overflow in a ratio), (T, E·H)."""
    log_ratio = log_prob - episodes.flat(episodes.log_probs)
    return log_ratio.masked_fill(episodes.flat(episodes.mask) == 0, 0.0)


def _dice(log_prob: Tensor, episodes: Episodes) -> Tensor:
    """□_t − □_{t−1} at every step, (T, E·H)."""
    log_ratio = _log_ratio(log_prob, episodes).unflatten(1, episodes.mask.shape[1:])
    until = log_ratio.cumsum(-1)
    return (until.exp() - (until - log_ratio).exp()).flatten(1)


_FACTORS: dict[Surrogate, Callable[[Tensor, Episodes], Tensor]] = {
    "log_prob": lambda log_prob, episodes: log_prob,
    "likelihood_ratio": lambda log_prob, episodes: _log_ratio(log_prob, episodes).exp(),
    "dice": _dice,
}


def mean_kl(dist: Distribution, episodes: Episodes) -> Tensor:
    """mean_t KL(π_old ‖ dist) of each task, (T,)."""
    old: Any = type(dist)(*episodes.distribution)
    return (episodes.step_weights * old.kl(dist)).sum(-1)


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
        return distribution(self.policy, self.stacks[-1], self.batch.query.flat(self.batch.query.observations))

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

    At the sampling parameters its gradient is that of E-MAML's term, Σ log π_θ(τ) R(θ') (Stadie et al. 2018, equation
    5), up to the mean over steps in place of the sum.
    """
    total = torch.zeros_like(adapted.credit)
    for dist, support in adapted.sampled:
        total = total + (support.step_weights * step_ratio(dist, support)).sum(-1)
    return total * adapted.credit


@dataclass(frozen=True)
class MetaObjective:
    """What the outer step maximises: the policy surrogate after adaptation, as a function of theta.

    Means are over the tasks of all ``ranks``, added in float64 in task order: they do not depend on how tasks are
    grouped.

    Everything is computed in blocks of ``block_size`` tasks, which bounds memory and keeps a block's tensors in cache;
    results depend on it by the rounding of a task's own sums at most.
    """

    policy: nn.Module
    batch: MetaBatch
    inner: InnerConfig
    block_size: int
    ranks: Ranks = field(default_factory=Ranks)

    def value(self, theta: Params) -> tuple[float, float]:
        """Surrogate and KL, each a mean over tasks.

        surrogate = mean_i mean_t π_θ'ᵢ(a_t | s_t) / π_old(a_t | s_t) Â_t and kl = mean_i mean_t KL(π_old ‖ π_θ'ᵢ) over
        the query episodes, θ'ᵢ being theta adapted to task i and π_old the policy that sampled them. With
        ``inner.exploration_credit`` the surrogate holds E-MAML's term too.
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

    def surrogate_and_gradient(self, theta: Params, surrogate: Quantity = ratio_surrogate) -> tuple[float, Tensor]:
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
            gradients = torch.autograd.grad(surrogates.sum(), leaves, allow_unused=True, materialize_grads=True)
            return surrogates.detach(), flatten(dict(zip(stack, gradients, strict=True)), batch_dims=1).detach()

        values, per_task = zip(*map_blocks(of_block, self.blocks()), strict=True)
        return float(self.ranks.mean(torch.cat(values))), self.ranks.mean(torch.cat(per_task))

    def _with_exploration(self, surrogate: Quantity) -> Quantity:
        """``surrogate``, with E-MAML's term if the settings ask for it."""
        weight = self.inner.exploration_credit
        return (lambda adapted: surrogate(adapted) + weight * exploration_surrogate(adapted)) if weight else surrogate

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

    def inner_step(self, stack: Params, support: Episodes, seen: list[Distribution] | None = None) -> dict[str, Tensor]:
        """One inner step; in training all have the same step sizes, so that the number of the step does not matter."""
        loss = policy_gradient_loss(self.policy, self.inner.surrogate, seen)
        sizes = step_sizes(self.policy, self.inner, stack)
        return adapt(stack, [support], loss, step_size=sizes, first_order=self.inner.first_order)

    def adapted(self, stack: Params, block: MetaBatch, credit: Tensor) -> Adapted:
        """Adaptation of a block of tasks, a function of ``stack`` where that requires gradients."""
        stacks, seen = [with_context(self.policy, stack)], list[Distribution]()
        for support in block.supports:
            stacks.append(self.inner_step(stacks[-1], support, seen))
        return Adapted(self.policy, block, tuple(stacks), credit, list(zip(seen, block.supports, strict=True)))


def requiring_grad(stack: Params) -> dict[str, Tensor]:
    """The same values as leaves of a new graph: detached, so that gradients stop here."""
    return {name: value.detach().requires_grad_() for name, value in stack.items()}
