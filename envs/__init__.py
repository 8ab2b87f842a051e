"""Task families of MuJoCo robots as Gymnasium environments.

Importing this package registers ``maml_rl/<Family>-v0`` for every family: ``gymnasium.make``
returns the single environment, ``gymnasium.make_vec`` the batch engine. With ``engine="warp"`` and
``device="cuda"``, ``make_vec`` returns simulations on a GPU, whose results are tensors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import gymnasium
from maml_envs.engines.engine import Task
from maml_envs.families.ant import AntDir, AntDir2D, AntGoal, AntVel, CrippledAnt
from maml_envs.families.half_cheetah import CrippledHalfCheetah, HalfCheetahDir, HalfCheetahVel
from maml_envs.families.hopper import HopperRandParams, HopperVel
from maml_envs.families.humanoid import HumanoidDir
from maml_envs.families.point_navigation import PointNavigation, PointNavigationSparse
from maml_envs.families.reacher import ReacherGoal
from maml_envs.families.swimmer import SwimmerVel
from maml_envs.families.walker2d import Walker2dDir, Walker2dRandParams, Walker2dVel
from maml_envs.family import TaskFamily, check_class
from maml_envs.gym.single_env import FamilyEnv
from maml_envs.gym.vector_env import FamilyVectorEnv

if TYPE_CHECKING:  # imported when an environment of a device is made: it needs torch
    from maml_envs.gym.device_env import DeviceVectorEnv

FAMILIES: dict[str, type[Any]] = {}
"""Every task family by name."""

_RENDER_OPTIONS = (
    "render_mode",
    "width",
    "height",
    "camera_id",
    "camera_name",
    "default_camera_config",
    "max_geom",
    "visual_options",
)
_BATCH_OPTIONS = ("max_episode_steps", "num_threads")
_DEVICE_OPTIONS = ("max_episode_steps", "device")
ENGINES = ("mujoco", "warp")
"""Engines of the vector environment; with ``warp``, results are tensors on a torch device."""


def env_id(family_name: str) -> str:
    """The registered id of a family."""
    return f"maml_rl/{family_name}-v0"


def _split(options: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Remove the options ``names`` from ``options`` and return them."""
    return {name: options.pop(name) for name in names if name in options}


def make_single_env(family: str, **options: Any) -> FamilyEnv:
    """Entry point of ``gymnasium.make``; takes rendering options and settings of the family."""
    render_options = _split(options, _RENDER_OPTIONS)
    return FamilyEnv(FAMILIES[family](**options), **render_options)


def make_vector_env(
    family: str, num_envs: int, engine: str = "mujoco", **options: Any
) -> FamilyVectorEnv | DeviceVectorEnv:
    """Entry point of ``gymnasium.make_vec``.

    Args:
        family: name of the family.
        num_envs: number of simulations.
        engine: one of ``ENGINES``. ``mujoco`` takes the option ``num_threads``, ``warp`` the option
            ``device``.
        options: of the vector environment, and settings of the family.

    Raises:
        ValueError: if the engine is unknown or cannot simulate the family.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}, got {engine!r}")
    if engine == "mujoco":
        batch_options = _split(options, _BATCH_OPTIONS)
        return FamilyVectorEnv(FAMILIES[family](**options), num_envs, **batch_options)
    from maml_envs.gym.device_env import DeviceVectorEnv

    device_options = _split(options, _DEVICE_OPTIONS)
    return DeviceVectorEnv(FAMILIES[family](**options), num_envs, **device_options)


_Family = TypeVar("_Family", bound=type[Any])


def register(family: _Family) -> _Family:
    """Register a task family under the name of its class; use it as a decorator.

    Args:
        family: a frozen dataclass that implements :class:`TaskFamily`; see docs/add_a_family.md.

    Raises:
        TypeError: if the class is not a task family; the message says what is missing.
        ValueError: if another family has the same name.
    """
    check_class(family)
    name = family.__name__
    if name in FAMILIES and FAMILIES[name].__module__ != family.__module__:
        raise ValueError(f"a task family {name} already exists, in {FAMILIES[name].__module__}")
    FAMILIES[name] = family
    gymnasium.register(
        id=env_id(name),
        entry_point="maml_envs:make_single_env",
        vector_entry_point="maml_envs:make_vector_env",
        max_episode_steps=family.max_episode_steps,
        kwargs={"family": name},
    )
    return family


for _family in (
    HalfCheetahVel,
    HalfCheetahDir,
    CrippledHalfCheetah,
    AntVel,
    AntDir,
    AntDir2D,
    AntGoal,
    CrippledAnt,
    Walker2dVel,
    Walker2dDir,
    Walker2dRandParams,
    HopperVel,
    HopperRandParams,
    HumanoidDir,
    SwimmerVel,
    ReacherGoal,
    PointNavigation,
    PointNavigationSparse,
):
    register(_family)

__all__ = [
    "ENGINES",
    "FAMILIES",
    "FamilyEnv",
    "FamilyVectorEnv",
    "Task",
    "TaskFamily",
    "env_id",
    "register",
]
