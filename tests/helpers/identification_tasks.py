"""Environments whose dynamics show in motion; there is no reward.

A task has two numbers. Actions switch a thruster on (1) or off (0), so that random actions excite
both. The last acceleration is observed, as an accelerometer reports it.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces

LENGTH = 10
"""Steps of an episode."""
_DT_S = 0.02
_GRAVITY = 9.81


class _Body(gym.Env):
    """Integrates position and velocity; a task has one number for each name in ``RANGES``."""

    action_space = spaces.Discrete(2)
    RANGES: ClassVar[dict[str, tuple[float, float]]]
    START: tuple[tuple[float, float], tuple[float, float]]
    """Ranges of position and velocity at the start."""

    def __init__(self) -> None:
        self.task = {name: low for name, (low, _) in self.RANGES.items()}
        self.position = self.velocity = self.acceleration = 0.0

    def sample_tasks(self, n: int) -> list[dict[str, float]]:
        return [
            {name: float(self.np_random.uniform(*ends)) for name, ends in self.RANGES.items()}
            for _ in range(n)
        ]

    def set_task(self, task: dict[str, float]) -> None:
        self.task = dict(task)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.position, self.velocity = (float(self.np_random.uniform(*ends)) for ends in self.START)
        self.acceleration = 0.0
        return self.observation(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.acceleration = self.accelerated(int(action))
        self.velocity += _DT_S * self.acceleration
        self.position += _DT_S * self.velocity
        return self.observation(), 0.0, False, False, {}

    def accelerated(self, is_on: int) -> float:
        raise NotImplementedError

    def observation(self) -> np.ndarray:
        raise NotImplementedError


class Pendulum(_Body):
    """A point mass on a rod: m l² θ'' = torque − m g l sin θ, with 0 for hanging.

    It starts near the horizontal, where gravity shows the length. The effect of the torque then
    shows the mass.
    """

    observation_space = spaces.Box(-np.inf, np.inf, (4,), np.float32)
    RANGES: ClassVar = {"mass": (0.7, 1.3), "length": (0.8, 1.2)}
    START = ((1.2, 1.9), (-0.5, 0.5))
    TORQUE = 6.0

    def accelerated(self, is_on: int) -> float:
        mass, length = self.task["mass"], self.task["length"]
        of_torque = self.TORQUE * is_on / (mass * length**2)
        return of_torque - _GRAVITY / length * math.sin(self.position)

    def observation(self) -> np.ndarray:
        angle = self.position
        return np.array(
            [math.sin(angle), math.cos(angle), self.velocity, self.acceleration], np.float32
        )


class Block(_Body):
    """A block that slides on a plane: m v' = force − μ m g; it is pushed off and does not stop.

    The part of the acceleration that no force explains shows the friction, the other the mass.
    """

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    RANGES: ClassVar = {"mass": (0.6, 1.4), "friction": (0.3, 0.7)}
    START = ((0.0, 0.0), (4.0, 5.0))
    FORCE = 10.0

    def accelerated(self, is_on: int) -> float:
        assert self.velocity > 0, "friction would turn round"
        return self.FORCE * is_on / self.task["mass"] - self.task["friction"] * _GRAVITY

    def observation(self) -> np.ndarray:
        return np.array([self.velocity, self.acceleration], np.float32)


for _environment in (Pendulum, Block):
    gym.register(
        id=f"identification/{_environment.__name__}-v0",
        entry_point=_environment,
        max_episode_steps=LENGTH,
    )
