"""Mixins for kinds of tasks that several robots share.

A mixin declares and draws the task parameters, and shows the task in frames. The family defines the
reward and the settings that the mixin declares.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from maml_envs.engines.engine import Array, State, Task, Tasks
from maml_envs.engines.markers import Arrow, Marker, Vector, heading

Split = Literal["train", "held_out"]
"""Which tasks to draw: those for training, or the held-out ones."""

Directions = Literal["both", "forward", "backward"]
"""Which directions to draw."""


class ForwardVelocity:
    """Captions of videos have the velocity of the robot's root along x."""

    robot: ClassVar[Any]
    shown_quantity: ClassVar[tuple[str, str]] = ("forward velocity", "m/s")

    def shown_value(self, xp: Any, before: State, after: State, task: Tasks) -> Array:
        """Mean velocity of the root along x over the control step, (num_sims,), in m/s."""
        return self.robot.forward_velocity(before, after)


class ArrowTask(ABC):
    """A task that frames show as an arrow above the robot."""

    @abstractmethod
    def arrow_centre(self, state: State) -> Vector:
        """Centre of the arrow (m). The robot implements it.

        Args:
            state: of one simulation (no leading axis).
        """

    @abstractmethod
    def arrow_vector(self, task: Task) -> Vector:
        """From tail to tip (m). The kind of task implements it."""

    def markers(self, state: State, task: Task) -> list[Marker]:
        """The arrow, for one simulation (no leading axis)."""
        return [Arrow(self.arrow_centre(state), self.arrow_vector(task))]


class GoalVelocity(ForwardVelocity, ArrowTask):
    """Task: a goal velocity along x, uniform in [low, high]; both are settings of the family."""

    low: float
    high: float

    arrow_duration_s: ClassVar[float]
    """The arrow's length is the goal velocity times this duration."""
    task_units: ClassVar[Mapping[str, str]] = {"goal_velocity": "m/s"}
    task_limits: ClassVar[Mapping[str, tuple[float, float]]] = {"goal_velocity": (-100.0, 100.0)}

    def sample_tasks(self, rng: np.random.Generator, num_tasks: int) -> Tasks:
        """Goal velocities (num_tasks,), in m/s."""
        return {"goal_velocity": rng.uniform(self.low, self.high, num_tasks)}

    def arrow_vector(self, task: Task) -> Vector:
        """Along x, proportional to the goal velocity."""
        return self.arrow_duration_s * task["goal_velocity"], 0.0, 0.0


class Direction(ForwardVelocity, ArrowTask):
    """Task: forward (+1) or backward (−1) along x; ``directions`` is a setting of the family."""

    directions: Directions

    task_units: ClassVar[Mapping[str, str]] = {"direction": ""}
    task_limits: ClassVar[Mapping[str, tuple[float, float]]] = {"direction": (-1.0, 1.0)}
    task_value_names: ClassVar[Mapping[str, Mapping[float, str]]] = {
        "direction": {1.0: "forward", -1.0: "backward"}
    }

    def sample_tasks(self, rng: np.random.Generator, num_tasks: int) -> Tasks:
        """Directions (num_tasks,).

        Of both directions: +1, −1, +1, ...; a single task is +1 or −1 at random.
        """
        if self.directions != "both":
            return {"direction": np.full(num_tasks, 1.0 if self.directions == "forward" else -1.0)}
        first = int(rng.integers(2)) if num_tasks == 1 else 0
        is_forward = (np.arange(num_tasks) + first) % 2 == 0
        return {"direction": np.where(is_forward, 1.0, -1.0)}

    def arrow_vector(self, task: Task) -> Vector:
        """Along x, 1 m long."""
        return task["direction"], 0.0, 0.0


