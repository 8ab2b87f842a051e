"""The two-legged walker: run at a velocity, in a direction, or with random dynamics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from maml_envs.engines.dynamics import DynamicsSetting
from maml_envs.engines.engine import Array, State, Tasks
from maml_envs.engines.markers import Vector
from maml_envs.engines.mujoco import MujocoRobot, set_frame_skip
from maml_envs.engines.rendering import FreeCamera
from maml_envs.families.tasks import (
    Direction,
    Directions,
    DynamicsOnly,
    ForwardVelocity,
    GoalVelocity,
    random_parameters,
)
from maml_envs.family import check_settings


@dataclass(frozen=True, kw_only=True)
class Walker2d:
    """Base of the walker families: Gymnasium's robot, observation, start and episode end.

    | | meaning | size |
    | --- | --- | --- |
    | action | torque at thigh, leg, foot, left thigh, leg, foot, in [−1, 1] | 6 |
    | observation | positions without the root's x (m, rad), velocities (m/s, rad/s) | 8 + 9 |

    Observed velocities are clipped to ±10. One control step is 0.008 s (4 MuJoCo steps of
    0.002 s). Horizon 200. Episode end: torso outside (0.8, 2) m, or tilted by 1 rad or more.
    Limits and control step are settings.
    """

    control_cost_weight: float = 0.001
    """Weight of the squared norm of the action in the reward."""
    reset_noise_scale: float = 0.005
    """Uniform noise on initial positions (m, rad) and velocities (m/s, rad/s)."""
    min_torso_height: float = 0.8
    """The episode ends at this height of the torso or lower (m)."""
    max_torso_height: float = 2.0
    """The episode ends at this height of the torso or higher (m)."""
    torso_angle_limit: float = 1.0
    """The episode ends when the torso is tilted by this angle or more (rad)."""
    observed_velocity_limit: float = 10.0
    """Observed velocities are clipped to ± this (m/s, rad/s)."""
    frame_skip: int | None = None
    """MuJoCo steps per control step; null for the robot's default, 4."""
    dynamics: DynamicsSetting = field(default_factory=dict)
    """Dynamics that vary between tasks, e.g. {body_mass: [0.5, 2.0]}; see docs/families.md."""

    robot: ClassVar[MujocoRobot] = MujocoRobot(
        "walker2d_v5.xml", frame_skip=4, free_camera=FreeCamera(distance=5.0, height=1.0)
    )
    derived_fields: ClassVar[tuple[str, ...]] = ()
    max_episode_steps: ClassVar[int] = 200

    def __post_init__(self) -> None:
        check_settings(self, at_least_zero=("torso_angle_limit", "observed_velocity_limit"))
        set_frame_skip(self)

    def initial_state(self, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
        """The model's pose with noise on positions and velocities, as in Walker2d-v5."""
        return self.robot.noisy_start(rng, self.reset_noise_scale, velocities="uniform")

    def observation(self, xp: Any, state: State) -> Array:
        """Positions without the root's x, and clipped velocities, (num_sims, 17)."""
        limit = self.observed_velocity_limit
        return xp.concat([state["qpos"][:, 1:], state["qvel"].clip(-limit, limit)], axis=-1)

    def terminated(self, xp: Any, state: State, task: Tasks) -> Array:
        """Whether the torso is too low, too high, or tilted too far, (num_sims,)."""
        height = state["qpos"][:, 1]
        is_upright = abs(state["qpos"][:, 2]) < self.torso_angle_limit
        return ~((self.min_torso_height < height) & (height < self.max_torso_height) & is_upright)

    def arrow_centre(self, state: State) -> Vector:
        """A point above the robot (m)."""
        return state["qpos"][0], 0.0, 1.9

    def _control_cost(self, action: Array) -> Array:
        return self.control_cost_weight * (action**2).sum(-1)


@dataclass(frozen=True, kw_only=True)
class Walker2dVel(Walker2d, GoalVelocity):
    """Run forward at a goal velocity g (Rothfuss et al. 2019, in their code).

    Reward: 15 − abs(v − g) − 0.001 ‖a‖², with v the root's mean velocity over the control step.
    Task distribution: g uniform in [low, high] m/s, by default [0, 10].

    Version history: v0, first.
    """

    low: float = 0.0
    """Lower end of the goal velocities (m/s)."""
    high: float = 10.0
    """Upper end of the goal velocities (m/s)."""
    goal_reward: float = 15.0
    """Reward at the goal velocity."""

    arrow_duration_s: ClassVar[float] = 0.1

    def reward_terms(
        self, xp: Any, before: State, after: State, action: Array, task: Tasks
    ) -> Mapping[str, Array]:
        """Closeness to the goal velocity, and control cost, each (num_sims,)."""
        velocity = self.robot.forward_velocity(before, after)
        return {
            "reward_forward": self.goal_reward - abs(velocity - task["goal_velocity"]),
            "reward_control": -self._control_cost(action),
        }


@dataclass(frozen=True, kw_only=True)
class Walker2dDir(Walker2d, Direction):
    """Walk as fast as possible forward or backward (Rothfuss et al. 2019).

    Reward: d·v + 1 − 0.001 ‖a‖², with v the root's mean velocity over the control step.
    Task distribution: d = +1 and −1 in turn, so that a meta-batch has both; a single task is +1 or
    −1 with equal probability.

    Version history: v0, first.
    """

    directions: Directions = "both"
    """Which directions to draw: both, forward, or backward."""
    survive_reward: float = 1.0
    """Reward for every step."""

    def reward_terms(
        self, xp: Any, before: State, after: State, action: Array, task: Tasks
    ) -> Mapping[str, Array]:
        """Velocity along the task's direction, constant, control cost, each (num_sims,)."""
        velocity = self.robot.forward_velocity(before, after)
        return {
            "reward_forward": task["direction"] * velocity,
            "reward_survive": self.survive_reward + xp.zeros_like(velocity),
            "reward_control": -self._control_cost(action),
        }


@dataclass(frozen=True, kw_only=True)
class Walker2dRandParams(Walker2d, DynamicsOnly, ForwardVelocity):
    """Walk forward as fast as possible with random dynamics (Rothfuss et al. 2019, section 6).

    Reward: v + 1 − 0.001 ‖a‖², with v the root's mean velocity over the control step.
    Task distribution: factors 1.5^U(−3, 3) on each body's mass and inertia and each geom's
    friction, and 1.3^U(−3, 3) on each joint's damping. Deviation: inertia scales with the body's
    mass before its own factor applies, because otherwise a body may be physically impossible. The
    original draws a factor for every entry of inertia and friction.

    Version history: v0, first.
    """

    dynamics: DynamicsSetting = field(default_factory=random_parameters)
    """Dynamics that vary between tasks; see docs/families.md."""
    survive_reward: float = 1.0
    """Reward for every step."""

    def reward_terms(
        self, xp: Any, before: State, after: State, action: Array, task: Tasks
    ) -> Mapping[str, Array]:
        """Forward velocity, constant, and control cost, each (num_sims,)."""
        velocity = self.robot.forward_velocity(before, after)
        return {
            "reward_forward": velocity,
            "reward_survive": self.survive_reward + xp.zeros_like(velocity),
            "reward_control": -self._control_cost(action),
        }
