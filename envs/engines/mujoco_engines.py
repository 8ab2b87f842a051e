"""MuJoCo's engines: many simulations on ``mujoco.batch.Batch``, or one with rendering."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import mujoco
import numpy as np
from maml_envs.engines.dynamics import disabled_geoms, fields_to_set, model_field, needs_set_const
from maml_envs.engines.engine import Tasks
from maml_envs.engines.markers import Marker
from maml_envs.engines.rendering import FreeCamera, SceneRenderer
from mujoco.batch import Batch, SimulationError

_STATE_FIELDS = ("qpos", "qvel")

_DISABLED_COLOUR = (0.8, 0.1, 0.1)

# MuJoCo silently resets a simulation whose state or control is not finite; only these warning
# counters show it.
_UNSTABLE = [
    int(mujoco.mjtWarning.mjWARN_BADQPOS),
    int(mujoco.mjtWarning.mjWARN_BADQVEL),
    int(mujoco.mjtWarning.mjWARN_BADQACC),
    int(mujoco.mjtWarning.mjWARN_BADCTRL),
]


class _WithoutLog:
    """Keep MuJoCo from logging unstable simulations to stderr and MUJOCO_LOG.TXT."""

    def __enter__(self) -> None:
        self._before = mujoco.MjLogConfig.get()
        quiet = mujoco.MjLogConfig.get()
        quiet.logto_console = quiet.logto_file = False
        quiet.set()

    def __exit__(self, *_: object) -> None:
        self._before.set()


class MujocoBatchEngine:
    """``num_sims`` simulations in one :class:`mujoco.batch.Batch`; ``state`` has views of its data.

    Args:
        model: the robot's; it is not modified.
        frame_skip: MuJoCo steps per control step.
        num_sims: number of simulations.
        num_threads: threads of the simulator.
        derived: names of ``DERIVED_FIELDS`` to add to ``state``.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        frame_skip: int,
        num_sims: int,
        num_threads: int,
        derived: Sequence[str] = (),
    ) -> None:
        self.num_sims = num_sims
        self._model = model
        self.batch = Batch(model, num_sims, num_threads, persistent=bool(derived))
        self.state = {name: self.batch.bind(name) for name in (*_STATE_FIELDS, *derived)}
        if "cfrc_ext" in derived:  # the batch does not compute it; _update does
            self.state["cfrc_ext"] = np.zeros((num_sims, model.nbody, 6))
            self._data = mujoco.MjData(model)
        self._is_derived = bool(derived)
        self._control = self.batch.bind("ctrl")
        self._frame_skip = frame_skip
        self._varied: set[str] = set()

    def set_dynamics(self, dynamics: Tasks, ids: np.ndarray | None = None) -> None:
        """Set the model fields of simulations, starting from the untouched model."""
        rows = slice(None) if ids is None else ids
        fields = fields_to_set(self._model, dynamics, self._varied)
        for name, values in fields.items():
            self.batch.expand(name)[rows] = values
        self._varied |= fields.keys()
        if needs_set_const(self._varied):
            self.batch.set_const(ids)

    def reset(self, ids: np.ndarray, initial: Mapping[str, np.ndarray]) -> None:
        """Reset simulations ``ids`` to ``initial``, and compute the derived fields."""
        self.batch.reset(ids, stage=mujoco.mjtStage.mjSTAGE_NONE.value)
        for name, values in initial.items():
            self.state[name][ids] = values
        self.batch.forward(ids)
        self._update(ids)

    def step(self, ids: np.ndarray | None, action: np.ndarray) -> np.ndarray:
        """Advance by ``frame_skip`` MuJoCo steps; return which became unstable, (num_sims,)."""
        # control
        if ids is None:
            self._control[:] = action
        else:
            self._control[ids] = action[ids]
        # physics
        failed = None
        try:
            with _WithoutLog():
                self.batch.step(ids, nstep=self._frame_skip)
        except SimulationError as error:
            failed = error.ids
        self._update(ids)
        # find unstable simulations; usually there are no warnings, and one count shows it
        warnings = self.batch.warning
        if np.count_nonzero(warnings) == 0:
            unstable = np.zeros(self.num_sims, bool)
        else:
            unstable = warnings[:, _UNSTABLE, 1].any(axis=1)
        if failed is not None:
            unstable[failed] = True
        return unstable

    def _update(self, ids: np.ndarray | None) -> None:
        """Compute the derived fields of simulations ``ids`` after a step or a reset."""
        # forces of the last MuJoCo step, before the forward pass changes the data
        if "cfrc_ext" in self.state:
            forces = self.state["cfrc_ext"]
            for i in range(self.num_sims) if ids is None else ids:
                self.batch.get_data(i, self._data)
                mujoco.mj_rnePostConstraint(self._model, self._data)
                forces[i] = self._data.cfrc_ext
        self.derive(ids)

    def derive(self, ids: np.ndarray | None) -> None:
        """Compute the derived positions and velocities of simulations ``ids``."""
        if self._is_derived:
            self.batch.forward(ids, stage=mujoco.mjtStage.mjSTAGE_VEL.value)

    def close(self) -> None:
        """Free the batch and its threads."""
        self.state = {}
        del self.batch


