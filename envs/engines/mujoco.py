"""Robots of MuJoCo: the model, its control step, its cameras, and the engines that simulate it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import gymnasium
import mujoco
import numpy as np
from gymnasium import spaces
from maml_envs.engines.changes import with_changes
from maml_envs.engines.dynamics import Parameter, parameters
from maml_envs.engines.engine import Array, DeviceEngine, State
from maml_envs.engines.mujoco_engines import MujocoBatchEngine, MujocoSingleEngine
from maml_envs.engines.rendering import FreeCamera

if TYPE_CHECKING:
    import torch

DERIVED_FIELDS = ("xpos", "xmat", "subtree_com", "cinert", "cvel", "qfrc_actuator", "cfrc_ext")
"""State fields that a family may request besides ``qpos`` and ``qvel``.

After a step MuJoCo's positions and velocities lag by one MuJoCo step; here they are recomputed from
the new state. Forces, including contact forces, are those of the last MuJoCo step.
"""

ROOT_BODY = 1
"""Index of the root body: the torso of a walking robot."""

DEFAULT_CAMERA = "track"
"""Camera of Gymnasium's robots that follows them."""

ObservedPosition = Literal["nothing", "torso", "centre_of_mass"]
"""World position that can be added to the observation."""

POSITION_FIELDS: Mapping[ObservedPosition, tuple[str, ...]] = {
    "nothing": (),
    "torso": ("xpos",),
    "centre_of_mass": ("subtree_com",),
}
"""Derived field that holds the position, (num_sims, num_bodies, 3), at body ``ROOT_BODY``."""

_MAX_FRAME_SKIP = 100  # 1 s with most models; videos have at least one frame per second
_A_FRAME_SKIP = f"an integer from 1 to {_MAX_FRAME_SKIP} (MuJoCo steps per control step)"


def load_model(file: str | Path) -> mujoco.MjModel:
    """Compile a model file: an absolute path, or the name of one of Gymnasium's model files.

    Gymnasium's files set the total mass with a deprecated compiler attribute, and MuJoCo warns on
    stderr. ``mj_setTotalmass`` gives the same model, bit for bit.

    Raises:
        ValueError: if there is no such file, or it is not a valid model.
    """
    assets = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"
    path = assets / file  # an absolute ``file`` replaces ``assets``
    if not Path(file).is_absolute() and not path.exists():
        name = Path(file).name
        raise ValueError(
            f"{str(file)!r} is not a model file of Gymnasium; for a model of your own give an "
            f"absolute path, such as Path(__file__).with_name({name!r})"
        )
    if not path.exists():
        raise ValueError(f"there is no model file {path}")
    try:
        spec = mujoco.MjSpec.from_file(str(path))
        total_mass = spec.compiler.settotalmass
        spec.compiler.settotalmass = -1
        model = spec.compile()
    except ValueError as error:  # MuJoCo's messages have several lines, and do not name the file
        message = " ".join(str(error).split())
        raise ValueError(f"{path} is not a valid model; MuJoCo reports: {message}") from error
    if total_mass > 0:
        mujoco.mj_setTotalmass(model, total_mass)
        mujoco.mj_setConst(model, mujoco.MjData(model))
    return model


def check_camera(model: mujoco.MjModel, name: str, owner: str) -> None:
    """Check that a model has a camera; Gymnasium's renderer would use another one.

    Args:
        model: the model.
        name: of the camera.
        owner: of the camera, for the message.

    Raises:
        ValueError: if it does not; the message lists the model's cameras.
    """
    names = camera_names(model)
    if name not in names:
        raise ValueError(f"{owner} has no camera {name!r}; it has {', '.join(names) or 'none'}")


def camera_names(model: mujoco.MjModel) -> list[str]:
    """Names of the cameras of a model, without unnamed ones."""
    return [name for i in range(model.ncam) if (name := model.camera(i).name)]


def _is_frame_skip(value: Any) -> bool:
    is_integer = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    return is_integer and 1 <= value <= _MAX_FRAME_SKIP


