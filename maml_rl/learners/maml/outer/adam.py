"""One step of Adam as the outer step."""

from __future__ import annotations

from torch import Tensor

from maml_rl.learners.adam import ascend
from maml_rl.learners.maml.objective import MetaObjective
from maml_rl.policies.parameters import Params
from maml_rl.settings.learners import AdamConfig
from maml_rl.system.stopwatch import Stopwatch


def adam_step(
    theta: Params, state: dict[str, Tensor], objective: MetaObjective, config: AdamConfig
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, float]]:
    """One step of Adam along the meta-gradient (Finn et al. 2017, algorithm 3, line 10).

    Args:
        theta: the meta-parameters at which the objective's episodes were sampled.
        state: of the optimiser.
        objective: the surrogate after adaptation as a function of theta.
        config: settings.

    Returns:
        The new theta, the state, and metrics.

    Raises:
        FloatingPointError: if the meta-gradient is not finite.
    """
    watch = Stopwatch()
    surrogate, gradient = objective.surrogate_and_gradient(theta)
    watch.lap("gradient")
    new_theta, state = ascend(theta, gradient, state, config.step_size)
    metrics = {"outer/gradient_norm": float(gradient.norm()), "outer/surrogate_before": surrogate}
    return new_theta, state, metrics | watch.metrics()
