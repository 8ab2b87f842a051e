"""The engine that simulates a training run: MuJoCo on a CPU, or MuJoCo Warp on a GPU."""

from __future__ import annotations

import dataclasses
import importlib.util

from maml_rl.errors import UserError
from maml_rl.settings.config import Config
from maml_rl.settings.env import is_family
from maml_rl.settings.families import dynamics_change, is_built_in
from maml_rl.settings.learners import episodes_per_stage

FEWEST_SIMULATIONS = 8192
"""Simulations of one process from which ``auto`` simulates on a GPU. On an H100, this many were ten
times as fast as on 16 CPU cores; a tenth of them were only twice as fast, and compiling the kernels
takes a minute (docs/gpu.md)."""


def with_engine(config: Config, on_gpu: bool, num_processes: int) -> Config:
    """Return settings of a new run whose engine is ``warp`` if that is what ``auto`` chooses.

    In what is returned, and in the config.yaml of a run, ``auto`` means ``mujoco``.

    Args:
        config: settings of a new run.
        on_gpu: whether the policy is on a GPU.
        num_processes: processes that share the tasks.

    Raises:
        UserError: if the engine ``warp`` is set and cannot be used.
    """
    if config.engine == "auto":
        is_warp = _is_worthwhile(config, on_gpu, num_processes) and _can_be_used(config)
        return dataclasses.replace(config, engine="warp") if is_warp else config
    if config.engine == "warp":
        _refuse_warp(config)
    return config


def _is_worthwhile(config: Config, on_gpu: bool, num_processes: int) -> bool:
    num_episodes = episodes_per_stage(config.learner, config.num_episodes)
    num_sims = config.meta_batch_size * num_episodes // num_processes
    return on_gpu and num_sims >= FEWEST_SIMULATIONS


def _can_be_used(config: Config) -> bool:
    is_supported = config.learner.ON_DEVICE and is_built_in(config.env.name)
    return is_supported and not dynamics_change(config.env) and warp_is_installed()


def warp_is_installed() -> bool:
    """Whether the packages that simulate MuJoCo's robots on a GPU are installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("warp", "mujoco_warp"))


def _refuse_warp(config: Config) -> None:
    """Refuse an environment or a learner that cannot be used with the engine ``warp``.

    Raises:
        UserError: if it cannot be used. An environment that is refused only when it is made, as
            without the package, is not refused here.
    """
    if not is_family(config.env.name):
        raise UserError(
            f"engine warp simulates task families only, got the environment {config.env.name!r}: "
            "use --engine mujoco"
        )
    if not config.learner.ON_DEVICE:
        raise UserError(
            f"engine warp needs a learner whose actors define act_on_tensors (ON_DEVICE of its "
            f"settings is true), got {config.learner.name!r}: use --engine mujoco"
        )
