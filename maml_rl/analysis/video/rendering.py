"""Environments that render, and their frames."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any

import numpy as np

from maml_rl.errors import UserError, errors_named
from maml_rl.sampling.environments import make_single_env
from maml_rl.sampling.single_env import TaskSetter, takes_episode
from maml_rl.settings.env import EnvConfig, is_family

FREE_CAMERA = "free"
"""Name of a camera that is not part of the model: from above, at an angle."""
_ROUNDING = 1e-3
"""Tolerance for floating-point pixels outside their range."""


def _choose_headless_backend(env_name: str) -> None:
    """Let MuJoCo render through EGL on Linux without a screen, unless MUJOCO_GL is set.

    Task families look for a working backend themselves.
    """
    if is_family(env_name) or os.environ.get("MUJOCO_GL"):
        return
    has_screen = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if sys.platform == "linux" and not has_screen:
        os.environ["MUJOCO_GL"] = "egl"


def make_rendering_env(
    config: EnvConfig,
    horizon: int | None = None,
    camera: str | None = None,
    size: tuple[int, int] | None = None,
) -> TaskSetter:
    """Make a single environment that renders, and render it once.

    Args:
        config: the environment.
        horizon: control steps after which episodes are truncated; default is the environment's own.
        camera: a camera of the model by name, or ``"free"``; default is the environment's own.
        size: width and height of a frame in pixels; default is the environment's own.

    Raises:
        UserError: if it cannot render here, or not with this camera and size.
    """
    _choose_headless_backend(config.name)
    options: dict[str, Any] = {} if size is None else {"width": size[0], "height": size[1]}
    with errors_named(f"environment {config.name!r} cannot render here:"):
        # Find out what it can render.
        plain = make_single_env(config, horizon)
        modes = plain.metadata.get("render_modes", [])
        model = getattr(plain.unwrapped, "model", None)
        plain.close()
        if camera is not None:
            options |= _camera_options(config.name, model, camera)
        if "rgb_array" not in modes:
            raise UserError(
                f'environment {config.name!r} does not render frames: metadata["render_modes"] of '
                f"its class is {', '.join(modes) or 'empty'}, expected rgb_array; list there what "
                "its render returns"
            )
        # Render a frame; a reset may need a task.
        with contextlib.ExitStack() as stack:
            try:
                env = make_single_env(config, horizon, render_mode="rgb_array", **options)
            except UserError as error:
                if size is None or is_family(config.name):
                    raise
                raise UserError(
                    f"environment {config.name!r} cannot be made with width and height: leave out "
                    "the size"
                ) from error
            stack.callback(env.close)
            (env.assigned_task,) = env.draw_tasks(np.random.default_rng(0), 1)
            env.reset(seed=0, options={"episode": 0} if takes_episode(env) else None)
            rendered_frame(env)
            stack.pop_all()  # it works: leave it open
    return env


def rendered_frame(env: TaskSetter) -> np.ndarray:
    """Render the environment's state, (height, width, 3) uint8.

    Raises:
        UserError: if it cannot render, or does not return a frame.
    """
    problem = f"environment {env.name!r} cannot render here:"
    with errors_named(problem):
        rendered = env.render()
    try:
        return rgb_pixels(rendered)
    except UserError as error:
        raise UserError(f"{problem} {error}") from error


def _camera_options(name: str, model: Any, camera: str) -> dict[str, Any]:
    """Return the arguments of a MuJoCo environment that select a camera.

    Raises:
        UserError: if the environment does not have this camera.
    """
    if not hasattr(model, "ncam"):
        raise UserError(f"environment {name!r} has no cameras to choose from, got {camera!r}")
    names = [model.camera(i).name for i in range(model.ncam) if model.camera(i).name]
    if camera == FREE_CAMERA:
        return {"camera_id": -1}
    if camera not in names:
        raise UserError(
            f"{name} has no camera {camera!r}; valid are {', '.join([*names, FREE_CAMERA])}"
        )
    return {"camera_name": camera}


def rendering_problem(config: EnvConfig) -> str | None:
    """Return why this environment cannot be rendered here, or ``None``."""
    try:
        make_rendering_env(config).close()
    except UserError as error:
        return str(error)
    return None


def rgb_pixels(rendered: Any) -> np.ndarray:
    """Convert what an environment's ``render`` returned to RGB, (height, width, 3) uint8.

    Args:
        rendered: (height, width), or with a last axis of 1, 3 or 4; the fourth channel (opacity) is
            ignored. Integers from 0 to 255, booleans, or floats from 0 to 1, or from 0 to 255 if
            one is above 1. Of a list of frames, the last one is used.

    Raises:
        UserError: if it is something else.
    """
    # Check shape, type and range.
    if isinstance(rendered, (list, tuple)) and rendered and isinstance(rendered[-1], np.ndarray):
        rendered = rendered[-1]
    frame = np.asarray(rendered)
    expected = "expected an array (height, width), or (height, width, 1, 3 or 4)"
    has_channels = frame.ndim == 3 and frame.shape[2] in (1, 3, 4)
    if not (frame.size and (frame.ndim == 2 or has_channels)):
        is_array = isinstance(rendered, np.ndarray)
        got = f"an array of shape {frame.shape}" if is_array else f"{rendered!r:.100}"
        raise UserError(f"render returned {got}; {expected}")
    if frame.dtype.kind not in "biuf":
        kinds = "integers, booleans or floats"
        raise UserError(f"render returned an array of {frame.dtype}; expected {kinds}")
    low, high = float(frame.min()), float(frame.max())
    if not (low >= -_ROUNDING and high <= 255 + _ROUNDING):  # NaN is neither
        got = f"values from {low:g} to {high:g}"
        raise UserError(f"render returned {got}; expected 0 to 255, or 0 to 1")
    # Convert.
    if frame.dtype.kind == "b" or (frame.dtype.kind == "f" and high <= 1 + _ROUNDING):
        frame = frame * 255.0
    frame = np.atleast_3d(frame)[..., :3]
    if frame.dtype != np.uint8:
        frame = np.clip(np.round(frame), 0, 255).astype(np.uint8)
    return np.repeat(frame, 3, axis=2) if frame.shape[2] == 1 else frame