class MujocoSingleEngine:
    """One simulation on a plain ``MjData``; ``state`` has views with a leading axis of length 1.

    Args:
        model: the robot's; it is not modified.
        frame_skip: MuJoCo steps per control step.
        derived: names of ``DERIVED_FIELDS`` to add to ``state``.
        hidden_geoms: names of geoms that are not rendered.
        free_camera: camera for rendering if the options select none of the model.
        render_mode: render mode of Gymnasium's renderer.
        render_options: options of Gymnasium's renderer.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        frame_skip: int,
        derived: Sequence[str],
        *,
        hidden_geoms: Sequence[str],
        free_camera: FreeCamera,
        render_mode: str | None,
        render_options: Mapping[str, Any],
    ) -> None:
        self.num_sims = 1
        # model: a copy, because tasks and rendering change it
        self._nominal = model
        self.model = copy.copy(model)
        for name in hidden_geoms:
            self.model.geom(name).rgba[3] = 0
        # state
        self.data = mujoco.MjData(self.model)
        self.state = {name: getattr(self.data, name)[None] for name in (*_STATE_FIELDS, *derived)}
        self._is_derived = bool(derived)
        self._varied: set[str] = set()
        self._frame_skip = frame_skip
        # rendering; the renderer is created at the first frame
        self._render_mode = render_mode
        self._renderer: SceneRenderer | None = None
        self._free_camera = free_camera
        self._render_options = render_options

    def set_dynamics(self, dynamics: Tasks, ids: np.ndarray | None = None) -> None:
        """Set the model fields, as in the batch engine, and colour disabled parts."""
        # model fields
        fields = fields_to_set(self._nominal, dynamics, self._varied)
        for name, values in fields.items():
            model_field(self.model, name)[:] = values[0]
        self._varied |= fields.keys()
        if needs_set_const(self._varied):
            mujoco.mj_setConst(self.model, mujoco.MjData(self.model))
        # colours
        self.model.geom_rgba[:, :3] = self._nominal.geom_rgba[:, :3]
        self.model.geom_rgba[disabled_geoms(self._nominal, dynamics), :3] = _DISABLED_COLOUR

    def reset(self, ids: np.ndarray, initial: Mapping[str, np.ndarray]) -> None:
        """Reset to ``initial``, and compute the derived fields."""
        mujoco.mj_resetData(self.model, self.data)
        for name, values in initial.items():
            self.state[name][:] = values
        mujoco.mj_forward(self.model, self.data)
        self._update()

    def step(self, ids: np.ndarray | None, action: np.ndarray) -> np.ndarray:
        """Advance by ``frame_skip`` MuJoCo steps; return whether it became unstable, (1,)."""
        self.data.ctrl[:] = action[0]
        with _WithoutLog():
            mujoco.mj_step(self.model, self.data, nstep=self._frame_skip)
        self._update()
        return np.array([any(self.data.warning[index].number for index in _UNSTABLE)])

    def _update(self) -> None:
        """Compute the derived fields after a step or a reset."""
        if "cfrc_ext" in self.state:
            mujoco.mj_rnePostConstraint(self.model, self.data)
        self.derive()

    def derive(self, ids: np.ndarray | None = None) -> None:
        """Compute the derived positions and velocities."""
        if self._is_derived:
            mujoco.mj_fwdPosition(self.model, self.data)
            mujoco.mj_fwdVelocity(self.model, self.data)

    def render(self, markers: Sequence[Marker] = ()) -> Any:
        """Render the scene with ``markers`` in the render mode.

        Raises:
            RuntimeError: if OpenGL is not available.
        """
        if self._renderer is None:
            self._renderer = SceneRenderer(
                model=self.model,
                data=self.data,
                render_mode=self._render_mode,
                free_camera=self._free_camera,
                options=self._render_options,
            )
        return self._renderer.draw(markers)

    def close(self) -> None:
        """Close the renderer."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
