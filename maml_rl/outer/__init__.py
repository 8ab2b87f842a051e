"""Outer steps: who moves theta. Each is one file with its own settings, and one line in the table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from maml_rl.outer.trpo import TRPOConfig, trpo_step

OUTER_CONFIGS: dict[str, type] = {"trpo": TRPOConfig}
"""Settings of each outer step by name."""

OUTER_STEPS: dict[type, Callable[..., Any]] = {TRPOConfig: trpo_step}
"""(theta, state, objective, settings) -> (theta, state, metrics), by the type of the settings."""
