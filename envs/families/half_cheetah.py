"""The half cheetah: run at a velocity, in a direction, or with a dead actuator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from maml_envs.engines.dynamics import DynamicsSetting
from maml_envs.engines.engine import Array, State, Task, Tasks
from maml_envs.engines.markers import Arrow, Marker, Vector
from maml_envs.engines.mujoco import (
    POSITION_FIELDS,
    ROOT_BODY,
    MujocoBody,
    ObservedPosition,
    set_frame_skip,
)
from maml_envs.engines.rendering import FreeCamera
from maml_envs.families.task_distributions import Split, alternating_directions
from maml_envs.family import check_settings

_ARROW_HEIGHT = 1.5  # m


@dataclass(frozen=True, kw_only=True)
class HalfCheetah:
    """What the half-cheetah families share: Gymnasium's body, observation and initial state.

    | | meaning | size |
    | --- | --- | --- |
    | action | torque at back thigh, shin, foot, front thigh, shin, foot; ±1 is the whole range of an actuator | 6 |
    | observation | joint positions without the root's x (m, rad), then all joint velocities (m/s, rad/s) | 8 + 9 |
    | with a position | x, y and z of the torso or of the centre of mass (m) | + 3 |

    One control step is 0.05 s (5 MuJoCo steps of 0.01 s), which is a
    setting. An episode never ends before the horizon.
    """

    control_cost_weight: float = 0.05
    """Weight of the squared norm of the action in the reward."""
    reset_noise_scale: float = 0.1
    """Initial positions are uniform within this of the model's (m, rad); velocities have it as standard deviation."""
    observe_position: ObservedPosition = "nothing"
    """Position that the observation ends with (x, y, z in m): of the torso, of the whole body's
    centre of mass, or nothing."""
    frame_skip: int | None = None
    """MuJoCo steps per control step; null is the body's own, 5."""
    dynamics: DynamicsSetting = field(default_factory=dict)
    """How the body varies between tasks, as in {body_mass: [0.5, 2.0]}; docs/families.md has the quantities."""

    body: ClassVar[MujocoBody] = MujocoBody(
        "half_cheetah.xml", frame_skip=5, free_camera=FreeCamera(distance=5.0, height=0.75)
    )
    max_episode_steps: ClassVar[int] = 100

    def __post_init__(self) -> None:
        check_settings(self)
        set_frame_skip(self)

    @property
    def derived_fields(self) -> tuple[str, ...]:
        """The position that the observation ends with."""
        return POSITION_FIELDS[self.observe_position]

    def initial_state(self, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
        """The model's pose with noise on positions and velocities, as in Gymnasium's HalfCheetah-v5."""
        return self.body.noisy_start(rng, self.reset_noise_scale, velocities="normal")

    def observation(self, xp: Any, state: State) -> Array:
        """Positions without the root's x, velocities, and a position in the world if asked for."""
        positions = [state[field][:, ROOT_BODY] for field in POSITION_FIELDS[self.observe_position]]
        return xp.concat([state["qpos"][:, 1:], state["qvel"], *positions], axis=-1)

    def terminated(self, xp: Any, state: State, task: Tasks) -> Array:
        """Never."""
        return xp.zeros_like(state["qpos"][:, 0], dtype=bool)

    def _forward_velocity(self, before: State, after: State) -> Array:
        """Mean velocity of the root over the control step, (num_sims,), in m/s."""
        return (after["qpos"][:, 0] - before["qpos"][:, 0]) / self.body.dt

    def _control_cost(self, action: Array) -> Array:
        return self.control_cost_weight * (action**2).sum(-1)

    def _arrow(self, state: State, vector: Vector) -> Arrow:
        """``vector`` (m) as an arrow that moves with the half cheetah, above it."""
        return Arrow((state["qpos"][0], 0.0, _ARROW_HEIGHT), vector)


@dataclass(frozen=True, kw_only=True)
class HalfCheetahVel(HalfCheetah):
    """Run forward at a goal velocity g (Finn et al. 2017, section 5.3).

    Reward: −abs(v − g) − 0.05 ‖a‖², with v the root's velocity over the control step and a the
        action.
    Task distribution: g uniform in [low, high] m/s, by default [0, 2]. Horizon 100.

    Version history: v0, first.
    """

    low: float = 0.0
    """Lower end of the goal velocities (m/s)."""
    high: float = 2.0
    """Upper end of the goal velocities (m/s)."""

    task_units: ClassVar[Mapping[str, str]] = {"goal_velocity": "m/s"}
    task_limits: ClassVar[Mapping[str, tuple[float, float]]] = {"goal_velocity": (-100.0, 100.0)}

    def sample_tasks(self, rng: np.random.Generator, num_tasks: int) -> Tasks:
        """Goal velocities (num_tasks,), in m/s."""
        return {"goal_velocity": rng.uniform(self.low, self.high, num_tasks)}

    def reward_terms(
        self, xp: Any, before: State, after: State, action: Array, task: Tasks
    ) -> Mapping[str, Array]:
        """Distance from the goal velocity, and control cost, each (num_sims,)."""
        velocity = self._forward_velocity(before, after)
        return {
            "reward_forward": -abs(velocity - task["goal_velocity"]),
            "reward_control": -self._control_cost(action),
        }

    def markers(self, state: State, task: Task) -> list[Marker]:
        """The way that the goal velocity covers in 0.5 s, above the half cheetah."""
        return [self._arrow(state, (0.5 * task["goal_velocity"], 0.0, 0.0))]


@dataclass(frozen=True, kw_only=True)
class HalfCheetahDir(HalfCheetah):
    """Run as fast as possible forward or backward (Finn et al. 2017, section 5.3).

    Reward: d·v − 0.05 ‖a‖², with v the root's velocity over the control step and a the action.
    Task distribution: direction d = +1 and −1 with equal probability; of several tasks drawn
    together, +1 and −1 in turn, so that every meta-batch holds both. Horizon 100.

    Version history: v0, first.
    """

    task_units: ClassVar[Mapping[str, str]] = {"direction": ""}
    task_limits: ClassVar[Mapping[str, tuple[float, float]]] = {"direction": (-1.0, 1.0)}

    def sample_tasks(self, rng: np.random.Generator, num_tasks: int) -> Tasks:
        """Directions (num_tasks,): (−1)^i for task i of several, either one for a single task."""
        return {"direction": alternating_directions(rng, num_tasks)}

    def reward_terms(
        self, xp: Any, before: State, after: State, action: Array, task: Tasks
    ) -> Mapping[str, Array]:
        """Velocity in the wanted direction, and control cost, each (num_sims,)."""
        return {
            "reward_forward": task["direction"] * self._forward_velocity(before, after),
            "reward_control": -self._control_cost(action),
        }

    def markers(self, state: State, task: Task) -> list[Marker]:
        """The wanted direction, above the half cheetah."""
        return [self._arrow(state, (task["direction"], 0.0, 0.0))]


@dataclass(frozen=True, kw_only=True)
class CrippledHalfCheetah(HalfCheetah):
    """Run forward while one actuator exerts no force (Nagabandi et al. 2019, section 6.1).

    Reward: v − 0.05 ‖a‖², with v the root's velocity over the control step and a the action.
    Task distribution: which actuator is dead, uniform over 1 to 5 (back shin to front foot);
        actuator 0, the back
    thigh, is held out. Observation: as the other half cheetahs'. Horizon 200.

    Version history: v0, first.
    """

    split: Split = "train"
    """Tasks to draw: train (actuators 1 to 5) or held_out (actuator 0)."""

    max_episode_steps: ClassVar[int] = 200
    task_units: ClassVar[Mapping[str, str]] = {"disabled_actuator": ""}
    task_limits: ClassVar[Mapping[str, tuple[float, float]]] = {"disabled_actuator": (-1, 5)}

    def sample_tasks(self, rng: np.random.Generator, num_tasks: int) -> Tasks:
        """Numbers of the dead actuators (num_tasks,)."""
        choices = np.arange(1.0, 6.0) if self.split == "train" else np.zeros(1)
        return {"disabled_actuator": rng.choice(choices, num_tasks)}

    def reward_terms(
        self, xp: Any, before: State, after: State, action: Array, task: Tasks
    ) -> Mapping[str, Array]:
        """Forward velocity, and control cost, each (num_sims,)."""
        return {
            "reward_forward": self._forward_velocity(before, after),
            "reward_control": -self._control_cost(action),
        }
