"""Learning curves from progress.csv: one line for all seeds with the same settings."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from maml_rl.analysis.run_labels import (
    Settings,
    check_different,
    settings_of_runs,
    stage_label,
)
from maml_rl.analysis.statistics import mean_interval
from maml_rl.errors import UserError
from maml_rl.runs.pretrained import find_run
from maml_rl.runs.progress_table import ITERATION, SECONDS, STEPS, read_progress
from maml_rl.runs.run_folder import run_config
from maml_rl.settings.config import Config
from maml_rl.settings.learners import episodes_per_stage
from maml_rl.system.text import text_table

XAxis = Literal["steps", "time", "iterations"]

X_AXES: dict[XAxis, tuple[str, Callable[[Mapping[str, np.ndarray]], np.ndarray]]] = {
    "steps": ("control steps (millions)", lambda columns: columns[STEPS] / 1e6),
    "time": ("wall-clock hours", lambda columns: np.cumsum(columns[SECONDS]) / 3600),
    "iterations": ("meta-iterations", lambda columns: columns[ITERATION]),
}
"""Label and values of each horizontal axis."""
_RETURN_AFTER = r"train/return_after_(\d+)_steps"
_FINAL_PART = 20  # final values are means over the last 1/20 of a curve


@dataclass(frozen=True)
class View:
    """What to show of the runs.

    Args:
        metric: column of progress.csv; ``None`` for the return after the last adaptation step of
            training.
        x: x-axis: control steps in millions, wall-clock hours, or meta-iterations.
        smooth: window of a running mean, in values.
        before: whether to show the return before adaptation too.
        log_x: whether the x-axis is logarithmic.
    """

    metric: str | None
    x: XAxis
    smooth: int
    before: bool
    log_x: bool = False

    def metric_of(self, group: Group) -> str:
        """Return the column to show for a group."""
        return return_after(group.num_steps) if self.metric is None else self.metric


class Series(NamedTuple):
    """One metric of one run, at the M iterations that logged it: three arrays (M,)."""

    iteration: np.ndarray
    x: np.ndarray
    y: np.ndarray


@dataclass(frozen=True)
class Run:
    """A run.

    Args:
        folder: its folder.
        config: its settings.
        columns: columns of progress.csv, (N,) each; NaN where a metric was not logged.
    """

    folder: Path
    config: Config
    columns: Mapping[str, np.ndarray]

    @property
    def hours(self) -> float:
        """Duration of all iterations."""
        return float(self.columns[SECONDS].sum() / 3600)

    def series(self, metric: str, x: XAxis, smooth: int = 1) -> Series:
        """Return the running mean of a metric over up to ``smooth`` values.

        Raises:
            UserError: if the run has no value of the metric.
        """
        _, axis = X_AXES[x]
        logged = np.isfinite(self.columns[metric])
        if not logged.any():
            raise UserError(f"{self.folder} has no value of {metric} yet")
        y = running_mean(self.columns[metric][logged], smooth)
        return Series(self.columns[ITERATION][logged], axis(self.columns)[logged], y)


@dataclass(frozen=True)
class Curve:
    """One metric of the S runs of a group, at N points of the x-axis.

    Args:
        series: all values of each run.
        x: (N,), up to the last one that all runs reach.
        values: (S, N), interpolated linearly between those of a run.
    """

    series: Sequence[Series]
    x: np.ndarray
    values: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """Mean over runs, (N,)."""
        return self.values.mean(axis=0)

    @property
    def final(self) -> np.ndarray:
        """Mean of each run over the last 5 % of the points, at least one, (S,)."""
        num_points = math.ceil(self.values.shape[1] / _FINAL_PART)
        return self.values[:, -num_points:].mean(axis=1)


@dataclass(frozen=True)
class Group:
    """Runs with the same settings but different seeds.

    Args:
        settings: dotted names and values of the settings.
        runs: S runs.
    """

    settings: Settings
    runs: Sequence[Run]

    @property
    def num_steps(self) -> int:
        """Number of adaptation steps in training: the last one whose return was logged."""
        matches = (re.fullmatch(_RETURN_AFTER, name) for name in self.runs[0].columns)
        return max((int(match[1]) for match in matches if match), default=0)

    @property
    def episodes_used(self) -> int:
        """Episodes of a task that these steps use."""
        config = self.runs[0].config
        return self.num_steps * episodes_per_stage(config.learner, config.num_episodes)

    @property
    def stage_is_episode(self) -> bool:
        """:attr:`LearnerConfig.STAGE_IS_EPISODE` of the learner."""
        return self.runs[0].config.learner.STAGE_IS_EPISODE

    @property
    def stage_label(self) -> str:
        """``"after 1 step, 20 episodes"``: when the return of the last step is measured."""
        return stage_label(self.num_steps, self.episodes_used, is_episode=self.stage_is_episode)

    @property
    def first_stage_label(self) -> str:
        """``"before adaptation"``, or ``"episode 1"``."""
        return stage_label(0, is_episode=self.stage_is_episode)

    def curve(self, metric: str, x: XAxis, smooth: int = 1) -> Curve:
        """Return a metric of all runs, up to the last x that all of them reach.

        The runs are compared at equal x, not in equal iterations: an iteration may have more
        control steps in one run than in another, because episodes end early. The points are those
        of the run that has the most, and the last x. Before its first value, a run has that value.
        """
        series = [run.series(metric, x, smooth) for run in self.runs]
        end = min(one.x[-1] for one in series)
        until_end = [one.x[one.x <= end] for one in series]
        points = np.union1d(max(until_end, key=len), [end])
        values = [np.interp(points, one.x, one.y) for one in series]
        return Curve(series=series, x=points, values=np.stack(values))


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Read run folders, or pretrained policies by name.

    Raises:
        UserError: if one is not a run or is given twice, or its progress.csv is empty or damaged.
    """
    check_different(folders)
    runs = []
    for folder in folders:
        path = find_run(folder)
        runs.append(Run(folder=folder, config=run_config(path), columns=read_progress(path)))
    return runs


