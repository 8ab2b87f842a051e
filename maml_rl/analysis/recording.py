"""Videos of a policy before and after adaptation: tasks as rows, adaptation steps as columns."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from maml_rl.agents.agent import MetaPolicy
from maml_rl.analysis.video_grid import (
    Clip,
    Frame,
    Grid,
    picture_of,
    playable_fps,
    steps_shown,
    whole_file,
)
from maml_rl.errors import UserError, in_one_line
from maml_rl.sampling.environments import make_single_env
from maml_rl.sampling.single_env import TaskSetter
from maml_rl.settings.drawn_tasks import Task
from maml_rl.settings.env import EnvConfig, resolve_env_id
from maml_rl.settings.ranges import check_integers
from maml_rl.system.random_streams import Phase, RandomStreams
from maml_rl.system.torch_runtime import standard_torch
from maml_rl.system.user_paths import user_path

FREE_CAMERA = "free"
"""Stands for the camera that belongs to no model: from above, at an angle."""

SMALLEST_SIDE, LARGEST_SIDE = 128, 2048
"""Pixels of a panel: what its captions need, and what a picture can be drawn in."""

_DEFAULT_FPS = 20
_OUR_FAMILIES = "maml_rl/"


def _use_headless_renderer(env_id: str) -> None:
    """On Linux without a screen, let MuJoCo draw through EGL, unless MUJOCO_GL says otherwise.

    Our families find out by themselves what works here.
    """
    screen = (
        sys.platform != "linux" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )
    if not (screen or env_id.startswith(_OUR_FAMILIES) or os.environ.get("MUJOCO_GL")):
        os.environ["MUJOCO_GL"] = "egl"


def make_rendering_env(
    config: EnvConfig,
    horizon: int | None = None,
    camera: str | None = None,
    size: tuple[int, int] | None = None,
) -> TaskSetter:
    """The single environment with pictures, which has drawn one already.

    Args:
        config: the environment.
        horizon: where episodes are truncated; default is the environment's own.
        camera: a camera of the model by name, or ``"free"``; default is the environment's own.
        size: width and height of a picture in pixels; default is the environment's own.

    Raises:
        UserError: it cannot draw here, or not like that.
    """
    env_id = resolve_env_id(config.name)
    _use_headless_renderer(env_id)
    picture: dict[str, Any] = {} if size is None else {"width": size[0], "height": size[1]}
    try:
        plain = make_single_env(config, horizon)
        modes, model = (
            plain.metadata.get("render_modes", []),
            getattr(plain.unwrapped, "model", None),
        )
        plain.close()
        if camera is not None:
            picture |= _camera_options(config.name, model, camera)
        draws = "rgb_array" in modes
        env = (
            make_single_env(config, horizon, render_mode="rgb_array", **picture) if draws else None
        )
        if env is not None:
            (env.assigned_task,) = env.draw_tasks(
                np.random.default_rng(0), 1
            )  # a reset may need one
            env.reset(seed=0)
            _picture(env)
    except (UserError, MemoryError):
        raise
    except Exception as error:  # constructors and OpenGL's loaders fail in many ways
        raise UserError(
            f"environment {config.name!r} cannot draw here: {in_one_line(error)}"
        ) from error
    if env is None:
        raise UserError(f"environment {config.name!r} draws no rgb_array frames")
    return env


def _picture(env: TaskSetter) -> np.ndarray:
    """The environment as it is now, (height, width, 3) uint8.

    Raises:
        UserError: it cannot draw, or what it returns is no picture.
    """
    try:
        return picture_of(env.render())
    except MemoryError:
        raise
    except Exception as error:
        raise UserError(
            f"environment {env.name!r} cannot draw here: {in_one_line(error)}"
        ) from error


def _camera_options(name: str, model: Any, camera: str) -> dict[str, Any]:
    """Arguments that have an environment on a MuJoCo model take a camera."""
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
    """Why no video can be made of this environment here, or ``None``."""
    try:
        make_rendering_env(config).close()
    except UserError as error:
        return str(error)
    return None


@standard_torch()
def record(
    policy: MetaPolicy,
    path: str | Path,
    *,
    tasks: Sequence[Task] | None = None,
    num_tasks: int | None = None,
    num_steps: int | None = None,
    num_episodes: int | None = None,
    camera: str | None = None,
    size: tuple[int, int] | None = None,
    fps: float | None = None,
    deterministic: bool = True,
    seed: int = 0,
    progress: Callable[[str], None] = lambda panel: None,
) -> Path:
    """Write a video of tasks (rows) before and after each adaptation step (columns).

    All panels of a row start from the same initial state. The video plays in real time.

    Args:
        policy: meta-policy.
        path: of the video; its ending chooses the format (.mp4 or .gif).
        tasks: one row each; default is to draw ``num_tasks`` from the family.
        num_tasks: tasks to draw; default is 1.
        num_steps: adaptation steps; default as in training.
        num_episodes: episodes per adaptation step; default as in training.
        camera: a camera of the model by name, or ``"free"``; default is the family's.
        size: width and height of one panel in pixels; default is the environment's.
        fps: frames per second: control steps are left out or repeated to keep real time. Default is
            one frame per
            control step, up to 60 (.gif: 50). A GIF takes the nearest of 100 / n.
        deterministic: show the most probable actions (adaptation always explores).
        seed: of tasks, episodes and initial states.
        progress: told the name of each panel when it has been played.

    Returns:
        ``path``.

    Raises:
        UserError: the environment cannot draw, or not like that, or has no such task; the file
            cannot be written.
    """
    if not isinstance(policy, MetaPolicy):
        raise UserError(
            f"record takes a policy, as maml_rl.load(run) gives one; got {policy!r:.100}"
        )
    check_integers(0, seed=seed)
    path = user_path(path)
    with whole_file(path) as temporary:
        grid = play(
            policy,
            temporary.suffix[1:],
            tasks=tasks,
            num_tasks=num_tasks,
            num_steps=num_steps,
            num_episodes=num_episodes,
            camera=camera,
            size=size,
            fps=fps,
            deterministic=deterministic,
            seed=seed,
            progress=progress,
        )
        grid.save(temporary, fps)
    return path


def play(
    policy: MetaPolicy,
    file_format: str,
    *,
    tasks: Sequence[Task] | None = None,
    num_tasks: int | None = None,
    num_steps: int | None = None,
    num_episodes: int | None = None,
    camera: str | None = None,
    size: tuple[int, int] | None = None,
    fps: float | None = None,
    deterministic: bool = True,
    seed: int = 0,
    progress: Callable[[str], None] = lambda panel: None,
) -> Grid:
    """The episodes of :func:`record`, with the pictures that a file of ``file_format`` shows."""
    _check(tasks, num_tasks, size, fps)
    streams, horizon = RandomStreams(seed, Phase.RECORDING), policy.config.horizon
    env = make_rendering_env(policy.config.env, horizon, camera, size)
    try:
        policy.check_spaces(env.observation_space, env.action_space)
        tasks = _draw_tasks(env, num_tasks or 1, streams) if tasks is None else list(tasks)
        _check_tasks(env, tasks)
        dt = seconds_per_step(env)
        shown = set(steps_shown(horizon, dt, playable_fps(fps, dt, file_format)))
        clips: list[list[Clip]] = []
        labels: list[str] = []
        for task in tasks:
            policies = _adapted(policy, task, num_steps, num_episodes, seed)
            labels = [_label(adapted.num_adaptation_steps) for adapted in policies]
            if task:
                env.assigned_task = task
            clips.append([])
            for adapted, label in zip(policies, labels, strict=True):
                clips[-1].append(_clip(env, adapted, horizon, shown, deterministic, streams))
                progress(f"task {len(clips)} of {len(tasks)} {label}")
        return Grid(
            policy.config.env.name, [task_in_words(env, task) for task in tasks], labels, clips, dt
        )
    finally:
        env.close()


def _check(
    tasks: Sequence[Task] | None,
    num_tasks: int | None,
    size: tuple[int, int] | None,
    fps: float | None,
) -> None:
    """Refuse what makes no sense, whatever the environment."""
    if tasks is not None and num_tasks is not None:
        raise UserError(
            f"give tasks or num_tasks, got both: {len(tasks)} tasks and num_tasks {num_tasks}"
        )
    if tasks is not None and (isinstance(tasks, Mapping) or not tasks):
        raise UserError(f"tasks must be a list of at least one task, got {tasks!r}")
    if num_tasks is not None and num_tasks < 1:
        raise UserError(f"num_tasks must be at least 1, got {num_tasks}")
    if size is not None and (
        len(size) != 2 or min(size) < SMALLEST_SIDE or max(size) > LARGEST_SIDE
    ):
        given = "x".join(map(str, size))
        raise UserError(
            f"size must be WIDTHxHEIGHT of {SMALLEST_SIDE} to {LARGEST_SIDE} pixels each, got "
            f"{given}"
        )
    if fps is not None and not (math.isfinite(fps) and fps > 0):
        raise UserError(f"fps must be finite and above 0, got {fps}")


def _draw_tasks(env: TaskSetter, num_tasks: int, streams: RandomStreams) -> list[Task]:
    tasks = env.draw_tasks(streams.tasks(), num_tasks)
    if num_tasks > 1 and not any(tasks):
        raise UserError(f"{env.unwrapped} has one task only, so num_tasks cannot be {num_tasks}")
    return tasks


def _check_tasks(env: TaskSetter, tasks: Sequence[Task]) -> None:
    """Refuse tasks that are none of the family's, before anything is adapted to the first."""
    for task in tasks:
        try:
            env.assigned_task = task
        except ValueError as error:
            raise UserError(str(error)) from error


