"""A point that must find a goal it cannot see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from maml_envs.family import Array, State, Tasks
from maml_envs.point_body import PointBody


@dataclass(frozen=True, kw_only=True)
class PointNavigation:
    """Move a point in the plane to a goal (Finn et al. 2017, section 5.3).

    | | meaning | size |
    | --- | --- | --- |
    | action | displacement (m), clipped to ±0.1 per axis | 2 |
    | observation | position (m) | 2 |

    Reward: −‖position − goal‖₂ after the step.
    Task distribution: both coordinates of the goal uniform in [low, high], by default [−0.5, 0.5] m.
    Start: the origin, always. Episode end: within ``goal_tolerance`` of the goal on both axes; horizon 100.

    Version history: v0, first.
    """

    low: float = -0.5
    """Lower end of the goal's coordinates (m)."""
    high: float = 0.5
    """Upper end of the goal's coordinates (m)."""
    goal_tolerance: float = 0.01
    """The episode ends this close to the goal on both axes (m)."""

    body: ClassVar[PointBody] = PointBody()
    max_episode_steps: ClassVar[int] = 100
    task_units: ClassVar[Mapping[str, str]] = {"goal_x": "m", "goal_y": "m"}
    task_limits: ClassVar[Mapping[str, tuple[float, float]]] = {"goal_x": (-100.0, 100.0), "goal_y": (-100.0, 100.0)}

    def __post_init__(self) -> None:
        if not -100 <= self.low <= self.high <= 100:
            raise ValueError(f"low and high must satisfy -100 <= low <= high <= 100 (m), got {self.low}, {self.high}")
        if not 0 <= self.goal_tolerance < np.inf:
            raise ValueError(f"goal_tolerance must be finite and at least 0, got {self.goal_tolerance}")

    def sample_tasks(self, rng: np.random.Generator, num_tasks: int) -> Tasks:
        """Goal positions, each coordinate (num_tasks,), in m."""
        goals = rng.uniform(self.low, self.high, (num_tasks, 2))
        return {"goal_x": goals[:, 0], "goal_y": goals[:, 1]}

    def initial_state(self, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
        """The origin."""
        return {"position": np.zeros(2)}

    def observation(self, xp: Any, state: State) -> Array:
        """The position, (num_sims, 2)."""
        return xp.concat([state["position"]], axis=-1)

    def reward_terms(self, xp: Any, before: State, after: State, action: Array, task: Tasks) -> Mapping[str, Array]:
        """Distance to the goal, (num_sims,)."""
        return {"reward_distance": -xp.linalg.norm(self._offset(xp, after, task), axis=-1)}

    def terminated(self, xp: Any, state: State, task: Tasks) -> Array:
        """Whether the point is within the tolerance on both axes, (num_sims,)."""
        return (abs(self._offset(xp, state, task)) < self.goal_tolerance).all(-1)

    def _offset(self, xp: Any, state: State, task: Tasks) -> Array:
        """Position minus goal, (num_sims, 2)."""
        return state["position"] - xp.stack([task["goal_x"], task["goal_y"]], axis=-1)
