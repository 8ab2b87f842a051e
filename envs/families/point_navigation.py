"""A point that must find a goal it does not observe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from maml_envs.engines.dynamics import DynamicsSetting
from maml_envs.engines.engine import Array, State, Task, Tasks
from maml_envs.engines.markers import Marker, Sphere
from maml_envs.engines.point import PointRobot
from maml_envs.families.tasks import GoalPosition
from maml_envs.family import check_settings


@dataclass(frozen=True, kw_only=True)
class Point(GoalPosition):
    """Base of the point families: the action is added to the position.

    | | meaning | size |
    | --- | --- | --- |
    | action | displacement (m), in [−0.1, 0.1] per axis | 2 |
    | observation | position (m) | 2 |

    Every episode starts at the origin. Horizon 100.
    """

    robot: ClassVar[PointRobot] = PointRobot()
    dynamics: ClassVar[DynamicsSetting] = {}
    derived_fields: ClassVar[tuple[str, ...]] = ()
    max_episode_steps: ClassVar[int] = 100

    def __post_init__(self) -> None:
        check_settings(self)

    def initial_state(self, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
        """The origin."""
        return {"position": np.zeros(2)}

    def reaching_position(self, xp: Any, state: State) -> Array:
        """The position, (num_sims, 2), in m."""
        return state["position"]

    def observation(self, xp: Any, state: State) -> Array:
        """The position, (num_sims, 2)."""
        # A copy: the engine moves the points in place.
        return xp.concat([state["position"]], axis=-1)


@dataclass(frozen=True, kw_only=True)
class PointNavigation(Point):
    """Move a point in the plane to a goal (Finn et al. 2017, section 5.3).

    Reward: −‖position − goal‖₂ after the step.
    Task distribution: both coordinates of the goal uniform in [low, high], by default
    [−0.5, 0.5] m.
    Episode end and success: within ``goal_tolerance`` of the goal on both axes.

    Version history: v0, first.
    """

    low: float = -0.5
    """Lower end of the goal's coordinates (m)."""
    high: float = 0.5
    """Upper end of the goal's coordinates (m)."""
    goal_tolerance: float = 0.01
    """The episode ends within this distance of the goal on both axes (m)."""

    def sample_tasks(self, rng: np.random.Generator, num_tasks: int) -> Tasks:
        """Goal positions, each coordinate (num_tasks,), in m."""
        goals = rng.uniform(self.low, self.high, (num_tasks, 2))
        return {"goal_x": goals[:, 0], "goal_y": goals[:, 1]}

    def reward_terms(
        self, xp: Any, before: State, after: State, action: Array, task: Tasks
    ) -> Mapping[str, Array]:
        """Negative distance to the goal, (num_sims,)."""
        return {"reward_distance": -self.distance_to_goal(xp, after["position"], task)}

    def terminated(self, xp: Any, state: State, task: Tasks) -> Array:
        """Whether the point is within the tolerance on both axes, (num_sims,)."""
        offset = self.offset_from_goal(xp, state["position"], task)
        return (abs(offset) < self.goal_tolerance).all(-1)

    def success(self, xp: Any, state: State, task: Tasks) -> Array:
        """Whether the goal is reached, (num_sims,); this also ends the episode."""
        return self.terminated(xp, state, task)

    def markers(self, state: State, task: Task) -> list[Marker]:
        """The goal."""
        return [Sphere((task["goal_x"], task["goal_y"], 0.0), 0.035)]


@dataclass(frozen=True, kw_only=True)
class PointNavigationSparse(Point):
    """Find a goal on a semicircle, with a reward only near it (Rakelly et al. 2019, section 6.3).

    Reward: 1 − ‖position − goal‖₂ within ``goal_radius`` of the goal after the step, else 0.
    Task distribution: goals uniform on the upper half of the unit circle around the start.
    Episodes never end early. Success: within ``goal_radius`` of the goal at the end.

    Version history: v0, first.
    """

    goal_radius: float = 0.2
    """The reward is zero farther from the goal than this (m)."""

    robot: ClassVar[PointRobot] = PointRobot(view=1.5)

    def sample_tasks(self, rng: np.random.Generator, num_tasks: int) -> Tasks:
        """Goal positions, each coordinate (num_tasks,), in m."""
        angle = rng.uniform(0, np.pi, num_tasks)
        return {"goal_x": np.cos(angle), "goal_y": np.sin(angle)}

    def reward_terms(
        self, xp: Any, before: State, after: State, action: Array, task: Tasks
    ) -> Mapping[str, Array]:
        """Closeness to the goal within ``goal_radius``, else 0, (num_sims,)."""
        distance = self.distance_to_goal(xp, after["position"], task)
        is_near = distance <= self.goal_radius
        return {"reward_near_goal": xp.where(is_near, 1 - distance, 0.0 * distance)}

    def success(self, xp: Any, state: State, task: Tasks) -> Array:
        """Whether the point is within ``goal_radius`` of the goal, (num_sims,)."""
        return self.distance_to_goal(xp, state["position"], task) <= self.goal_radius

    def terminated(self, xp: Any, state: State, task: Tasks) -> Array:
        """Never."""
        return xp.zeros_like(state["position"][:, 0], dtype=bool)

    def markers(self, state: State, task: Task) -> list[Marker]:
        """The area where the reward is non-zero."""
        return [Sphere((task["goal_x"], task["goal_y"], 0.0), self.goal_radius)]
