"""Bodies simulated by MuJoCo: many at once on ``mujoco.batch.Batch``, or one with rendering."""

from __future__ import annotations

import copy
import functools
import importlib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium import spaces
from mujoco.batch import Batch, SimulationError

STATE_FIELDS = ("qpos", "qvel")

# MuJoCo resets a simulation whose state or control is not finite without raising: only these counters tell.
_BREAKDOWNS = [
    int(warning)
    for warning in (
        mujoco.mjtWarning.mjWARN_BADQPOS,
        mujoco.mjtWarning.mjWARN_BADQVEL,
        mujoco.mjtWarning.mjWARN_BADQACC,
        mujoco.mjtWarning.mjWARN_BADCTRL,
    )
]


def load_gymnasium_model(file_name: str) -> mujoco.MjModel:
    """Compile a model file that Gymnasium ships.

    The files set the total mass by a compiler attribute that MuJoCo warns about on stderr; the function that it
    recommends in place of the attribute gives the same model, bit for bit.
    """
    path = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets" / file_name
    spec = mujoco.MjSpec.from_file(str(path))
    total_mass = spec.compiler.settotalmass
    spec.compiler.settotalmass = -1
    model = spec.compile()
    if total_mass > 0:
        mujoco.mj_setTotalmass(model, total_mass)
        mujoco.mj_setConst(model, mujoco.MjData(model))
    return model


def check_opengl() -> None:
    """Find an OpenGL backend that starts here, and have Gymnasium's off-screen renderer use it.

    The renderer itself takes the first one that does not fail at once, and prints a traceback from its destructor where
    all do. Its choice is what MUJOCO_GL says; where the user said nothing, it is set to the backend found.

    Raises:
        RuntimeError: none starts; says why for each.
    """
    wanted = os.environ.get("MUJOCO_GL")
    problems = []
    screen = sys.platform != "linux" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    for backend in [wanted] if wanted is not None else [*(["glfw"] if screen else []), "egl", "osmesa"]:
        try:
            importlib.import_module(f"mujoco.{backend}").GLContext(16, 16).free()
            os.environ["MUJOCO_GL"] = backend
            return
        except Exception as error:  # OpenGL's loaders fail in as many ways as there are drivers
            problems.append(f"{backend}: {error}")
    raise RuntimeError(
        f"OpenGL could not be started ({'; '.join(problems)}). On a machine without a screen install EGL or OSMesa and "
        "set MUJOCO_GL=egl or MUJOCO_GL=osmesa."
    )


@dataclass(frozen=True)
class MujocoBody:
    """A MuJoCo model and how it is driven.

    Args:
        model_file: name of one of Gymnasium's model files.
        frame_skip: MuJoCo steps per control step.
        camera_name: the camera of the model that follows the body in pictures.
    """

    model_file: str
    frame_skip: int
    camera_name: str

    @functools.cached_property
    def model(self) -> mujoco.MjModel:
        """The untouched compiled model, never written to."""
        return load_gymnasium_model(self.model_file)

    @functools.cached_property
    def dt(self) -> float:
        """Seconds per control step."""
        return self.model.opt.timestep * self.frame_skip

    @functools.cached_property
    def action_space(self) -> spaces.Box:
        """Control ranges of the actuators."""
        low, high = self.model.actuator_ctrlrange.astype(np.float32).T
        return spaces.Box(low, high, dtype=np.float32)

    def batch_engine(self, num_sims: int, num_threads: int) -> MujocoBatchEngine:
        """Many simulations on MuJoCo's thread pool."""
        return MujocoBatchEngine(self, num_sims, num_threads)

    def single_engine(self, render_mode: str | None, **render_options: Any) -> MujocoSingleEngine:
        """One simulation with ``model`` and ``data``, drawn by Gymnasium's renderer."""
        return MujocoSingleEngine(self, render_mode, **render_options)


