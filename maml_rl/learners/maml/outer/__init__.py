"""Outer steps: who moves theta. Each is one file with its own settings, and one line in the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from maml_rl.errors import UserError
from maml_rl.learners.maml.objective import MetaObjective
from maml_rl.learners.maml.outer.adam import AdamConfig, adam_step
from maml_rl.learners.maml.outer.adam import initial_state as adam_initial_state
from maml_rl.learners.maml.outer.ppo import PPOConfig, ppo_step
from maml_rl.learners.maml.outer.promp import ProMPConfig, promp_step
from maml_rl.learners.maml.outer.promp import initial_state as promp_initial_state
from maml_rl.learners.maml.outer.reptile import ReptileConfig, reptile_step
from maml_rl.learners.maml.outer.trpo import TRPOConfig, trpo_step
from maml_rl.policies.mlp import Params

Step = Callable[[Params, dict[str, Tensor], MetaObjective, Any], tuple[Params, dict[str, Tensor], dict[str, float]]]
"""(theta, state, objective, settings) -> (theta, state, metrics).

``state`` is what the last call returned, and an empty mapping at first; a checkpoint holds it. ``metrics`` are logged
under the names that docs/metrics.md explains. A step that cannot be taken raises FloatingPointError: theta and the
state stay as they were, as they do where theta, the state or a metric is not finite. One that searches and finds
nothing returns theta, with the metrics ``outer/accepted`` 0 and ``outer/gradient_norm``. Both are counted as failures,
of which ten in a row stop a run. Where the gradient is zero a step returns theta, which is no failure.
"""


class Outer(NamedTuple):
    """An outer step."""

    config: type
    """Of its settings: a frozen dataclass with ``RANGES``."""
    step: Step
    initial_state: Callable[[Params], dict[str, Tensor]] = lambda theta: {}
    """What a state has by name, shape and type."""


OUTER: dict[str, Outer] = {
    "trpo": Outer(TRPOConfig, trpo_step),
    "promp": Outer(ProMPConfig, promp_step, promp_initial_state),
    "ppo": Outer(PPOConfig, ppo_step, adam_initial_state),
    "adam": Outer(AdamConfig, adam_step, adam_initial_state),
    "reptile": Outer(ReptileConfig, reptile_step),
}
"""Every outer step by name."""

OUTER_CONFIGS: dict[str, type] = {name: outer.config for name, outer in OUTER.items()}
"""Settings of each outer step by name."""

OUTER_STEPS: dict[type, Step] = {outer.config: outer.step for outer in OUTER.values()}
"""Each outer step by the type of its settings."""


def check_state(state: Mapping[str, Tensor], theta: Params, config: Any, source: Path) -> None:
    """Refuse a state that is not one of the outer step of ``config``; an empty one is that of a run at its start.

    Raises:
        UserError: names, shapes or types differ, or a number is not finite; ``source`` is named.
    """
    make = next(outer.initial_state for outer in OUTER.values() if outer.config is type(config))
    expected = {name: f"{tuple(value.shape)} {value.dtype}" for name, value in make(theta).items()}
    got = {name: f"{tuple(value.shape)} {value.dtype}" for name, value in state.items()}
    if got and got != expected:
        raise UserError(f"the outer step's state in {source} has {got or 'nothing'}, expected {expected or 'nothing'}")
    for name, value in state.items():
        if not value.isfinite().all():
            raise UserError(f"the outer step's state in {source} is not finite: {name}")
