"""Outer steps: who moves theta. Each is one file with its own settings, and one line in the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from maml_rl.errors import UserError
from maml_rl.learners.maml.objective import MetaObjective
from maml_rl.learners.maml.outer.adam import adam_step
from maml_rl.learners.maml.outer.adam import initial_state as adam_initial_state
from maml_rl.learners.maml.outer.ppo import ppo_step
from maml_rl.learners.maml.outer.promp import initial_state as promp_initial_state
from maml_rl.learners.maml.outer.promp import promp_step
from maml_rl.learners.maml.outer.reptile import reptile_step
from maml_rl.learners.maml.outer.trpo import trpo_step
from maml_rl.policies.parameters import Params

Step = Callable[
    [Params, dict[str, Tensor], MetaObjective, Any],
    tuple[Params, dict[str, Tensor], dict[str, float]],
]
"""(theta, state, objective, settings) -> (theta, state, metrics).

``state`` is what the last call returned, and an empty mapping at first; a checkpoint holds it.
``metrics`` are logged under the names that docs/metrics.md explains. A step that cannot be taken
raises
FloatingPointError: theta and the state stay as they were, as they do where theta, the state or a
    metric is not finite. One that
searches and finds nothing returns theta, with the metrics ``outer/accepted`` 0 and
``outer/gradient_norm``. Both are counted as failures, of which ten in a row stop a run. Where the
gradient is zero a step returns theta, which is no failure.
"""


class Outer(NamedTuple):
    """An outer step."""

    step: Step
    initial_state: Callable[[Params], dict[str, Tensor]] = lambda theta: {}
    """What a state has by name, shape and type."""


OUTER: dict[str, Outer] = {
    "trpo": Outer(trpo_step),
    "promp": Outer(promp_step, promp_initial_state),
    "ppo": Outer(ppo_step, adam_initial_state),
    "adam": Outer(adam_step, adam_initial_state),
    "reptile": Outer(reptile_step),
}
"""Each outer step by the name that its settings carry (:data:`maml_rl.settings.maml.OUTER_CONFIGS`)."""


def check_state(state: Mapping[str, Tensor], theta: Params, config: Any, source: Path) -> None:
    """Refuse a state that is not one of the outer step of ``config``; an empty one is that of a run at its start.

    Raises:
        UserError: names, shapes or types differ, or a number is not finite; ``source`` is named.
    """
    make = OUTER[config.name].initial_state
    expected = {name: f"{tuple(value.shape)} {value.dtype}" for name, value in make(theta).items()}
    got = {name: f"{tuple(value.shape)} {value.dtype}" for name, value in state.items()}
    if got and got != expected:
        raise UserError(
            f"the outer step's state in {source} has {got or 'nothing'}, expected "
            f"{expected or 'nothing'}"
        )
    for name, value in state.items():
        if not value.isfinite().all():
            raise UserError(f"the outer step's state in {source} is not finite: {name}")
