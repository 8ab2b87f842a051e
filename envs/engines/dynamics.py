"""What a body can differ in from task to task: mass, friction, gravity, a broken actuator, delay, noise.

Every quantity is a task parameter that any MuJoCo family takes beside its own. The untouched model
is the start of
every task: values are factors on it or replace it, never changes to what another task left behind.

| parameter | meaning | unit | nominal |
| --- | --- | --- | --- |
| `body_mass` | factor on every mass, inertia scaled along | | 1 |
| `body_inertia` | further factor on every inertia | | 1 |
| `geom_friction` | factor on all friction coefficients, the floor's included | | 1 |
| `dof_damping` | factor on every joint's damping | | 1 |
| `actuator_gear` | factor on every actuator's gear | | 1 |
| `gravity` | magnitude | m/s² | the model's |
| `slope` | of the ground, uphill along +x: gravity tilts instead of the floor | rad | 0 |
| `disabled_actuator` | number of the actuator that exerts no force | | −1, none |
| `disabled_joint` | number of the actuator whose joint is blocked | | −1, none |
| `disabled_limb` | number of the limb whose actuators exert no force and whose geoms touch nothing | | −1, none |
| `action_delay` | control steps from a command to its effect | control steps | 0 |
| `observation_noise` | standard deviation of Gaussian noise on every observation entry | the entry's | 0 |

The five factors also exist for single elements, as in `body_mass/torso`; both factors multiply.
Limbs are the subtrees below the root body that hold an actuator, in the model's order: the four
legs of the ant, the two of the cheetah.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np

DynamicsSetting = Mapping[str, Any]
"""How the body varies between tasks: a distribution per parameter, see :func:`parse`."""

_BLOCKED_ARMATURE, _BLOCKED_RATE = (
    1e4,
    50.0,
)  # rotor inertia (kg m²) and damping rate (1/s) of a blocked joint

# A change of these, or of gravity, changes what MuJoCo derives from a model: inverse weights,
# subtree masses, ...
_CONSTANT_INPUTS = frozenset(mujoco.MjModel._setconst_inputs) | {"opt.gravity"}


@dataclass(frozen=True)
class Parameter:
    """One number that a task may hold."""

    unit: str
    low: float
    high: float
    nominal: float
    """Value of a task that does not name it."""
    is_whole: bool = False
    """Whether it counts or numbers something."""

    def accepts(self, value: Any) -> bool:
        """Whether ``value`` is one number in range."""
        try:
            array = np.asarray(value)
        except ValueError:  # lists of different lengths
            return False
        number = (
            array.shape == ()
            and array.dtype.kind in "iuf"
            and self.low <= float(array) <= self.high
        )
        return bool(number) and (not self.is_whole or float(array).is_integer())

    def __str__(self) -> str:
        """What is accepted, in words."""
        kind = "whole number" if self.is_whole else "number"
        return f"one {kind} in [{self.low:g}, {self.high:g}] {self.unit}".strip()


def _factor(low: float = 0.0) -> Parameter:
    return Parameter("", low, 1000.0, 1.0)


def parameters(model: mujoco.MjModel) -> dict[str, Parameter]:
    """Every task parameter that bodies of ``model`` have, by name."""
    found = {
        "body_mass": _factor(0.001),
        "body_inertia": _factor(0.001),
        "geom_friction": _factor(),
        "dof_damping": _factor(),
        "actuator_gear": _factor(),
        "gravity": Parameter("m/s²", 0.0, 1000.0, float(np.linalg.norm(model.opt.gravity))),
        "slope": Parameter("rad", -1.5, 1.5, 0.0),
        "disabled_actuator": Parameter("", -1, model.nu - 1, -1, is_whole=True),
        "disabled_joint": Parameter("", -1, model.nu - 1, -1, is_whole=True),
        "disabled_limb": Parameter("", -1, len(limbs(model)) - 1, -1, is_whole=True),
        "action_delay": Parameter("control steps", 0, 1000, 0, is_whole=True),
        "observation_noise": Parameter("", 0.0, 1000.0, 0.0),
    }
    if (driven_joints(model) < 0).any():
        del found["disabled_joint"]  # there is an actuator without one
    if not limbs(model):
        del found["disabled_limb"]
    for name in _ELEMENTS:
        found |= {f"{name}/{element}": found[name] for element in elements(model, name)}
    return found


def elements(model: mujoco.MjModel, quantity: str) -> dict[str, list[int]]:
    """The rows of a model field that each element of ``quantity`` stands for, by the element's name."""
    kind, rows = _ELEMENTS[quantity](model)
    return {getattr(model, kind)(i).name or str(i): where for i, where in rows}


