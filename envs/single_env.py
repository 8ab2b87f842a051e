"""One simulation of a task family as a plain Gymnasium environment, with rendering."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from maml_envs.family import Task, TaskFamily, stack_tasks, unstack_tasks
from maml_envs.mujoco_body import MujocoSingleEngine
from maml_envs.vector_env import observation_space


class FamilyEnv(gym.Env):
    """A task family behind Gymnasium's API, for videos, other libraries, and stepping by hand.

    A task is drawn at the first reset and kept; :meth:`set_task` or ``reset(options={"task": ...})`` sets one. Rewards
    terms are in ``info``. An episode whose simulation broke down is truncated with ``info["void"]`` set. On MuJoCo
    bodies ``model`` and ``data`` are there as on Gymnasium's own MuJoCo environments.

    Args:
        family: the task family.
        render_mode: ``"rgb_array"``, ``None``, or on MuJoCo bodies ``"human"``, ``"depth_array"`` or ``"rgbd_tuple"``.
        render_options: passed to the renderer: ``width`` and ``height`` in pixels, and for MuJoCo bodies
            ``camera_name``, ``camera_id``, ``default_camera_config``, ``max_geom``, ``visual_options``.
    """

    metadata: dict[str, Any] = {"render_modes": ["human", "rgb_array", "depth_array", "rgbd_tuple"]}  # noqa: RUF012

    observation_space: spaces.Box
    action_space: spaces.Box

    def __init__(self, family: TaskFamily, render_mode: str | None = None, **render_options: Any) -> None:
        self.family = family
        self.render_mode = render_mode
        self.engine = family.body.single_engine(render_mode, **render_options)
        modes = self.metadata["render_modes"] if isinstance(self.engine, MujocoSingleEngine) else ["rgb_array"]
        self.metadata = {"render_modes": modes, "render_fps": max(1, round(1 / family.body.dt))}
        if render_mode is not None and render_mode not in modes:
            raise ValueError(f"render_mode must be one of {modes} or None, got {render_mode!r}")
        self.observation_space = observation_space(family)
        self.action_space = family.body.action_space
        if isinstance(self.engine, MujocoSingleEngine):
            self.model, self.data = self.engine.model, self.engine.data
        self._tasks: dict[str, np.ndarray] | None = None

    @property
    def dt(self) -> float:
        """Seconds per control step."""
        return self.family.body.dt

    def sample_tasks(self, num_tasks: int) -> list[dict[str, float]]:
        """Draw tasks from the family's distribution with ``self.np_random``."""
        return unstack_tasks(self.family.sample_tasks(self.np_random, num_tasks))

    def set_task(self, task: Task) -> None:
        """Take ``task`` from now on and over resets.

        Raises:
            ValueError: it is no task of this family.
        """
        self._tasks = stack_tasks(self.family, [task])

    @property
    def task(self) -> dict[str, float] | None:
        """The task, or ``None`` before the first reset or :meth:`set_task`."""
        return None if self._tasks is None else unstack_tasks(self._tasks)[0]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode; ``options={"task": ...}`` sets the task. Returns the observation and an empty info."""
        super().reset(seed=seed)
        if options is not None and "task" in options:
            self.set_task(options["task"])
        elif self._tasks is None:
            self.set_task(self.sample_tasks(1)[0])
        initial = self.family.initial_state(self.np_random)
        self.engine.reset(np.zeros(1, int), {name: value[None] for name, value in initial.items()})
        if self.render_mode == "human":
            self.render()
        return self.family.observation(np, self.engine.state)[0], {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Advance by one control step of ``action`` (action_size,), in actuator units, clipped to the action space."""
        action = np.asarray(action, np.float64)
        if action.shape != self.action_space.shape:
            raise ValueError(f"expected an action of shape {self.action_space.shape}, got {action.shape}")
        if self._tasks is None:
            raise gym.error.ResetNeeded("call reset() before step()")
        actions = np.clip(action, self.action_space.low, self.action_space.high)[None]
        state = self.engine.state
        before = {name: value.copy() for name, value in state.items()}
        void = bool(self.engine.step(None, actions)[0])
        terms = self.family.reward_terms(np, before, state, actions, self._tasks)
        info: dict[str, Any] = {name: float(term[0]) for name, term in terms.items()}
        terminated = not void and bool(self.family.terminated(np, state, self._tasks)[0])
        if self.render_mode == "human":
            self.render()
        observation = self.family.observation(np, state)[0]
        return observation, sum(info.values()), terminated, void, {**info, "void": void}

    def render(self) -> Any:
        """Draw the scene as ``render_mode`` says; (height, width, 3) uint8 for ``"rgb_array"``."""
        if self.render_mode is None:
            gym.logger.warn("render() needs a render_mode: gymnasium.make(id, render_mode='rgb_array')")
            return None
        return self.engine.render()

    def close(self) -> None:
        """Close the renderer."""
        self.engine.close()