def running_mean(values: np.ndarray, num: int) -> np.ndarray:
    """Return the mean of each value and up to ``num`` - 1 values before it, (M,)."""
    return np.array([values[max(0, end - num) : end].mean() for end in range(1, len(values) + 1)])


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Group runs by their settings, in order of first appearance; see :func:`settings_of_runs`.

    Raises:
        UserError: if two runs of a group have the same seed: they are not independent samples.
    """
    groups: list[tuple[Settings, list[Run]]] = []
    of_runs = settings_of_runs([run.config for run in runs], [run.folder for run in runs])
    for run, settings in zip(runs, of_runs, strict=True):
        # Find the group, or start one.
        members = next((runs for other, runs in groups if other == settings), None)
        if members is None:
            members = []
            groups.append((settings, members))
        # Add the run.
        for other_run in members:
            if other_run.config.seed == run.config.seed:
                raise UserError(
                    f"{other_run.folder} and {run.folder} have the same settings and the same seed "
                    f"{run.config.seed}: name one of them"
                )
        members.append(run)
    return [Group(settings, members) for settings, members in groups]


def check_columns(groups: Sequence[Group], view: View) -> None:
    """Check that all runs have the metrics to show.

    Raises:
        UserError: if one lacks a metric; the message lists the columns that all runs have.
    """
    columns = [set(run.columns) for group in groups for run in group.runs]
    for group in groups:
        metrics = [view.metric_of(group)]
        if view.before:
            metrics.append(return_after(0))
        for run in group.runs:
            missing = [metric for metric in metrics if metric not in run.columns]
            if missing:
                shared = ", ".join(sorted(set.intersection(*columns)))
                raise UserError(
                    f"{run.folder}/progress.csv has no column {missing[0]!r}; all runs have "
                    f"{shared}"
                )


def table(groups: Sequence[Group], labels: Sequence[str], view: View) -> str:
    """Format the groups as text: how long they trained, and the final value of the metric."""
    head = ["", "seeds", "iterations", "steps (M)", "hours"]
    if view.metric is None:
        head.append("episodes used")
    rows = [[*head, "final", "95 % interval over runs"]]
    notes = []
    for group, label in zip(groups, labels, strict=True):
        # Length and final value.
        metric = view.metric_of(group)
        curve = group.curve(metric, "steps")
        final = curve.final
        numbers = [int(one.iteration[-1]) for one in curve.series]
        first, last = min(numbers), max(numbers)
        iterations = f"{last}" if first == last else f"{first}-{last}"
        hours = float(np.mean([run.hours for run in group.runs]))
        low, high = mean_interval(final)
        interval = "" if len(final) == 1 else f"[{low:.4g}, {high:.4g}]"
        # Row and notes.
        lengths = [iterations, f"{curve.x[-1]:.4g}", f"{hours:.3g}"]
        if view.metric is None:
            lengths.append(str(group.episodes_used))
        rows.append([label, str(len(final)), *lengths, f"{final.mean():.4g}", interval])
        longest = max(one.x[-1] for one in curve.series)
        if longest > curve.x[-1]:
            notes.append(
                f"{label}: cut to the {curve.x[-1]:.4g} million control steps that all its runs "
                f"have; the longest has {longest:.4g} million"
            )
    metrics = ", ".join(dict.fromkeys(view.metric_of(group) for group in groups))
    what = "mean over the last 5 % of the curve; interval over runs by Student's t"
    notes.append(f"final: {metrics}, {what}")
    return "\n".join([*text_table(rows, num_left_aligned=1), *notes])


def return_after(num_steps: int) -> str:
    """Return the column of the return after a number of adaptation steps."""
    return f"train/return_after_{num_steps}_steps"