@dataclass(frozen=True)
class MujocoRobot:
    """A MuJoCo model, its control step, and its cameras.

    Args:
        model_file: an absolute path, or the name of one of Gymnasium's model files.
        frame_skip: MuJoCo steps per control step.
        camera_name: camera of the model for rendering; ``None`` for ``free_camera``, which follows
            the robot. The default is ``track``, or ``free_camera`` if the model has no ``track``.
        free_camera: camera for rendering that is not part of the model.
        hidden_geoms: names of geoms that are not rendered.

    Raises:
        ValueError: if ``frame_skip`` is out of range.
    """

    model_file: str | Path
    frame_skip: int
    camera_name: str | None = DEFAULT_CAMERA
    free_camera: FreeCamera = field(default_factory=FreeCamera)
    hidden_geoms: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not _is_frame_skip(self.frame_skip):
            raise ValueError(f"frame_skip must be {_A_FRAME_SKIP}, got {self.frame_skip!r}")

    @functools.cached_property
    def model(self) -> mujoco.MjModel:
        """The compiled model; it is never modified.

        Raises:
            ValueError: if it cannot be loaded, or has no camera ``camera_name``.
        """
        model = load_model(self.model_file)
        if self.camera_name not in (None, DEFAULT_CAMERA):
            check_camera(model, self.camera_name, str(self.model_file))
        return model

    @functools.cached_property
    def parameters(self) -> Mapping[str, Parameter]:
        """Parameters that may differ between tasks, by name."""
        return with_changes(parameters(self.model), has_push=self._root_moves_along_x)

    @functools.cached_property
    def _root_moves_along_x(self) -> bool:
        """Whether the first position and velocity are those of the first body along x."""
        model = self.model
        if model.njnt == 0 or model.jnt_bodyid[0] != ROOT_BODY:
            return False
        if model.jnt_type[0] == mujoco.mjtJoint.mjJNT_FREE:
            return True
        data = mujoco.MjData(model)
        mujoco.mj_kinematics(model, data)
        is_slide = model.jnt_type[0] == mujoco.mjtJoint.mjJNT_SLIDE
        return bool(is_slide and np.allclose(data.xaxis[0], (1.0, 0.0, 0.0)))

    @functools.cached_property
    def dt(self) -> float:
        """Seconds per control step."""
        return self.model.opt.timestep * self.frame_skip

    @functools.cached_property
    def action_space(self) -> spaces.Box:
        """Control ranges of the actuators.

        Raises:
            ValueError: if there are no actuators, or one has no control range or several controls.
        """
        if self.model.nu == 0:
            raise ValueError(f"{self.model_file} has no actuators: add an <actuator> section")
        # MuJoCo before 4.0 lacks nactuator: there, every actuator has one control.
        if getattr(self.model, "nactuator", self.model.nu) != self.model.nu:
            raise ValueError(
                f"{self.model_file} has {self.model.nu} controls for {self.model.nactuator} "
                "actuators: each actuator must have one control"
            )
        unlimited = np.flatnonzero(np.logical_not(self.model.actuator_ctrllimited))
        if len(unlimited):
            raise ValueError(
                f"actuators {unlimited.tolist()} of {self.model_file} have no control range "
                f"(ctrlrange)"
            )
        low, high = self.model.actuator_ctrlrange.astype(np.float32).T
        return spaces.Box(low, high, dtype=np.float32)

    def noisy_start(
        self,
        rng: np.random.Generator,
        scale: float,
        velocities: Literal["normal", "uniform"],
        keyframe: str | None = None,
    ) -> dict[str, np.ndarray]:
        """The model's pose with noise: the initial state of Gymnasium's robots.

        Args:
            rng: source of the noise.
            scale: bound of the uniform noise on positions (m, rad), and bound (uniform) or standard
                deviation (normal) of the velocities (m/s, rad/s).
            velocities: distribution of the initial velocities.
            keyframe: name of a keyframe of the model, whose positions and velocities the noise is
                added to; default is the pose in the model file, at rest.

        Raises:
            ValueError: if there is no such distribution, or the model has no such keyframe; the
                message lists those that it has.
        """
        if velocities not in ("uniform", "normal"):
            raise ValueError(f"velocities must be uniform or normal, got {velocities!r}")
        model = self.model
        position, velocity = model.qpos0, np.zeros(model.nv)
        if keyframe is not None:
            index = self._keyframe(keyframe)
            position, velocity = model.key_qpos[index], model.key_qvel[index]
        position = position + rng.uniform(-scale, scale, model.nq)
        if velocities == "normal":
            return {"qpos": position, "qvel": velocity + scale * rng.standard_normal(model.nv)}
        return {"qpos": position, "qvel": velocity + rng.uniform(-scale, scale, model.nv)}

    def _keyframe(self, name: str) -> int:
        """Index of a keyframe."""
        names = [self.model.key(i).name for i in range(self.model.nkey)]
        if name not in names:
            valid = ", ".join(filter(None, names)) or "none"
            raise ValueError(f"{self.model_file} has no keyframe {name!r}; it has {valid}")
        return names.index(name)

    def forward_velocity(self, before: State, after: State) -> Array:
        """Mean velocity of the root along x over one control step, (num_sims,), in m/s.

        Args:
            before: state before the control step.
            after: state after it.

        Raises:
            ValueError: if the first position is not the root's x.
        """
        if not self._root_moves_along_x:
            raise ValueError(
                f"forward_velocity needs a root that moves along x: the first joint of the first "
                f"body in {self.model_file} must be a free joint, or a slide joint along +x"
            )
        return (after["qpos"][:, 0] - before["qpos"][:, 0]) / self.dt

    def batch_engine(
        self, num_sims: int, num_threads: int, derived: Sequence[str]
    ) -> MujocoBatchEngine:
        """Create an engine of many simulations on MuJoCo's thread pool.

        Args:
            num_sims: number of simulations.
            num_threads: threads of the simulator.
            derived: names of ``DERIVED_FIELDS`` to add to its state.

        Raises:
            ValueError: if a field is not a derived one.
        """
        _check_derived(derived)
        return MujocoBatchEngine(self.model, self.frame_skip, num_sims, num_threads, derived)

    def device_engine(
        self, num_sims: int, device: torch.device, derived: Sequence[str]
    ) -> DeviceEngine:
        """Create an engine of many simulations on MuJoCo Warp.

        Args:
            num_sims: number of simulations.
            device: device of torch: ``cuda``, or ``cpu`` for Warp's CPU backend.
            derived: names of ``DERIVED_FIELDS`` to add to its state.

        Raises:
            ValueError: if MuJoCo Warp is not installed, or a field is not a derived one.
        """
        _check_derived(derived)
        try:
            from maml_envs.engines.warp import WarpEngine
        except ModuleNotFoundError as error:
            if error.name not in ("mujoco_warp", "warp"):
                raise
            raise ValueError(
                "simulating robots on a device needs the packages mujoco-warp and warp-lang; "
                'install them by: pip install "maml-rl[gpu]"'
            ) from error
        return WarpEngine(self.model, self.frame_skip, num_sims, device, derived)

    def single_engine(
        self, derived: Sequence[str], render_mode: str | None, **render_options: Any
    ) -> MujocoSingleEngine:
        """Create an engine of one simulation, rendered by Gymnasium's renderer.

        Args:
            derived: names of ``DERIVED_FIELDS`` to add to its state.
            render_mode: render mode of Gymnasium's renderer.
            render_options: options of Gymnasium's renderer.

        Raises:
            ValueError: if the model has no camera ``camera_name`` of the options, or a field is not
                a derived one.
        """
        _check_derived(derived)
        has_camera = {"default_camera_config", "camera_id", "camera_name"} & set(render_options)
        if "camera_name" in render_options:
            check_camera(self.model, render_options["camera_name"], str(self.model_file))
        elif not has_camera and self.camera_name in camera_names(self.model):
            render_options = {"camera_name": self.camera_name, **render_options}
        return MujocoSingleEngine(
            self.model,
            self.frame_skip,
            derived,
            hidden_geoms=self.hidden_geoms,
            free_camera=self.free_camera,
            render_mode=render_mode,
            render_options=render_options,
        )


