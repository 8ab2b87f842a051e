"""The reacher: a two-link arm in the plane that must find a place it cannot see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from maml_envs.engines.dynamics import DynamicsSetting
from maml_envs.engines.engine import Array, State, Task, Tasks
from maml_envs.engines.markers import Marker, Sphere
from maml_envs.engines.mujoco import MujocoBody, set_frame_skip
from maml_envs.engines.rendering import FreeCamera
from maml_envs.families.task_distributions import uniform_in_disc
from maml_envs.family import check_settings

_LINKS = (0.1, 0.11)  # m, from joint to joint and from there to the fingertip
_NUM_JOINTS = (
    2  # the model's other two positions are those of Gymnasium's target, which is not the task's
)


@dataclass(frozen=True, kw_only=True)
class ReacherGoal:
    """Bring the fingertip to a place (goal position).

    | | meaning | size |
    | --- | --- | --- |
    | action | torque at shoulder and elbow; ±1 is the whole range of an actuator | 2 |
    | observation | cos and sin of both joint angles, fingertip's x and y (m), joint velocities (rad/s) | 4 + 2 + 2 |

    Reward: −‖fingertip − goal‖₂ − ‖a‖², as in Gymnasium's Reacher-v5, but for the fingertip of the
        new state, where
    Gymnasium takes the one of the substep before.
    Task distribution: the goal uniform in the disc of radius 0.2 m around the shoulder.
    One control step is 0.02 s (2 MuJoCo steps of 0.01 s), which is a
    setting. An episode never ends before the horizon (50).

    Version history: v0, first.
    """

    goal_radius: float = 0.2
    """Radius of the disc that goals are drawn from (m)."""
    success_radius: float = 0.02
    """Success is a fingertip this close to the goal at the episode's end (m); the reward does not know it."""
    control_cost_weight: float = 1.0
    """Weight of the squared norm of the action in the reward."""
    frame_skip: int | None = None
    """MuJoCo steps per control step; null is the body's own, 2."""
    dynamics: DynamicsSetting = field(default_factory=dict)
    """How the body varies between tasks, as in {body_mass: [0.5, 2.0]}; docs/families.md has the quantities."""

    body: ClassVar[MujocoBody] = MujocoBody(
        "reacher.xml",
        frame_skip=2,
        camera_name=None,
        free_camera=FreeCamera(distance=0.75, elevation=-90.0, follows=False),
        hidden_geoms=("target",),
    )
    derived_fields: ClassVar[tuple[str, ...]] = ()
    max_episode_steps: ClassVar[int] = 50
    task_units: ClassVar[Mapping[str, str]] = {"goal_x": "m", "goal_y": "m"}
    task_limits: ClassVar[Mapping[str, tuple[float, float]]] = {
        "goal_x": (-100.0, 100.0),
        "goal_y": (-100.0, 100.0),
    }

    def __post_init__(self) -> None:
        check_settings(self)
        set_frame_skip(self)

    def sample_tasks(self, rng: np.random.Generator, num_tasks: int) -> Tasks:
        """Goal positions, each coordinate (num_tasks,), in m."""
        goals = uniform_in_disc(rng, num_tasks, self.goal_radius)
        return {"goal_x": goals[:, 0], "goal_y": goals[:, 1]}

    def initial_state(self, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
        """Joint angles uniform within 0.1 rad of the model's, velocities within 0.005 rad/s, as in Reacher-v5."""
        model = self.body.model
        position, velocity = model.qpos0.copy(), np.zeros(model.nv)
        position[:_NUM_JOINTS] += rng.uniform(-0.1, 0.1, _NUM_JOINTS)
        velocity[:_NUM_JOINTS] = rng.uniform(-0.005, 0.005, _NUM_JOINTS)
        return {"qpos": position, "qvel": velocity}

    def observation(self, xp: Any, state: State) -> Array:
        """Cosines and sines of the joint angles, fingertip, and joint velocities, (num_sims, 8)."""
        angle, velocity = state["qpos"][:, :_NUM_JOINTS], state["qvel"][:, :_NUM_JOINTS]
        return xp.concat(
            [xp.cos(angle), xp.sin(angle), self._fingertip(xp, state), velocity], axis=-1
        )

    def reward_terms(
        self, xp: Any, before: State, after: State, action: Array, task: Tasks
    ) -> Mapping[str, Array]:
        """Distance from the fingertip to the goal, and control cost, each (num_sims,)."""
        goal = xp.stack([task["goal_x"], task["goal_y"]], axis=-1)
        return {
            "reward_distance": -xp.linalg.norm(self._fingertip(xp, after) - goal, axis=-1),
            "reward_control": -self.control_cost_weight * (action**2).sum(-1),
        }

    def terminated(self, xp: Any, state: State, task: Tasks) -> Array:
        """Never."""
        return xp.zeros_like(state["qpos"][:, 0], dtype=bool)

    def success(self, xp: Any, state: State, task: Tasks) -> Array:
        """Whether the fingertip is at the goal, (num_sims,)."""
        goal = xp.stack([task["goal_x"], task["goal_y"]], axis=-1)
        return xp.linalg.norm(self._fingertip(xp, state) - goal, axis=-1) <= self.success_radius

    def _fingertip(self, xp: Any, state: State) -> Array:
        """Its position in the plane, (num_sims, 2), in m."""
        shoulder, elbow = state["qpos"][:, 0], state["qpos"][:, 1]
        upper, lower = _LINKS
        x = upper * xp.cos(shoulder) + lower * xp.cos(shoulder + elbow)
        y = upper * xp.sin(shoulder) + lower * xp.sin(shoulder + elbow)
        return xp.stack([x, y], axis=-1)

    def markers(self, state: State, task: Task) -> list[Marker]:
        """The goal."""
        return [Sphere((task["goal_x"], task["goal_y"], 0.01), 0.012)]
