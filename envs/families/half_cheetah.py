"""The half cheetah: run at a velocity, in a direction, or with a disabled actuator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from maml_envs.engines.dynamics import DynamicsSetting
from maml_envs.engines.engine import Array, State, Tasks
from maml_envs.engines.markers import Vector
from maml_envs.engines.mujoco import (
    POSITION_FIELDS,
    ROOT_BODY,
    MujocoRobot,
    ObservedPosition,
    set_frame_skip,
)
from maml_envs.engines.rendering import FreeCamera
from maml_envs.families.tasks import Direction, Directions, ForwardVelocity, GoalVelocity, Split
from maml_envs.family import check_settings


@dataclass(frozen=True, kw_only=True)
class HalfCheetah:
    """Base of the half-cheetah families: Gymnasium's robot, observation and initial state.

    | | meaning | size |
    | --- | --- | --- |
    | action | torque at back thigh, shin, foot, front thigh, shin, foot, in [−1, 1] | 6 |
    | observation | positions without the root's x (m, rad), velocities (m/s, rad/s) | 8 + 9 |
    | with a position | x, y and z of the torso or of the centre of mass (m) | + 3 |

    One control step is 0.05 s (5 MuJoCo steps of 0.01 s); ``frame_skip`` changes it.
    Episodes never end early.
    """

    control_cost_weight: float = 0.05
    """Weight of the squared norm of the action in the reward."""
    reset_noise_scale: float = 0.1
    """Noise on the initial state: bound on positions (m, rad), standard deviation of velocities
    (m/s, rad/s)."""
    observe_position: ObservedPosition = "nothing"
    """Position (x, y, z in m) appended to the observation: of the torso, of the centre of mass,
    or nothing."""
    frame_skip: int | None = None
    """MuJoCo steps per control step; null for the robot's default, 5."""
    dynamics: DynamicsSetting = field(default_factory=dict)
    """Dynamics that vary between tasks, e.g. {body_mass: [0.5, 2.0]}; see docs/families.md."""

    robot: ClassVar[MujocoRobot] = MujocoRobot(
        "half_cheetah.xml", frame_skip=5, free_camera=FreeCamera(distance=5.0, height=0.75)
    )
    max_episode_steps: ClassVar[int] = 100

    def __post_init__(self) -> None:
        check_settings(self)
        set_frame_skip(self)

    @property
    def derived_fields(self) -> tuple[str, ...]:
        """The field of the optional world position."""
        return POSITION_FIELDS[self.observe_position]

    def initial_state(self, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
        """The model's pose with noise on positions and velocities, as in HalfCheetah-v5."""
        return self.robot.noisy_start(rng, self.reset_noise_scale, velocities="normal")

    def observation(self, xp: Any, state: State) -> Array:
        """Positions without the root's x, velocities, and the optional world position."""
        positions = [state[field][:, ROOT_BODY] for field in POSITION_FIELDS[self.observe_position]]
        return xp.concat([state["qpos"][:, 1:], state["qvel"], *positions], axis=-1)

    def terminated(self, xp: Any, state: State, task: Tasks) -> Array:
        """Never."""
        return xp.zeros_like(state["qpos"][:, 0], dtype=bool)

    def arrow_centre(self, state: State) -> Vector:
        """A point above the robot (m)."""
        return state["qpos"][0], 0.0, 1.5

    def _control_cost(self, action: Array) -> Array:
        return self.control_cost_weight * (action**2).sum(-1)


@dataclass(frozen=True, kw_only=True)
class HalfCheetahVel(HalfCheetah, GoalVelocity):
    """Run forward at a goal velocity g (Finn et al. 2017, section 5.3).

    Reward: −abs(v − g) − 0.05 ‖a‖², with v the root's mean velocity over the control step and a
    the action.
    Task distribution: g uniform in [low, high] m/s, by default [0, 2]. Horizon 100.

    Version history: v0, first.
    """

    low: float = 0.0
    """Lower end of the goal velocities (m/s)."""
    high: float = 2.0
    """Upper end of the goal velocities (m/s)."""

    arrow_duration_s: ClassVar[float] = 0.5

    def reward_terms(
        self, xp: Any, before: State, after: State, action: Array, task: Tasks
    ) -> Mapping[str, Array]:
        """Negative distance from the goal velocity, and control cost, each (num_sims,)."""
        velocity = self.robot.forward_velocity(before, after)
        return {
            "reward_forward": -abs(velocity - task["goal_velocity"]),
            "reward_control": -self._control_cost(action),
        }


@dataclass(frozen=True, kw_only=True)
class HalfCheetahDir(HalfCheetah, Direction):
    """Run as fast as possible forward or backward (Finn et al. 2017, section 5.3).

    Reward: d·v − 0.05 ‖a‖², with v the root's mean velocity over the control step and a the action.
    Task distribution: d = +1 and −1 in turn, so that a meta-batch has both; a single task is +1 or
    −1 with equal probability. Horizon 100.

    Version history: v0, first.
    """

    directions: Directions = "both"
    """Which directions to draw: both, forward, or backward."""

    def reward_terms(
        self, xp: Any, before: State, after: State, action: Array, task: Tasks
    ) -> Mapping[str, Array]:
        """Velocity along the task's direction, and control cost, each (num_sims,)."""
        velocity = self.robot.forward_velocity(before, after)
        return {
            "reward_forward": task["direction"] * velocity,
            "reward_control": -self._control_cost(action),
        }


@dataclass(frozen=True, kw_only=True)
class CrippledHalfCheetah(HalfCheetah, ForwardVelocity):
    """Run forward while one actuator exerts no force (Nagabandi et al. 2019, section 6.1).

    Reward: v − 0.05 ‖a‖², with v the root's mean velocity over the control step and a the action.
    Task distribution: the disabled actuator, uniform over 1 to 5 (back shin to front foot);
    actuator 0, the back thigh, is held out. Horizon 200.

    Version history: v0, first.
    """

    split: Split = "train"
    """Tasks to draw: train (actuators 1 to 5) or held_out (actuator 0)."""

    max_episode_steps: ClassVar[int] = 200
    task_units: ClassVar[Mapping[str, str]] = {"disabled_actuator": ""}
    task_limits: ClassVar[Mapping[str, tuple[float, float]]] = {"disabled_actuator": (-1, 5)}
    task_value_names: ClassVar[Mapping[str, Mapping[float, str]]] = {
        "disabled_actuator": {
            -1.0: "no disabled actuator",
            0.0: "back thigh disabled",
            1.0: "back shin disabled",
            2.0: "back foot disabled",
            3.0: "front thigh disabled",
            4.0: "front shin disabled",
            5.0: "front foot disabled",
        }
    }

    def sample_tasks(self, rng: np.random.Generator, num_tasks: int) -> Tasks:
        """Indices of the disabled actuators (num_tasks,)."""
        choices = np.arange(1.0, 6.0) if self.split == "train" else np.zeros(1)
        return {"disabled_actuator": rng.choice(choices, num_tasks)}

    def reward_terms(
        self, xp: Any, before: State, after: State, action: Array, task: Tasks
    ) -> Mapping[str, Array]:
        """Forward velocity, and control cost, each (num_sims,)."""
        return {
            "reward_forward": self.robot.forward_velocity(before, after),
            "reward_control": -self._control_cost(action),
        }
