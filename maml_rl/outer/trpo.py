"""Trust-region policy optimisation (Schulman et al. 2015) as the outer step of MAML."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from maml_rl.maml import MetaObjective
from maml_rl.meta_fisher import fisher_vector_product
from maml_rl.policies import Params, flatten, unflatten
from maml_rl.setting_checks import OrNone, Positive, Range, Real, Whole, check_ranges
from maml_rl.stopwatch import Stopwatch


@dataclass(frozen=True, kw_only=True)
class TRPOConfig:
    """Trust-region outer step."""

    max_kl: float = 0.01
    """Bound on the mean KL divergence from the sampling policy after adaptation."""
    cg_iterations: int = 10
    """Conjugate-gradient iterations."""
    cg_damping: float = 1e-5
    """Multiple of the identity added to the Fisher matrix."""
    line_search_steps: int = 15
    """Step fractions tried before the step is rejected."""
    line_search_shrink: float = 0.8
    """Each step fraction is this multiple of the one before."""
    # Deviation: TRPO's product takes every state, because a twentieth of them learned as well (docs/results.md).
    fisher_state_stride: int | None = None
    """The Fisher-vector product uses every so manyth state; 1 is exact. Default: 20, or less to keep 100 per task."""

    RANGES: ClassVar[Mapping[str, Range]] = {
        "max_kl": Positive(),
        "cg_iterations": Whole(1, 10_000),
        "cg_damping": Real(0),
        "line_search_steps": Whole(1, 10_000),
        "line_search_shrink": Positive(math.nextafter(1, 0)),
        "fisher_state_stride": OrNone(Whole(1, 1_000_000)),
    }

    def __post_init__(self) -> None:
        check_ranges(self, "outer.")


def conjugate_gradient(
    product: Callable[[Tensor], Tensor], target: Tensor, num_iterations: int, tolerance: float = 1e-10
) -> Tensor:
    """Solve A x = b for a symmetric positive definite A.

    Args:
        product: v ↦ A v, (P,) to (P,).
        target: b, (P,).
        num_iterations: at most.
        tolerance: stop when ‖b − A x‖² is below this.

    Returns:
        x, (P,).
    """
    x = torch.zeros_like(target)
    residual, direction = target.clone(), target.clone()
    squared = residual @ residual
    for _ in range(num_iterations):
        if squared < tolerance:
            break
        a_direction = product(direction)
        step = squared / (direction @ a_direction)
        x = x + step * direction
        residual = residual - step * a_direction
        squared, previous = residual @ residual, squared
        direction = residual + (squared / previous) * direction
    return x


def trpo_step(
    theta: Params, state: dict[str, Tensor], objective: MetaObjective, config: TRPOConfig
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, float]]:
    """One step theta + β √(2δ / xᵀFx) x with F x = g, the largest of β = 1, s, s², ... that the line search accepts.

    A fraction β is accepted if the surrogate rises and the KL stays within δ. If none is, theta is returned unchanged.

    Args:
        theta: the meta-parameters at which the objective's episodes were sampled.
        state: of the optimiser; this one has none.
        objective: surrogate and KL after adaptation as functions of theta.
        config: settings; δ is ``max_kl``, s ``line_search_shrink``.

    Returns:
        The new theta, the state, and metrics.

    Raises:
        FloatingPointError: the meta-gradient is not finite.
    """
    watch = Stopwatch()
    old_surrogate, gradient = objective.surrogate_and_gradient(theta)
    watch.lap("time/gradient_s")
    if not gradient.isfinite().all():
        raise FloatingPointError("the meta-gradient is not finite")
    fisher = fisher_vector_product(objective, theta, config.fisher_state_stride)

    def damped(vector: Tensor) -> Tensor:
        return fisher(vector) + config.cg_damping * vector

    direction = conjugate_gradient(damped, gradient, config.cg_iterations)
    curvature = float(direction @ damped(direction))
    watch.lap("time/conjugate_gradient_s")
    new_theta, metrics = _line_search(theta, direction, curvature, old_surrogate, objective, config)
    watch.lap("time/line_search_s")
    metrics |= {"outer/gradient_norm": float(gradient.norm()), "outer/surrogate_before": old_surrogate}
    return new_theta, state, metrics | watch.seconds


def _line_search(
    theta: Params,
    direction: Tensor,
    curvature: float,
    old_surrogate: float,
    objective: MetaObjective,
    config: TRPOConfig,
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The first acceptable fraction of the full step, or theta itself."""
    # No step where the gradient is zero, or where the estimated Fisher matrix cannot judge the direction.
    num_fractions = config.line_search_steps if curvature > 0 else 0
    flat = flatten(theta).double()
    for i in range(num_fractions):
        fraction = config.line_search_shrink**i
        step = fraction * (2 * config.max_kl / curvature) ** 0.5 * direction
        candidate = unflatten((flat + step).to(next(iter(theta.values())).dtype), theta)
        surrogate, kl = objective.value(candidate)
        if surrogate > old_surrogate and kl <= config.max_kl:
            return candidate, {
                "outer/accepted": 1.0,
                "outer/step_fraction": fraction,
                "outer/surrogate_after": surrogate,
                "outer/kl": kl,
            }
    return dict(theta), {
        "outer/accepted": 0.0,
        "outer/step_fraction": 0.0,
        "outer/surrogate_after": old_surrogate,
        "outer/kl": 0.0,
    }
