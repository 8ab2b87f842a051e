"""Protocols: an engine simulates a robot; a robot has its model and creates engines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from gymnasium import spaces
from maml_envs.engines.dynamics import Parameter
from maml_envs.engines.markers import Marker

if TYPE_CHECKING:  # only engines of a device need torch
    import torch
    from torch import Tensor

Array = Any
"""A numpy array or a torch tensor, depending on ``xp``."""


State = Mapping[str, Array]
"""State fields by name, each (num_sims, ...)."""


Task = Mapping[str, float]
"""One task: its parameters by name."""


Tasks = Mapping[str, Array]
"""Tasks of several simulations: each value (num_sims,)."""


class Engine(Protocol):
    """Simulates ``num_sims`` copies of one robot."""

    num_sims: int
    state: State
    """Current state of every simulation; the arrays are updated in place."""

    def set_dynamics(self, dynamics: Tasks, ids: np.ndarray | None = None) -> None:
        """Set the dynamics of simulations; states are not changed, nor other simulations.

        Args:
            dynamics: parameters by name, each (n,).
            ids: n simulations; ``None`` for all.
        """

    def derive(self, ids: np.ndarray) -> None:
        """Compute derived state fields again, after new dynamics or velocities of simulations."""

    def reset(self, ids: np.ndarray, initial: Mapping[str, np.ndarray]) -> None:
        """Reset simulations ``ids`` (n,) to the state fields ``initial``, each (n, ...)."""

    def step(self, ids: np.ndarray | None, action: np.ndarray) -> np.ndarray:
        """Advance simulations by one control step.

        Args:
            ids: which simulations; ``None`` for all.
            action: (num_sims, action_size), in actuator units.

        Returns:
            (num_sims,) bool: simulations that became unstable; their state is meaningless.
        """

    def close(self) -> None:
        """Free threads and rendering contexts."""


class RenderingEngine(Engine, Protocol):
    """An engine of one simulation that can be rendered."""

    def render(self, markers: Sequence[Marker] = ()) -> Any:
        """Render a frame with ``markers``."""


class Robot(Protocol):
    """A robot: its action space, time step and parameters; it creates engines."""

    @property
    def dt(self) -> float:
        """Seconds per control step."""

    @property
    def action_space(self) -> spaces.Box:
        """Bounds of one simulation's action, in actuator units."""

    @property
    def parameters(self) -> Mapping[str, Parameter]:
        """Parameters that may differ between tasks, by name."""

    def batch_engine(self, num_sims: int, num_threads: int, derived: Sequence[str]) -> Engine:
        """Create an engine of ``num_sims`` simulations with the ``derived`` state fields."""

    def single_engine(
        self, derived: Sequence[str], render_mode: str | None, **render_options: Any
    ) -> RenderingEngine:
        """Create an engine of one simulation."""


class DeviceEngine(Protocol):
    """Simulates ``num_sims`` copies of one robot; state and results are tensors on one device.

    :meth:`step` copies nothing to the CPU, and never waits for the device.
    """

    num_sims: int
    device: torch.device
    state: Mapping[str, Tensor]
    """Current state of every simulation, each (num_sims, ...), floating-point.

    The fields have the names, shapes and meaning of those of :class:`Engine`. They are the same
    tensors for the engine's lifetime, updated in place."""
    failure: Tensor
    """(num_sims,) int8: the first failure since the last reset, or 0.

    1 if the state or the control is unstable; 2 if there were more contacts, and 3 if there were
    more constraints, than the engine has memory for."""

    def set_dynamics(self, dynamics: Tasks) -> None:
        """Set the dynamics of all simulations, as :meth:`Engine.set_dynamics` does.

        Args:
            dynamics: NumPy arrays by name, each (num_sims,).
        """

    def reset(self, is_reset: Tensor, initial: Mapping[str, Tensor]) -> None:
        """Reset some simulations; the others keep their state exactly.

        Args:
            is_reset: (num_sims,) bool.
            initial: state fields, each (num_sims, ...); rows outside ``is_reset`` are ignored.
        """

    def step(self, action: Tensor) -> None:
        """Advance every simulation by one control step.

        A simulation that fails is marked in ``failure``; its state is meaningless from then on.

        Args:
            action: (num_sims, action_size), in actuator units.
        """

    def close(self) -> None:
        """Free memory of the device."""


@runtime_checkable
class HasDeviceEngine(Protocol):
    """Optional interface of a robot: it can be simulated on a device."""

    def device_engine(
        self, num_sims: int, device: torch.device, derived: Sequence[str]
    ) -> DeviceEngine:
        """Create an engine of ``num_sims`` simulations with the ``derived`` state fields.

        Raises:
            ValueError: if a package that it needs is not installed.
        """
