"""Dynamics of a MuJoCo model as task parameters: masses, friction, gravity, defects, delay, noise.

Every MuJoCo family accepts these parameters in addition to its own. They are always applied to the
untouched model, so a task does not depend on the previous one.

| parameter | meaning | unit | nominal |
| --- | --- | --- | --- |
| `body_mass` | factor on every mass; inertia scales with it | factor | 1 |
| `body_inertia` | additional factor on every inertia | factor | 1 |
| `geom_friction` | factor on all friction coefficients, including the floor's | factor | 1 |
| `dof_damping` | factor on every joint's damping, if all of it is linear | factor | 1 |
| `actuator_gear` | factor on every actuator's gear | factor | 1 |
| `actuator_strength` | factor on the force of every actuator, and on its limits | factor | 1 |
| `gravity` | magnitude; the direction is the model's | m/s² | the model's |
| `slope` | slope of the ground, uphill along +x; implemented by tilting gravity | rad | 0 |
| `disabled_actuator` | index of the actuator that exerts no force | | −1, none |
| `disabled_joint` | index of the actuator whose joint is blocked | | −1, none |
| `disabled_limb` | index of the limb that is a stump without actuator forces | | −1, none |
| `action_delay` | delay of actions | control steps | 0 |
| `observation_noise` | standard deviation of Gaussian noise on every entry | the entry's | 0 |

The factors also exist for single elements, such as `body_mass/torso`; this factor multiplies
the one for all elements. The friction of a `<pair>` and the limit of a tendon's force have only the
factor for all. All parameters can change within a task, see :mod:`maml_envs.engines.changes`.
Limbs are the subtrees below the root body that contain an actuator, in the model's order: the four
legs of the ant, the two of the half cheetah.

A disabled limb is a stump, as in the code of Nagabandi et al. (2019): the geoms of its moving
bodies are half as large, and all but those of the first one are at half their distance from the
body's origin. Meshes keep their size, and bodies their masses.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np

DynamicsSetting = Mapping[str, Any]
"""Dynamics that vary between tasks: a distribution per parameter (``parse_dynamics``)."""

FACTOR = "factor"
"""Unit of a parameter that multiplies a quantity of the model."""

_BLOCKED_ARMATURE = 1e4  # rotor inertia of a blocked joint (kg m²)
_BLOCKED_RATE = 50.0  # damping rate of a blocked joint (1/s)

# MuJoCo derives constants of the model (inverse weights, subtree masses, ...) from these fields.
_CONSTANT_INPUTS = frozenset(mujoco.MjModel._setconst_inputs) | {"opt.gravity"}


@dataclass(frozen=True)
class Parameter:
    """One number of a task, with its unit and range."""

    unit: str
    low: float
    high: float
    nominal: float
    """Value for a task that does not set it."""
    is_integer: bool = False

    def accepts(self, value: Any) -> bool:
        """Whether ``value`` is a single number in range."""
        try:
            array = np.asarray(value)
        except ValueError:  # lists of different lengths
            return False
        if array.shape != () or array.dtype.kind not in "iuf":
            return False
        number = float(array)
        is_in_range = self.low <= number <= self.high
        return is_in_range and (not self.is_integer or number.is_integer())

    def __str__(self) -> str:
        """Description of the accepted values, for messages."""
        kind = "integer" if self.is_integer else "number"
        unit = "" if self.unit == FACTOR else f" {self.unit}"
        return f"one {kind} in [{self.low:g}, {self.high:g}]{unit}".strip()


def _factor(low: float = 0.0) -> Parameter:
    return Parameter(FACTOR, low, 1000.0, 1.0)


def parameters(model: mujoco.MjModel) -> dict[str, Parameter]:
    """Every task parameter that ``model`` has, by name."""
    last_actuator = model.nu - 1
    last_limb = len(limbs(model)) - 1
    known = {
        "body_mass": _factor(0.001),
        "body_inertia": _factor(0.001),
        "geom_friction": _factor(),
        "dof_damping": _factor(),
        "actuator_gear": _factor(),
        "actuator_strength": _factor(),
        "gravity": Parameter("m/s²", 0.0, 1000.0, float(np.linalg.norm(model.opt.gravity))),
        "slope": Parameter("rad", -1.5, 1.5, 0.0),
        "disabled_actuator": Parameter("", -1, last_actuator, -1, is_integer=True),
        "disabled_joint": Parameter("", -1, last_actuator, -1, is_integer=True),
        "disabled_limb": Parameter("", -1, last_limb, -1, is_integer=True),
        "action_delay": Parameter("control steps", 0, 1000, 0, is_integer=True),
        "observation_noise": Parameter("", 0.0, 1000.0, 0.0),
    }
    if (driven_joints(model) < 0).any():
        del known["disabled_joint"]  # some actuator does not drive a joint
    if model.opt.gravity[:2].any():
        del known["slope"]  # the ground is not below
    if not _has_linear_actuators(model):
        del known["actuator_strength"]
    if np.any(getattr(model, "dof_dampingpoly", 0)):
        del known["dof_damping"]  # its terms in higher powers of the velocity
    if not limbs(model):
        del known["disabled_limb"]
    for name in _ELEMENTS:
        if name in known:
            known |= {f"{name}/{element}": known[name] for element in elements(model, name)}
    return known


def elements(model: mujoco.MjModel, quantity: str) -> dict[str, list[int]]:
    """Rows of the model field ``quantity`` for each element, by its name, or index if unnamed.

    Raises:
        ValueError: if a name is also the index of an unnamed element.
    """
    kind, rows_of = _ELEMENTS[quantity](model)
    result = {getattr(model, kind)(i).name or str(i): rows for i, rows in rows_of}
    if len(result) < len(rows_of):
        raise ValueError(
            f"a {kind} of the model has the index of an unnamed {kind} as its name: "
            f"use another name, or name each {kind}"
        )
    return result


_Elements = tuple[str, list[tuple[int, list[int]]]]
"""``"body"``, ``"geom"`` or ``"joint"``, and the (index, field rows) of each element."""


def _bodies(model: mujoco.MjModel) -> _Elements:
    return "body", [(i, [i]) for i in range(model.nbody) if model.body_mass[i] > 0]


def _geoms(model: mujoco.MjModel) -> _Elements:
    return "geom", [(i, [i]) for i in range(model.ngeom)]


def _damped_joints(model: mujoco.MjModel) -> _Elements:
    dofs = [(i, np.flatnonzero(model.dof_jntid == i).tolist()) for i in range(model.njnt)]
    return "joint", [(i, rows) for i, rows in dofs if model.dof_damping[rows].any()]


def _geared_joints(model: mujoco.MjModel) -> _Elements:
    """Actuators, named after the joint that they drive: Gymnasium's actuators have no names."""
    driven = driven_joints(model)
    joints = np.unique(driven[driven >= 0])
    return "joint", [(int(joint), list(np.flatnonzero(driven == joint))) for joint in joints]


