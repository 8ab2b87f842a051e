"""Robots simulated by MuJoCo Warp: many at once, on a GPU or on Warp's CPU backend, in float32.

State, controls and model fields are torch tensors that share the simulator's memory. A control step
is one captured graph, and the host does not wait for the device in it.

What differs from MuJoCo in C, besides float32:

- The solver PGS does not exist; models that ask for it use Newton.
- Contact frames of a plane and a nearly perpendicular capsule are not aligned with the capsule;
  ``align_contacts`` aligns them, since the friction pyramid depends on it.
- Memory for contacts and constraints is allocated in advance. A simulation that needs more fails,
  and the memory is doubled at the next reset.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import mujoco
import mujoco_warp as mjw
import numpy as np
import torch
import warp as wp
from maml_envs.engines.dynamics import fields_to_set, needs_set_const
from maml_envs.engines.engine import Tasks
from maml_envs.engines.warp_kernels import (
    CONSTRAINT_BITS,
    CONTACT_BITS,
    align_contacts,
    note_failures,
)
from torch import Tensor

wp.config.log_level = wp.LOG_WARNING  # no banner, no line per compiled kernel
wp.init()

_LOGGER = logging.getLogger(__name__)

_STATE_FIELDS = ("qpos", "qvel")

# Fields that tasks change (see model_fields), and fields that set_const computes from them.
_VARIED = (
    "body_mass",
    "body_inertia",
    "geom_friction",
    "pair_friction",
    "geom_size",
    "geom_pos",
    "dof_armature",
    "dof_damping",
    "actuator_gear",
    "actuator_gainprm",
    "actuator_biasprm",
    "actuator_forcerange",
    "jnt_actfrcrange",
    "tendon_actfrcrange",
)
_CONSTANTS = (
    "body_subtreemass",
    "body_invweight0",
    "dof_invweight0",
    "tendon_invweight0",
    "actuator_acc0",
    "geom_aabb",
    "geom_rbound",
)


class Sizes(NamedTuple):
    """Memory per simulation."""

    contacts: int
    """Contacts, and pairs of geoms that may touch; all simulations share this memory."""
    constraints: int
    """Rows of constraints."""


def measured_sizes(model: mujoco.MjModel) -> Sizes:
    """Return four times the most contacts and constraints of random actions, at least 16.

    Random actions make every robot of this package fall, with more contacts than walking has.
    """
    data = mujoco.MjData(model)
    low, high = model.actuator_ctrlrange.T
    rng = np.random.default_rng(0)
    most = np.zeros(2, int)
    for i in range(1000):
        if i % 10 == 0:
            data.ctrl[:] = rng.uniform(low, high)
        mujoco.mj_step(model, data)
        most = np.maximum(most, (data.ncon, data.nefc))
    contacts, constraints = np.maximum(4 * most, 16).tolist()
    return Sizes(contacts, constraints)


class WarpEngine:
    """``num_sims`` simulations on a device; implements ``DeviceEngine``.

    Args:
        model: the robot to simulate; it is only read.
        frame_skip: MuJoCo steps per control step.
        num_sims: number of simulations.
        device: a CUDA device, or the CPU.
        derived: names of ``maml_envs.engines.mujoco.DERIVED_FIELDS`` to add to ``state``.
        sizes: initial memory per simulation; ``None`` to measure it.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        frame_skip: int,
        num_sims: int,
        device: torch.device | str,
        derived: Sequence[str] = (),
        sizes: Sizes | None = None,
    ) -> None:
        self.num_sims = num_sims
        self._nominal = _with_supported_solver(model)
        self._frame_skip = frame_skip
        self._derived = tuple(derived)
        self._varied: set[str] = set()
        self.sizes = measured_sizes(model) if sizes is None else sizes
        self._device = wp.device_from_torch(str(device))  # as text, "cuda" needs no index
        self.device = torch.device(wp.device_to_torch(self._device))
        with wp.ScopedDevice(self._device):
            self._model, self._fields = self._put_model()
            self._data = self._make_data()
        # state: views of the data, kept when the memory grows
        self._kept = (*_STATE_FIELDS, *self._derived, "ctrl", "act", "qacc_warmstart")
        self.state: Mapping[str, Tensor] = {
            name: self._view(name) for name in (*_STATE_FIELDS, *self._derived)
        }
        self._control = wp.to_torch(self._data.ctrl)
        self.failure = torch.zeros(num_sims, dtype=torch.int8, device=self.device)
        self._memory_overflow = torch.zeros(1, dtype=torch.int32, device=self.device)
        self._is_reset = torch.zeros(num_sims, dtype=torch.bool, device=self.device)
        self._capture()

    def _put_model(self) -> tuple[Any, dict[str, Tensor]]:
        """Return the model on the device, and views of the fields that may differ, by name."""
        nominal = self._nominal
        batched = [name for name in (*_VARIED, *_CONSTANTS) if getattr(nominal, name).size]
        model = mjw.put_model(nominal, batch_sizes=dict.fromkeys(batched, self.num_sims))
        # options are not in batch_sizes
        gravity = np.tile(nominal.opt.gravity, (self.num_sims, 1))
        model.opt.gravity = wp.array(gravity, dtype=wp.vec3)
        model.opt.warn_overflow = 0  # failure shows it
        model.opt.graph_conditional = self._device.is_cpu or wp.is_conditional_graph_supported()
        model.callback.contactfilter = self._align_contacts
        fields = {name: wp.to_torch(getattr(model, name)) for name in batched if name in _VARIED}
        fields["opt.gravity"] = wp.to_torch(model.opt.gravity)
        return model, fields

    def _make_data(self) -> Any:
        """Allocate data of the present sizes."""
        return mjw.make_data(
            self._nominal,
            nworld=self.num_sims,
            nconmax=self.sizes.contacts,
            njmax=self.sizes.constraints,
        )

    def _view(self, name: str) -> Tensor:
        """The data of a state field, (num_sims, ...), in the shape that MuJoCo in C has."""
        tensor = wp.to_torch(getattr(self._data, name))
        is_matrices = name == "xmat"
        return tensor.view(*tensor.shape[:2], 9) if is_matrices else tensor

    def _capture(self) -> None:
        """Record the graphs of a control step and of a reset; later launches repeat them."""
        wp.synchronize_device(self._device)  # from here on, work is in torch's stream
        self._step_graph = self._captured(self._control_step)
        self._reset_graph = self._captured(self._forward)

    def _captured(self, work: Callable[[], None]) -> wp.Graph:
        with wp.ScopedDevice(self._device), wp.ScopedCapture() as capture:
            work()
        return capture.graph

    def _control_step(self) -> None:
        """Launch ``frame_skip`` MuJoCo steps, the check for failures, and the derived fields."""
        for _ in range(self._frame_skip):
            mjw.step(self._model, self._data)
        data = self._data
        wp.launch(
            note_failures,
            dim=self.num_sims,
            inputs=[self._model.qpos0, data.ctrl, data.overflow],
            outputs=[
                data.qpos,
                data.qvel,
                data.act,
                data.qacc_warmstart,
                wp.from_torch(self.failure),
                wp.from_torch(self._memory_overflow),
            ],
        )
        self._forces()
        self._derive()

    def _forward(self) -> None:
        """Launch the forward dynamics, which derived fields need after a reset."""
        mjw.forward(self._model, self._data)
        self._forces()

    def _forces(self) -> None:
        """Launch the computation of the external forces of the last MuJoCo step."""
        if "cfrc_ext" in self._derived:
            mjw.rne_postconstraint(self._model, self._data)

    def _derive(self) -> None:
        """Launch the computation of the derived positions and velocities."""
        if self._derived:
            mjw.kinematics(self._model, self._data)
            mjw.com_pos(self._model, self._data)
            mjw.com_vel(self._model, self._data)

    def _align_contacts(self, model: Any, data: Any) -> None:
        """Launch ``align_contacts``; MuJoCo Warp calls this after collision detection."""
        wp.launch(
            align_contacts,
            dim=data.naconmax,
            inputs=[
                model.geom_type,
                data.geom_xmat,
                data.contact.geom,
                data.contact.worldid,
                data.nacon,
            ],
            outputs=[data.contact.frame],
        )

    def _launch(self, graph: wp.Graph) -> None:
        """Launch a graph in torch's stream."""
        wp.capture_launch(graph, stream=self._stream())

    def _stream(self) -> wp.Stream | None:
        """Torch's current stream; ``None`` on the CPU."""
        return wp.stream_from_torch(self.device) if self._device.is_cuda else None

    @contextmanager
    def _torch_stream(self) -> Iterator[None]:
        """Context in which Warp launches in torch's stream."""
        with wp.ScopedDevice(self._device), wp.ScopedStream(self._stream()):
            yield

    def set_dynamics(self, dynamics: Tasks) -> None:
        """Set the model fields of all simulations, starting from the untouched model.

        The derived fields are computed again with the new dynamics.
        """
        fields = fields_to_set(self._nominal, dynamics, self._varied)
        for name, values in fields.items():
            tensor = self._fields[name]
            # in place: the graphs read this memory
            tensor[:] = torch.as_tensor(values, dtype=tensor.dtype, device=self.device)
        self._varied |= fields.keys()
        with self._torch_stream():
            if needs_set_const(self._varied):
                mjw.set_const(self._model, self._data)
            self._derive()

    def reset(self, is_reset: Tensor, initial: Mapping[str, Tensor]) -> None:
        """Reset simulations to ``initial``, and compute their derived fields.

        Args:
            is_reset: (num_sims,) bool; the state of the others stays, bit for bit.
            initial: state fields, each (num_sims, ...); rows outside ``is_reset`` are ignored.
        """
        self._grow()
        # clear all but the state
        self._is_reset.copy_(is_reset)
        with self._torch_stream():
            mjw.reset_data(self._model, self._data, reset=wp.from_torch(self._is_reset))
        self.failure.masked_fill_(self._is_reset, 0)
        # initial state
        for name, values in initial.items():
            tensor = self.state[name]
            tensor.copy_(torch.where(self._rows(tensor), values, tensor))
        # derived fields: of all simulations, then restored where nothing was reset
        if self._derived:
            before = {name: self.state[name].clone() for name in self._derived}
            self._launch(self._reset_graph)
            for name, values in before.items():
                tensor = self.state[name]
                tensor.copy_(torch.where(self._rows(tensor), tensor, values))

    def _rows(self, tensor: Tensor) -> Tensor:
        """The mask of the reset with as many axes as ``tensor``."""
        return self._is_reset.view(-1, *[1] * (tensor.ndim - 1))

    def step(self, action: Tensor) -> None:
        """Advance all simulations by one control step, and update ``state`` and ``failure``.

        Args:
            action: (num_sims, action_size), in actuator units, on the device.
        """
        self._control.copy_(action)
        self._launch(self._step_graph)

    def _grow(self) -> None:
        """Double the memory for contacts or constraints if a simulation needed more.

        Besides :meth:`set_dynamics`, this is the only place where the host waits for the device.
        """
        bits = int(self._memory_overflow.item())
        if bits == 0:
            return
        contacts, constraints = self.sizes
        if bits & CONTACT_BITS:
            contacts *= 2
        if bits & CONSTRAINT_BITS:
            constraints *= 2
        _LOGGER.warning(
            "simulations had more contacts or constraints than there was memory for; memory per "
            "simulation grows from %d contacts and %d constraints to %d and %d",
            *self.sizes,
            contacts,
            constraints,
        )
        self.sizes = Sizes(contacts, constraints)
        self._memory_overflow.zero_()
        with wp.ScopedDevice(self._device):
            data = self._make_data()
        for name in self._kept:
            setattr(data, name, getattr(self._data, name))
        self._data = data
        self._capture()

    def close(self) -> None:
        """Free the graphs and the memory."""
        self.state = {}
        self._fields = {}
        del self._step_graph, self._reset_graph, self._control, self._data, self._model


def _with_supported_solver(model: mujoco.MjModel) -> mujoco.MjModel:
    """A copy of ``model`` with the solver Newton if it asks for PGS, which Warp lacks."""
    result = copy.copy(model)
    if result.opt.solver == mujoco.mjtSolver.mjSOL_PGS:
        result.opt.solver = mujoco.mjtSolver.mjSOL_NEWTON
    return result
