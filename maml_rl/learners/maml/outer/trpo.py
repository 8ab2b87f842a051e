"""Trust-region policy optimisation (Schulman et al. 2015) as the outer step of MAML."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from maml_rl.learners.maml.inner_step import with_context
from maml_rl.learners.maml.objective import MetaBatch, MetaObjective
from maml_rl.policies.parameters import Params, flatten, make_stack, requiring_grad, unflatten
from maml_rl.settings.learners import TRPOConfig
from maml_rl.system.stopwatch import Stopwatch
from maml_rl.system.thread_pool import map_blocks

STATES_PER_TASK = 100
"""The default stride keeps this number of states per task on average, or all if there are fewer."""
MOST_STATE_STRIDE = 20
"""The largest default stride."""


def conjugate_gradient(
    product: Callable[[Tensor], Tensor],
    target: Tensor,
    num_iterations: int,
    tolerance: float = 1e-10,
) -> tuple[Tensor, Tensor]:
    """Solve A x = b for a symmetric positive definite A.

    Args:
        product: v ↦ A v, (P,) to (P,).
        target: b, (P,).
        num_iterations: maximum number of iterations.
        tolerance: stop when ‖b − A x‖² is at most this share of ‖b‖²; 1e-10 is a relative residual
            of 1e-5.

    Returns:
        x and the residual b − A x, each (P,).
    """
    x = torch.zeros_like(target)
    residual = target.clone()
    direction = target.clone()
    squared = residual @ residual
    for _ in range(num_iterations):
        if squared <= tolerance * (target @ target):
            break
        a_direction = product(direction)
        step = squared / (direction @ a_direction)
        x = x + step * direction
        residual = residual - step * a_direction
        previous = squared
        squared = residual @ residual
        direction = residual + (squared / previous) * direction
    return x, residual


def trpo_step(
    theta: Params, state: dict[str, Tensor], objective: MetaObjective, config: TRPOConfig
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, float]]:
    """One step theta + β √(2δ / xᵀFx) x with F x = g (appendix C), and β from a line search.

    β is the first of 1, s, s², ... for which the surrogate rises and the KL stays within δ. If
    there is none, theta is returned unchanged.

    Args:
        theta: the meta-parameters at which the objective's episodes were sampled.
        state: empty; this outer step has none.
        objective: surrogate and KL after adaptation as functions of theta.
        config: settings; δ is ``max_kl``, s ``line_search_shrink``.

    Returns:
        The new theta, the state, and metrics.

    Raises:
        FloatingPointError: if the meta-gradient is not finite.
    """
    watch = Stopwatch()
    old_surrogate, gradient = objective.surrogate_and_gradient(theta)
    watch.lap("gradient")
    fisher = fisher_vector_product(objective, theta, config.fisher_state_stride)
    direction, curvature = natural_direction(
        gradient, fisher, config.cg_iterations, config.cg_damping
    )
    watch.lap("conjugate_gradient")
    new_theta, metrics = _line_search(theta, direction, curvature, old_surrogate, objective, config)
    watch.lap("line_search")
    metrics |= {
        "outer/gradient_norm": float(gradient.norm()),
        "outer/surrogate_before": old_surrogate,
    }
    return new_theta, state, metrics | watch.metrics()


def natural_direction(
    gradient: Tensor, fisher: Callable[[Tensor], Tensor], num_iterations: int, damping: float
) -> tuple[Tensor, float]:
    """Solve F x = g for the natural gradient x; return x, (P,), and xᵀ F x.

    F is the damped Fisher matrix or its estimate. If the gradient is zero, both results are zero.
    Rounding can make xᵀ F x negative; TRPO then rejects the step.
    """

    def damped(vector: Tensor) -> Tensor:
        return fisher(vector) + damping * vector

    direction, residual = conjugate_gradient(damped, gradient, num_iterations)
    return direction, float(direction @ (gradient - residual))  # g − r = F x


def _line_search(
    theta: Params,
    direction: Tensor,
    curvature: float,
    old_surrogate: float,
    objective: MetaObjective,
    config: TRPOConfig,
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Theta after the first acceptable fraction of the full step, or unchanged; and metrics."""
    flat = flatten(theta).double()
    dtype = next(iter(theta.values())).dtype
    # Without positive curvature (a zero gradient, or rounding errors) there is no step.
    num_fractions = config.line_search_steps if curvature > 0 else 0
    for i in range(num_fractions):
        # The candidate.
        fraction = config.line_search_shrink**i
        step = fraction * (2 * config.max_kl / curvature) ** 0.5 * direction
        candidate = unflatten((flat + step).to(dtype), theta)
        # Accept it if it is better and close enough.
        surrogate, kl = objective.value(candidate)
        if surrogate > old_surrogate and kl <= config.max_kl:
            return candidate, _search_metrics(1.0, fraction, surrogate, kl)
    return dict(theta), _search_metrics(0.0, 0.0, old_surrogate, 0.0)