def _bodies(model: mujoco.MjModel) -> tuple[str, list[tuple[int, list[int]]]]:
    return "body", [(i, [i]) for i in range(model.nbody) if model.body_mass[i] > 0]


def _geoms(model: mujoco.MjModel) -> tuple[str, list[tuple[int, list[int]]]]:
    return "geom", [(i, [i]) for i in range(model.ngeom)]


def _damped_joints(model: mujoco.MjModel) -> tuple[str, list[tuple[int, list[int]]]]:
    dofs = [
        (i, [int(dof) for dof in np.flatnonzero(model.dof_jntid == i)]) for i in range(model.njnt)
    ]
    return "joint", [(i, rows) for i, rows in dofs if model.dof_damping[rows].any()]


def _driven_joints(model: mujoco.MjModel) -> tuple[str, list[tuple[int, list[int]]]]:
    """Gymnasium's actuators have no names, so they go by the joint that they drive; one joint may have several."""
    driven = driven_joints(model)
    return "joint", [
        (int(joint), list(np.flatnonzero(driven == joint)))
        for joint in np.unique(driven[driven >= 0])
    ]


_ELEMENTS = {
    "body_mass": _bodies,
    "body_inertia": _bodies,
    "geom_friction": _geoms,
    "dof_damping": _damped_joints,
    "actuator_gear": _driven_joints,
}


def driven_joints(model: mujoco.MjModel) -> np.ndarray:
    """The joint that each actuator drives, (nu,), and −1 for those that pull at something else."""
    at_joint = model.actuator_trntype == mujoco.mjtTrn.mjTRN_JOINT
    return np.where(at_joint, model.actuator_trnid[:, 0], -1)


def _driven_bodies(model: mujoco.MjModel) -> np.ndarray:
    """The body that each actuator moves against its parent, (nu,), and −1 for those that pull at something else."""
    joint = driven_joints(model)
    return np.where(joint >= 0, model.jnt_bodyid[joint], -1)


def limbs(model: mujoco.MjModel) -> list[list[int]]:
    """Bodies of each limb: the subtrees right below the first moving body that an actuator moves."""
    driven = set(_driven_bodies(model))
    found = []
    for top in np.flatnonzero(model.body_parentid == 1):
        subtree = [int(top)]
        for body in range(int(top) + 1, model.nbody):  # parents come before their children
            if model.body_parentid[body] in subtree:
                subtree.append(body)
        if driven.intersection(subtree):
            found.append(subtree)
    return found


