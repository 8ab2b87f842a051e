"""Reptile (Nichol et al. 2018) as the outer step: move theta towards the adapted parameters."""

from __future__ import annotations

import torch
from torch import Tensor

from maml_rl.learners.maml.objective import MetaBatch, MetaObjective
from maml_rl.policies.parameters import Params, flatten, make_stack, unflatten
from maml_rl.settings.learners import ReptileConfig
from maml_rl.system.thread_pool import map_blocks


def mean_movement(objective: MetaObjective, theta: Params) -> Tensor:
    """Mean over tasks of θ'ᵢ − θ, (P,) float64."""

    def of_block(block: MetaBatch) -> Tensor:
        stack = make_stack(theta, block.query.num_tasks)
        end = objective.adapted(stack, block).stacks[-1]
        return flatten({name: end[name] - value for name, value in stack.items()}, batch_dims=1)

    return objective.ranks.mean(torch.cat(map_blocks(of_block, objective.blocks())))


def reptile_step(
    theta: Params, state: dict[str, Tensor], objective: MetaObjective, config: ReptileConfig
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, float]]:
    """One step θ + ε mean_i (θ'ᵢ − θ) (algorithm 2; with one task, algorithm 1).

    Args:
        theta: θ, the meta-parameters at which the objective's episodes were sampled.
        state: empty; this outer step has none.
        objective: computes the adapted parameters.
        config: settings; ε is ``step_size``.

    Returns:
        The new theta, the state, and metrics.

    Raises:
        FloatingPointError: if an adapted parameter is not finite.
    """
    movement = mean_movement(objective, theta)
    if not movement.isfinite().all():
        raise FloatingPointError("the adapted parameters are not finite")
    moved = flatten(theta).double() + config.step_size * movement
    like = next(iter(theta.values()))
    return (
        unflatten(moved.to(like.dtype), theta),
        state,
        {"outer/movement_norm": float(movement.norm())},
    )