def _check_derived(derived: Sequence[str]) -> None:
    """Refuse fields that the engines do not compute alike, such as sensor data."""
    for name in derived:
        if name not in DERIVED_FIELDS:
            raise ValueError(f"derived_fields has {name!r}; valid are {', '.join(DERIVED_FIELDS)}")


@functools.cache
def _with_frame_skip(robot: MujocoRobot, frame_skip: int) -> MujocoRobot:
    """``robot`` with ``frame_skip``; cached, so that its model is compiled once."""
    return dataclasses.replace(robot, frame_skip=frame_skip)


def set_frame_skip(family: Any) -> None:
    """Apply the setting ``frame_skip`` of a family by replacing its ``robot``.

    Call it in ``__post_init__``, after ``check_settings``. Engines, rewards and videos read the
    control step from the robot, so the setting applies to all of them.

    Args:
        family: a frozen dataclass with a ``robot`` and a field ``frame_skip``: MuJoCo steps per
            control step, or ``None`` for the default of the robot.

    Raises:
        ValueError: if ``frame_skip`` is neither ``None`` nor an integer in range.
    """
    value = family.frame_skip
    if value is None:
        return
    if not _is_frame_skip(value):
        raise ValueError(
            f"frame_skip must be {_A_FRAME_SKIP}, or null for the robot's default, got {value!r}"
        )
    object.__setattr__(family, "robot", _with_frame_skip(family.robot, int(value)))
