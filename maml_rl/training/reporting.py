"""What a training run tells the user: log lines, progress bars, how to continue."""

from __future__ import annotations

import contextlib
import logging
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from maml_rl.agents.agent import Agent
from maml_rl.settings.config import Config
from maml_rl.settings.env import is_family, registered_horizon
from maml_rl.settings.learners import episodes_per_stage
from maml_rl.system.text import counted, duration_text
from maml_rl.training.progress import LONG_S, Activity, Pace
from maml_rl.training.stdout_log import LOGGER

_SHORT_S = 60.0
"""Shorter durations are not estimated."""
_BETWEEN_LINES_S = 30.0
"""Time between the lines of a comparison."""


class Interrupted(KeyboardInterrupt):
    """Training was stopped by a signal; ``run`` can be resumed.

    It is not an ``Exception``: a sweep that catches the errors of its runs stops at it.

    Args:
        run: the run folder.
        iteration: iterations finished.
        number: number of the signal.
        seed_folder: folder of several seeds with the run, if all of them are to be resumed.
        has_ended: whether only the evaluation and the video after the last iteration are missing.
    """

    def __init__(
        self,
        run: Path,
        iteration: int,
        number: int = signal.SIGINT,
        seed_folder: Path | None = None,
        has_ended: bool = False,
    ) -> None:
        of_run = "" if seed_folder is None else f" of {run}"
        missing = " Training has ended, its evaluation or video has not." if has_ended else ""
        command = resume_command(seed_folder or run)
        super().__init__(
            f"stopped after iteration {iteration}{of_run}.{missing} Resume with: {command}"
        )
        self.run = run
        self.iteration = iteration
        self.number = number
        self.exit_status = 128 + number
        """As a shell reports the signal: 130 for Ctrl-C, 143 for SIGTERM."""
        self._arguments = (run, iteration, number, seed_folder, has_ended)

    def __reduce__(self) -> tuple[Any, ...]:
        """Let a pool of processes pass it on."""
        return Interrupted, self._arguments


def log(text: str) -> None:
    """Log a line at INFO, without breaking the progress bars."""
    with tqdm.external_write_mode():
        LOGGER.info("%s", text)


def progress_bar(
    total: int, *, unit: str, initial: int = 0, name: str | None = None, delay_s: float = 0.0
) -> tqdm[Any]:
    """Make a progress bar on stderr, shown in a terminal or notebook if INFO is logged.

    Args:
        total: number of units at the end.
        unit: name of the unit.
        initial: number of units done before.
        name: text in front of the bar.
        delay_s: seconds before it appears.
    """
    is_shown = LOGGER.isEnabledFor(logging.INFO) and _is_interactive(sys.stderr)
    return tqdm(
        total=total,
        initial=initial,
        unit=unit,
        desc=name,
        disable=not is_shown,
        delay=delay_s,
    )


@contextlib.contextmanager
def evaluations_shown(total: int) -> Iterator[tuple[Callable[[str], None], Activity]]:
    """Show how far a comparison is: in a bar on a terminal, else by a log line each half minute.

    Args:
        total: number of evaluations.

    Yields:
        ``progress`` and ``activity`` of :func:`maml_rl.analysis.comparison.compare.compare`.
    """
    pace = Pace(total, 0)
    num_done, logged_s = 0, time.monotonic()
    shown_bar = tqdm(total=total, disable=None, leave=False, unit="evaluation")
    with shown_bar as bar, _each_line_once():  # each evaluation makes its environments

        def progress(done: str) -> None:
            nonlocal num_done, logged_s
            num_done += 1
            pace.count()
            bar.update()
            bar.set_postfix_str(done)
            if bar.disable and time.monotonic() - logged_s >= _BETWEEN_LINES_S:
                logged_s = time.monotonic()
                log(f"{num_done} of {counted(total, 'evaluation')}: {done}{time_left(pace)}")

        yield progress, Activity(bar)


@contextlib.contextmanager
def _each_line_once() -> Iterator[None]:
    """Log no line twice inside the context; warnings are repeated."""
    logged: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        is_repeated = text in logged
        logged.add(text)
        return not is_repeated or record.levelno > logging.INFO

    LOGGER.addFilter(is_new)
    try:
        yield
    finally:
        LOGGER.removeFilter(is_new)


def _is_interactive(stream: Any) -> bool:
    """Whether a stream is that of a terminal or of a notebook."""
    is_notebook = type(stream).__module__.startswith("ipykernel.")
    return is_notebook or (hasattr(stream, "isatty") and stream.isatty())


