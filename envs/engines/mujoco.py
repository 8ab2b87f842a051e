"""Bodies simulated by MuJoCo: many at once on ``mujoco.batch.Batch``, or one with rendering."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import gymnasium
import mujoco
import numpy as np
from gymnasium import spaces
from maml_envs.engines.dynamics import (
    Parameter,
    disabled_geoms,
    model_field,
    model_fields,
    needs_set_const,
    parameters,
)
from maml_envs.engines.engine import Array, State, Tasks
from maml_envs.engines.markers import Marker
from maml_envs.engines.rendering import FreeCamera, MujocoPictures
from mujoco.batch import Batch, SimulationError

STATE_FIELDS = ("qpos", "qvel")
DERIVED_FIELDS = ("xpos", "xmat", "subtree_com", "cinert", "cvel", "qfrc_actuator", "cfrc_ext")
"""What a family may ask for beside the state.

Positions and velocities are those of the new state, not of the substep before it as in MuJoCo's
data after a step. Forces are those of the last substep; contact forces are computed for real.
"""

ROOT_BODY = 1
"""Number of the body that the others hang from: the torso of a walking robot."""

ObservedPosition = Literal["nothing", "torso", "centre_of_mass"]
"""Which position in the world an observation holds beside the joints'."""

POSITION_FIELDS: Mapping[ObservedPosition, tuple[str, ...]] = {
    "nothing": (),
    "torso": ("xpos",),
    "centre_of_mass": ("subtree_com",),
}
"""The derived field that each of them is in, (num_sims, num_bodies, 3), at ``ROOT_BODY``."""

_MOST_FRAMES = 100  # a second of most models, and videos have at least one frame a second

_DISABLED_COLOUR = (0.8, 0.1, 0.1)

# MuJoCo resets a simulation whose state or control is not finite without raising: only these
# counters tell.
_BREAKDOWNS = [
    int(warning)
    for warning in (
        mujoco.mjtWarning.mjWARN_BADQPOS,
        mujoco.mjtWarning.mjWARN_BADQVEL,
        mujoco.mjtWarning.mjWARN_BADQACC,
        mujoco.mjtWarning.mjWARN_BADCTRL,
    )
]


class _WithoutLog:
    """Keep MuJoCo from writing to stderr and MUJOCO_LOG.TXT about simulations that break down: they are counted."""

    def __enter__(self) -> None:
        self._before, quiet = mujoco.MjLogConfig.get(), mujoco.MjLogConfig.get()
        quiet.logto_console = quiet.logto_file = False
        quiet.set()

    def __exit__(self, *_: object) -> None:
        self._before.set()


def load_model(file: str) -> mujoco.MjModel:
    """Compile a model file: a path, or the name of one that Gymnasium ships.

    Gymnasium's files set the total mass by a compiler attribute that MuJoCo warns about on stderr;
    the function that it recommends in place of the attribute gives the same model, bit for bit.
    """
    path = (
        Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets" / file
    )  # an absolute path stays itself
    spec = mujoco.MjSpec.from_file(str(path))
    total_mass = spec.compiler.settotalmass
    spec.compiler.settotalmass = -1
    model = spec.compile()
    if total_mass > 0:
        mujoco.mj_setTotalmass(model, total_mass)
        mujoco.mj_setConst(model, mujoco.MjData(model))
    return model


