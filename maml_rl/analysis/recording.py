"""Videos of an agent before and after adaptation; rows are tasks, columns adaptation steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import gymnasium as gym
import numpy as np

from maml_rl.agents.agent import Agent
from maml_rl.analysis.evaluation import check_tasks, refuse_empty_task
from maml_rl.analysis.run_labels import stage_label
from maml_rl.analysis.tasks.spread import spread_tasks
from maml_rl.analysis.tasks.words import task_in_words
from maml_rl.analysis.video.files import playable_fps, whole_file
from maml_rl.analysis.video.grid import Clip, Frame, Grid, steps_shown
from maml_rl.analysis.video.rendering import make_rendering_env, rendered_frame
from maml_rl.errors import UserError, value_errors_refused
from maml_rl.sampling.single_env import TaskSetter, takes_episode
from maml_rl.settings.drawn_tasks import Task
from maml_rl.settings.learners import episodes_per_stage
from maml_rl.settings.ranges import check_integers
from maml_rl.system.random_streams import Phase, RandomStreams
from maml_rl.system.torch_runtime import standard_torch
from maml_rl.system.untrusted_files import user_path

SMALLEST_SIDE, LARGEST_SIDE = 128, 2048
"""Limits of a panel's width and height in pixels: captions need 128, rendering allows 2048."""

_DEFAULT_FPS = 20
_LOWEST_FPS, _HIGHEST_FPS = 0.1, 1000
"""A GIF counts the hundredths of a second of a frame in 16 bits."""
NUM_ROWS, _NUM_DRAWN = 3, 64
"""How many tasks a video shows by default, and from how many drawn ones they are chosen."""