def model_fields(model: mujoco.MjModel, tasks: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Values of the model fields that ``tasks`` change, for each of n simulations.

    Args:
        model: the untouched model, which is only read.
        tasks: task parameters by name, each (n,); those that change no model field are passed over.

    Returns:
        Each changed field (``opt.gravity`` for one of MjOption), (n, ...).
    """
    fields: dict[str, np.ndarray] = {}
    num_sims = len(next(iter(tasks.values()))) if tasks else 0

    def field(name: str) -> np.ndarray:
        if name not in fields:
            fields[name] = np.repeat(model_field(model, name)[None], num_sims, axis=0)
        return fields[name]

    for name, values in tasks.items():
        quantity, _, element = name.partition("/")
        if quantity in _ELEMENTS:
            rows = elements(model, quantity)[element] if element else slice(None)
            for target in ("body_mass", "body_inertia") if quantity == "body_mass" else (quantity,):
                part = field(target)
                part[:, rows] *= values.reshape(-1, *[1] * (part.ndim - 1))
    if "gravity" in tasks or "slope" in tasks:
        gravity = field("opt.gravity")
        size = tasks.get("gravity", np.linalg.norm(gravity, axis=1))
        slope = tasks.get("slope", np.zeros(num_sims))
        gravity[:] = size[:, None] * np.stack(
            [-np.sin(slope), np.zeros(num_sims), -np.cos(slope)], axis=1
        )
    for i, number in _chosen(tasks, "disabled_actuator"):
        field("actuator_gear")[i, number] = 0
    for i, number in _chosen(tasks, "disabled_joint"):
        dofs = model.dof_jntid == driven_joints(model)[number]
        field("dof_armature")[i, dofs] = _BLOCKED_ARMATURE
        field("dof_damping")[i, dofs] = _BLOCKED_ARMATURE * _BLOCKED_RATE
    for i, number in _chosen(tasks, "disabled_limb"):
        limb = limbs(model)[number]
        field("actuator_gear")[i, np.isin(_driven_bodies(model), limb)] = 0
        for name in ("geom_contype", "geom_conaffinity"):
            field(name)[i, np.isin(model.geom_bodyid, limb)] = 0
    return fields


def disabled_geoms(model: mujoco.MjModel, tasks: Mapping[str, np.ndarray]) -> np.ndarray:
    """Which geoms belong to something that simulation 0 has disabled, (ngeom,) bool: what a dead actuator moves, ..."""
    moved = _driven_bodies(model)
    bodies = [
        moved[number]
        for name in ("disabled_actuator", "disabled_joint")
        for _, number in _chosen(tasks, name)
    ]
    bodies += [
        body for _, number in _chosen(tasks, "disabled_limb") for body in limbs(model)[number]
    ]
    return np.isin(model.geom_bodyid, bodies)


def _chosen(tasks: Mapping[str, np.ndarray], name: str) -> Iterator[tuple[int, int]]:
    """Simulations in which something is disabled, with its number."""
    values = tasks.get(name, np.zeros(0))
    return ((int(i), int(values[i])) for i in np.flatnonzero(values >= 0))


def needs_set_const(names: set[str]) -> bool:
    """Whether constants derived from the model depend on one of these fields."""
    return bool(_CONSTANT_INPUTS & names)


def model_field(model: mujoco.MjModel, name: str) -> np.ndarray:
    """A field of the model, or of its options where the name begins with ``opt.``, to read and to write."""
    return (
        getattr(model.opt, name.removeprefix("opt."))
        if name.startswith("opt.")
        else getattr(model, name)
    )


@dataclass(frozen=True)
class Distribution:
    """Where one task parameter is drawn from: a range or a list of choices."""

    low: float = 0.0
    high: float = 0.0
    is_log: bool = False
    """Whether the logarithm is uniform, rather than the value."""
    choices: tuple[float, ...] = ()

    def sample(self, rng: np.random.Generator, num_tasks: int) -> np.ndarray:
        """Draw values (num_tasks,) float64."""
        if self.choices:
            return np.asarray(self.choices, float)[rng.integers(len(self.choices), size=num_tasks)]
        if self.is_log:
            return np.exp(rng.uniform(math.log(self.low), math.log(self.high), num_tasks))
        return rng.uniform(self.low, self.high, num_tasks)


def parse(setting: DynamicsSetting, known: Mapping[str, Parameter]) -> dict[str, Distribution]:
    """The distribution of each parameter that ``setting`` names.

    A value is a number (fixed); two numbers (uniform between them) or, for what is counted or
    numbered, a list of choices; or a mapping with ``low``, ``high`` (of what is counted: all from
    low to high), and optionally ``log: true`` (log-uniform) and ``each: true`` (every element of
    the quantity draws a factor of its own). ``None`` leaves the quantity at its nominal value.

    Args:
        setting: by parameter name.
        known: the body's parameters.

    Returns:
        In the order of ``known``, so that draws do not depend on the order of ``setting``.

    Raises:
        ValueError: an unknown parameter (the closest match is named), or a distribution without
            meaning.
    """
    if not isinstance(setting, Mapping):
        raise ValueError(
            f"dynamics is a mapping such as {{'body_mass': [0.5, 2.0]}}, got {setting!r}"
        )
    found: dict[str, Distribution] = {}
    for name in setting:
        if name not in known:
            raise ValueError(f"unknown dynamics {name!r}.{_hint(str(name), known)}")
    for name in sorted(
        setting, key=lambda name: "/" in name
    ):  # what is said of one element goes over `each`
        found.pop(name, None)
        if setting[name] is not None:
            found |= _parse_one(name, setting[name], known)
    return {name: found[name] for name in known if name in found}


def _parse_one(name: str, value: Any, known: Mapping[str, Parameter]) -> dict[str, Distribution]:
    """The distribution that one entry of a setting describes, for every parameter that it is of."""
    parameter, is_log, each = known[name], False, False
    if isinstance(value, Mapping):
        if not {"low", "high"} <= value.keys() <= {"low", "high", "log", "each"}:
            raise ValueError(
                f"dynamics {name!r} is described by low, high (numbers), and optionally log and "
                f"each, got {value!r}"
            )
        is_log, each = value.get("log", False), value.get("each", False)
        if not isinstance(is_log, bool) or not isinstance(each, bool):
            raise ValueError(f"log and each of dynamics {name!r} are true or false, got {value!r}")
        numbers = [value["low"], value["high"]]
    else:
        is_list = isinstance(value, Sequence) and not isinstance(value, str) and len(value) > 0
        numbers = list(value) if is_list else [value]
    if not all(parameter.accepts(number) for number in numbers):
        raise ValueError(
            f"every value of dynamics {name!r} must be {parameter}, and a range a list of two, "
            f"got {value!r}"
        )
    numbers = [float(number) for number in numbers]
    is_range = isinstance(value, Mapping) or not parameter.is_whole
    if is_range and (len(numbers) > 2 or numbers[0] > numbers[-1]):
        expected = "a list of choices" if parameter.is_whole else "a number"
        raise ValueError(
            f"dynamics {name!r} must be {expected} or a range with low <= high, got {value!r}"
        )
    if is_log and (parameter.is_whole or numbers[0] == 0):
        expected = "takes choices, and no log" if parameter.is_whole else "needs low > 0 where log"
        raise ValueError(f"dynamics {name!r} {expected}, got {value!r}")
    names = [key for key in known if key.startswith(f"{name}/")] if each else [name]
    if not names:
        raise ValueError(
            f"dynamics {name!r} has no elements that could each have a value, got {value!r}"
        )
    distribution = Distribution(numbers[0], numbers[-1], is_log)
    if parameter.is_whole:
        choices = (
            range(int(numbers[0]), int(numbers[1]) + 1) if isinstance(value, Mapping) else numbers
        )
        distribution = Distribution(choices=tuple(float(choice) for choice in choices))
    return dict.fromkeys(names, distribution)


def _hint(name: str, known: Mapping[str, Parameter]) -> str:
    quantity = name.partition("/")[0]
    elements_of = [key for key in known if key.startswith(f"{quantity}/")] if "/" in name else []
    valid = elements_of or [key for key in known if "/" not in key]
    if not valid:
        return " This body has none."
    close = difflib.get_close_matches(name, known, n=1)
    return (f" Did you mean {close[0]!r}?" if close else "") + f" Valid are {', '.join(valid)}."
