"""The hopper: hop at a velocity, or with random dynamics."""

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
from maml_envs.families.tasks import DynamicsOnly, ForwardVelocity, GoalVelocity, random_parameters
from maml_envs.family import check_settings


@dataclass(frozen=True, kw_only=True)
class Hopper:
    """Base of the hopper families: Gymnasium's robot, observation, start and episode end.

    | | meaning | size |
    | --- | --- | --- |
    | action | torque at thigh, leg, foot, in [−1, 1] | 3 |
    | observation | positions without the root's x (m, rad), velocities (m/s, rad/s) | 5 + 6 |

    Observed velocities are clipped to ±10. One control step is 0.008 s (4 MuJoCo steps of
    0.002 s). Horizon 200. Episode end: torso at 0.7 m or lower, tilted by 0.2 rad or more, or the
    magnitude of a joint angle or velocity 100 or more. Limits and control step are settings.
    """

    control_cost_weight: float = 0.001
    """Weight of the squared norm of the action in the reward."""
    survive_reward: float = 1.0
    """Reward for every step."""
    reset_noise_scale: float = 0.005
    """Uniform noise on initial positions (m, rad) and velocities (m/s, rad/s)."""
    min_torso_height: float = 0.7
    """The episode ends at this height of the torso or lower (m)."""
    torso_angle_limit: float = 0.2
    """The episode ends when the torso is tilted by this angle or more (rad)."""
    state_limit: float = 100.0
    """The episode ends when a joint angle (rad) or velocity (m/s, rad/s) has this magnitude."""
    observed_velocity_limit: float = 10.0
    """Observed velocities are clipped to ± this (m/s, rad/s)."""
    frame_skip: int | None = None
    """MuJoCo steps per control step; null for the robot's default, 4."""
    dynamics: DynamicsSetting = field(default_factory=dict)
    """Dynamics that vary between tasks, e.g. {body_mass: [0.5, 2.0]}; see docs/families.md."""

    robot: ClassVar[MujocoRobot] = MujocoRobot(
        "hopper.xml", frame_skip=4, free_camera=FreeCamera(distance=5.0, height=1.0)
    )
    derived_fields: ClassVar[tuple[str, ...]] = ()
    max_episode_steps: ClassVar[int] = 200

    def __post_init__(self) -> None:
        limits = ("torso_angle_limit", "state_limit", "observed_velocity_limit")
        check_settings(self, at_least_zero=limits)
        set_frame_skip(self)

    def initial_state(self, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
        """The model's pose with noise on positions and velocities, as in Hopper-v5."""
        return self.robot.noisy_start(rng, self.reset_noise_scale, velocities="uniform")

    def observation(self, xp: Any, state: State) -> Array:
        """Positions without the root's x, and clipped velocities, (num_sims, 11)."""
        limit = self.observed_velocity_limit
        return xp.concat([state["qpos"][:, 1:], state["qvel"].clip(-limit, limit)], axis=-1)

    def terminated(self, xp: Any, state: State, task: Tasks) -> Array:
        """Whether the torso is too low or tilted, or a state entry too large, (num_sims,)."""
        height = state["qpos"][:, 1]
        angle = state["qpos"][:, 2]
        others = xp.concat([state["qpos"][:, 2:], state["qvel"]], axis=-1)
        is_upright = (height > self.min_torso_height) & (abs(angle) < self.torso_angle_limit)
        return ~(is_upright & (abs(others) < self.state_limit).all(-1))

    def arrow_centre(self, state: State) -> Vector:
        """A point above the robot (m)."""
        return state["qpos"][0], 0.0, 1.9

    def _common_terms(self, xp: Any, after: State, action: Array) -> dict[str, Array]:
        """Reward terms of every hopper: constant and control cost, each (num_sims,)."""
        return {
            "reward_survive": self.survive_reward + xp.zeros_like(after["qpos"][:, 0]),
            "reward_control": -self.control_cost_weight * (action**2).sum(-1),
        }


@dataclass(frozen=True, kw_only=True)
class HopperVel(Hopper, GoalVelocity):
    """Hop forward at a goal velocity g.

    Reward: 1 − abs(v − g) + 1 − 0.001 ‖a‖², with v the root's mean velocity over the control step.
    Task distribution: g uniform in [low, high] m/s, by default [0, 2].

    Version history: v0, first.
    """

    low: float = 0.0
    """Lower end of the goal velocities (m/s)."""
    high: float = 2.0
    """Upper end of the goal velocities (m/s)."""
    goal_reward: float = 1.0
    """Reward at the goal velocity."""

    arrow_duration_s: ClassVar[float] = 0.5

    def reward_terms(
        self, xp: Any, before: State, after: State, action: Array, task: Tasks
    ) -> Mapping[str, Array]:
        """Closeness to the goal velocity, constant and control cost, each (num_sims,)."""
        velocity = self.robot.forward_velocity(before, after)
        return {
            "reward_forward": self.goal_reward - abs(velocity - task["goal_velocity"]),
            **self._common_terms(xp, after, action),
        }


@dataclass(frozen=True, kw_only=True)
class HopperRandParams(Hopper, DynamicsOnly, ForwardVelocity):
    """Hop forward as fast as possible with random dynamics (Rothfuss et al. 2019, section 6).

    Reward: v + 1 − 0.001 ‖a‖², with v the root's mean velocity over the control step.
    Task distribution: as for ``Walker2dRandParams``, with the same deviation from the paper.

    Version history: v0, first.
    """

    dynamics: DynamicsSetting = field(default_factory=random_parameters)
    """Dynamics that vary between tasks; see docs/families.md."""

    def reward_terms(
        self, xp: Any, before: State, after: State, action: Array, task: Tasks
    ) -> Mapping[str, Array]:
        """Forward velocity, constant and control cost, each (num_sims,)."""
        return {
            "reward_forward": self.robot.forward_velocity(before, after),
            **self._common_terms(xp, after, action),
        }
