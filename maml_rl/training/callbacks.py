"""Callbacks: code of the user's that a training run calls, and the ones that are built in."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maml_rl.agents.agent import Agent
from maml_rl.errors import UserError, did_you_mean, errors_named
from maml_rl.learners.checks import check_metrics
from maml_rl.runs.progress_log import read_rows
from maml_rl.runs.progress_table import ITERATION
from maml_rl.settings.config import Config
from maml_rl.settings.env import load_object
from maml_rl.settings.ranges import Real, check_integers

_S_PER_HOUR = 3600.0
_EVALUATION = "evaluation/"


@dataclass
class RunInProgress:
    """A training run as callbacks see it."""

    folder: Path
    """The run folder."""
    config: Config
    """Settings of the run."""
    agent: Agent
    """The agent after the last iteration; ``agent.adapt`` and ``maml_rl.evaluate`` leave it as it
    is."""
    stop_reason: str | None = None
    """Why a callback stops the run, or ``None``."""

    @property
    def iteration(self) -> int:
        """Meta-iterations finished, including those before a resume."""
        return self.agent.state.counters["iteration"]

    @property
    def num_env_steps(self) -> int:
        """Control steps since the start of the run."""
        return self.agent.state.counters["num_env_steps"]

    def stop(self, reason: str) -> None:
        """End the run after this iteration, as after its last one.

        Called in ``on_start``, it ends the run before its next iteration. The first reason counts.

        Args:
            reason: why, for the log.

        Raises:
            UserError: if it is not a string.
        """
        if not isinstance(reason, str):
            raise UserError(f"the reason to stop must be a string, got {reason!r:.100}")
        if self.stop_reason is None:
            self.stop_reason = reason


class Callback:
    """Code that a training run calls; override the methods that you need (docs/callbacks.md).

    With several processes, only process 0 calls it.
    """

    def on_start(self, run: RunInProgress) -> None:
        """Do something before the first iteration of this call of ``train`` or ``resume``."""

    def on_iteration(self, run: RunInProgress, metrics: dict[str, float]) -> None:
        """Do something after an iteration, before it is logged.

        If this raises, the iteration is not counted, and a resumed run repeats it.

        Args:
            run: the run.
            metrics: what will be logged, by tag. Entries that you add are logged as well; they must
                be numbers, with new tags.
        """

    def on_end(self, run: RunInProgress) -> None:
        """Do something after the final evaluation and the final video.

        An error or a signal that stops the run skips this.
        """


class StopOnPlateau(Callback):
    """Stop the run when a metric no longer rises.

    A resumed run reads the earlier values of the metric from progress.csv.

    Args:
        metric: a tag of docs/metrics.md that is logged in every iteration, or an ``evaluation/``
            one, which is logged every ``logging.evaluate_every`` iterations.
        patience: stop when the last rise is this number of iterations ago.
        min_delta: a value is a rise if it exceeds that of the last rise by more than this.

    Raises:
        UserError: if ``metric`` is not a string, or ``patience`` or ``min_delta`` out of range.
    """

    def __init__(self, metric: str, patience: int, min_delta: float = 0.0) -> None:
        if not isinstance(metric, str):
            raise UserError(
                f"metric must be a tag such as train/return_after_1_steps, got {metric!r:.100}"
            )
        check_integers(1, patience=patience)
        if not Real(0).accepts(min_delta):
            raise UserError(f"min_delta must be {Real(0)}, got {min_delta!r:.100}")
        self.metric = metric
        self.patience = patience
        self.min_delta = min_delta
        self._best = -math.inf
        self._best_iteration = 0

    def on_start(self, run: RunInProgress) -> None:
        """Read the earlier values of the metric."""
        if self.metric.startswith(_EVALUATION) and not run.config.logging.evaluate_every:
            raise UserError(f"{self.metric} is logged only if logging.evaluate_every is at least 1")
        self._best, self._best_iteration = -math.inf, 0
        _, rows = read_rows(run.folder / "progress.csv", run.iteration)
        is_plateau = False
        for row in rows:
            if row.get(self.metric):
                is_plateau = self._add(int(row[ITERATION]), float(row[self.metric]))
        if is_plateau:
            self._stop(run)

    def on_iteration(self, run: RunInProgress, metrics: dict[str, float]) -> None:
        """Stop the run if the metric has not risen for ``patience`` iterations.

        Raises:
            UserError: if the metric is not logged, and was not before.
        """
        if self.metric in metrics:
            if self._add(run.iteration, metrics[self.metric]):
                self._stop(run)
            return
        # After a failed update, metrics of it are missing.
        has_failed = any(value and name.endswith("/failed") for name, value in metrics.items())
        if has_failed or self._best_iteration > 0:
            return
        is_evaluated = any(name.startswith(_EVALUATION) for name in metrics)
        if is_evaluated or not self.metric.startswith(_EVALUATION):
            hint = did_you_mean(self.metric, metrics)
            raise UserError(
                f"{self.metric!r} is not logged.{hint} Logged are {', '.join(sorted(metrics))}"
            )

    def _add(self, iteration: int, value: float) -> bool:
        """Add a value; return whether the last rise is too long ago."""
        if value > self._best + self.min_delta:
            self._best, self._best_iteration = value, iteration
        return self._best_iteration > 0 and iteration - self._best_iteration >= self.patience

    def _stop(self, run: RunInProgress) -> None:
        run.stop(
            f"{self.metric} has not risen by more than {self.min_delta:g} since iteration "
            f"{self._best_iteration} ({self._best:g})"
        )


class MaxEnvSteps(Callback):
    """Stop the run after the first iteration that reaches a number of control steps.

    Args:
        num_env_steps: control steps since the start of the run, including those before a resume.
    """

    def __init__(self, num_env_steps: int) -> None:
        self._max = num_env_steps

    def on_start(self, run: RunInProgress) -> None:
        """Stop a resumed run that has reached the number before."""
        if run.num_env_steps >= self._max:
            run.stop(f"{run.num_env_steps:,} control steps (max_env_steps {self._max:,})")

    def on_iteration(self, run: RunInProgress, metrics: dict[str, float]) -> None:
        """Stop the run if it has reached the number."""
        self.on_start(run)


class MaxHours(Callback):
    """Stop the run after the first iteration that ends later than this.

    Args:
        hours: since the environments of this call of ``train`` or ``resume`` were made.
    """

    def __init__(self, hours: float) -> None:
        self._max = hours
        self._started_s = math.nan

    def on_start(self, run: RunInProgress) -> None:
        """Start the clock."""
        self._started_s = time.monotonic()

    def on_iteration(self, run: RunInProgress, metrics: dict[str, float]) -> None:
        """Stop the run if the time is over."""
        hours = (time.monotonic() - self._started_s) / _S_PER_HOUR
        if hours >= self._max:
            run.stop(f"{hours:.3g} h (max_hours {self._max:g})")


def make_callbacks(config: Config, callbacks: Sequence[Callback]) -> list[Callback]:
    """Return all callbacks of a run: its budgets, those of its settings, then ``callbacks``.

    Raises:
        UserError: if one cannot be made or is not a :class:`Callback`.
    """
    budgets: list[Callback] = []
    if config.max_env_steps is not None:
        budgets.append(MaxEnvSteps(config.max_env_steps))
    if config.max_hours is not None:
        budgets.append(MaxHours(config.max_hours))
    if not isinstance(callbacks, Sequence):
        raise UserError(f"callbacks must be a list of maml_rl.Callback, got {callbacks!r:.100}")
    for callback in callbacks:
        if not isinstance(callback, Callback):
            hint = ": make an object of the class" if isinstance(callback, type) else ""
            raise UserError(
                f"callbacks must be a list of maml_rl.Callback, got {callback!r:.100} in it{hint}"
            )
    return [*budgets, *(_make_callback(name) for name in config.callbacks), *callbacks]


def _make_callback(name: str) -> Callback:
    """Make the callback with the name ``module:Name``."""
    make = load_object(name, "callback")
    with errors_named(f"callback {name!r} cannot be made without arguments:"):
        callback = make()
    if not isinstance(callback, Callback):
        raise UserError(
            f"callback {name!r} must make a maml_rl.Callback, got {type(callback).__name__}"
        )
    return callback


def notify(callbacks: Sequence[Callback], method: str, *arguments: Any) -> None:
    """Call a method of every callback.

    Raises:
        UserError: if it raises; the message names callback, error, file and line.
    """
    for callback in callbacks:
        what = f"callback {_name(callback)} failed in {method}:"
        with errors_named(what):
            try:
                getattr(callback, method)(*arguments)
            except UserError as error:  # of a function of this package that it called
                raise UserError(f"{what} {error}") from error


def notify_of_iteration(
    callbacks: Sequence[Callback], run: RunInProgress, metrics: dict[str, float]
) -> None:
    """Call ``on_iteration`` of every callback, and check the entries that it adds.

    Raises:
        UserError: if it raises, adds an entry that cannot be logged, or changes another one.
    """
    for callback in callbacks:
        before = dict(metrics)
        notify([callback], "on_iteration", run, metrics)
        check_metrics(metrics, f"callback {_name(callback)}")
        changed = [
            tag for tag in before if tag not in metrics or _differ(metrics[tag], before[tag])
        ]
        if changed:
            raise UserError(
                f"callback {_name(callback)}: on_iteration may add metrics, but must not change or "
                f"remove {', '.join(changed):.200}"
            )


def _differ(value: float, other: float) -> bool:
    return value != other and not (math.isnan(value) and math.isnan(other))


def _name(callback: Callback) -> str:
    cls = type(callback)
    return f"{cls.__module__}:{cls.__qualname__}"