def log_start(config: Config, agent: Agent, folder: Path) -> None:
    """Log the number of iterations, the size of each and a notice, before the first one.

    Args:
        config: settings of the run.
        agent: what training starts from.
        folder: the run folder.
    """
    num_finished = agent.state.counters["iteration"]
    num_stages = agent.learner.num_training_stages
    num_episodes = episodes_per_stage(config.learner, config.num_episodes)
    num_env_steps = _most_steps_of_iteration(config, agent)
    sizes = [
        counted(config.meta_batch_size, "task"),
        counted(num_episodes, "episode"),
        f"{counted(config.horizon, 'step')}{_horizon_source(config)}",
        counted(num_stages, "collection"),
    ]
    if config.learner.STAGE_IS_EPISODE:
        sizes = [sizes[0], counted(num_stages, "episode"), sizes[2]]
    engine = "warp" if config.engine == "warp" else "mujoco"
    engine = f" with the engine {engine}" if is_family(config.env.name) else ""
    pace = make_pace(config, agent)
    number = "" if pace.num_iterations == 1 else f"{pace.num_iterations} "
    rest = f"the last {number}of " if num_finished else ""
    plural = "" if pace.total == 1 else "s, each"
    log(
        f"{config.env.name}: {rest}{pace.total_text} meta-iteration{plural} of "
        f"{' x '.join(sizes)} = at most {num_env_steps:,} control steps, on "
        f"{agent.device}{engine}, into {folder}"
    )
    limits = []
    if config.max_env_steps is not None:
        limits.append(f"{config.max_env_steps:,} control steps (max_env_steps)")
    if config.max_hours is not None:
        limits.append(f"{config.max_hours:g} h (max_hours)")
    if limits:
        log(f"it ends earlier after {' or '.join(limits)}")
    notice = agent.learner.notice(num_episodes * config.horizon)
    if notice:
        log(notice)


def make_pace(config: Config, agent: Agent) -> Pace:
    """Return an estimate of the number of iterations and of their time, before the first one.

    Args:
        config: settings of the run.
        agent: what training starts from.
    """
    counters = agent.state.counters
    return Pace(
        config.num_iterations,
        counters["iteration"],
        max_env_steps=config.max_env_steps,
        num_env_steps=counters["num_env_steps"],
        steps_per_iteration=_most_steps_of_iteration(config, agent),
        max_hours=config.max_hours,
    )


def _most_steps_of_iteration(config: Config, agent: Agent) -> int:
    """Return the control steps of an iteration in which no episode ends early."""
    num_episodes = episodes_per_stage(config.learner, config.num_episodes)
    num_stages = agent.learner.num_training_stages
    return config.meta_batch_size * num_episodes * config.horizon * num_stages


def log_pace(pace: Pace) -> None:
    """Log after two iterations how long all will take, if that is a minute or more."""
    if pace.whole_s is not None and pace.whole_s >= _SHORT_S:
        about = "" if pace.is_exact else "about "
        number = f"{about}{counted(pace.num_iterations, 'iteration')}"
        log(f"{number}, about {duration_text(pace.whole_s)} on this machine")


def time_left(pace: Pace) -> str:
    """Return ``", about 35 min left"``; nothing while it is not known, or under a minute."""
    if pace.left_s is None or pace.left_s < _SHORT_S:
        return ""
    return f", about {duration_text(pace.left_s)} left"


def log_resume(run: Path, config: Config, num_finished: int, has_ended: bool) -> None:
    """Log after which iteration a run resumes, or that it only ends, or has ended.

    Args:
        run: the run folder.
        config: settings of the run, with the new number of iterations.
        num_finished: iterations finished.
        has_ended: whether the state is that after the last iteration and the learner's choice.
    """
    if num_finished < config.num_iterations:
        log(f"resuming {run} after iteration {num_finished}")
    elif has_ended:
        more = f"--num_iterations {num_finished + 2}"
        log(f"all {num_finished} iterations of {run} are finished; {more} would add two")
    else:
        log(f"{run} has {counted(num_finished, 'iteration')}, as requested: ending the run")


def _horizon_source(config: Config) -> str:
    """Describe where the horizon comes from; empty for a task family."""
    if is_family(config.env.name):
        return ""
    registered = registered_horizon(config.env.name)
    if config.horizon == registered:
        return " (its max_episode_steps)"
    if registered is not None:
        return f" (as set; its max_episode_steps is {registered})"
    source = "by default" if config.horizon == Config.horizon else "as set"
    return f" ({source}; it is registered without max_episode_steps)"


def resume_command(run: Path) -> str:
    """The command that resumes a run."""
    return f"python -m maml_rl.train --resume {shlex.quote(str(run))}"


def evaluate_command(run: Path, seed: int) -> str:
    """The command that repeats the final evaluation of a run."""
    return f"python -m maml_rl.evaluate {shlex.quote(str(run))} --seed {seed}"


def new_run_command(run: Path) -> str:
    """The command that starts a new run from the parameters of another one."""
    return f"python -m maml_rl.train --init_from {shlex.quote(str(run))}"


class Announced:
    """Logs what is done after the last iteration before its first step, and shows its progress.

    Args:
        show: called with every text.
    """

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show
        self._is_logged = False

    def __call__(self, text: str) -> None:
        """Show ``text``, such as ``"choosing step sizes, stage 2: control step 45 of 100"``."""
        if not self._is_logged:
            what = text.partition(":")[0].partition(",")[0]
            log(f"after the last iteration: {what} ...")
            self._is_logged = True
        self._show(text)


def took_text(started_s: float) -> str:
    """`` (40 s)`` since ``started_s`` of ``time.monotonic``, or nothing if that was short."""
    duration_s = time.monotonic() - started_s
    return f" ({duration_text(duration_s)})" if duration_s >= LONG_S else ""


def progress_text(metrics: dict[str, float]) -> str:
    """The returns before and after each adaptation step, if the learner reports them."""
    returns = [value for name, value in metrics.items() if name.startswith("train/return_after_")]
    return "return " + " -> ".join(f"{value:.1f}" for value in returns) if returns else ""
