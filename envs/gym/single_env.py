"""One simulation of a task family as a plain Gymnasium environment, with rendering."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from maml_envs.engines.engine import Task
from maml_envs.engines.markers import Marker
from maml_envs.engines.mujoco_engines import MujocoSingleEngine
from maml_envs.family import TaskFamily
from maml_envs.gym.family_tasks import FamilyTasks
from maml_envs.gym.simulations import Simulations


class FamilyEnv(FamilyTasks, gym.Env):
    """One simulation of a task family, for recording, other RL libraries and interactive use.

    The first reset draws a task, which later resets keep; :meth:`set_task` or
    ``reset(options={"task": ...})`` sets one. ``info`` has the reward terms, and ``is_success`` if
    the family defines success. If the simulation becomes unstable, the episode is truncated and
    ``info["unstable"]`` is true. MuJoCo families have the attributes ``model`` and ``data``, as
    Gymnasium's environments do. Rendered frames show the task if the family has ``markers``, so a
    policy that learns from pixels can see it; frames with depth do not.

    Args:
        family: the task family.
        render_mode: ``"rgb_array"``, ``None``, or with MuJoCo ``"human"``, ``"depth_array"`` or
            ``"rgbd_tuple"``.
        render_options: passed to the renderer: ``width`` and ``height`` in pixels, and with MuJoCo
            ``camera_name``, ``camera_id`` (-1: the free camera), ``default_camera_config``,
            ``max_geom``, ``visual_options``.

    Raises:
        ValueError: if the robot has no such ``render_mode`` or option.
    """

    metadata: dict[str, Any] = {"render_modes": ["human", "rgb_array", "depth_array", "rgbd_tuple"]}  # noqa: RUF012

    takes_episode = True
    """Whether ``reset`` takes the option ``episode``."""

    observation_space: spaces.Box
    action_space: spaces.Box

    def __init__(
        self, family: TaskFamily, render_mode: str | None = None, **render_options: Any
    ) -> None:
        self.family = family
        self.render_mode = render_mode
        self.engine = family.robot.single_engine(
            family.derived_fields, render_mode, **render_options
        )
        is_mujoco = isinstance(self.engine, MujocoSingleEngine)
        modes = self.metadata["render_modes"] if is_mujoco else ["rgb_array"]
        self.metadata = {"render_modes": modes, "render_fps": max(1, round(1 / family.robot.dt))}
        if render_mode is not None and render_mode not in modes:
            raise ValueError(f"render_mode must be one of {modes} or None, got {render_mode!r}")
        self._simulations = Simulations(family, self.engine)
        self.observation_space = self._simulations.observation_space
        self.action_space = self._simulations.action_space
        if isinstance(self.engine, MujocoSingleEngine):
            self.model = self.engine.model
            self.data = self.engine.data

    @property
    def dt(self) -> float:
        """Seconds per control step."""
        return self.family.robot.dt

    def set_task(self, task: Task) -> None:
        """Set the task for this and later episodes.

        Action delay and observation noise in force end at once; those of the task begin at the next
        reset, which starts its first episode.

        Raises:
            ValueError: if the task is invalid for this family.
        """
        self._simulations.set_tasks([task])

    @property
    def task(self) -> dict[str, float] | None:
        """The task, or ``None`` before the first reset or :meth:`set_task`."""
        tasks = self._simulations.tasks
        return None if tasks is None else tasks[0]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode; the info is empty.

        Args:
            seed: of the generator; with ``None`` it continues.
            options: ``task`` sets the task; ``episode`` is the index of the episode in its task,
                for a task whose dynamics change (default: one more than that of the last).
        """
        super().reset(seed=seed)
        if options is not None and "task" in options:
            self.set_task(options["task"])
        episode = None if options is None else options.get("episode")
        observation = self._simulations.reset(np.zeros(1, int), [self.np_random], episode)[0]
        if self.render_mode == "human":
            self.render()
        return observation, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Advance by one control step.

        Args:
            action: (action_size,), in actuator units; clipped to the action space.

        Raises:
            ValueError: if the action has another shape.
            ResetNeeded: before the first reset.
        """
        action = np.asarray(action, np.float64)
        if action.shape != self.action_space.shape:
            raise ValueError(
                f"expected an action of shape {self.action_space.shape}, got {action.shape}"
            )
        observation, terms, terminated, unstable = self._simulations.step(
            action[None], np.ones(1, bool)
        )
        # info: reward terms, instability, success
        info: dict[str, Any] = {name: float(term[0]) for name, term in terms.items()}
        # As the batch adds them: sum() rounds otherwise from Python 3.12 on.
        reward = functools.reduce(operator.add, info.values())
        info["unstable"] = bool(unstable[0])
        success = self._simulations.success()
        if success is not None:
            info["is_success"] = bool(success[0])
        if self.render_mode == "human":
            self.render()
        return observation[0], reward, bool(terminated[0]), bool(unstable[0]), info

    def render(self) -> Any:
        """Render in ``render_mode``; (height, width, 3) uint8 for ``"rgb_array"``."""
        if self.render_mode is None:
            gym.logger.warn(
                "render() needs a render_mode: gymnasium.make(id, render_mode='rgb_array')"
            )
            return None
        return self.engine.render(self._markers())

    def _markers(self) -> Sequence[Marker]:
        """Markers of the task; the family gets a copy of the state, so that it cannot change it."""
        if self.task is None or not hasattr(self.family, "markers"):
            return ()
        state = {name: values[0].copy() for name, values in self.engine.state.items()}
        return self.family.markers(state, self.task)

    @property
    def frame_caption(self) -> str:
        """What to write beside a frame, such as ``"forward velocity 1.25 m/s"``; may be empty."""
        return self._simulations.caption()

    def close(self) -> None:
        """Close the renderer."""
        self.engine.close()