_ELEMENTS = {
    "body_mass": _bodies,
    "body_inertia": _bodies,
    "geom_friction": _geoms,
    "dof_damping": _damped_joints,
    "actuator_gear": _geared_joints,
    "actuator_strength": _geared_joints,
}

_FIELDS = {
    # inertia scales with mass
    "body_mass": ("body_mass", "body_inertia"),
    # force = gain * control + bias, clipped to the range of forces
    "actuator_strength": ("actuator_gainprm", "actuator_biasprm", "actuator_forcerange"),
}
"""Model fields that a factor multiplies, unless it is one of the same name."""

_FIELDS_OF_ALL = {
    "geom_friction": "pair_friction",
    "actuator_strength": "tendon_actfrcrange",
}
"""A field without the same elements, which only the factor for all multiplies."""


def _has_linear_actuators(model: mujoco.MjModel) -> bool:
    """Whether the force is linear in the parameters of gain and bias, unlike that of a muscle."""
    gains, biases = mujoco.mjtGain, mujoco.mjtBias
    has_gains = np.isin(model.actuator_gaintype, [gains.mjGAIN_FIXED, gains.mjGAIN_AFFINE])
    has_biases = np.isin(model.actuator_biastype, [biases.mjBIAS_NONE, biases.mjBIAS_AFFINE])
    has_plugin = model.actuator_plugin >= 0  # it computes the force itself
    return bool((has_gains & has_biases & ~has_plugin).all())


def driven_joints(model: mujoco.MjModel) -> np.ndarray:
    """Joint that each actuator drives, (nu,); −1 for other transmissions."""
    transmissions = mujoco.mjtTrn.mjTRN_JOINT, mujoco.mjtTrn.mjTRN_JOINTINPARENT
    at_joint = np.isin(model.actuator_trntype, transmissions)
    return np.where(at_joint, model.actuator_trnid[:, 0], -1)


def _driven_bodies(model: mujoco.MjModel) -> np.ndarray:
    """Body whose joint each actuator drives, (nu,); −1 for other transmissions."""
    joint = driven_joints(model)
    return np.where(joint >= 0, model.jnt_bodyid[joint], -1)


def limbs(model: mujoco.MjModel) -> list[list[int]]:
    """Bodies of each limb: the subtrees directly below the root body that contain an actuator."""
    driven = set(_driven_bodies(model))
    result = []
    for top in np.flatnonzero(model.body_parentid == 1):
        subtree = [int(top)]
        for body in range(int(top) + 1, model.nbody):  # parents come before their children
            if model.body_parentid[body] in subtree:
                subtree.append(body)
        if driven.intersection(subtree):
            result.append(subtree)
    return result