def _search_metrics(
    accepted: float, fraction: float, surrogate: float, kl: float
) -> dict[str, float]:
    return {
        "outer/accepted": accepted,
        "outer/step_fraction": fraction,
        "outer/surrogate_after": surrogate,
        "outer/kl": kl,
    }


def default_state_stride(objective: MetaObjective) -> int:
    """The largest stride that keeps ``STATES_PER_TASK`` on average, up to ``MOST_STATE_STRIDE``.

    It keeps as many of every stage: episodes may be shorter before adaptation than after it.
    """
    stages = (*objective.batch.supports, objective.batch.query)
    means = [objective.ranks.mean(stage.mask.sum((1, 2))[:, None]) for stage in stages]
    num_states = min(float(mean) for mean in means)
    return max(1, min(MOST_STATE_STRIDE, int(num_states) // STATES_PER_TASK))


def fisher_vector_product(
    objective: MetaObjective, theta: Params, state_stride: int | None = 1
) -> Callable[[Tensor], Tensor]:
    """Return the product with the KL's Hessian at the sampling parameters, as a function.

    At these parameters, the Hessian is exactly mean_i Jᵢᵀ Fᵢ Jᵢ. Fᵢ is the Fisher matrix of the
    action distribution with respect to its own parameters, and Jᵢ the Jacobian of these with
    respect to theta, through adaptation. With ``inner.early_loss_weight`` there is one such term
    for each inner step. The graphs are built once, for all products.

    Args:
        objective: defines the KL.
        theta: the parameters that sampled the episodes; the product is not valid elsewhere.
        state_stride: use every n-th state in Fᵢ, and in the inner losses' Hessians in Jᵢ; above 1
            the product is an estimate. ``None``: :func:`default_state_stride`. Inner steps with
            DiCE or a learned advantage need whole episodes, and use all states. With a latent
            variable all first states are used in addition.

    Returns:
        A function from a vector (P,) float64 to the product (P,) float64.
    """
    stride = default_state_stride(objective) if state_stride is None else state_stride

    def of_block(block: MetaBatch) -> Callable[[Params], Tensor]:
        return _block_product(objective, theta, block, stride)

    # With fewer states per task, a block can hold more tasks. Keep four blocks for the threads.
    size = max(
        objective.block_size,
        min(objective.block_size * stride, objective.batch.query.num_tasks // 4),
    )
    products = map_blocks(of_block, dataclasses.replace(objective, block_size=size).blocks())
    dtype = next(iter(theta.values())).dtype

    def product(vector: Tensor) -> Tensor:
        direction = unflatten(vector.to(dtype), theta)
        per_task = torch.cat(
            map_blocks(lambda block_product: block_product(direction), [(p,) for p in products])
        )
        return objective.ranks.mean(per_task)

    return product


def _block_product(
    objective: MetaObjective, theta: Params, block: MetaBatch, state_stride: int
) -> Callable[[Params], Tensor]:
    """The map v ↦ JᵢᵀFᵢJᵢ v for every task i of a block, (T, P).

    J v is computed by differentiating twice in reverse mode: Jᵀu is linear in u, so the gradient of
    (Jᵀu)·v with respect to u is J v.
    """
    # The distributions' parameters, as a function of each task's theta.
    num_tasks = block.query.num_tasks
    leaves = requiring_grad(make_stack(theta, num_tasks))
    dists = _distributions(objective, leaves, block, state_stride)
    # Without the values of a latent variable, which do not depend on theta.
    parts = [tuple(value for value in dist if value.requires_grad) for dist, _ in dists]
    outputs = tuple(itertools.chain.from_iterable(parts))
    stack = list(leaves.values())

    # Jᵀu as a function of u, without parameters that the outputs do not depend on.
    u = tuple(torch.zeros_like(output, requires_grad=True) for output in outputs)
    transposed = _gradients(outputs, stack, u, create_graph=True)
    depends = [value.requires_grad for value in transposed]
    transposed_kept = list(itertools.compress(transposed, depends))

    def product(direction: Params) -> Tensor:
        # J v
        v = make_stack(direction, num_tasks).values()
        tangents = iter(
            _gradients(transposed_kept, u, list(itertools.compress(v, depends)), retain_graph=True)
        )
        # F J v
        weighted: list[Tensor] = []
        with torch.no_grad():
            for (dist, weights), part in zip(dists, parts, strict=True):
                of_dist = tuple(itertools.islice(tangents, len(part)))
                weighted += dist.fisher_product(of_dist, weights)
        # Jᵀ F J v
        gradients = _gradients(outputs, stack, weighted, retain_graph=True)
        return flatten(dict(zip(leaves, gradients, strict=True)), batch_dims=1).detach()

    return product


def _distributions(
    objective: MetaObjective, stack: Params, block: MetaBatch, state_stride: int
) -> list[tuple[Any, Tensor]]:
    """The adapted policies whose KL is bounded, and the weight of each state, (T, N).

    They are π_θ' at the query states and, with ``inner.early_loss_weight``, those after each inner
    step at the states played with them, weighted as :meth:`Adapted.over_steps` does.
    """
    stacks = _stacks(objective, stack, block, state_stride)
    stages = [(1.0, stacks[-1], block.query)]
    if objective.early_weight:
        for early, support in zip(stacks[1:-1], block.supports[1:], strict=True):
            stages.append((objective.early_weight, early, support))
    total = sum(weight for weight, _, _ in stages)
    dists = []
    for weight, theta_prime, episodes in stages:
        thinned = episodes.every(state_stride, with_first=objective.policy.latent_size > 0)
        dist = objective.policy.distribution(theta_prime, thinned.flat(thinned.observations))
        dists.append((dist, thinned.step_weights * (weight / total)))
    return dists


def _stacks(
    objective: MetaObjective, stack: Params, block: MetaBatch, state_stride: int
) -> list[Params]:
    """Parameters after 0, 1, ... K inner steps.

    They have their exact values, and derivatives estimated from every ``state_stride``-th state:
    each inner step is computed on these states for its derivative. Its value is then replaced by
    the recorded one, the parameters that sampled the next set of episodes.
    """
    stacks: list[Params] = [with_context(objective.policy, stack)]
    # DiCE and the learned advantage need consecutive steps.
    inner = objective.inner
    needs_all = inner.surrogate == "dice" or inner.advantage != "gae"
    inner_stride = 1 if needs_all else state_stride
    for step, support in enumerate(block.supports):
        value = block.stacks[step + 1]
        states = support.every(inner_stride, with_first=objective.policy.latent_size > 0)
        thinned, _ = objective.inner_step(stacks[-1], states, step)
        # end − end.detach() is zero, and has the derivative of end.
        stacks.append({name: value[name] + (end - end.detach()) for name, end in thinned.items()})
    return stacks


_gradients = functools.partial(torch.autograd.grad, allow_unused=True, materialize_grads=True)
"""``torch.autograd.grad``, with zeros for inputs that the outputs do not depend on."""