@standard_torch()
def record(
    agent: Agent,
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
        agent: the agent to adapt.
        path: path of the video; its suffix chooses the format (.mp4 or .gif).
        tasks: one row each; default is up to three drawn tasks that differ as much as possible.
        num_tasks: number of tasks to draw instead.
        num_steps: adaptation steps; default as in training.
        num_episodes: episodes per adaptation step; default as in training.
        camera: a camera of the model by name, or ``"free"``; default is the family's.
        size: width and height of one panel in pixels; default is the environment's.
        fps: frames per second; control steps are skipped or repeated to keep real time. Default is
            one frame per control step, up to 60 (.gif: 50). A GIF uses the nearest of 100 / n.
        deterministic: show the most probable actions; adaptation always samples actions.
        seed: seed of tasks, episodes and initial states.
        progress: called with the name of each panel when its episode has ended.

    Returns:
        ``path``.

    Raises:
        UserError: if the environment cannot render, or not with this camera and size; if a task is
            invalid; if the file cannot be written.
    """
    _check_agent(agent)
    path = user_path(path)
    with whole_file(path) as temporary:
        grid = play(
            agent,
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
    agent: Agent,
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
    """Play the episodes of :func:`record`, with the frames for a video of ``file_format``."""
    check_integers(0, seed=seed)
    _check(tasks, num_tasks, num_steps, num_episodes, size, fps)
    horizon = agent.config.horizon
    streams = RandomStreams(seed, Phase.RECORDING)
    env = make_rendering_env(agent.config.env, horizon, camera, size)
    try:
        # Tasks, and the control steps to render.
        agent.check_spaces(env.observation_space, env.action_space)
        tasks = _draw_tasks(env, num_tasks, streams) if tasks is None else list(tasks)
        _check_tasks(env, tasks)
        dt = seconds_per_step(env)
        rendered_steps = set(steps_shown(horizon, dt, playable_fps(fps, dt, file_format)))
        # Episodes.
        clips: list[list[Clip]] = []
        labels: list[str] = []
        for task in tasks:
            agents = list(adapted_agents(agent, task, num_steps, num_episodes, seed))
            labels = _labels(agents, num_episodes)
            if task:
                env.assigned_task = task
            row = []
            for adapted, label in zip(agents, labels, strict=True):
                row.append(_clip(env, adapted, horizon, rendered_steps, deterministic, streams))
                progress(f"task {len(clips) + 1} of {len(tasks)} {label}")
            clips.append(row)
        return Grid(
            title=agent.config.env.name,
            tasks=[task_in_words(env.unwrapped, task) for task in tasks],
            labels=labels,
            clips=clips,
            dt=dt,
        )
    finally:
        env.close()


def _check_agent(agent: object) -> None:
    """Raise UserError if it is not an agent."""
    if not isinstance(agent, Agent):
        raise UserError(
            f"record takes an agent, such as maml_rl.load(run) returns; got {agent!r:.100}"
        )


def _check(
    tasks: Sequence[Task] | None,
    num_tasks: int | None,
    num_steps: int | None,
    num_episodes: int | None,
    size: tuple[int, int] | None,
    fps: float | None,
) -> None:
    """Raise UserError if an argument is invalid for every environment."""
    check_tasks(tasks, num_tasks)
    numbers = (
        (1, "num_tasks", num_tasks),
        (0, "num_steps", num_steps),
        (1, "num_episodes", num_episodes),
    )
    for least, name, value in numbers:
        if value is not None:
            check_integers(least, **{name: value})
    if size is not None and not _is_size(size):
        got = "x".join(map(str, size)) if isinstance(size, tuple) else repr(size)
        raise UserError(
            f"size must be WIDTHxHEIGHT of {SMALLEST_SIDE} to {LARGEST_SIDE} pixels each, got "
            f"{got:.100}"
        )
    if fps is not None and not (
        isinstance(fps, (int, float, np.number)) and _LOWEST_FPS <= fps <= _HIGHEST_FPS
    ):
        raise UserError(f"fps must be from {_LOWEST_FPS} to {_HIGHEST_FPS}, got {fps!r:.100}")


def _is_size(size: object) -> bool:
    return (
        isinstance(size, Sequence)
        and len(size) == 2
        and all(isinstance(side, (int, np.integer)) for side in size)
        and all(SMALLEST_SIDE <= side <= LARGEST_SIDE for side in size)
    )


def _draw_tasks(env: TaskSetter, num_tasks: int | None, streams: RandomStreams) -> list[Task]:
    """Draw tasks; by default some that differ, or one if the environment has only one."""
    if num_tasks is None:
        return spread_tasks(env.draw_tasks(streams.tasks(), _NUM_DRAWN), NUM_ROWS)
    tasks = env.draw_tasks(streams.tasks(), num_tasks)
    if num_tasks > 1 and not any(tasks):
        raise UserError(f"{env.unwrapped} has only one task, so num_tasks cannot be {num_tasks}")
    return tasks


def _check_tasks(env: TaskSetter, tasks: Sequence[Task]) -> None:
    """Raise UserError if the environment refuses a task, before adapting to the first one."""
    if not all(tasks):
        refuse_empty_task(env.draw_tasks(np.random.default_rng(0), 1))
    for task in tasks:
        with value_errors_refused():
            env.assigned_task = task


def seconds_per_step(env: gym.Env) -> float:
    """Return seconds per control step: the environment's ``dt`` if it fits its frame rate."""
    fps = env.metadata.get("render_fps") or _DEFAULT_FPS
    dt = getattr(env.unwrapped, "dt", None)
    if isinstance(dt, float) and dt > 0 and round(1 / dt) == fps:
        return float(dt)
    return 1 / fps


def adapted_agents(
    agent: Agent, task: Task, num_steps: int | None, num_episodes: int | None, seed: int
) -> Iterator[Agent]:
    """Yield the agent after 0, 1, ... adaptation steps; a step is taken when it is asked for.

    Args:
        agent: the agent to adapt.
        task: the task; empty for an environment that has only one.
        num_steps: adaptation steps; ``None``: as in training.
        num_episodes: episodes per adaptation step; ``None``: as in training.
        seed: seed of the episodes.

    Raises:
        UserError: as :meth:`Agent.adapt`.
    """
    num_steps = agent.learner.num_adaptation_steps if num_steps is None else num_steps
    yield agent
    for _ in range(num_steps):
        agent = agent.adapt(task=task or None, num_steps=1, num_episodes=num_episodes, seed=seed)
        yield agent


def _labels(agents: Sequence[Agent], num_episodes: int | None) -> list[str]:
    """Label the agents of :func:`adapted_agents`, with the episodes that they have used.

    What an agent had used before it was passed to :func:`record` is not known.
    """
    first = agents[0]
    num_episodes = first.config.num_episodes if num_episodes is None else num_episodes
    learner = first.config.learner
    per_step = episodes_per_stage(learner, num_episodes)
    is_known = first.num_adaptation_steps == 0
    return [
        stage_label(
            agent.num_adaptation_steps,
            k * per_step if is_known else None,
            is_episode=learner.STAGE_IS_EPISODE,
        )
        for k, agent in enumerate(agents)
    ]


def _clip(
    env: TaskSetter,
    agent: Agent,
    horizon: int,
    rendered_steps: set[int],
    deterministic: bool,
    streams: RandomStreams,
) -> Clip:
    """Play an episode; render the control steps ``rendered_steps`` and the last one."""
    frames = {}
    states = play_episode(env, agent, deterministic, streams)
    for step, (total, is_over) in enumerate(states):
        if step == 0 or step in rendered_steps or is_over:
            frames[step] = Frame.of(rendered_frame(env), total, _caption(env))
    return Clip(frames=frames, ended=step < horizon)


def _caption(env: TaskSetter) -> str:
    """What the environment says of its state, such as ``"distance to the goal 0.31 m"``.

    Raises:
        UserError: if it is not text.
    """
    caption = getattr(env.unwrapped, "frame_caption", "")
    if not isinstance(caption, str):
        raise UserError(f"frame_caption of {env.name!r} must be a string, got {caption!r:.100}")
    return caption


def play_episode(
    env: TaskSetter, agent: Agent, deterministic: bool, streams: RandomStreams
) -> Iterator[tuple[float, bool]]:
    """Play an episode step by step; all episodes with equal streams have the same initial state.

    Args:
        env: has its task, and ends an episode at the horizon.
        agent: chooses the actions.
        deterministic: whether they are the most probable ones.
        streams: of random numbers.

    Yields:
        The return so far and whether the episode is over, after the reset and after each step.
    """
    rng = streams.actions(0, 0)
    # For tasks whose dynamics change from one episode to the next.
    options = {"episode": agent.num_adaptation_steps} if takes_episode(env) else None
    observation, _ = env.reset(seed=streams.reset_seed(0, 1), options=options)
    total, is_over = 0.0, False
    yield total, is_over
    memory = reward = None
    while not is_over:
        action, memory = agent.predict(
            observation, memory, deterministic=deterministic, rng=rng, reward=reward
        )
        observation, reward, terminated, truncated, _ = env.step(action)
        total += float(reward)
        is_over = bool(terminated or truncated)
        yield total, is_over
