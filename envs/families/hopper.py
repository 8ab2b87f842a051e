"""The hopper: hop at a velocity, or with a body of random parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from maml_envs.engines.dynamics import DynamicsSetting
from maml_envs.engines.engine import Array, State, Task, Tasks
from maml_envs.engines.markers import Arrow, Marker
from maml_envs.engines.mujoco import MujocoBody, set_frame_skip
from maml_envs.engines.rendering import FreeCamera
from maml_envs.families.task_distributions import random_parameters
from maml_envs.family import check_settings

_ARROW_HEIGHT = 1.9  # m


@dataclass(frozen=True, kw_only=True)
class Hopper:
    """What the hopper families share: Gymnasium's body, observation, initial state and episode end.

    | | meaning | size |
    | --- | --- | --- |
    | action | torque at thigh, leg, foot; ±1 is the whole range of an actuator | 3 |
    | observation | positions without the root's x (m, rad), then all velocities clipped to ±10 (m/s, rad/s) | 5 + 6 |

    One control step is 0.008 s (4 MuJoCo steps of 0.002 s). Horizon 200. Episode end: torso at 0.7
    m or lower, tilted by 0.2 rad or more, or a position (but x and height) or velocity of 100 or
    more. Limits and control step are settings.
    """

    control_cost_weight: float = 0.001
    """Weight of the squared norm of the action in the reward."""
    survive_reward: float = 1.0
    """Reward for every step."""
    reset_noise_scale: float = 0.005
    """Initial positions (m, rad) and velocities (m/s, rad/s) are uniform within this of the model's."""
    min_torso_height: float = 0.7
    """The episode ends where the torso is this low (m)."""
    torso_angle_limit: float = 0.2
    """The episode ends where the torso is tilted by as much (rad)."""
    state_limit: float = 100.0
    """The episode ends where another position (m, rad) or a velocity (m/s, rad/s) is as large."""
    observed_velocity_limit: float = 10.0
    """Observed velocities are clipped to plus and minus this (m/s, rad/s)."""
    frame_skip: int | None = None
    """MuJoCo steps per control step; null is the body's own, 4."""
    dynamics: DynamicsSetting = field(default_factory=dict)
    """How the body varies between tasks, as in {body_mass: [0.5, 2.0]}; docs/families.md has the quantities."""

    body: ClassVar[MujocoBody] = MujocoBody(
        "hopper.xml", frame_skip=4, free_camera=FreeCamera(distance=5.0, height=1.0)
    )
    derived_fields: ClassVar[tuple[str, ...]] = ()
    max_episode_steps: ClassVar[int] = 200

    def __post_init__(self) -> None:
        sizes = ("torso_angle_limit", "state_limit", "observed_velocity_limit")
        check_settings(self, at_least_zero=sizes)
        set_frame_skip(self)

    def initial_state(self, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
        """The model's pose with noise on positions and velocities, as in Gymnasium's Hopper-v5."""
        return self.body.noisy_start(rng, self.reset_noise_scale, velocities="uniform")

    def observation(self, xp: Any, state: State) -> Array:
        """Positions without the root's x, and clipped velocities, (num_sims, 11)."""
        limit = self.observed_velocity_limit
        return xp.concat([state["qpos"][:, 1:], state["qvel"].clip(-limit, limit)], axis=-1)

    def terminated(self, xp: Any, state: State, task: Tasks) -> Array:
        """Whether the torso is too low or tilted too far, or the state out of bounds, (num_sims,)."""
        height, angle = state["qpos"][:, 1], state["qpos"][:, 2]
        others = xp.concat([state["qpos"][:, 2:], state["qvel"]], axis=-1)
        is_upright = (height > self.min_torso_height) & (abs(angle) < self.torso_angle_limit)
        return ~(is_upright & (abs(others) < self.state_limit).all(-1))

    def _forward_velocity(self, before: State, after: State) -> Array:
        """Mean velocity of the root over the control step, (num_sims,), in m/s."""
        return (after["qpos"][:, 0] - before["qpos"][:, 0]) / self.body.dt

    def _common_terms(self, xp: Any, after: State, action: Array) -> dict[str, Array]:
        """What every hopper's reward holds: constant and control cost, each (num_sims,)."""
        return {
            "reward_survive": self.survive_reward + xp.zeros_like(after["qpos"][:, 0]),
            "reward_control": -self.control_cost_weight * (action**2).sum(-1),
        }


@dataclass(frozen=True, kw_only=True)
class HopperVel(Hopper):
    """Hop forward at a goal velocity g.

    Reward: 1 − abs(v − g) + 1 − 0.001 ‖a‖², with v the root's velocity over the control step.
    Task distribution: g uniform in [low, high] m/s, by default [0, 2].

    Version history: v0, first.
    """

    low: float = 0.0
    """Lower end of the goal velocities (m/s)."""
    high: float = 2.0
    """Upper end of the goal velocities (m/s)."""
    goal_reward: float = 1.0
    """Reward at the goal velocity."""

    task_units: ClassVar[Mapping[str, str]] = {"goal_velocity": "m/s"}
    task_limits: ClassVar[Mapping[str, tuple[float, float]]] = {"goal_velocity": (-100.0, 100.0)}

    def sample_tasks(self, rng: np.random.Generator, num_tasks: int) -> Tasks:
        """Goal velocities (num_tasks,), in m/s."""
        return {"goal_velocity": rng.uniform(self.low, self.high, num_tasks)}

    def reward_terms(
        self, xp: Any, before: State, after: State, action: Array, task: Tasks
    ) -> Mapping[str, Array]:
        """Closeness to the goal velocity, constant and control cost, each (num_sims,)."""
        velocity = self._forward_velocity(before, after)
        return {
            "reward_forward": self.goal_reward - abs(velocity - task["goal_velocity"]),
            **self._common_terms(xp, after, action),
        }

    def markers(self, state: State, task: Task) -> list[Marker]:
        """The way that the goal velocity covers in 0.5 s, above the hopper."""
        return [
            Arrow((state["qpos"][0], 0.0, _ARROW_HEIGHT), (0.5 * task["goal_velocity"], 0.0, 0.0))
        ]


@dataclass(frozen=True, kw_only=True)
class HopperRandParams(Hopper):
    """Hop forward as fast as possible with a body of random parameters (Rothfuss et al. 2019, section 6).

    Reward: v + 1 − 0.001 ‖a‖², with v the root's velocity over the control step.
    Task distribution: as for ``Walker2dRandParams``, with the same deviation.

    Version history: v0, first.
    """

    dynamics: DynamicsSetting = field(default_factory=random_parameters)
    """How the body varies between tasks; docs/families.md has the quantities."""

    task_units: ClassVar[Mapping[str, str]] = {}
    task_limits: ClassVar[Mapping[str, tuple[float, float]]] = {}

    def sample_tasks(self, rng: np.random.Generator, num_tasks: int) -> Tasks:
        """No parameters beside those of the body."""
        return {}

    def reward_terms(
        self, xp: Any, before: State, after: State, action: Array, task: Tasks
    ) -> Mapping[str, Array]:
        """Forward velocity, constant and control cost, each (num_sims,)."""
        return {
            "reward_forward": self._forward_velocity(before, after),
            **self._common_terms(xp, after, action),
        }