@dataclass(frozen=True)
class MujocoBody:
    """A MuJoCo model and how it is driven.

    Args:
        model_file: an absolute path, or the name of one of Gymnasium's model files.
        frame_skip: MuJoCo steps per control step.
        camera_name: the camera of the model that follows the body in pictures; ``None`` for
            ``free_camera``.
        free_camera: where pictures are taken from otherwise.
        hidden_geoms: names of geoms that pictures leave out.
    """

    model_file: str
    frame_skip: int
    camera_name: str | None = "track"
    free_camera: FreeCamera = field(default_factory=FreeCamera)
    hidden_geoms: tuple[str, ...] = ()

    @functools.cached_property
    def model(self) -> mujoco.MjModel:
        """The untouched compiled model, never written to."""
        return load_model(self.model_file)

    @functools.cached_property
    def parameters(self) -> Mapping[str, Parameter]:
        """What can differ from task to task."""
        return parameters(self.model)

    @functools.cached_property
    def dt(self) -> float:
        """Seconds per control step."""
        return self.model.opt.timestep * self.frame_skip

    @functools.cached_property
    def action_space(self) -> spaces.Box:
        """Control ranges of the actuators.

        Raises:
            ValueError: an actuator has none.
        """
        unlimited = np.flatnonzero(np.logical_not(self.model.actuator_ctrllimited))
        if len(unlimited):
            raise ValueError(
                f"actuators {unlimited.tolist()} of {self.model_file} have no control range "
                f"(ctrlrange)"
            )
        low, high = self.model.actuator_ctrlrange.astype(np.float32).T
        return spaces.Box(low, high, dtype=np.float32)

    def noisy_start(
        self, rng: np.random.Generator, scale: float, velocities: Literal["normal", "uniform"]
    ) -> dict[str, np.ndarray]:
        """The model's pose with noise, as Gymnasium's robots start.

        Args:
            rng: where the noise comes from.
            scale: positions are uniform within this of the model's (m, rad); velocities (m/s,
                rad/s) have it as standard deviation where normal, as bound where uniform.
            velocities: their distribution.
        """
        position = self.model.qpos0 + rng.uniform(-scale, scale, self.model.nq)
        if velocities == "normal":
            return {"qpos": position, "qvel": scale * rng.standard_normal(self.model.nv)}
        return {"qpos": position, "qvel": rng.uniform(-scale, scale, self.model.nv)}

    def forward_velocity(self, before: State, after: State) -> Array:
        """Mean velocity of the root along x over one control step, (num_sims,), in m/s.

        Args:
            before: state before the control step; its first position is the root's x.
            after: state after it.
        """
        return (after["qpos"][:, 0] - before["qpos"][:, 0]) / self.dt

    def batch_engine(
        self, num_sims: int, num_threads: int, derived: Sequence[str]
    ) -> MujocoBatchEngine:
        """Many simulations on MuJoCo's thread pool."""
        return MujocoBatchEngine(self, num_sims, num_threads, derived)

    def single_engine(
        self, derived: Sequence[str], render_mode: str | None, **render_options: Any
    ) -> MujocoSingleEngine:
        """One simulation with ``model`` and ``data``, drawn by Gymnasium's renderer."""
        return MujocoSingleEngine(self, derived, render_mode, **render_options)


@functools.cache
def _with_frame_skip(body: MujocoBody, frame_skip: int) -> MujocoBody:
    """``body`` with other control steps; cached, so that its model is compiled once."""
    return dataclasses.replace(body, frame_skip=frame_skip)


def set_frame_skip(family: Any) -> None:
    """Give a family that sets ``frame_skip`` a body of its own, in place of its class's.

    Call it when a family is made, after ``check_settings``. Engines, rewards and videos take the
    time step from the body, so all of them follow the setting.

    Args:
        family: a frozen dataclass with a ``body`` and a field ``frame_skip``: MuJoCo steps per
            control step, or ``None`` for the body's own.

    Raises:
        ValueError: ``frame_skip`` is neither ``None`` nor an integer in range.
    """
    value = family.frame_skip
    if value is None:
        return
    is_integer = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not is_integer or not 1 <= value <= _MOST_FRAMES:
        raise ValueError(
            f"frame_skip must be an integer from 1 to {_MOST_FRAMES} (MuJoCo steps per control "
            f"step), or null for the body's own, got {value!r}"
        )
    object.__setattr__(family, "body", _with_frame_skip(family.body, int(value)))


class MujocoBatchEngine:
    """``num_sims`` simulations in one :class:`mujoco.batch.Batch`; ``state`` holds views of its rows.

    Args:
        body: what to simulate.
        num_sims: how many.
        num_threads: of the simulator.
        derived: fields of ``DERIVED_FIELDS`` that ``state`` shall hold too.
    """

    def __init__(
        self, body: MujocoBody, num_sims: int, num_threads: int, derived: Sequence[str] = ()
    ) -> None:
        self.num_sims = num_sims
        self._model = body.model
        self.batch = Batch(body.model, num_sims, num_threads, persistent=bool(derived))
        self.state = {name: self.batch.bind(name) for name in (*STATE_FIELDS, *derived)}
        if "cfrc_ext" in derived:  # a batch does not compute them: see _update
            self.state["cfrc_ext"] = np.zeros((num_sims, body.model.nbody, 6))
            self._data = mujoco.MjData(body.model)
        self._is_derived = bool(derived)
        self._control = self.batch.bind("ctrl")
        self._frame_skip = body.frame_skip
        self._varied: set[str] = set()

    def set_dynamics(self, dynamics: Tasks) -> None:
        """Give each simulation its own body: factors on the untouched model, never on what was there before."""
        fields = model_fields(self._model, dynamics)
        for name in self._varied | fields.keys():
            self.batch.expand(name)[:] = fields.get(name, model_field(self._model, name))
        self._varied |= fields.keys()
        if needs_set_const(self._varied):
            self.batch.set_const()

    def reset(self, ids: np.ndarray, initial: Mapping[str, np.ndarray]) -> None:
        """Start simulations ``ids`` from ``initial``, and compute what follows from it."""
        self.batch.reset(ids, stage=mujoco.mjtStage.mjSTAGE_NONE.value)
        for name, values in initial.items():
            self.state[name][ids] = values
        self.batch.forward(ids)
        self._update(ids)

    def step(self, ids: np.ndarray | None, action: np.ndarray) -> np.ndarray:
        """Advance simulations ``ids`` by ``frame_skip`` MuJoCo steps; returns those that broke down, (num_sims,)."""
        if ids is None:
            self._control[:] = action
        else:
            self._control[ids] = action[ids]
        failed = None
        try:
            with _WithoutLog():
                self.batch.step(ids, nstep=self._frame_skip)
        except SimulationError as error:
            failed = error.ids
        self._update(ids)
        warnings = self.batch.warning
        is_calm = np.count_nonzero(warnings) == 0
        broken = (
            np.zeros(self.num_sims, bool) if is_calm else warnings[:, _BREAKDOWNS, 1].any(axis=1)
        )
        if failed is not None:
            broken[failed] = True
        return broken

    def _update(self, ids: np.ndarray | None) -> None:
        """Compute the derived fields of simulations ``ids`` after a step or a reset."""
        if "cfrc_ext" in self.state:
            forces = self.state["cfrc_ext"]
            for i in range(self.num_sims) if ids is None else ids:
                self.batch.get_data(i, self._data)
                mujoco.mj_rnePostConstraint(self._model, self._data)
                forces[i] = self._data.cfrc_ext
        if self._is_derived:
            self.batch.forward(ids, stage=mujoco.mjtStage.mjSTAGE_VEL.value)

    def render(self, markers: Sequence[Marker] = ()) -> None:
        """A batch draws nothing; make a single environment for pictures."""
        return None

    def close(self) -> None:
        """Drop the batch and with it MuJoCo's threads."""
        self.state = {}
        del self.batch


