"""An engine for devices whose physics is MuJoCo's batch engine, in float64: an exact reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from maml_envs.engines.engine import Tasks
from maml_envs.engines.mujoco import MujocoRobot
from torch import Tensor


class ReferenceEngine:
    """A :class:`DeviceEngine` on the CPU: it steps every simulation, as one on a GPU does."""

    def __init__(
        self, robot: MujocoRobot, num_sims: int, device: torch.device, derived: Sequence[str]
    ) -> None:
        self.num_sims = num_sims
        self.device = device
        self._engine = robot.batch_engine(num_sims, 1, derived)
        self.state = {
            name: torch.from_numpy(np.array(value)) for name, value in self._engine.state.items()
        }
        self.failure = torch.zeros(num_sims, dtype=torch.int8)

    def _copy_state(self) -> None:
        for name, value in self._engine.state.items():
            self.state[name].copy_(torch.from_numpy(np.array(value)))

    def set_dynamics(self, dynamics: Tasks) -> None:
        self._engine.set_dynamics(dynamics)

    def reset(self, is_reset: Tensor, initial: Mapping[str, Tensor]) -> None:
        ids = np.flatnonzero(is_reset.numpy())
        self._engine.reset(ids, {name: value.numpy()[ids] for name, value in initial.items()})
        self.failure.masked_fill_(is_reset, 0)
        self._copy_state()

    def step(self, action: Tensor) -> None:
        unstable = torch.from_numpy(self._engine.step(None, action.numpy()))
        self.failure.masked_fill_(unstable & (self.failure == 0), 1)
        self._copy_state()

    def close(self) -> None:
        self._engine.close()


def use_reference_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make MuJoCo's robots create this engine for devices."""

    def device_engine(robot: MujocoRobot, *arguments: Any) -> ReferenceEngine:
        return ReferenceEngine(robot, *arguments)

    monkeypatch.setattr(MujocoRobot, "device_engine", device_engine, raising=False)