def seconds_per_step(env: gym.Env) -> float:
    """Seconds per control step: exactly where the environment says so, else what its frame rate implies."""
    fps = env.metadata.get("render_fps") or _DEFAULT_FPS
    dt = getattr(env.unwrapped, "dt", None)
    return float(dt) if isinstance(dt, float) and dt > 0 and round(1 / dt) == fps else 1 / fps


def _adapted(
    policy: MetaPolicy, task: Task, num_steps: int | None, num_episodes: int | None, seed: int
) -> list[MetaPolicy]:
    """The policy after 0, 1, ... adaptation steps."""
    policies = [policy]
    num_steps = policy.config.inner.num_steps if num_steps is None else num_steps
    if num_steps < 0:
        raise UserError(f"num_steps must be at least 0, got {num_steps}")
    for _ in range(num_steps):
        policies.append(
            policies[-1].adapt(task=task or None, num_steps=1, num_episodes=num_episodes, seed=seed)
        )
    return policies


def _label(num_steps: int) -> str:
    return (
        "before adaptation"
        if num_steps == 0
        else "after 1 step"
        if num_steps == 1
        else f"after {num_steps} steps"
    )


def task_in_words(env: gym.Env, task: Task) -> list[str]:
    """``["goal velocity 1.50 m/s"]``: the parameters of a task, with units where the family has them."""
    units: Mapping[str, str] = getattr(env.unwrapped, "task_units", {})
    parts = []
    for name, value in task.items():
        unit = units.get(name, "")
        counts = isinstance(value, float) and value.is_integer() and not unit
        number = (
            f"{value:.0f}" if counts else f"{value:.2f}" if isinstance(value, float) else str(value)
        )
        parts.append(f"{name.replace('_', ' ')} {number} {unit}".strip())
    return parts


def _clip(
    env: TaskSetter,
    policy: MetaPolicy,
    horizon: int,
    shown: set[int],
    deterministic: bool,
    streams: RandomStreams,
) -> Clip:
    """One episode, with pictures of the control steps ``shown`` and of its last."""
    rng = streams.actions(0, 0)
    observation, _ = env.reset(seed=streams.reset_seed(0, 1))
    total, frames, ended = 0.0, {0: Frame.of(_picture(env), 0.0)}, False
    for step in range(1, horizon + 1):
        action, _ = policy.predict(observation, deterministic=deterministic, rng=rng)
        observation, reward, terminated, truncated, _ = env.step(action)
        total += float(reward)
        ended = terminated or truncated
        if step in shown or ended:
            frames[step] = Frame.of(_picture(env), total)
        if ended:
            break
    return Clip(frames, ended and step < horizon)
