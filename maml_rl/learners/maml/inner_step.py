"""An inner step of MAML: which parameters it changes, with which step sizes, on which loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from maml_rl.learners.maml.adapt import along, gradient_step
from maml_rl.learners.maml.learned_advantage import OFFSET, initial_advantage, learned_advantages
from maml_rl.learners.maml.losses import surrogate_loss
from maml_rl.policies.distributions import Distribution
from maml_rl.policies.latent import LATENT_LOG_STD, LATENT_MEAN
from maml_rl.policies.parameters import Params, parameters
from maml_rl.policies.policy import Policy
from maml_rl.sampling.episodes import Episodes
from maml_rl.settings.learners import InnerConfig
from maml_rl.system.random_streams import Phase, RandomStreams
from maml_rl.system.thread_pool import block_ends, map_blocks, tasks_per_block

STEP_SIZE = "step_size"
"""Name of the learned step size in theta, or the prefix if there are many: step_size/weight_0."""


_LATENT = (LATENT_MEAN, LATENT_LOG_STD)


def adapting(policy: Policy, inner: InnerConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the parameters that inner steps change."""
    if inner.adapts == "context":
        return {name: tuple(value.shape[1:]) for name, value in policy.initial_context(1).items()}
    shapes = {name: tuple(value.shape) for name, value in policy.named_parameters()}
    if inner.adapts == "all":
        return shapes
    names = _LATENT if inner.adapts == "latent" else policy.head_names
    return {name: shapes[name] for name in names}


def initial_theta(policy: Policy, inner: InnerConfig, seed: int = 0) -> dict[str, Tensor]:
    """The meta-parameters: those of the policy, and what else the outer step learns.

    Args:
        policy: the architecture, with its initial parameters.
        inner: settings. They decide whether step sizes, the advantage of inner steps and an offset
            are learned.
        seed: of the initial weights of a learned advantage.
    """
    theta = parameters(policy)
    like = next(iter(theta.values()))
    shapes = adapting(policy, inner)
    if inner.learned_step_size != "none":
        for step in range(_num_learned_steps(inner)):
            for name, shape in shapes.items():
                size = shape if inner.learned_step_size == "per_parameter" else (1,)
                theta[step_size_key(name, inner, step)] = like.new_full(size, inner.step_size)
    if inner.advantage != "gae":
        theta |= initial_advantage(policy, RandomStreams(seed, Phase.INITIALISATION), like)
        theta |= {OFFSET + name: like.new_zeros(shape) for name, shape in shapes.items()}
    return theta


def step_size_key(name: str, inner: InnerConfig, step: int) -> str:
    """Name in theta of the learned step size of parameter ``name`` in inner step ``step``."""
    parts = [STEP_SIZE]
    if inner.learned_per_step:
        parts.append(str(min(step, _num_learned_steps(inner) - 1)))
    if inner.learned_step_size != "scalar":
        parts.append(name)
    return "/".join(parts)


def _num_learned_steps(inner: InnerConfig) -> int:
    """Number of inner steps with learned step sizes of their own."""
    return max(1, inner.num_steps) if inner.learned_per_step else 1


def step_sizes(
    policy: Policy, inner: InnerConfig, stack: Params, step: int, factor: float = 1.0
) -> dict[str, float | Tensor]:
    """The step size of each adapting parameter: from ``stack`` if learned, else from the settings.

    ``inner.test_step_sizes``, which are empty in training, replace both.

    Args:
        policy: the architecture.
        inner: settings.
        stack: parameters, each (T, ...).
        step: number of inner steps so far.
        factor: multiple of the step sizes to use.
    """
    names = adapting(policy, inner)
    if inner.test_step_sizes:
        size = inner.test_step_sizes[min(step, len(inner.test_step_sizes) - 1)]
        return dict.fromkeys(names, factor * size)
    if inner.learned_step_size != "none":
        return {name: factor * stack[step_size_key(name, inner, step)] for name in names}
    return dict.fromkeys(names, factor * inner.step_size)


def with_context(policy: Policy, stack: Params) -> dict[str, Tensor]:
    """Add the initial context of a context policy (CAVIA) to ``stack``, unless it has one."""
    num_tasks = next(iter(stack.values())).shape[0]
    return {**policy.initial_context(num_tasks), **stack}


