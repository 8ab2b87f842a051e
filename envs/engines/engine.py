"""What every engine offers, and the body that makes engines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from gymnasium import spaces
from maml_envs.engines.dynamics import Parameter
from maml_envs.engines.markers import Marker

Array = Any
"""A numpy array or a torch tensor, according to ``xp``."""


State = Mapping[str, Array]
"""State fields by name, each (num_sims, ...)."""


Task = Mapping[str, float]
"""One task: what varies between tasks, by name."""


Tasks = Mapping[str, Array]
"""Tasks of several simulations: each value is (num_sims,)."""


class Engine(Protocol):
    """Simulates ``num_sims`` copies of one body."""

    num_sims: int
    state: State
    """Live arrays: the state of every simulation now."""

    def set_dynamics(self, dynamics: Tasks) -> None:
        """Change the body of every simulation, from now on: parameters of the body by name, each (num_sims,)."""

    def reset(self, ids: np.ndarray, initial: Mapping[str, np.ndarray]) -> None:
        """Start simulations ``ids`` (n,) from the state fields ``initial``, each (n, ...)."""

    def step(self, ids: np.ndarray | None, action: np.ndarray) -> np.ndarray:
        """Advance simulations ``ids`` (``None``: all) by one control step of ``action`` (num_sims, action_size).

        Returns:
            (num_sims,) bool: simulations that broke down, whose state now means nothing.
        """

    def render(self, markers: Sequence[Marker] = ()) -> Any:
        """Whatever the render mode asks for, with ``markers`` in it; only engines of one simulation draw."""

    def close(self) -> None:
        """Free threads and rendering contexts."""


class Body(Protocol):
    """What moves: makes engines, and knows its action space and its time step."""

    @property
    def dt(self) -> float:
        """Seconds per control step."""

    @property
    def action_space(self) -> spaces.Box:
        """Bounds of one simulation's action, in actuator units."""

    @property
    def parameters(self) -> Mapping[str, Parameter]:
        """What can differ between two of these bodies, by the name that a task gives it."""

    def batch_engine(self, num_sims: int, num_threads: int, derived: Sequence[str]) -> Engine:
        """An engine for many simulations on ``num_threads`` threads, whose state holds the ``derived`` fields too."""

    def single_engine(
        self, derived: Sequence[str], render_mode: str | None, **render_options: Any
    ) -> Engine:
        """An engine for one simulation, which can draw it."""
