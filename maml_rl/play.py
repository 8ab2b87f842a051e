"""``python -m maml_rl.play``; see ``--help``."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from maml_rl.cli import (
    add_adaptation_flags,
    add_iteration_flag,
    main,
    parse,
    run_parser,
    say,
)
from maml_rl.env_flags import (
    add_env_flags,
    chosen_agent,
    take_env_flags,
    task_values,
)
from maml_rl.errors import UserError

if TYPE_CHECKING:
    from maml_rl.agents.agent import Agent
    from maml_rl.sampling.single_env import TaskSetter
    from maml_rl.settings.env import EnvConfig
    from maml_rl.system.random_streams import RandomStreams

_RECORD = "python -m maml_rl.record RUN writes a video"


def command(argv: list[str]) -> int:
    """Play a run in a window."""
    env_flags, rest = take_env_flags(argv)
    args = parse(make_parser(), rest)
    agent = chosen_agent("play", args, env_flags)
    with _window(agent.config.env, agent.config.horizon) as env:
        _play(env, agent, args)
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the command."""
    parser = run_parser(
        "play",
        "Play one task in a window, in real time: an episode of the policy after 0, 1, ... K "
        "adaptation steps. Print the return of each episode. Close the window or press Ctrl-C to "
        "stop.",
    )
    parser.add_argument(
        "--task",
        type=task_values,
        metavar="NAME=VALUE,...",
        help="the task, with its dynamics (default: draw one)",
    )
    add_adaptation_flags(parser)
    add_iteration_flag(parser)
    add_env_flags(parser)
    return parser


@contextlib.contextmanager
def _window(config: EnvConfig, horizon: int) -> Iterator[TaskSetter]:
    """Make an environment that shows every step in a window; close both at the end.

    Raises:
        UserError: if it has no window, or there is no display.
    """
    from maml_rl.sampling.environments import make_single_env

    # Find out what it can render
    plain = make_single_env(config, horizon)
    modes = plain.metadata.get("render_modes", [])
    is_mujoco = _is_mujoco(plain)
    plain.close()
    if "human" not in modes:
        raise UserError(
            f"environment {config.name!r} has no window: its render modes are "
            f'{", ".join(modes) or "none"}, expected human in metadata["render_modes"] of its '
            f"class{f'; {_RECORD}' if 'rgb_array' in modes else ''}"
        )
    with _glfw() if is_mujoco else contextlib.nullcontext():
        # Open the window; most environments do it at the first reset
        env = make_single_env(config, horizon, render_mode="human")
        try:
            yield env
        finally:
            env.close()


def _is_mujoco(env: TaskSetter) -> bool:
    """Whether the environment opens the window of Gymnasium's MuJoCo renderer."""
    import mujoco

    return isinstance(getattr(env.unwrapped, "model", None), mujoco.MjModel)


@contextlib.contextmanager
def _glfw() -> Iterator[None]:
    """Start the library of MuJoCo's window; it warns of errors, also after a window was closed.

    Raises:
        UserError: if there is no display, without which the window would abort the process.
    """
    import glfw

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", glfw.GLFWError)
        if not (glfw.init() and glfw.get_primary_monitor()):
            reason: Any = glfw.get_error()[1]  # bytes, or None
            problem = f" ({reason.decode()})" if reason else ""
            raise UserError(f"a window needs a display, and there is none{problem}; {_RECORD}")
        yield


def _is_closed(env: TaskSetter) -> bool:
    """Whether the user has closed the window; other windows than MuJoCo's are not asked."""
    if not _is_mujoco(env):
        return False
    import glfw

    window = glfw.get_current_context()  # None after Escape
    return not window or bool(glfw.window_should_close(window))


def _play(env: TaskSetter, agent: Agent, args: argparse.Namespace) -> None:
    """Play an episode after each adaptation step, all from the same initial state."""
    from maml_rl.analysis.recording import adapted_agents
    from maml_rl.analysis.run_labels import stage_label
    from maml_rl.analysis.tasks.words import task_in_words
    from maml_rl.system.random_streams import Phase, RandomStreams

    # The task
    agent.check_spaces(env.observation_space, env.action_space)
    streams = RandomStreams(args.seed, Phase.RECORDING)
    task = args.task or env.draw_tasks(streams.tasks(), 1)[0]
    env.assigned_task = task
    say(", ".join([agent.config.env.name, *task_in_words(env.unwrapped, task)]))
    # The episodes
    for adapted in adapted_agents(agent, task, args.num_steps, args.num_episodes, args.seed):
        is_episode = agent.config.learner.STAGE_IS_EPISODE
        say(stage_label(adapted.num_adaptation_steps, is_episode=is_episode))
        total, length = _episode(env, adapted, not args.stochastic, streams)
        if _is_closed(env):
            return
        say(f"  return {total:.2f} in {length} control steps")


def _episode(
    env: TaskSetter, agent: Agent, deterministic: bool, streams: RandomStreams
) -> tuple[float, int]:
    """Play an episode in real time; it ends early if the user closes the window.

    Returns:
        Its return, and its number of control steps.
    """
    from maml_rl.analysis.recording import play_episode, seconds_per_step

    dt = seconds_per_step(env)
    states = play_episode(env, agent, deterministic, streams)
    total, is_over = next(states)  # resets the environment
    length = 0
    next_step_at = time.monotonic()
    while not (is_over or (length and _is_closed(env))):
        # Show the current state for dt; without a debt if rendering takes longer
        now = time.monotonic()
        next_step_at = max(next_step_at + dt, now)
        time.sleep(next_step_at - now)
        # Step; the environment renders
        total, is_over = next(states)
        length += 1
    return total, length


if __name__ == "__main__":
    sys.exit(main(["play", *sys.argv[1:]]))
