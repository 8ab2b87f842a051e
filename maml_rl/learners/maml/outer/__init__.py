"""Outer steps, which update theta: one file each, and one line in the table :data:`OUTER`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from maml_rl.errors import naming_errors
from maml_rl.learners.adam import initial_state as initial_adam
from maml_rl.learners.checks import check_outer_state, check_outer_step
from maml_rl.learners.maml.objective import MetaObjective
from maml_rl.learners.maml.outer.adam import adam_step
from maml_rl.learners.maml.outer.ppo import ppo_step
from maml_rl.learners.maml.outer.promp import initial_promp, promp_step
from maml_rl.learners.maml.outer.reptile import reptile_step
from maml_rl.learners.maml.outer.trpo import trpo_step
from maml_rl.policies.parameters import Params
from maml_rl.settings.learners import OuterConfig

Step = Callable[
    [Params, dict[str, Tensor], MetaObjective, Any],
    tuple[Params, dict[str, Tensor], dict[str, float]],
]
"""(theta, state, objective, settings) -> (theta, state, metrics).

``state`` is what the last call returned, or the initial state; checkpoints contain it.
``metrics`` are logged; docs/metrics.md explains their names.

An outer step reports failure in one of three ways:

- It raises FloatingPointError, as :meth:`MetaObjective.surrogate_and_gradient` does.
- It returns a theta, state or metric that is not finite.
- It returns the metric ``outer/accepted`` 0, unless ``outer/gradient_norm`` is 0, which leaves
  nothing to improve.

The run then keeps theta and state, and counts the failure; ten in a row stop it.
"""


class Outer(NamedTuple):
    """An outer step."""

    step: Step
    initial_state: Callable[[Params, Any], dict[str, Tensor]] = lambda theta, config: {}
    """(theta, settings) -> the state before the first step, with the names and shapes of all."""


OUTER: dict[str, Outer] = {
    "trpo": Outer(trpo_step),
    "promp": Outer(promp_step, initial_promp),
    "ppo": Outer(ppo_step, lambda theta, config: initial_adam(theta)),
    "adam": Outer(adam_step, lambda theta, config: initial_adam(theta)),
    "reptile": Outer(reptile_step),
}
"""Built-in outer steps by the ``name`` of their settings (``settings.learners.OUTER_CONFIGS``)."""


def outer_step_of(config: OuterConfig) -> Outer:
    """Return the outer step with these settings: one of the table, or the user's own."""
    return _OWN if config.is_own else OUTER[config.name]


def _own_step(
    theta: Params, state: dict[str, Tensor], objective: MetaObjective, config: Any
) -> tuple[Params, dict[str, Tensor], dict[str, float]]:
    """Take the user's step, and check what it returns.

    Raises:
        UserError: if theta or the state cannot be saved and continued, or metrics not logged.
    """
    step = naming_errors(config.step, f"step of {config.name}")
    # Copies: a step that changes tensors in place, and then fails, must leave these as they are.
    copies = ({name: value.clone() for name, value in part.items()} for part in (theta, state))
    result = step(*copies, objective)
    check_outer_step(result, theta, state, config.name)
    return result


def _own_initial_state(theta: Params, config: OuterConfig) -> dict[str, Tensor]:
    """Return the user's state before the first step.

    Raises:
        UserError: if a checkpoint cannot hold it.
    """
    initial_state = naming_errors(config.initial_state, f"initial_state of {config.name}")
    state = initial_state(theta)
    check_outer_state(state, theta, config.name)
    return state


_OWN = Outer(_own_step, _own_initial_state)
