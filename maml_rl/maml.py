"""MAML: adapt by policy gradient, and differentiate what adaptation reaches (Finn et al. 2017, algorithm 3).

The T tasks of a meta-batch are one stack of parameters. Since task i's loss depends on copy i alone, one gradient of
the summed losses holds every task's own gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from maml_rl.episodes import Episodes
from maml_rl.policies import Distribution, Params, distribution, flatten, make_stack, unflatten

Surrogate = Literal["log_prob", "likelihood_ratio"]
Batch = TypeVar("Batch")
LinearMap = Callable[[Sequence[Tensor]], Sequence[Tensor]]


@dataclass(frozen=True, kw_only=True)
class InnerConfig:
    """Adaptation to one task."""

    num_steps: int = 1
    """Inner policy-gradient steps, each on fresh episodes."""
    step_size: float = 0.1
    """Step size alpha of each inner step."""
    first_order: bool = False
    """Take adaptation's Jacobian for the identity (first-order MAML): cheaper, and less exact."""
    surrogate: Surrogate = "log_prob"
    """Inner loss. Both have the policy gradient at the sampling parameters; their Hessians differ."""

    def __post_init__(self) -> None:
        if self.num_steps < 0:
            raise ValueError(f"inner.num_steps must be at least 0, got {self.num_steps}")
        if not 0 < self.step_size < float("inf"):
            raise ValueError(f"inner.step_size must be finite and above 0, got {self.step_size}")


def policy_gradient_loss(policy: nn.Module, surrogate: Surrogate) -> Callable[[Params, Episodes], Tensor]:
    """The inner loss of every task, to be minimised.

    With ``log_prob``: −mean_t log π(a_t | s_t) Â_t (REINFORCE with a baseline); with ``likelihood_ratio``:
    −mean_t π(a_t | s_t) / π_old(a_t | s_t) Â_t (Rothfuss et al. 2019, section 5). The mean is over a task's real steps.

    Returns:
        A function of a stack of parameters and the episodes of T tasks; its value is (T,).
    """

    def loss(stack: Params, episodes: Episodes) -> Tensor:
        log_prob = distribution(policy, stack, episodes.flat(episodes.observations)).log_prob(
            episodes.flat(episodes.actions)
        )
        factor = log_prob if surrogate == "log_prob" else _ratio(log_prob, episodes)
        return -(episodes.step_weights * episodes.flat(episodes.advantages) * factor).sum(-1)

    return loss


def adapt(
    theta: Params,
    supports: Sequence[Batch],
    loss: Callable[[Params, Batch], Tensor],
    *,
    step_size: float,
    first_order: bool,
) -> dict[str, Tensor]:
    """theta_prime = theta − α ∇L(theta), once for each support batch (equation 1).

    Where theta requires gradients, theta_prime is a function of it: differentiated through the inner gradients, or,
    with ``first_order``, as if they were constant. Otherwise theta_prime is a value.

    Args:
        theta: a stack of parameters, each (T, ...).
        supports: a batch per inner step; batch k was sampled at the parameters that step k starts from.
        loss: the losses (T,) of a stack on a batch.
        step_size: α.
        first_order: leave the inner gradients out of the graph.

    Returns:
        theta_prime, a stack.
    """
    differentiable = any(value.requires_grad for value in theta.values())
    theta_prime = dict(theta)
    for support in supports:
        with torch.enable_grad():
            if not differentiable:  # a graph of this step alone, for its gradient
                theta_prime = {name: value.detach().requires_grad_() for name, value in theta_prime.items()}
            gradients = torch.autograd.grad(
                loss(theta_prime, support).sum(),
                list(theta_prime.values()),
                create_graph=differentiable and not first_order,
            )
            theta_prime = {
                name: value - step_size * gradient
                for (name, value), gradient in zip(theta_prime.items(), gradients, strict=True)
            }
        if not differentiable:  # a value was given, a value is returned
            theta_prime = {name: value.detach() for name, value in theta_prime.items()}
    return theta_prime


def sum_over_tasks(per_task: Tensor) -> Tensor:
    """Add (T, ...) over tasks in float64, in task order: the sum does not depend on how tasks were grouped."""
    return per_task.double().sum(0)