class DirectionAngle(ArrowTask):
    """Task: a direction in the plane; its angle to the x-axis is uniform in [0, 2π)."""

    task_units: ClassVar[Mapping[str, str]] = {"direction_angle": "rad"}
    task_limits: ClassVar[Mapping[str, tuple[float, float]]] = {"direction_angle": (-10.0, 10.0)}
    robot: ClassVar[Any]
    shown_quantity: ClassVar[tuple[str, str]] = ("velocity in the direction", "m/s")

    def shown_value(self, xp: Any, before: State, after: State, task: Tasks) -> Array:
        """Mean velocity of the root in the task's direction, (num_sims,), in m/s."""
        return self.along_direction(xp, after["qpos"] - before["qpos"], task) / self.robot.dt

    def along_direction(self, xp: Any, vector: Array, task: Tasks) -> Array:
        """Component of ``vector`` (num_sims, 2 or more) along the direction, (num_sims,)."""
        angle = task["direction_angle"]
        return vector[:, 0] * xp.cos(angle) + vector[:, 1] * xp.sin(angle)

    def sample_tasks(self, rng: np.random.Generator, num_tasks: int) -> Tasks:
        """Angles (num_tasks,), in rad."""
        return {"direction_angle": rng.uniform(0, 2 * np.pi, num_tasks)}

    def arrow_vector(self, task: Task) -> Vector:
        """Along the direction, 1 m long."""
        return heading(task["direction_angle"])


class GoalPosition(ABC):
    """Task: a goal position in the plane, drawn by the family."""

    task_units: ClassVar[Mapping[str, str]] = {"goal_x": "m", "goal_y": "m"}
    task_limits: ClassVar[Mapping[str, tuple[float, float]]] = {
        "goal_x": (-100.0, 100.0),
        "goal_y": (-100.0, 100.0),
    }
    shown_quantity: ClassVar[tuple[str, str]] = ("distance to the goal", "m")

    @abstractmethod
    def reaching_position(self, xp: Any, state: State) -> Array:
        """Position of what must reach the goal, (num_sims, 2), in m. The robot implements it."""

    def shown_value(self, xp: Any, before: State, after: State, task: Tasks) -> Array:
        """Distance to the goal, (num_sims,), in m."""
        return self.distance_to_goal(xp, self.reaching_position(xp, after), task)

    def offset_from_goal(self, xp: Any, position: Array, task: Tasks) -> Array:
        """``position`` (num_sims, 2) minus the goal, (num_sims, 2), in m."""
        return position - xp.stack([task["goal_x"], task["goal_y"]], axis=-1)

    def distance_to_goal(self, xp: Any, position: Array, task: Tasks) -> Array:
        """Euclidean distance of ``position`` (num_sims, 2) from the goal, (num_sims,), in m."""
        return xp.linalg.norm(self.offset_from_goal(xp, position, task), axis=-1)


class DynamicsOnly:
    """Tasks differ only in the robot's dynamics; the family has no task parameters of its own."""

    task_units: ClassVar[Mapping[str, str]] = {}
    task_limits: ClassVar[Mapping[str, tuple[float, float]]] = {}

    def sample_tasks(self, rng: np.random.Generator, num_tasks: int) -> Tasks:
        """No parameters besides those of ``dynamics``."""
        return {}


def uniform_in_disc(rng: np.random.Generator, num_tasks: int, radius: float) -> np.ndarray:
    """Points (num_tasks, 2) uniform over a disc (m): distance from the centre ``radius`` √U."""
    angle = rng.uniform(0, 2 * np.pi, num_tasks)
    distance = radius * np.sqrt(rng.uniform(size=num_tasks))
    return distance[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def random_parameters() -> dict[str, dict[str, float | bool]]:
    """Factors on mass, inertia, friction and damping of each element (Rothfuss et al. 2019)."""
    wide = {"low": 1.5**-3, "high": 1.5**3, "log": True, "each": True}
    narrow = {**wide, "low": 1.3**-3, "high": 1.3**3}
    return {
        "body_mass": dict(wide),
        "body_inertia": dict(wide),
        "geom_friction": dict(wide),
        "dof_damping": narrow,
    }
