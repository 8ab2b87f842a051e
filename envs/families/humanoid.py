"""The humanoid: run in any direction of the plane."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from maml_envs.engines.dynamics import DynamicsSetting
from maml_envs.engines.engine import Array, State, Tasks
from maml_envs.engines.markers import Vector
from maml_envs.engines.mujoco import ROOT_BODY, MujocoRobot, set_frame_skip
from maml_envs.engines.rendering import FreeCamera
from maml_envs.families.tasks import DirectionAngle
from maml_envs.family import check_settings

_ROOT_DOFS = 6


@dataclass(frozen=True, kw_only=True)
class HumanoidDir(DirectionAngle):
    """Run as fast as possible in any direction of the plane (Rothfuss et al. 2019).

    | | meaning | size |
    | --- | --- | --- |
    | action | control of each joint's motor, in [−0.4, 0.4] | 17 |
    | observation | positions without the root's x and y (m, quaternion, rad) | 22 |
    | | all velocities (m/s, rad/s) | + 23 |
    | with body quantities | inertias of the bodies | + 130 |
    | | velocities of the bodies | + 78 |
    | | actuator forces | + 17 |
    | with contact forces | external torque and force on each body | + 78 |

    Reward: 1.25 u·Δc/dt − 0.1 ‖a‖² − min(w ‖cfrc_ext‖², 10) + 5, with c the centre of mass,
    u = (cos φ, sin φ), and w = 0 by default (5e-7 in the paper). Observations exclude the world
    body.
    Task distribution: φ uniform in [0, 2π).
    One control step is 0.015 s (5 MuJoCo steps of 0.003 s). Horizon 200. Episode end: torso outside
    (1, 2) m. Limits and control step are settings.

    Version history: v0, first.
    """

    forward_reward_weight: float = 1.25
    """Weight of the velocity: the paper's code has 0.25 Δc / (dt / 5) = 1.25 Δc / dt."""
    control_cost_weight: float = 0.1
    """Weight of the squared norm of the action in the reward."""
    contact_cost_weight: float = 0.0
    """Weight of the squared norm of the contact forces in the reward."""
    contact_cost_limit: float = 10.0
    """Upper limit of the contact cost of a step."""
    survive_reward: float = 5.0
    """Reward for every step."""
    observe_body_quantities: bool = False
    """Whether the observation includes inertias, velocities and actuator forces."""
    observe_contact_forces: bool = False
    """Whether the observation includes the contact forces."""
    min_torso_height: float = 1.0
    """The episode ends at this height of the torso or lower (m)."""
    max_torso_height: float = 2.0
    """The episode ends at this height of the torso or higher (m)."""
    reset_noise_scale: float = 0.01
    """Uniform noise on initial positions (m, rad) and velocities (m/s, rad/s)."""
    frame_skip: int | None = None
    """MuJoCo steps per control step; null for the robot's default, 5."""
    dynamics: DynamicsSetting = field(default_factory=dict)
    """Dynamics that vary between tasks, e.g. {body_mass: [0.5, 2.0]}; see docs/families.md."""

    robot: ClassVar[MujocoRobot] = MujocoRobot(
        "humanoid.xml",
        frame_skip=5,
        camera_name=None,
        free_camera=FreeCamera(distance=5.0, height=1.0),
    )
    max_episode_steps: ClassVar[int] = 200

    def __post_init__(self) -> None:
        check_settings(self, at_least_zero=("contact_cost_limit",))
        set_frame_skip(self)

    @property
    def derived_fields(self) -> tuple[str, ...]:
        """The centre of mass, and the fields of optional observations and contact cost."""
        fields = ["subtree_com"]
        if self.observe_body_quantities:
            fields += ["cinert", "cvel", "qfrc_actuator"]
        if self.observe_contact_forces or self.contact_cost_weight > 0:
            fields.append("cfrc_ext")
        return tuple(fields)

    def initial_state(self, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
        """The model's pose with noise on positions and velocities, as in Humanoid-v5."""
        return self.robot.noisy_start(rng, self.reset_noise_scale, velocities="uniform")

    def observation(self, xp: Any, state: State) -> Array:
        """Positions without the root's x and y, velocities, and the optional parts."""
        parts = [state["qpos"][:, 2:], state["qvel"]]
        if self.observe_body_quantities:
            parts += [
                state["cinert"][:, 1:],
                state["cvel"][:, 1:],
                state["qfrc_actuator"][:, _ROOT_DOFS:],
            ]
        if self.observe_contact_forces:
            parts.append(state["cfrc_ext"][:, 1:])
        return xp.concat([part.reshape(len(part), -1) for part in parts], axis=-1)

    def reward_terms(
        self, xp: Any, before: State, after: State, action: Array, task: Tasks
    ) -> Mapping[str, Array]:
        """Velocity along the task's direction, constant and costs, each (num_sims,)."""
        moved = after["subtree_com"][:, ROOT_BODY] - before["subtree_com"][:, ROOT_BODY]
        velocity = self.along_direction(xp, moved, task) / self.robot.dt
        terms = {
            "reward_forward": self.forward_reward_weight * velocity,
            "reward_survive": self.survive_reward + xp.zeros_like(velocity),
            "reward_control": -self.control_cost_weight * (action**2).sum(-1),
        }
        if self.contact_cost_weight > 0:
            cost = self.contact_cost_weight * (after["cfrc_ext"] ** 2).sum(-1).sum(-1)
            terms["reward_contact"] = -cost.clip(0.0, self.contact_cost_limit)
        return terms

    def terminated(self, xp: Any, state: State, task: Tasks) -> Array:
        """Whether the torso's height is out of range, (num_sims,)."""
        height = state["qpos"][:, 2]
        return ~((self.min_torso_height < height) & (height < self.max_torso_height))

    def arrow_centre(self, state: State) -> Vector:
        """A point above the robot (m)."""
        return state["qpos"][0], state["qpos"][1], 2.1