def policy_gradient_step(
    policy: Policy,
    stack: Params,
    support: Episodes,
    inner: InnerConfig,
    step: int,
    factor: float = 1.0,
) -> tuple[dict[str, Tensor], Distribution]:
    """One inner step, as a function of ``stack`` if that requires gradients, else as a value.

    Args:
        policy: the architecture.
        stack: parameters, each (T, ...).
        support: episodes of T tasks, played with the stack, with advantages.
        inner: how to adapt.
        step: number of inner steps so far.
        factor: multiple of the step sizes to use.

    Returns:
        The stack after the step, and π at the support states before it.
    """

    def loss(start: Params) -> tuple[Tensor, Distribution]:
        dist = policy.distribution(start, support.flat(support.observations))
        advantages = inner_advantages(policy, start, support, inner)
        return surrogate_loss(dist, support, inner.surrogate, advantages), dist

    sizes = step_sizes(policy, inner, stack, step, factor)
    if policy.latent_size > 0:
        # z is drawn once per episode: the gradient of its distribution is a mean over episodes, as
        # in the authors' code, and not over steps.
        for name in _LATENT:
            sizes[name] = sizes[name] * support.mean_length[:, None]
    moved, dist = gradient_step(stack, loss, step_size=sizes, first_order=inner.first_order)
    if inner.advantage != "gae" and step == 0:
        moved |= {name: moved[name] + stack[OFFSET + name] for name in sizes}
    if inner.max_kl is not None:
        scale = trust_region_scale(policy, moved, dist, support, inner.max_kl)
        scale = scale.detach() if inner.first_order else scale
        moved |= {
            name: stack[name] + along(scale[:, None], moved[name]) * (moved[name] - stack[name])
            for name in sizes
        }
    return moved, dist


def inner_advantages(
    policy: Policy, stack: Params, support: Episodes, inner: InnerConfig
) -> Tensor:
    """What an inner step learns from: estimated advantages, learned ones, or their sum, (T, E, H).

    Args:
        policy: the architecture.
        stack: parameters, each (T, ...).
        support: episodes of T tasks, with advantages.
        inner: settings.
    """
    if inner.advantage == "gae":
        return support.inner_advantages
    learned = learned_advantages(policy, stack, support)
    return learned + support.inner_advantages if inner.advantage == "sum" else learned


def trust_region_scale(
    policy: Policy, moved: Params, dist: Distribution, support: Episodes, max_kl: float
) -> Tensor:
    """Factor of each task's step with which its KL divergence is about ``max_kl``, or 1, (T,).

    The divergence D = mean_t KL(π_old ‖ π_new) over the support states grows with the square of a
    small step, so the factor is √(δ / D) where D > δ.

    Args:
        policy: the architecture.
        moved: parameters after the whole step, each (T, ...).
        dist: π_old at the support states.
        support: episodes of T tasks.
        max_kl: δ.
    """
    # If the step is a value, so is the result, though dist still has a graph.
    with torch.set_grad_enabled(any(value.requires_grad for value in moved.values())):
        new: Any = policy.distribution(moved, support.flat(support.observations))
        kl = (support.step_weights * dist.kl(new)).sum(-1)
        return (max_kl / kl.clamp(min=max_kl)).sqrt()


def inner_step(
    policy: Policy,
    stack: Params,
    support: Episodes,
    inner: InnerConfig,
    step: int,
    factor: float = 1.0,
) -> dict[str, Tensor]:
    """The stack after one inner step, as a value, computed in blocks of tasks.

    If a task's step overflows, its parameters are not finite.
    :meth:`maml_rl.learners.maml.objective.MetaObjective.inner_step` is the same step as a function
    of theta.

    Args:
        policy: the architecture.
        stack: parameters, each (T, ...).
        support: episodes of T tasks, played with the stack, with advantages.
        inner: how to adapt.
        step: number of inner steps so far.
        factor: multiple of the step sizes to use.
    """

    def of_block(start: int, stop: int) -> dict[str, Tensor]:
        block = {name: value[start:stop] for name, value in stack.items()}
        episodes = support.chosen(slice(start, stop))
        return policy_gradient_step(policy, block, episodes, inner, step, factor)[0]

    blocks = map_blocks(
        of_block, block_ends(support.num_tasks, tasks_per_block(support.mask.device))
    )
    return {name: torch.cat([block[name] for block in blocks]) for name in stack}
