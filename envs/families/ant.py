"""The ant: run at a velocity, in a direction, to a goal position, or on three legs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from maml_envs.engines.dynamics import DynamicsSetting
from maml_envs.engines.engine import Array, State, Task, Tasks
from maml_envs.engines.markers import Marker, Sphere, Vector
from maml_envs.engines.mujoco import (
    POSITION_FIELDS,
    ROOT_BODY,
    MujocoRobot,
    ObservedPosition,
    set_frame_skip,
)
from maml_envs.engines.rendering import FreeCamera
from maml_envs.families.tasks import (
    Direction,
    DirectionAngle,
    Directions,
    ForwardVelocity,
    GoalPosition,
    GoalVelocity,
    Split,
    uniform_in_disc,
)
from maml_envs.family import check_settings


@dataclass(frozen=True, kw_only=True)
class Ant:
    """Base of the ant families: Gymnasium's robot, observation and initial state.

    | | meaning | size |
    | --- | --- | --- |
    | action | torque at hip and ankle of legs 4, 1, 2, 3, in [−1, 1] | 8 |
    | observation | positions without the root's x and y (m, quaternion, rad) | 13 |
    | | all velocities (m/s, rad/s) | + 14 |
    | with root position | x and y of the root, before the other positions (m) | + 2 |
    | with contact forces | external torque and force on each body, clipped to ±1 | + 78 |
    | with orientation | rotation matrix of the torso, row by row | + 9 |
    | with a position | x, y and z of the torso or of the centre of mass (m) | + 3 |

    Every reward includes a control cost, a contact cost (weight · ‖clip(cfrc_ext, ±1)‖², weight 0
    by default), and a constant for every step.
    One control step is 0.05 s (5 MuJoCo steps of 0.01 s). Horizon 200. Episode end: torso outside
    [0.2, 1] m, if ``terminate_when_unhealthy``. Limits and control step are settings.
    """

    control_cost_weight: float = 0.005
    """Weight of the squared norm of the action in the reward."""
    contact_cost_weight: float = 0.0
    """Weight of the squared norm of the contact forces in the reward."""
    survive_reward: float = 0.05
    """Reward for every step."""
    observe_contact_forces: bool = False
    """Whether the observation includes the contact forces."""
    contact_force_limit: float = 1.0
    """Contact torques and forces are clipped to ± this in observation and cost (N m, N)."""
    observe_root_position: bool = False
    """Whether the observation begins with the root's x and y."""
    observe_orientation: bool = False
    """Whether the observation includes the rotation matrix of the torso."""
    observe_position: ObservedPosition = "nothing"
    """Position (x, y, z in m) appended to the observation: of the torso, of the centre of mass,
    or nothing."""
    terminate_when_unhealthy: bool = True
    """Whether an episode ends when the torso is too low or too high."""
    min_torso_height: float = 0.2
    """The episode ends below this height of the torso (m)."""
    max_torso_height: float = 1.0
    """The episode ends above this height of the torso (m)."""
    reset_noise_scale: float = 0.1
    """Noise on the initial state: bound on positions (m, rad), standard deviation of velocities
    (m/s, rad/s)."""
    frame_skip: int | None = None
    """MuJoCo steps per control step; null for the robot's default, 5."""
    dynamics: DynamicsSetting = field(default_factory=dict)
    """Dynamics that vary between tasks, e.g. {body_mass: [0.5, 2.0]}; see docs/families.md."""

    robot: ClassVar[MujocoRobot] = MujocoRobot(
        "ant.xml", frame_skip=5, camera_name=None, free_camera=FreeCamera(distance=5.0, height=0.75)
    )
    max_episode_steps: ClassVar[int] = 200

    def __post_init__(self) -> None:
        check_settings(self, at_least_zero=("contact_force_limit",))
        set_frame_skip(self)

    @property
    def derived_fields(self) -> tuple[str, ...]:
        """Contact forces if observation or cost need them, and the optional observations."""
        fields: list[str] = []
        if self.observe_contact_forces or self.contact_cost_weight > 0:
            fields.append("cfrc_ext")
        if self.observe_orientation:
            fields.append("xmat")
        return (*fields, *POSITION_FIELDS[self.observe_position])

    def initial_state(self, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
        """The model's pose with noise on positions and velocities, as in Ant-v5."""
        return self.robot.noisy_start(rng, self.reset_noise_scale, velocities="normal")

    def observation(self, xp: Any, state: State) -> Array:
        """Positions, velocities, and the optional parts, (num_sims, observation_size)."""
        position = state["qpos"] if self.observe_root_position else state["qpos"][:, 2:]
        parts = [position, state["qvel"]]
        if self.observe_contact_forces:
            parts.append(self._contact_forces(state)[:, 1:].reshape(len(state["qpos"]), -1))
        if self.observe_orientation:
            parts.append(state["xmat"][:, ROOT_BODY])
        parts += [state[field][:, ROOT_BODY] for field in POSITION_FIELDS[self.observe_position]]
        return xp.concat(parts, axis=-1)

    def terminated(self, xp: Any, state: State, task: Tasks) -> Array:
        """Whether the torso's height is out of range, (num_sims,)."""
        height = state["qpos"][:, 2]
        is_healthy = (self.min_torso_height <= height) & (height <= self.max_torso_height)
        return ~is_healthy & self.terminate_when_unhealthy

    def arrow_centre(self, state: State) -> Vector:
        """A point above the robot (m)."""
        return state["qpos"][0], state["qpos"][1], 1.7

    def _contact_forces(self, state: State) -> Array:
        """Clipped external torques and forces, (num_sims, num_bodies, 6), in N m and N."""
        return state["cfrc_ext"].clip(-self.contact_force_limit, self.contact_force_limit)

    def _common_terms(self, xp: Any, after: State, action: Array) -> dict[str, Array]:
        """Reward terms of every ant: costs and the constant, each (num_sims,)."""
        terms = {
            "reward_control": -self.control_cost_weight * (action**2).sum(-1),
            "reward_survive": self.survive_reward + xp.zeros_like(after["qpos"][:, 0]),
        }
        if self.contact_cost_weight > 0:
            forces = self._contact_forces(after)
            terms["reward_contact"] = -self.contact_cost_weight * (forces**2).sum(-1).sum(-1)
        return terms


@dataclass(frozen=True, kw_only=True)
class AntVel(Ant, GoalVelocity):
    """Run forward at a goal velocity g (Finn et al. 2017, section 5.3).

    Reward: 1 − abs(v − g) − 0.005 ‖a‖² + 0.05, with v the root's mean velocity along x over the
    control step.
    Task distribution: g uniform in [low, high] m/s, by default [0, 3].

    Version history: v0, first.
    """

    low: float = 0.0
    """Lower end of the goal velocities (m/s)."""
    high: float = 3.0
    """Upper end of the goal velocities (m/s)."""
    goal_reward: float = 1.0
    """Reward at the goal velocity."""

    arrow_duration_s: ClassVar[float] = 0.4

    def reward_terms(
        self, xp: Any, before: State, after: State, action: Array, task: Tasks
    ) -> Mapping[str, Array]:
        """Closeness to the goal velocity, costs and constant, each (num_sims,)."""
        velocity = self.robot.forward_velocity(before, after)
        return {
            "reward_forward": self.goal_reward - abs(velocity - task["goal_velocity"]),
            **self._common_terms(xp, after, action),
        }


@dataclass(frozen=True, kw_only=True)
class AntDir(Ant, Direction):
    """Run as fast as possible forward or backward (Finn et al. 2017, section 5.3).

    Reward: d·v − 0.005 ‖a‖² + 0.05, with v the root's mean velocity along x over the control step.
    Task distribution: d = +1 and −1 in turn, so that a meta-batch has both; a single task is +1 or
    −1 with equal probability.

    Version history: v0, first.
    """

    directions: Directions = "both"
    """Which directions to draw: both, forward, or backward."""

    def reward_terms(
        self, xp: Any, before: State, after: State, action: Array, task: Tasks
    ) -> Mapping[str, Array]:
        """Velocity along the task's direction, costs and constant, each (num_sims,)."""
        velocity = self.robot.forward_velocity(before, after)
        return {
            "reward_forward": task["direction"] * velocity,
            **self._common_terms(xp, after, action),
        }


@dataclass(frozen=True, kw_only=True)
class AntDir2D(Ant, DirectionAngle):
    """Run as fast as possible in any direction of the plane (Rothfuss et al. 2019, appendix).

    Reward: u·v − 0.5 ‖a‖² + 1, with v the root's mean velocity in the plane over the control step
    and u = (cos φ, sin φ).
    Task distribution: φ uniform in [0, 2π).

    Version history: v0, first.
    """

    control_cost_weight: float = 0.5
    """Weight of the squared norm of the action in the reward."""
    survive_reward: float = 1.0
    """Reward for every step."""

    def reward_terms(
        self, xp: Any, before: State, after: State, action: Array, task: Tasks
    ) -> Mapping[str, Array]:
        """Velocity along the task's direction, costs and constant, each (num_sims,)."""
        velocity = (after["qpos"][:, :2] - before["qpos"][:, :2]) / self.robot.dt
        forward = self.along_direction(xp, velocity, task)
        return {"reward_forward": forward, **self._common_terms(xp, after, action)}


@dataclass(frozen=True, kw_only=True)
class AntGoal(Ant, GoalPosition):
    """Run to a goal position; the observation includes the root's x and y.

    Reward: 4 − ‖xy − goal‖₁ − 0.005 ‖a‖² + 0.05, as in the code of Finn et al. (2017).
    Task distribution: the goal uniform in the disc of radius 3 m around the start (Rothfuss et al.
    2019), or in the square [−3, 3]² (Finn et al.).

    Version history: v0, first.
    """

    robot: ClassVar[MujocoRobot] = MujocoRobot(
        "ant.xml",
        frame_skip=5,
        camera_name=None,
        free_camera=FreeCamera(distance=10.0, elevation=-55.0, height=0.0, follows=False),
    )

    observe_root_position: bool = True
    """Whether the observation begins with the root's x and y."""
    goal_area: Literal["disc", "square"] = "disc"
    """Where goals are drawn from."""
    goal_radius: float = 3.0
    """Radius of the disc, or half the side of the square (m)."""
    goal_reward: float = 4.0
    """Reward at the goal."""
    success_radius: float = 0.5
    """An episode succeeds if it ends within this distance of the goal (m); not in the reward."""

    def sample_tasks(self, rng: np.random.Generator, num_tasks: int) -> Tasks:
        """Goal positions, each coordinate (num_tasks,), in m."""
        radius = self.goal_radius
        if self.goal_area == "disc":
            goals = uniform_in_disc(rng, num_tasks, radius)
        else:
            goals = rng.uniform(-radius, radius, (num_tasks, 2))
        return {"goal_x": goals[:, 0], "goal_y": goals[:, 1]}

    def reward_terms(
        self, xp: Any, before: State, after: State, action: Array, task: Tasks
    ) -> Mapping[str, Array]:
        """Closeness to the goal, costs and constant, each (num_sims,)."""
        distance = abs(self.offset_from_goal(xp, self.reaching_position(xp, after), task)).sum(-1)
        return {"reward_goal": self.goal_reward - distance, **self._common_terms(xp, after, action)}

    def reaching_position(self, xp: Any, state: State) -> Array:
        """Position of the torso, (num_sims, 2), in m."""
        return state["qpos"][:, :2]

    def success(self, xp: Any, state: State, task: Tasks) -> Array:
        """Whether the torso is at the goal, (num_sims,)."""
        position = self.reaching_position(xp, state)
        return self.distance_to_goal(xp, position, task) <= self.success_radius

    def markers(self, state: State, task: Task) -> list[Marker]:
        """The goal."""
        return [Sphere((task["goal_x"], task["goal_y"], 0.0), 0.3)]


@dataclass(frozen=True, kw_only=True)
class CrippledAnt(Ant, ForwardVelocity):
    """Run forward while one leg is disabled (Nagabandi et al. 2019, section 6.1).

    Reward: v − 0.005 ‖a‖² + 0.05, with v the root's mean velocity along x over the control step.
    Task distribution: the disabled leg, uniform over 0 to 2 (at +x +y, −x +y and −x −y of the
    torso); leg 3, at +x −y, is held out. The actuators of the disabled leg exert no force, and what
    its joints move is half as long and half as thick. Episode end: never by default.

    Version history: v0, first.
    """

    terminate_when_unhealthy: bool = False
    """Whether an episode ends when the torso is too low or too high."""
    split: Split = "train"
    """Tasks to draw: train (legs 0 to 2) or held_out (leg 3)."""

    task_units: ClassVar[Mapping[str, str]] = {"disabled_limb": ""}
    task_limits: ClassVar[Mapping[str, tuple[float, float]]] = {"disabled_limb": (-1, 3)}
    task_value_names: ClassVar[Mapping[str, Mapping[float, str]]] = {
        "disabled_limb": {
            -1.0: "no disabled leg",
            0.0: "front left leg disabled",
            1.0: "back left leg disabled",
            2.0: "back right leg disabled",
            3.0: "front right leg disabled",
        }
    }

    def sample_tasks(self, rng: np.random.Generator, num_tasks: int) -> Tasks:
        """Indices of the disabled legs (num_tasks,)."""
        choices = np.arange(3.0) if self.split == "train" else np.array([3.0])
        return {"disabled_limb": rng.choice(choices, num_tasks)}

    def reward_terms(
        self, xp: Any, before: State, after: State, action: Array, task: Tasks
    ) -> Mapping[str, Array]:
        """Forward velocity, costs and constant, each (num_sims,)."""
        velocity = self.robot.forward_velocity(before, after)
        return {"reward_forward": velocity, **self._common_terms(xp, after, action)}