class MujocoBatchEngine:
    """``num_sims`` simulations in one :class:`mujoco.batch.Batch`; ``state`` holds views of its rows."""

    def __init__(self, body: MujocoBody, num_sims: int, num_threads: int) -> None:
        self.num_sims = num_sims
        self.batch = Batch(body.model, num_sims, num_threads)
        self.state = {name: self.batch.bind(name) for name in STATE_FIELDS}
        self._control = self.batch.bind("ctrl")
        self._frame_skip = body.frame_skip

    def reset(self, ids: np.ndarray, initial: Mapping[str, np.ndarray]) -> None:
        """Start simulations ``ids`` from ``initial``, and compute what follows from it."""
        self.batch.reset(ids, stage=mujoco.mjtStage.mjSTAGE_NONE.value)
        for name, values in initial.items():
            self.state[name][ids] = values
        self.batch.forward(ids)

    def step(self, ids: np.ndarray | None, action: np.ndarray) -> np.ndarray:
        """Advance simulations ``ids`` by ``frame_skip`` MuJoCo steps; returns those that broke down, (num_sims,)."""
        if ids is None:
            self._control[:] = action
        else:
            self._control[ids] = action[ids]
        failed = None
        try:
            self.batch.step(ids, nstep=self._frame_skip)
        except SimulationError as error:
            failed = error.ids
        broken = self.batch.warning[:, _BREAKDOWNS, 1].any(axis=1)
        if failed is not None:
            broken[failed] = True
        return broken

    def render(self) -> None:
        """A batch draws nothing; make a single environment for pictures."""
        return None

    def close(self) -> None:
        """Drop the batch and with it MuJoCo's threads."""
        self.state = {}
        del self.batch


class MujocoSingleEngine:
    """One simulation on a plain ``MjData``; ``state`` holds views of it with a leading axis of length 1."""

    def __init__(self, body: MujocoBody, render_mode: str | None, **render_options: Any) -> None:
        self.num_sims = 1
        self.model = copy.copy(body.model)
        self.data = mujoco.MjData(self.model)
        self.state = {name: getattr(self.data, name)[None] for name in STATE_FIELDS}
        self._frame_skip = body.frame_skip
        self._render_mode = render_mode
        self._renderer: Any = None
        if "default_camera_config" in render_options:  # Gymnasium's environments and its renderer differ in the name
            render_options["default_cam_config"] = render_options.pop("default_camera_config")
        elif "camera_id" not in render_options:
            render_options = {"camera_name": body.camera_name, **render_options}
        self._render_options = render_options

    def reset(self, ids: np.ndarray, initial: Mapping[str, np.ndarray]) -> None:
        """Start from ``initial``, and compute what follows from it."""
        mujoco.mj_resetData(self.model, self.data)
        for name, values in initial.items():
            self.state[name][:] = values
        mujoco.mj_forward(self.model, self.data)

    def step(self, ids: np.ndarray | None, action: np.ndarray) -> np.ndarray:
        """Advance by ``frame_skip`` MuJoCo steps; returns whether the simulation broke down, (1,)."""
        self.data.ctrl[:] = action[0]
        mujoco.mj_step(self.model, self.data, nstep=self._frame_skip)
        return np.array([any(self.data.warning[index].number for index in _BREAKDOWNS)])

    def render(self) -> Any:
        """Draw the scene as the render mode says.

        Raises:
            RuntimeError: OpenGL is not available here.
        """
        if self._renderer is None:
            from gymnasium.envs.mujoco.mujoco_rendering import MujocoRenderer

            if self._render_mode != "human":
                check_opengl()
            options = {"width": 480, "height": 480, **self._render_options}
            visual = self.model.vis.global_
            visual.offwidth = max(visual.offwidth, options["width"])
            visual.offheight = max(visual.offheight, options["height"])
            self._renderer = MujocoRenderer(self.model, self.data, **options)
        return self._renderer.render(self._render_mode)

    def close(self) -> None:
        """Close the renderer."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
