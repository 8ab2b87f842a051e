"""Videos of a policy before and after adaptation, side by side."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from maml_rl.errors import UserError
from maml_rl.meta_policy import MetaPolicy
from maml_rl.protocols import Task
from maml_rl.random_streams import Phase, RandomStreams
from maml_rl.task_vector_env import EnvConfig, TaskSetter, resolve_env_id

_CAPTION_HEIGHT = 64
_MAX_SHOWN = 4  # task parameters in a caption
_FORMATS = (".mp4", ".gif")


def use_headless_renderer() -> None:
    """On Linux without a screen, let MuJoCo draw through EGL, unless MUJOCO_GL says otherwise."""
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        os.environ.setdefault("MUJOCO_GL", "egl")


def make_rendering_env(config: EnvConfig, horizon: int | None = None) -> TaskSetter:
    """The single environment with pictures, which has drawn one already.

    Args:
        config: the environment.
        horizon: where episodes are truncated; default is the environment's own.

    Raises:
        UserError: it cannot draw here.
    """
    use_headless_renderer()
    env_id = resolve_env_id(config.name)
    kwargs = dict(config.kwargs) if horizon is None else {**config.kwargs, "max_episode_steps": horizon}
    try:
        plain = gym.make(env_id, **kwargs)
        modes = plain.metadata.get("render_modes", [])
        plain.close()
        env = TaskSetter(gym.make(env_id, render_mode="rgb_array", **kwargs)) if "rgb_array" in modes else None
        if env is not None:
            env.reset(seed=0)
            env.render()
    except (TypeError, ValueError, RuntimeError, ImportError, gym.error.Error) as error:
        raise UserError(f"environment {config.name!r} cannot draw here: {error}") from error
    if env is None:
        raise UserError(f"environment {config.name!r} draws no rgb_array frames")
    return env


def rendering_problem(config: EnvConfig) -> str | None:
    """Why no video can be made of this environment here, or ``None``."""
    try:
        make_rendering_env(config).close()
    except UserError as error:
        return str(error)
    return None


def record(
    policy: MetaPolicy,
    path: str | Path,
    *,
    task: Task | None = None,
    num_steps: int | None = None,
    num_episodes: int | None = None,
    deterministic: bool = True,
    seed: int = 0,
) -> Path:
    """Write a video of one task before and after adaptation, side by side, from the same initial state.

    Args:
        policy: meta-policy.
        path: of the video; its ending chooses the format (.mp4 or .gif).
        task: default is drawn from the family.
        num_steps: inner steps; default as in training.
        num_episodes: episodes per inner step; default as in training.
        deterministic: show the most probable actions (adaptation always explores).
        seed: of task, episodes and initial state.

    Returns:
        ``path``.

    Raises:
        UserError: the environment cannot draw, or has no such task.
    """
    path = Path(path)
    if path.suffix.lower() not in _FORMATS or path.is_dir():
        raise UserError(f"video {path} must be a file that ends in {' or '.join(_FORMATS)}")
    streams = RandomStreams(seed, Phase.RECORDING)
    env = make_rendering_env(policy.config.env, policy.config.horizon)
    try:
        policy.check_spaces(env.observation_space, env.action_space)
        if task is None:
            task = _draw_task(env, streams)
        try:
            adapted = policy.adapt(task=task or None, num_steps=num_steps, num_episodes=num_episodes, seed=seed)
        except ValueError as error:
            raise UserError(str(error)) from error
        if task:
            env.assigned_task = task
        policies = {"before adaptation": policy, f"after {_steps(adapted.num_adaptation_steps)}": adapted}
        title = f"{policy.config.env.name}   {describe_task(env, task)}"
        clips = [
            _clip(env, shown, label, title, policy.config.horizon, deterministic, streams)
            for label, shown in policies.items()
        ]
        fps = env.metadata.get("render_fps", 20)
    finally:
        env.close()
    length = max(len(clip) for clip in clips)
    padded = [np.concatenate([clip, clip[-1:].repeat(length - len(clip), axis=0)]) for clip in clips]
    _write(path, np.concatenate(padded, axis=2), fps)
    return path


def _steps(num: int) -> str:
    return f"{num} step" if num == 1 else f"{num} steps"


def _draw_task(env: TaskSetter, streams: RandomStreams) -> Task:
    if not hasattr(env.unwrapped, "sample_tasks"):
        return {}
    env.unwrapped.np_random = streams.tasks()
    return env.unwrapped.sample_tasks(1)[0]


def describe_task(env: gym.Env, task: Task) -> str:
    """``goal_velocity 1.50 m/s``: a task in words, with units where the family has them."""
    units: Mapping[str, str] = getattr(env.unwrapped, "task_units", {})
    parts = []
    for name, value in list(task.items())[:_MAX_SHOWN]:
        unit = units.get(name, "")
        counts = isinstance(value, float) and value.is_integer() and not unit
        number = f"{value:.0f}" if counts else f"{value:.2f}" if isinstance(value, float) else str(value)
        parts.append(f"{name.replace('_', ' ')} {number} {unit}".strip())
    more = len(task) - len(parts)
    return ", ".join(parts) + (f", and {more} more" if more else "")


def _clip(
    env: TaskSetter,
    policy: MetaPolicy,
    label: str,
    title: str,
    horizon: int,
    deterministic: bool,
    streams: RandomStreams,
) -> np.ndarray:
    """One episode as captioned frames, (steps, height, width, 3) uint8."""
    rng = streams.actions(0, 0)
    observation, _ = env.reset(seed=streams.reset_seed(0))
    frames, total = [], 0.0
    for step in range(1, horizon + 1):
        action, _ = policy.predict(observation, deterministic=deterministic, rng=rng)
        observation, reward, terminated, truncated, _ = env.step(action)
        total += float(reward)
        frames.append(_captioned(env.render(), [title, f"{label}   step {step}   return {total:.1f}"]))
        if terminated or truncated:
            break
    return np.stack(frames)


def _captioned(frame: Any, lines: list[str]) -> np.ndarray:
    """The frame below a caption strip."""
    from PIL import Image, ImageDraw, ImageFont

    width = frame.shape[1]
    strip = Image.new("RGB", (width, _CAPTION_HEIGHT), (24, 28, 36))
    draw = ImageDraw.Draw(strip)
    for i, line in enumerate(lines):
        size = 20.0
        font = ImageFont.load_default(size)
        while draw.textlength(line, font=font) > width - 20 and size > 8:
            size -= 1
            font = ImageFont.load_default(size)
        draw.text((10, 6 + 28 * i), line, font=font, fill=(235, 238, 242))
    return np.concatenate([np.asarray(strip), frame])


def _write(path: Path, frames: np.ndarray, fps: int) -> None:
    """Write frames (steps, height, width, 3), the file whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    import imageio.v2 as imageio

    height, width = (size - size % 2 for size in frames.shape[1:3])  # the codec needs even sizes
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix.lower()}")
    options: dict[str, Any] = {"fps": fps, "codec": "libx264", "macro_block_size": 2, "ffmpeg_log_level": "error"}
    if path.suffix.lower() == ".gif":
        options = {"duration": 1000 / fps, "loop": 0}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writer: Any
        with imageio.get_writer(temporary, **options) as writer:
            for frame in frames[:, :height, :width]:
                writer.append_data(frame)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"video {path} cannot be written: {error}") from error