class MujocoSingleEngine:
    """One simulation on a plain ``MjData``; ``state`` holds views of it with a leading axis of length 1."""

    def __init__(
        self,
        body: MujocoBody,
        derived: Sequence[str] = (),
        render_mode: str | None = None,
        **render_options: Any,
    ) -> None:
        self.num_sims = 1
        self._nominal = body.model
        self.model = copy.copy(body.model)
        for name in body.hidden_geoms:
            self.model.geom(name).rgba[3] = 0
        self.data = mujoco.MjData(self.model)
        self.state = {name: getattr(self.data, name)[None] for name in (*STATE_FIELDS, *derived)}
        self._is_derived = bool(derived)
        self._varied: set[str] = set()
        self._frame_skip = body.frame_skip
        self._render_mode = render_mode
        self._pictures: MujocoPictures | None = None
        self._free_camera = body.free_camera
        chosen = {"default_camera_config", "camera_id", "camera_name"} & set(render_options)
        if not chosen and body.camera_name is not None:
            render_options = {"camera_name": body.camera_name, **render_options}
        self._render_options = render_options

    def set_dynamics(self, dynamics: Tasks) -> None:
        """As the batch engine's."""
        fields = model_fields(self._nominal, dynamics)
        for name in self._varied | fields.keys():
            model_field(self.model, name)[:] = (
                fields[name][0] if name in fields else model_field(self._nominal, name)
            )
        self._varied |= fields.keys()
        if needs_set_const(self._varied):
            mujoco.mj_setConst(self.model, mujoco.MjData(self.model))
        self.model.geom_rgba[:, :3] = self._nominal.geom_rgba[:, :3]
        self.model.geom_rgba[disabled_geoms(self._nominal, dynamics), :3] = _DISABLED_COLOUR

    def reset(self, ids: np.ndarray, initial: Mapping[str, np.ndarray]) -> None:
        """Start from ``initial``, and compute what follows from it."""
        mujoco.mj_resetData(self.model, self.data)
        for name, values in initial.items():
            self.state[name][:] = values
        mujoco.mj_forward(self.model, self.data)
        self._update()

    def step(self, ids: np.ndarray | None, action: np.ndarray) -> np.ndarray:
        """Advance by ``frame_skip`` MuJoCo steps; returns whether the simulation broke down, (1,)."""
        self.data.ctrl[:] = action[0]
        mujoco.mj_step(self.model, self.data, nstep=self._frame_skip)
        self._update()
        return np.array([any(self.data.warning[index].number for index in _BREAKDOWNS)])

    def _update(self) -> None:
        if "cfrc_ext" in self.state:
            mujoco.mj_rnePostConstraint(self.model, self.data)
        if self._is_derived:
            mujoco.mj_fwdPosition(self.model, self.data)
            mujoco.mj_fwdVelocity(self.model, self.data)

    def render(self, markers: Sequence[Marker] = ()) -> Any:
        """Draw the scene and ``markers`` as the render mode says.

        Raises:
            RuntimeError: OpenGL is not available here.
        """
        if self._pictures is None:
            self._pictures = MujocoPictures(
                self.model, self.data, self._render_mode, self._free_camera, self._render_options
            )
        return self._pictures.draw(markers)

    def close(self) -> None:
        """Close the renderer."""
        if self._pictures is not None:
            self._pictures.close()
            self._pictures = None
