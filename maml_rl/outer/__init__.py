"""Outer steps: who moves theta. Each is one file with its own settings, and one line in the table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from maml_rl.outer.adam import AdamConfig, adam_step
from maml_rl.outer.ppo import PPOConfig, ppo_step
from maml_rl.outer.promp import ProMPConfig, promp_step
from maml_rl.outer.reptile import ReptileConfig, reptile_step
from maml_rl.outer.trpo import TRPOConfig, trpo_step


class Outer(NamedTuple):
    """An outer step: the type of its settings, and (theta, state, objective, settings) -> (theta, state, metrics)."""

    config: type
    step: Callable[..., Any]


OUTER: dict[str, Outer] = {
    "trpo": Outer(TRPOConfig, trpo_step),
    "promp": Outer(ProMPConfig, promp_step),
    "ppo": Outer(PPOConfig, ppo_step),
    "adam": Outer(AdamConfig, adam_step),
    "reptile": Outer(ReptileConfig, reptile_step),
}
"""Every outer step by name."""

OUTER_CONFIGS: dict[str, type] = {name: outer.config for name, outer in OUTER.items()}
"""Settings of each outer step by name."""

OUTER_STEPS: dict[type, Callable[..., Any]] = {outer.config: outer.step for outer in OUTER.values()}
"""Each outer step by the type of its settings."""