def model_fields(model: mujoco.MjModel, tasks: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Values of the model fields that ``tasks`` change, for each of n simulations.

    Args:
        model: the untouched model; it is only read.
        tasks: task parameters by name, each (n,); those that change no model field are ignored.

    Returns:
        Each changed field (``opt.gravity`` for one of MjOption), (n, ...).
    """
    fields: dict[str, np.ndarray] = {}
    num_sims = len(next(iter(tasks.values()))) if tasks else 0

    def field(name: str) -> np.ndarray:
        """Array (num_sims, ...) of the field, initialised from the model at the first call."""
        if name not in fields:
            fields[name] = np.repeat(model_field(model, name)[None], num_sims, axis=0)
        return fields[name]

    def multiply(name: str, rows: Any, values: np.ndarray) -> None:
        """Multiply rows of a field by a factor for each simulation."""
        part = field(name)
        part[:, rows] *= values.reshape(-1, *[1] * (part.ndim - 1))

    # factors on all elements or on one
    for name, values in tasks.items():
        quantity, _, element = name.partition("/")
        if quantity not in _ELEMENTS:
            continue
        rows = elements(model, quantity)[element] if element else slice(None)
        for target in _FIELDS.get(quantity, (quantity,)):
            multiply(target, rows, values)
        others = _FIELDS_OF_ALL.get(quantity)
        if others is not None and not element and model_field(model, others).size:
            multiply(others, slice(None), values)
        if quantity == "actuator_strength" and model.jnt_actfrclimited.any():
            joints = np.unique(driven_joints(model)[rows]) if element else slice(None)
            multiply("jnt_actfrcrange", joints, values)
    if "gravity" in tasks or "slope" in tasks:
        fields["opt.gravity"] = _gravity(model, tasks, num_sims)
    # defects
    for i, index in _disabled(tasks, "disabled_actuator"):
        field("actuator_gear")[i, index] = 0
        if model.actuator_trntype[index] == mujoco.mjtTrn.mjTRN_BODY:  # adhesion has no gear
            field("actuator_gainprm")[i, index] = 0
    for i, index in _disabled(tasks, "disabled_joint"):
        dofs = model.dof_jntid == driven_joints(model)[index]
        field("dof_armature")[i, dofs] = _BLOCKED_ARMATURE
        field("dof_damping")[i, dofs] = _BLOCKED_ARMATURE * _BLOCKED_RATE
    for i, index in _disabled(tasks, "disabled_limb"):
        limb, driven = limbs(model)[index], _driven_bodies(model)
        actuators = np.isin(driven, limb)
        field("actuator_gear")[i, actuators] = 0
        first = driven[actuators].min()
        lower = [body for body in limb if body > first]
        shrinks = model.geom_type != mujoco.mjtGeom.mjGEOM_MESH  # its shape has no size
        field("geom_size")[i, shrinks & np.isin(model.geom_bodyid, [first, *lower])] /= 2
        field("geom_pos")[i, shrinks & np.isin(model.geom_bodyid, lower)] /= 2
    return fields


def _gravity(model: mujoco.MjModel, tasks: Mapping[str, np.ndarray], num_sims: int) -> np.ndarray:
    """Gravity of each simulation, tilted by its slope, (num_sims, 3)."""
    nominal = np.linalg.norm(model.opt.gravity)
    x, y, z = model.opt.gravity / nominal if nominal > 0 else (0.0, 0.0, -1.0)
    magnitude = tasks.get("gravity", np.full(num_sims, nominal))
    slope = tasks.get("slope", np.zeros(num_sims))  # a model with x or y has none
    direction = np.stack([x + z * np.sin(slope), np.full(num_sims, y), z * np.cos(slope)], axis=1)
    return magnitude[:, None] * direction


def disabled_geoms(model: mujoco.MjModel, tasks: Mapping[str, np.ndarray]) -> np.ndarray:
    """Which geoms belong to a disabled actuator, joint or limb of one task, (ngeom,) bool."""
    driven = _driven_bodies(model)
    bodies: list[int] = []
    for name in ("disabled_actuator", "disabled_joint"):
        bodies += [driven[index] for _, index in _disabled(tasks, name)]
    for _, index in _disabled(tasks, "disabled_limb"):
        bodies += limbs(model)[index]
    return np.isin(model.geom_bodyid, bodies)


def _disabled(tasks: Mapping[str, np.ndarray], name: str) -> Iterator[tuple[int, int]]:
    """(simulation, index of the disabled actuator, joint or limb), where one is disabled."""
    values = tasks.get(name, np.zeros(0))
    return ((int(i), int(values[i])) for i in np.flatnonzero(values >= 0))


def needs_set_const(names: set[str]) -> bool:
    """Whether MuJoCo derives constants of the model from one of these fields."""
    return bool(_CONSTANT_INPUTS & names)


def fields_to_set(
    model: mujoco.MjModel, tasks: Mapping[str, np.ndarray], varied: Collection[str]
) -> dict[str, np.ndarray]:
    """Values of the model fields that ``tasks`` change, and of those that earlier ones changed.

    Args:
        model: the untouched model; it is only read.
        tasks: as for :func:`model_fields`.
        varied: fields that earlier tasks changed; they get the model's own values.

    Returns:
        Each field, (n, ...) or (1, ...).
    """
    own = {name: model_field(model, name)[None] for name in varied}
    return own | model_fields(model, tasks)


def model_field(model: mujoco.MjModel, name: str) -> np.ndarray:
    """A writable field of the model, or of its options if the name begins with ``opt.``."""
    if name.startswith("opt."):
        return getattr(model.opt, name.removeprefix("opt."))
    return getattr(model, name)
