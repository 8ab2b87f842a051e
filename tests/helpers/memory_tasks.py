"""Environments in which a policy must remember: nothing observed shows the task, only rewards."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

PULLS = 5
"""Steps of an episode of :class:`Arms` and :class:`Opposite`."""
LENGTH = 10
"""Steps of an episode of :class:`Ends` and the longest of :class:`Wander`."""


class _Memory(gym.Env):
    """A task is one number, ``side``: 0 or 1."""

    def __init__(self) -> None:
        self.side = 0.0
        self.position = 0.0

    def sample_tasks(self, n: int) -> list[dict[str, float]]:
        return [{"side": float(side)} for side in self.np_random.integers(0, 2, n)]

    def set_task(self, task: dict[str, float]) -> None:
        self.side = task["side"]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.position = 0.0
        return self.observation(), {}

    def observation(self) -> np.ndarray:
        return np.array([self.position], np.float32)


class Arms(_Memory):
    """Two-armed Bernoulli bandit: arm ``side`` pays 1 with probability 0.9, the other with 0.1.

    The observation is constant. Without memory every pull earns 0.5 on average.
    """

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = spaces.Discrete(2)
    GOOD = 0.9

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        chance = self.GOOD if action == self.side else 1 - self.GOOD
        return self.observation(), float(self.np_random.uniform() < chance), False, False, {}


class Ends(_Memory):
    """A point between −1 and 1 that earns 1 per step at one end: the right one if ``side`` is 1.

    An end is 4 steps from the start. Who knows the end earns 7 of 10 steps; who tries the wrong one
    first has no time left.
    """

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.position = float(np.clip(self.position + 0.25 * np.clip(action[0], -1, 1), -1, 1))
        is_there = self.position > 0.9 if self.side else self.position < -0.9
        return self.observation(), float(is_there), False, False, {}


class Opposite(_Memory):
    """A point on a line that earns its step to the right if ``side`` is 1, else to the left."""

    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        step = float(np.clip(action[0], -1, 1))
        self.position += step
        return self.observation(), step if self.side else -step, False, False, {}


class Short(Opposite):
    """The same, but an episode ends after 4 steps."""

    num_steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        self.num_steps = 0
        return super().reset(seed=seed, options=options)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.num_steps += 1
        observation, reward, *_ = super().step(action)
        return observation, reward, self.num_steps == 4, False, {}


class Unbounded(Opposite):
    """The same with actions that have no bounds."""

    action_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)


class Wander(_Memory):
    """A random walk with a reward at every step, whose episodes end at random.

    Args:
        discrete: whether actions are one of three choices; otherwise two numbers.
    """

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)

    def __init__(self, discrete: bool = False) -> None:
        super().__init__()
        self.action_space = (
            spaces.Discrete(3) if discrete else spaces.Box(-1.0, 1.0, (2,), np.float32)
        )

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.position += float(np.sum(action)) + self.np_random.normal()
        reward = float(self.np_random.normal()) + self.side + self.position
        return self.observation(), reward, bool(self.np_random.uniform() < 0.2), False, {}

    def observation(self) -> np.ndarray:
        return np.array([self.position, self.side - self.position], np.float32)


_LENGTHS = {
    Arms: PULLS,
    Ends: LENGTH,
    Opposite: PULLS,
    Short: PULLS,
    Unbounded: PULLS,
    Wander: LENGTH,
}
for _environment, _length in _LENGTHS.items():
    gym.register(
        id=f"memory/{_environment.__name__}-v0",
        entry_point=_environment,
        max_episode_steps=_length,
    )
