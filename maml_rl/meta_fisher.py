"""The Fisher matrix of the policy after adaptation, with respect to the parameters before it, as a product."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from maml_rl.episodes import Episodes
from maml_rl.maml import (
    MetaBatch,
    MetaObjective,
    along,
    requiring_grad,
    step_size_key,
    step_sizes,
    with_context,
)
from maml_rl.policies import Params, distribution, flatten, make_stack, unflatten
from maml_rl.task_blocks import map_blocks

TangentMap = Callable[[Params], dict[str, Tensor]]


STATES_PER_TASK = 100
MOST_STATE_STRIDE = 20


def default_state_stride(objective: MetaObjective) -> int:
    """So many that about ``STATES_PER_TASK`` states of a task remain, at most ``MOST_STATE_STRIDE``."""
    query = objective.batch.query
    num_states = float(objective.ranks.mean(query.mask.sum((1, 2))[:, None]))
    return max(1, min(MOST_STATE_STRIDE, int(num_states) // STATES_PER_TASK))


def fisher_vector_product(
    objective: MetaObjective, theta: Params, state_stride: int | None = 1
) -> Callable[[Tensor], Tensor]:
    """The Hessian of the KL at the sampling parameters, as a product with a vector.

    There it is exactly mean_i Jᵢᵀ Fᵢ Jᵢ: Fᵢ is the Fisher matrix of the action distribution's own parameters, and Jᵢ
    their Jacobian, the policy's at θ'ᵢ times adaptation's. Adaptation's Jacobian is a product of factors I − A Hₖ, Hₖ
    the (symmetric) Hessian of inner loss k and A the diagonal matrix of step sizes, zero for what does not adapt; where
    a step size is itself a meta-parameter, its column is minus the inner gradient. The graphs are built once, for all
    products.

    Args:
        objective: whose KL.
        theta: where the episodes were sampled.
        state_stride: take Fᵢ and Hₖ over every ``state_stride``-th state only; an estimate where it is above 1.
            ``None``: :func:`default_state_stride`. DiCE's Hessian needs the states of whole episodes, and takes all.

    Returns:
        A function from a vector (P,) float64 to the product (P,) float64.
    """
    stride = default_state_stride(objective) if state_stride is None else state_stride

    def of_block(block: MetaBatch, _: Tensor) -> Callable[[Params], Tensor]:
        return _block_product(objective, theta, block, stride)

    # Thinned blocks are small: more tasks fit where those of all states do. Four blocks still keep threads busy.
    size = max(objective.block_size, min(objective.block_size * stride, objective.num_tasks // 4))
    products = map_blocks(of_block, dataclasses.replace(objective, block_size=size).blocks())
    dtype = next(iter(theta.values())).dtype

    def product(vector: Tensor) -> Tensor:
        direction = unflatten(vector.to(dtype), theta)
        per_task = torch.cat(map_blocks(lambda block_product: block_product(direction), [(p,) for p in products]))
        return objective.ranks.mean(per_task)

    return product


def _block_product(
    objective: MetaObjective, theta: Params, block: MetaBatch, state_stride: int
) -> Callable[[Params], Tensor]:
    """The map v ↦ JᵢᵀFᵢJᵢ v for every task i of a block, (T, P)."""
    num_tasks = block.query.num_tasks
    stack = with_context(objective.policy, make_stack(theta, num_tasks))
    inner_stride = 1 if objective.inner.surrogate == "dice" else state_stride
    steps = []
    for support in block.supports:
        steps.append(_step_jacobian(objective, stack, support.every(inner_stride)))
        stack = objective.inner_step(stack, support)
    fisher = _policy_fisher_product(objective, stack, block.query.every(state_stride))

    def product(direction: Params) -> Tensor:
        v = with_context(objective.policy, make_stack(direction, num_tasks))  # the context's start does not move
        for jacobian, _ in steps:
            v = jacobian(v)
        v = fisher(v)
        for _, transposed in reversed(steps):
            v = transposed(v)
        return flatten({name: v[name] for name in theta}, batch_dims=1)

    return product


def _step_jacobian(objective: MetaObjective, stack: Params, support: Episodes) -> tuple[TangentMap, TangentMap]:
    """The Jacobian of one inner step at ``stack`` as a map of tangents, and its transpose."""
    first_order = objective.inner.first_order
    leaves = requiring_grad(stack)
    losses = objective.inner_loss(leaves, support)
    gradients = _gradients([losses.sum()], leaves, create_graph=not first_order)
    alpha = step_sizes(objective.policy, objective.inner, stack)
    learned = {name: key for name in alpha if (key := step_size_key(name, objective.inner)) is not None}

    def hessian(v: Params) -> dict[str, Tensor]:
        """H v; what the loss does not depend on has no curvature."""
        curved = [name for name in stack if gradients[name].requires_grad]
        return _gradients([gradients[name] for name in curved], leaves, [v[name] for name in curved], retain_graph=True)

    def jacobian(v: Params) -> dict[str, Tensor]:
        moved = dict(v)
        if not first_order:
            hv = hessian(v)
            moved |= {name: v[name] - along(size, v[name]) * hv[name] for name, size in alpha.items()}
        for name, key in learned.items():
            moved[name] = moved[name] - along(v[key], v[name]) * gradients[name].detach()
        return moved

    def transposed(u: Params) -> dict[str, Tensor]:
        moved = dict(u)
        if not first_order:
            scaled = {
                name: along(alpha[name], value) * value if name in alpha else torch.zeros_like(value)
                for name, value in u.items()
            }
            hu = hessian(scaled)
            moved = {name: value - hu[name] for name, value in u.items()}
        for name, key in learned.items():
            change = u[name] * gradients[name].detach()
            moved[key] = moved[key] - (
                change if change.shape == u[key].shape else change.flatten(1).sum(1, keepdim=True)
            )
        return moved

    return jacobian, transposed


def _policy_fisher_product(objective: MetaObjective, theta_prime: Params, query: Episodes) -> TangentMap:
    """The map v ↦ JᵀFJ v, J the Jacobian of the policy's distribution at ``theta_prime``."""
    stack = requiring_grad(theta_prime)
    dist = distribution(objective.policy, stack, query.flat(query.observations))
    outputs = tuple(dist)
    # Jᵀu is linear in u, so the derivative of its product with v with respect to u is J v.
    u = tuple(torch.zeros_like(output, requires_grad=True) for output in outputs)
    transposed = _gradients(outputs, stack, u, create_graph=True)
    used = [name for name, value in transposed.items() if value.requires_grad]

    def product(v: Params) -> dict[str, Tensor]:
        tangents = torch.autograd.grad(
            [transposed[name] for name in used], u, [v[name] for name in used], retain_graph=True
        )
        with torch.no_grad():
            weighted = dist.fisher_product(tangents, query.step_weights)
        return _gradients(outputs, stack, weighted, retain_graph=True)

    return product


def _gradients(
    outputs: Sequence[Tensor],
    leaves: Params,
    vectors: Sequence[Tensor] | None = None,
    *,
    create_graph: bool = False,
    retain_graph: bool | None = None,
) -> dict[str, Tensor]:
    """Gradients of ``outputs``, weighted by ``vectors``, by name; zero for leaves that they do not depend on."""
    found = torch.autograd.grad(
        outputs,
        list(leaves.values()),
        vectors,
        create_graph=create_graph,
        retain_graph=retain_graph,
        allow_unused=True,
        materialize_grads=True,
    )
    # Detached: torch 2.8 has zeros for no dependence, which require gradients themselves.
    return {name: value if create_graph else value.detach() for name, value in zip(leaves, found, strict=True)}
