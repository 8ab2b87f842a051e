"""The swimmer: swim at a velocity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from maml_envs.engines.dynamics import DynamicsSetting
from maml_envs.engines.engine import Array, State, Tasks
from maml_envs.engines.markers import Vector
from maml_envs.engines.mujoco import MujocoRobot, set_frame_skip
from maml_envs.families.tasks import GoalVelocity
from maml_envs.family import check_settings


@dataclass(frozen=True, kw_only=True)
class SwimmerVel(GoalVelocity):
    """Swim forward at a goal velocity g.

    | | meaning | size |
    | --- | --- | --- |
    | action | torque at the two joints, in [−1, 1] | 2 |
    | observation | angles of root and joints (rad), then all velocities (m/s, rad/s) | 3 + 5 |

    Reward: −abs(v − g) − 0.0001 ‖a‖², with v the root's mean velocity along x over the control
    step. Deviation: ProMP's code adds the distance from g; here it is subtracted, because adding
    it rewards missing the goal.
    Task distribution: g uniform in [low, high] m/s, by default [0.1, 0.2].
    One control step is 0.04 s (4 MuJoCo steps of 0.01 s); ``frame_skip`` changes it.
    Horizon 200; episodes never end early.

    Version history: v0, first.
    """

    low: float = 0.1
    """Lower end of the goal velocities (m/s)."""
    high: float = 0.2
    """Upper end of the goal velocities (m/s)."""
    control_cost_weight: float = 0.0001
    """Weight of the squared norm of the action in the reward."""
    reset_noise_scale: float = 0.1
    """Uniform noise on initial positions (m, rad) and velocities (m/s, rad/s)."""
    frame_skip: int | None = None
    """MuJoCo steps per control step; null for the robot's default, 4."""
    dynamics: DynamicsSetting = field(default_factory=dict)
    """Dynamics that vary between tasks, e.g. {body_mass: [0.5, 2.0]}; see docs/families.md."""

    robot: ClassVar[MujocoRobot] = MujocoRobot("swimmer.xml", frame_skip=4)
    derived_fields: ClassVar[tuple[str, ...]] = ()
    max_episode_steps: ClassVar[int] = 200
    arrow_duration_s: ClassVar[float] = 5.0

    def __post_init__(self) -> None:
        check_settings(self)
        set_frame_skip(self)

    def initial_state(self, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
        """The model's pose with noise on positions and velocities, as in Swimmer-v5."""
        return self.robot.noisy_start(rng, self.reset_noise_scale, velocities="uniform")

    def observation(self, xp: Any, state: State) -> Array:
        """Positions without the root's x and y, and velocities, (num_sims, 8)."""
        return xp.concat([state["qpos"][:, 2:], state["qvel"]], axis=-1)

    def reward_terms(
        self, xp: Any, before: State, after: State, action: Array, task: Tasks
    ) -> Mapping[str, Array]:
        """Negative distance from the goal velocity, and control cost, each (num_sims,)."""
        velocity = self.robot.forward_velocity(before, after)
        return {
            "reward_forward": -abs(velocity - task["goal_velocity"]),
            "reward_control": -self.control_cost_weight * (action**2).sum(-1),
        }

    def terminated(self, xp: Any, state: State, task: Tasks) -> Array:
        """Never."""
        return xp.zeros_like(state["qpos"][:, 0], dtype=bool)

    def arrow_centre(self, state: State) -> Vector:
        """A point above the robot (m)."""
        return state["qpos"][0], state["qpos"][1], 0.6
