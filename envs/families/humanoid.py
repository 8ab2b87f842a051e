"""The humanoid: run in any direction of the plane."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from maml_envs.engines.dynamics import DynamicsSetting
from maml_envs.engines.engine import Array, State, Task, Tasks
from maml_envs.engines.markers import Arrow, Marker, heading
from maml_envs.engines.mujoco import ROOT_BODY, MujocoBody, set_frame_skip
from maml_envs.engines.rendering import FreeCamera
from maml_envs.family import check_settings

_ARROW_HEIGHT = 2.1  # m
_ROOT_DOFS = 6


@dataclass(frozen=True, kw_only=True)
class HumanoidDir:
    """Run as fast as possible in any direction of the plane (Rothfuss et al. 2019).

    | | meaning | size |
    | --- | --- | --- |
    | action | control of each joint's motor, in [−0.4, 0.4] | 17 |
    | observation | positions without the root's x and y (m, quaternion, rad), all velocities (m/s, rad/s) | 22 + 23 |
    | with body quantities | inertia and velocity of each body but the world, actuator forces | + 130 + 78 + 17 |
    | with contact forces | external force and torque on each body but the world | + 78 |

    Reward: 1.25 u·Δc/dt − 0.1 ‖a‖² − min(w ‖cfrc_ext‖², 10) + 5, with c the body's centre of mass,
        u = (cos φ, sin φ),
    and w = 0 by default (5e-7 in the paper).
    Task distribution: φ uniform in [0, 2π).
    One control step is 0.015 s (5 MuJoCo steps of 0.003 s). Horizon 200. Episode end: torso outside
    (1, 2) m. Limits and control step are settings.

    Version history: v0, first.
    """

    forward_reward_weight: float = 1.25
    """Weight of the velocity; the paper's code divides 0.25 Δc by the MuJoCo step, a fifth of the control step."""
    control_cost_weight: float = 0.1
    """Weight of the squared norm of the action in the reward."""
    contact_cost_weight: float = 0.0
    """Weight of the squared norm of the contact forces in the reward."""
    contact_cost_limit: float = 10.0
    """Most that the contact forces cost in a step."""
    survive_reward: float = 5.0
    """Reward for every step."""
    observe_body_quantities: bool = False
    """Whether the observation holds inertias, velocities and actuator forces of the bodies."""
    observe_contact_forces: bool = False
    """Whether the observation holds the contact forces."""
    min_torso_height: float = 1.0
    """The episode ends where the torso is this low (m)."""
    max_torso_height: float = 2.0
    """The episode ends where the torso is this high (m)."""
    reset_noise_scale: float = 0.01
    """Initial positions (m, rad) and velocities (m/s, rad/s) are uniform within this of the model's."""
    frame_skip: int | None = None
    """MuJoCo steps per control step; null is the body's own, 5."""
    dynamics: DynamicsSetting = field(default_factory=dict)
    """How the body varies between tasks, as in {body_mass: [0.5, 2.0]}; docs/families.md has the quantities."""

    body: ClassVar[MujocoBody] = MujocoBody(
        "humanoid.xml",
        frame_skip=5,
        camera_name=None,
        free_camera=FreeCamera(distance=5.0, height=1.0),
    )
    max_episode_steps: ClassVar[int] = 200
    task_units: ClassVar[Mapping[str, str]] = {"direction_angle": "rad"}
    task_limits: ClassVar[Mapping[str, tuple[float, float]]] = {"direction_angle": (-10.0, 10.0)}

    def __post_init__(self) -> None:
        check_settings(self, at_least_zero=("contact_cost_limit",))
        set_frame_skip(self)

    @property
    def derived_fields(self) -> tuple[str, ...]:
        """The centre of mass, and what the observation is asked to hold."""
        body_quantities = (
            ("cinert", "cvel", "qfrc_actuator") if self.observe_body_quantities else ()
        )
        contact_forces = (
            ("cfrc_ext",) if self.observe_contact_forces or self.contact_cost_weight > 0 else ()
        )
        return ("subtree_com", *body_quantities, *contact_forces)

    def sample_tasks(self, rng: np.random.Generator, num_tasks: int) -> Tasks:
        """Angles (num_tasks,) between the wanted direction and the x-axis, in rad."""
        return {"direction_angle": rng.uniform(0, 2 * np.pi, num_tasks)}

    def initial_state(self, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
        """The model's pose with noise on positions and velocities, as in Gymnasium's Humanoid-v5."""
        return self.body.noisy_start(rng, self.reset_noise_scale, velocities="uniform")

    def observation(self, xp: Any, state: State) -> Array:
        """Positions without the root's x and y, velocities, and what else is asked for."""
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
        """Velocity in the wanted direction, constant and costs, each (num_sims,)."""
        moved = after["subtree_com"][:, ROOT_BODY] - before["subtree_com"][:, ROOT_BODY]
        angle = task["direction_angle"]
        velocity = (moved[:, 0] * xp.cos(angle) + moved[:, 1] * xp.sin(angle)) / self.body.dt
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

    def markers(self, state: State, task: Task) -> list[Marker]:
        """The wanted direction, above the humanoid."""
        x, y = state["qpos"][:2]
        return [Arrow((x, y, _ARROW_HEIGHT), heading(task["direction_angle"]))]
