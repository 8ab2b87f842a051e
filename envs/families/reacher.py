"""The reacher: a two-link arm in the plane that must find a goal it does not observe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from maml_envs.engines.dynamics import DynamicsSetting
from maml_envs.engines.engine import Array, State, Task, Tasks
from maml_envs.engines.markers import Marker, Sphere
from maml_envs.engines.mujoco import MujocoRobot, set_frame_skip
from maml_envs.engines.rendering import FreeCamera
from maml_envs.families.tasks import GoalPosition, uniform_in_disc
from maml_envs.family import check_settings

_LINKS = (0.1, 0.11)  # m, from shoulder to elbow and from elbow to fingertip
_NUM_JOINTS = 2  # the model's other two joints move Gymnasium's target, which is not used here


@dataclass(frozen=True, kw_only=True)
class ReacherGoal(GoalPosition):
    """Bring the fingertip to a goal position.

    | | meaning | size |
    | --- | --- | --- |
    | action | torque at shoulder and elbow, in [−1, 1] | 2 |
    | observation | cos and sin of both joint angles | 4 |
    | | fingertip's x and y (m), joint velocities (rad/s) | + 2 + 2 |

    Reward: −‖fingertip − goal‖₂ − ‖a‖², as in Gymnasium's Reacher-v5, but with the fingertip of
    the new state; Gymnasium uses that of the previous MuJoCo step.
    Task distribution: the goal uniform in the disc of radius 0.2 m around the shoulder.
    One control step is 0.02 s (2 MuJoCo steps of 0.01 s); ``frame_skip`` changes it.
    Horizon 50; episodes never end early.

    Version history: v0, first.
    """

    goal_radius: float = 0.2
    """Radius of the disc that goals are drawn from (m)."""
    success_radius: float = 0.02
    """An episode succeeds if it ends within this distance of the goal (m); not in the reward."""
    control_cost_weight: float = 1.0
    """Weight of the squared norm of the action in the reward."""
    frame_skip: int | None = None
    """MuJoCo steps per control step; null for the robot's default, 2."""
    dynamics: DynamicsSetting = field(default_factory=dict)
    """Dynamics that vary between tasks, e.g. {body_mass: [0.5, 2.0]}; see docs/families.md."""

    robot: ClassVar[MujocoRobot] = MujocoRobot(
        "reacher.xml",
        frame_skip=2,
        camera_name=None,
        free_camera=FreeCamera(distance=0.75, elevation=-90.0, follows=False),
        hidden_geoms=("target",),
    )
    derived_fields: ClassVar[tuple[str, ...]] = ()
    max_episode_steps: ClassVar[int] = 50

    def __post_init__(self) -> None:
        check_settings(self)
        set_frame_skip(self)

    def sample_tasks(self, rng: np.random.Generator, num_tasks: int) -> Tasks:
        """Goal positions, each coordinate (num_tasks,), in m."""
        goals = uniform_in_disc(rng, num_tasks, self.goal_radius)
        return {"goal_x": goals[:, 0], "goal_y": goals[:, 1]}

    def initial_state(self, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
        """The model's pose with uniform noise, ±0.1 rad and ±0.005 rad/s, as in Reacher-v5."""
        model = self.robot.model
        position = model.qpos0.copy()
        velocity = np.zeros(model.nv)
        position[:_NUM_JOINTS] += rng.uniform(-0.1, 0.1, _NUM_JOINTS)
        velocity[:_NUM_JOINTS] = rng.uniform(-0.005, 0.005, _NUM_JOINTS)
        return {"qpos": position, "qvel": velocity}

    def observation(self, xp: Any, state: State) -> Array:
        """Cosines and sines of the joint angles, fingertip, and joint velocities, (num_sims, 8)."""
        angle = state["qpos"][:, :_NUM_JOINTS]
        velocity = state["qvel"][:, :_NUM_JOINTS]
        fingertip = self.reaching_position(xp, state)
        return xp.concat([xp.cos(angle), xp.sin(angle), fingertip, velocity], axis=-1)

    def reward_terms(
        self, xp: Any, before: State, after: State, action: Array, task: Tasks
    ) -> Mapping[str, Array]:
        """Negative distance from fingertip to goal, and control cost, each (num_sims,)."""
        return {
            "reward_distance": -self.distance_to_goal(xp, self.reaching_position(xp, after), task),
            "reward_control": -self.control_cost_weight * (action**2).sum(-1),
        }

    def terminated(self, xp: Any, state: State, task: Tasks) -> Array:
        """Never."""
        return xp.zeros_like(state["qpos"][:, 0], dtype=bool)

    def success(self, xp: Any, state: State, task: Tasks) -> Array:
        """Whether the fingertip is at the goal, (num_sims,)."""
        fingertip = self.reaching_position(xp, state)
        return self.distance_to_goal(xp, fingertip, task) <= self.success_radius

    def reaching_position(self, xp: Any, state: State) -> Array:
        """Position of the fingertip in the plane, (num_sims, 2), in m."""
        shoulder = state["qpos"][:, 0]
        elbow = state["qpos"][:, 1]
        upper, lower = _LINKS
        x = upper * xp.cos(shoulder) + lower * xp.cos(shoulder + elbow)
        y = upper * xp.sin(shoulder) + lower * xp.sin(shoulder + elbow)
        return xp.stack([x, y], axis=-1)

    def markers(self, state: State, task: Task) -> list[Marker]:
        """The goal."""
        return [Sphere((task["goal_x"], task["goal_y"], 0.01), 0.012)]