class MetaBatch(NamedTuple):
    """The episodes of one meta-iteration: one support set per inner step, and the query set after the last."""

    supports: tuple[Episodes, ...]
    query: Episodes

    def tasks(self, start: int, stop: int) -> MetaBatch:
        """The part of tasks start..stop−1."""
        return MetaBatch(tuple(support.tasks(start, stop) for support in self.supports), self.query.tasks(start, stop))


@dataclass(frozen=True)
class MetaObjective:
    """What the outer step maximises: the policy surrogate after adaptation, as a function of theta.

    Everything is computed in blocks of ``block_size`` tasks, which bounds memory and keeps a block's tensors in cache;
    results depend on it by the rounding of a task's own sums at most.
    """

    policy: nn.Module
    batch: MetaBatch
    inner: InnerConfig
    block_size: int

    @property
    def num_tasks(self) -> int:
        """T."""
        return self.batch.query.num_tasks

    def value(self, theta: Params) -> tuple[float, float]:
        """Surrogate and KL, each a mean over tasks.

        surrogate = mean_i mean_t π_θ'ᵢ(a_t | s_t) / π_old(a_t | s_t) Â_t and kl = mean_i mean_t KL(π_old ‖ π_θ'ᵢ) over
        the query episodes, θ'ᵢ being theta adapted to task i and π_old the policy that sampled them.
        """
        surrogates, kls = [], []
        for block in self._blocks():
            stack = make_stack(theta, block.query.num_tasks)
            with torch.no_grad():
                dist = self._query_distribution(self._adapt(stack, block), block.query)
                surrogates.append(_ratio_surrogate(dist, block.query))
                old: Any = type(dist)(*block.query.distribution)
                kls.append((block.query.step_weights * old.kl(dist)).sum(-1))
        return (
            float(sum_over_tasks(torch.cat(surrogates))) / self.num_tasks,
            float(sum_over_tasks(torch.cat(kls))) / self.num_tasks,
        )

    def surrogate_and_gradient(self, theta: Params) -> tuple[float, Tensor]:
        """The surrogate, and its gradient through adaptation (with ``first_order``, past it), (P,) float64."""
        values, per_task = [], []
        for block in self._blocks():
            stack = _requiring_grad(make_stack(theta, block.query.num_tasks))
            surrogates = _ratio_surrogate(self._query_distribution(self._adapt(stack, block), block.query), block.query)
            gradients = torch.autograd.grad(surrogates.sum(), list(stack.values()))
            values.append(surrogates.detach())
            per_task.append(flatten(dict(zip(stack, gradients, strict=True)), batch_dims=1))
        surrogate = float(sum_over_tasks(torch.cat(values))) / self.num_tasks
        return surrogate, sum_over_tasks(torch.cat(per_task)) / self.num_tasks

    def fisher_vector_product(self, theta: Params, state_stride: int = 1) -> Callable[[Tensor], Tensor]:
        """The Hessian of the KL at the sampling parameters, as a product with a vector.

        There it is exactly mean_i Jᵢᵀ Fᵢ Jᵢ: Fᵢ is the Fisher matrix of the action distribution's own parameters, and
        Jᵢ their Jacobian, the policy's at θ'ᵢ times adaptation's. Adaptation's Jacobian is a product of factors
        I − α Hₖ, Hₖ the (symmetric) Hessian of inner loss k. The graphs are built once, for all products.

        Args:
            theta: where the episodes were sampled.
            state_stride: take Fᵢ and Hₖ over every ``state_stride``-th state only; an estimate where it is above 1.

        Returns:
            A function from a vector (P,) float64 to the product (P,) float64.
        """
        products = [self._block_fisher_product(theta, block, state_stride) for block in self._blocks()]
        dtype = next(iter(theta.values())).dtype

        def product(vector: Tensor) -> Tensor:
            direction = unflatten(vector.to(dtype), theta)
            return sum_over_tasks(torch.cat([block_product(direction) for block_product in products])) / self.num_tasks

        return product

    def _block_fisher_product(self, theta: Params, block: MetaBatch, state_stride: int) -> Callable[[Params], Tensor]:
        """The map v ↦ JᵢᵀFᵢJᵢ v for every task i of a block, (T, P)."""
        alpha = self.inner.step_size
        stack = make_stack(theta, block.query.num_tasks)
        hessians: list[LinearMap] = []
        for support in block.supports:
            if not self.inner.first_order:
                hessians.append(self._hessian_product(stack, support.every(state_stride)))
            stack = self._adapt(stack, block._replace(supports=(support,)))
        fisher = self._policy_fisher_product(stack, block.query.every(state_stride))

        def product(direction: Params) -> Tensor:
            v: Sequence[Tensor] = list(make_stack(direction, block.query.num_tasks).values())
            for hessian in hessians:
                v = [x - alpha * hx for x, hx in zip(v, hessian(v), strict=True)]
            v = fisher(v)
            for hessian in reversed(hessians):
                v = [x - alpha * hx for x, hx in zip(v, hessian(v), strict=True)]
            return flatten(dict(zip(theta, v, strict=True)), batch_dims=1)

        return product

    def _hessian_product(self, stack: Params, support: Episodes) -> LinearMap:
        """The map v ↦ H v, H the Hessian of the inner loss at ``stack``."""
        inputs = list(_requiring_grad(stack).values())
        losses = self._inner_loss(dict(zip(stack, inputs, strict=True)), support)
        gradients = torch.autograd.grad(losses.sum(), inputs, create_graph=True)
        return lambda v: torch.autograd.grad(gradients, inputs, v, retain_graph=True)

    def _policy_fisher_product(self, theta_prime: Params, query: Episodes) -> LinearMap:
        """The map v ↦ JᵀFJ v, J the Jacobian of the policy's distribution at ``theta_prime``."""
        stack = _requiring_grad(theta_prime)
        inputs = list(stack.values())
        dist = self._query_distribution(stack, query)
        outputs = tuple(dist)
        # Jᵀu is linear in u, so the derivative of its product with v with respect to u is J v.
        u = tuple(torch.zeros_like(output, requires_grad=True) for output in outputs)
        transposed = torch.autograd.grad(outputs, inputs, u, create_graph=True)

        def product(v: Sequence[Tensor]) -> Sequence[Tensor]:
            tangents = torch.autograd.grad(transposed, u, v, retain_graph=True)
            with torch.no_grad():
                weighted = dist.fisher_product(tangents, query.step_weights)
            return torch.autograd.grad(outputs, inputs, weighted, retain_graph=True)

        return product

    def _blocks(self) -> Iterator[MetaBatch]:
        for start in range(0, self.num_tasks, self.block_size):
            yield self.batch.tasks(start, min(start + self.block_size, self.num_tasks))

    @property
    def _inner_loss(self) -> Callable[[Params, Episodes], Tensor]:
        return policy_gradient_loss(self.policy, self.inner.surrogate)

    def _adapt(self, stack: Params, block: MetaBatch) -> dict[str, Tensor]:
        step_size, first_order = self.inner.step_size, self.inner.first_order
        return adapt(stack, block.supports, self._inner_loss, step_size=step_size, first_order=first_order)

    def _query_distribution(self, theta_prime: Params, query: Episodes) -> Distribution:
        return distribution(self.policy, theta_prime, query.flat(query.observations))


def _requiring_grad(stack: Params) -> dict[str, Tensor]:
    """The same values as leaves of a new graph: detached, so that gradients stop here."""
    return {name: value.detach().requires_grad_() for name, value in stack.items()}


def _ratio(log_prob: Tensor, episodes: Episodes) -> Tensor:
    """π(a_t | s_t) / π_old(a_t | s_t) at real steps, 1 at others (where it could overflow), (T, E·H)."""
    log_ratio = log_prob - episodes.flat(episodes.log_probs)
    return log_ratio.masked_fill(episodes.flat(episodes.mask) == 0, 0.0).exp()


def _ratio_surrogate(dist: Distribution, query: Episodes) -> Tensor:
    """mean_t π(a_t | s_t) / π_old(a_t | s_t) Â_t of each task, (T,)."""
    ratio = _ratio(dist.log_prob(query.flat(query.actions)), query)
    return (query.step_weights * query.flat(query.advantages) * ratio).sum(-1)
