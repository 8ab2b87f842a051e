"""Learning curves: what runs logged to progress.csv, as one line for all seeds of the same settings."""

from __future__ import annotations

import csv
import functools
import io
import math
import os
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from maml_rl.analysis.figures import COLORS, MARKERS, encoded
from maml_rl.analysis.run_labels import Settings, group_settings
from maml_rl.analysis.statistics import FEW_RUNS, mean_interval
from maml_rl.errors import UserError
from maml_rl.runs.pretrained import find_run
from maml_rl.runs.run_folder import run_config
from maml_rl.settings.config import Config
from maml_rl.system.atomic_files import write_whole
from maml_rl.system.untrusted_files import LONGEST_TABLE, read_text

XAxis = Literal["steps", "time", "iterations"]

_ITERATION, _STEPS, _SECONDS = "time/iteration", "time/num_env_steps", "time/meta_iteration_s"
_X_AXES: dict[XAxis, tuple[str, Callable[[Mapping[str, np.ndarray]], np.ndarray]]] = {
    "steps": ("environment steps (millions)", lambda columns: columns[_STEPS] / 1e6),
    "time": ("wall-clock hours", lambda columns: np.cumsum(columns[_SECONDS]) / 3600),
    "iterations": ("meta-iterations", lambda columns: columns[_ITERATION]),
}
_FINAL_PART = 20  # the last 5 % of the iterations are one part of so many
_FORMATS = (".png", ".svg", ".pdf")


@dataclass(frozen=True)
class View:
    """What of the runs is looked at.

    Args:
        metric: column of progress.csv; ``None`` for the return after the last adaptation step of
            training.
        x: the horizontal axis: environment steps in millions, wall-clock hours, or meta-iterations.
        smooth: number of values that a running mean takes in.
        before: the return before adaptation too.
    """

    metric: str | None
    x: XAxis
    smooth: int
    before: bool

    def metric_of(self, group: Group) -> str:
        """The column to show of a group."""
        return self.metric or _return_after(group.num_steps)


class Series(NamedTuple):
    """One metric of one run, at the M iterations that have a value of it: three arrays (M,)."""

    iteration: np.ndarray
    x: np.ndarray
    y: np.ndarray


@dataclass(frozen=True)
class Run:
    """A run that has been read.

    Args:
        folder: where.
        config: its settings.
        columns: of progress.csv, an array (N,) each; NaN where a metric was not logged.
    """

    folder: Path
    config: Config
    columns: Mapping[str, np.ndarray]

    def series(self, metric: str, x: XAxis, smooth: int = 1) -> Series:
        """The values of a metric, each averaged with the ``smooth`` - 1 values before it, as far as there are any.

        Raises:
            UserError: there are none.
        """
        _, axis = _X_AXES[x]
        logged = np.isfinite(self.columns[metric])
        if not logged.any():
            raise UserError(f"{self.folder} has no value of {metric} yet")
        y = running_mean(self.columns[metric][logged], smooth)
        return Series(self.columns[_ITERATION][logged], axis(self.columns)[logged], y)


@dataclass(frozen=True)
class Curve:
    """One metric of the S runs of a group, at the N iterations at which every one of them has a value.

    Args:
        series: of each run, whole.
        iteration: (N,).
        x: mean over runs, (N,).
        values: (S, N).
    """

    series: Sequence[Series]
    iteration: np.ndarray
    x: np.ndarray
    values: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """Over runs, (N,)."""
        return self.values.mean(axis=0)

    @property
    def final(self) -> np.ndarray:
        """Mean of each run over the last 5 % of the iterations, at least one, (S,)."""
        return self.values[:, -math.ceil(self.values.shape[1] / _FINAL_PART) :].mean(axis=1)


@dataclass(frozen=True)
class Group:
    """Runs of the same settings, which differ in their seed alone.

    Args:
        settings: dotted names and values of what they share.
        runs: S of them.
    """

    settings: Settings
    runs: Sequence[Run]

    @property
    def num_steps(self) -> int:
        """Adaptation steps of training."""
        return self.runs[0].config.inner.num_steps

    def curve(self, metric: str, x: XAxis, smooth: int = 1) -> Curve:
        """A metric of all runs, cut to the iterations at which every one of them has a value.

        Raises:
            UserError: there is no such iteration.
        """
        series = [run.series(metric, x, smooth) for run in self.runs]
        iteration = functools.reduce(np.intersect1d, [one.iteration for one in series])
        if not iteration.size:
            names = " and ".join(str(run.folder) for run in self.runs)
            raise UserError(f"{names} have no iteration in common that has a value of {metric}")
        shared = [(one, np.isin(one.iteration, iteration)) for one in series]
        x_of_runs = np.stack([one.x[keep] for one, keep in shared])
        return Curve(
            series,
            iteration,
            x_of_runs.mean(axis=0),
            np.stack([one.y[keep] for one, keep in shared]),
        )


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Read run folders, or pretrained policies by their names.

    Raises:
        UserError: one is no run, stands there twice, or has no rows or damaged ones in its
            progress.csv.
    """
    seen: dict[Path, Path] = {}
    for folder in folders:
        other = seen.setdefault(folder.resolve(), folder)
        if other is not folder:
            raise UserError(
                f"run {folder} is given twice" + ("" if other == folder else f", also as {other}")
            )
    return [
        Run(folder, run_config(find_run(folder)), _read_progress(find_run(folder)))
        for folder in folders
    ]


def _read_progress(folder: Path) -> dict[str, np.ndarray]:
    path = folder / "progress.csv"
    if not path.is_file():
        if os.path.lexists(path):
            raise UserError(f"{path} is not a file that can be read")
        raise UserError(f"{folder} has no progress.csv: it has not finished an iteration yet")
    try:
        rows = list(csv.reader(io.StringIO(read_text(path, LONGEST_TABLE), newline="")))
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if len(rows) < 2:
        raise UserError(f"{path} has no rows: the run has not finished an iteration yet")
    header = rows[0]
    for line, row in enumerate(rows[1:], 2):
        if len(row) != len(header):
            raise UserError(
                f"{path} is damaged: line {line} has {len(row)} values for {len(header)} columns"
            )
    try:
        table = np.array([[float(cell or "nan") for cell in row] for row in rows[1:]])
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from error
    columns = dict(zip(header, table.T, strict=True))
    for name in (_ITERATION, _STEPS, _SECONDS):
        if name not in columns or not np.isfinite(columns[name]).all():
            raise UserError(f"{path} is damaged: it needs a number in every row of {name}")
    if not (np.diff(columns[_ITERATION]) > 0).all():
        raise UserError(f"{path} is damaged: {_ITERATION} does not rise from row to row")
    return columns


def running_mean(values: np.ndarray, num: int) -> np.ndarray:
    """Mean of each value and the ``num`` - 1 before it, as far as there are any, (M,)."""
    return np.array([values[max(0, end - num) : end].mean() for end in range(1, len(values) + 1)])


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Put runs of the same settings together, in order of first appearance.

    Raises:
        UserError: two runs of a group have the same seed; as two samples they would feign
            certainty.
    """
    groups: list[Group] = []
    for run in runs:
        settings = group_settings(run.config)
        i = next((i for i, group in enumerate(groups) if group.settings == settings), len(groups))
        others = groups[i].runs if i < len(groups) else []
        for other in others:
            if other.config.seed == run.config.seed:
                raise UserError(
                    f"{other.folder} and {run.folder} have the same settings and the same seed "
                    f"{run.config.seed}: "
                    "give one of them"
                )
        groups[i : i + 1] = [Group(settings, [*others, run])]
    return groups


def check_columns(groups: Sequence[Group], view: View) -> None:
    """Refuse a metric that some run does not have.

    Raises:
        UserError: which run; the message names the columns that all runs have.
    """
    runs = [(group, run) for group in groups for run in group.runs]
    for group, run in runs:
        for tag in [view.metric_of(group)] + [_return_after(0)] * view.before:
            if tag not in run.columns:
                shared = sorted(set.intersection(*(set(other.columns) for _, other in runs)))
                raise UserError(
                    f"{run.folder}/progress.csv has no column {tag!r}; all runs have "
                    f"{', '.join(shared)}"
                )


def table(groups: Sequence[Group], labels: Sequence[str], view: View) -> str:
    """The groups in numbers, as text: how long they trained, and the final value of what is shown."""
    width = max(len(label) for label in labels)
    columns = f"{{:<{width}}}  {{:>5}}  {{:>10}}  {{:>9}}  {{:>7}}  {{:>9}}  {{}}"
    head = "seeds", "iterations", "steps (M)", "hours", "final", "95 % interval over runs"
    lines, notes = [columns.format("", *head)], []
    for group, label in zip(groups, labels, strict=True):
        metric = view.metric_of(group)
        curve, hours = group.curve(metric, "steps"), group.curve(metric, "time").x[-1]
        final, last = curve.final, int(curve.iteration[-1])
        ends = "" if len(final) == 1 else "[{:.4g}, {:.4g}]".format(*mean_interval(final))
        numbers = (
            len(final),
            last,
            f"{curve.x[-1]:.4g}",
            f"{hours:.3g}",
            f"{final.mean():.4g}",
            ends,
        )
        lines.append(columns.format(label, *numbers).rstrip())
        longest = int(max(one.iteration[-1] for one in curve.series))
        if longest > last:
            notes.append(
                f"{label}: cut to {last} iterations, which all its runs have; the longest has "
                f"{longest}"
            )
    tags = ", ".join(dict.fromkeys(view.metric_of(group) for group in groups))
    what = "mean over the last 5 % of the iterations; interval over runs by Student's t"
    notes.append(f"final: {tags}, {what}")
    return "\n".join([*lines, *notes])


def draw(groups: Sequence[Group], labels: Sequence[str], view: View, title: str | None) -> Figure:
    """Draw a line per group: the mean over its runs.

    Of two or three runs each is drawn too, whole; of more, the 95 % interval over runs by Student's
    t as a band. That of two or three is in the table alone: its band would cover the figure.

    Args:
        groups: of runs.
        labels: one per group.
        view: what to draw of them.
        title: default is the family, where several groups have one in common.

    Raises:
        UserError: a run has no value of the metric.
    """
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    entries: list[tuple[Artist, str]] = []
    for i, (group, label) in enumerate(zip(groups, labels, strict=True)):
        curve = group.curve(view.metric_of(group), view.x, view.smooth)
        start = group.curve(_return_after(0), view.x, view.smooth) if view.before else None
        line = _draw_curve(axes, curve, start, i, len(groups))
        seeds = f" ({len(group.runs)} seeds)" if len(group.runs) > 1 else ""
        entries.append((line, textwrap.fill(label + seeds, 80)))
    steps = " or ".join(f"{num}" for num in sorted({group.num_steps for group in groups}))
    returns = f"return after {steps} adaptation step{'' if steps == '1' else 's'}"
    axes.set(xlabel=_X_AXES[view.x][0], ylabel=view.metric or returns)
    axes.grid(alpha=0.3)
    families = {group.settings["env.name"] for group in groups}
    if title is None and len(families) == 1 < len(groups):
        (title,) = families
    axes.set_title(title or "", parse_math=False)
    _add_legend(figure, [*entries, *_explanations(groups, view)])
    return figure


def _draw_curve(axes: Axes, curve: Curve, start: Curve | None, i: int, num_groups: int) -> Line2D:
    """Draw the curve of the ``i``-th group, and the one before adaptation; the line of its mean."""
    colour, marker = COLORS[i % len(COLORS)], MARKERS[i % len(MARKERS)]
    num_runs = len(curve.series)
    if num_runs > FEW_RUNS:
        ends = mean_interval(curve.values.T).T
        axes.fill_between(curve.x, *ends, color=colour, alpha=0.15, linewidth=0)
    elif num_runs > 1:
        for one in curve.series:
            axes.plot(one.x, one.y, color=colour, linewidth=0.7, alpha=0.6)
    if start is not None:
        axes.plot(start.x, start.mean, color=colour, linewidth=1.3, linestyle="--")
    spacing = max(1, len(curve.x) // 8)
    (line,) = axes.plot(
        curve.x, curve.mean, color=colour, linewidth=1.8, marker=marker, markersize=5, zorder=3
    )
    line.set_markevery((i * spacing // num_groups, spacing))  # beside those of the other groups
    return line


def _explanations(groups: Sequence[Group], view: View) -> Iterator[tuple[Artist, str]]:
    """Legend entries of what all groups share."""
    if view.before:
        yield Line2D([], [], color="grey", linewidth=1.3, linestyle="--"), "before adaptation"
    nums = [len(group.runs) for group in groups]
    if any(1 < num <= FEW_RUNS for num in nums):
        yield Line2D([], [], color="grey", linewidth=0.7), "single runs"
    if max(nums) > FEW_RUNS:
        yield Patch(color="grey", alpha=0.3, linewidth=0), "95 % interval over runs (Student's t)"


def _add_legend(figure: Figure, entries: Sequence[tuple[Artist, str]]) -> None:
    """Below the axes, where it hides nothing; the figure grows by its height."""
    texts = [text for _, text in entries]
    num_columns = 1 if max(len(text) for text in texts) > 40 else 2
    num_lines = sum(1 + text.count("\n") for text in texts) / num_columns
    figure.set_figheight(figure.get_figheight() + 0.2 * num_lines)
    place: Any = {
        "loc": "outside lower center",
        "ncols": num_columns,
        "frameon": False,
        "fontsize": 9,
    }
    legend = figure.legend([handle for handle, _ in entries], ["?"] * len(texts), **place)
    for entry, text in zip(legend.get_texts(), texts, strict=True):
        entry.set_text(text)  # given to the legend itself, one that begins with _ would be left out
        entry.set_parse_math(False)


def check_picture(path: Path) -> None:
    """Refuse a path that no picture can be written to.

    Raises:
        UserError: its ending is unknown, or it is a folder.
    """
    if path.suffix.lower() not in _FORMATS or path.is_dir():
        raise UserError(
            f"picture {path} must be a file that ends in {', '.join(_FORMATS[:-1])} or "
            f"{_FORMATS[-1]}"
        )


def save(figure: Figure, path: Path) -> None:
    """Write a picture, whole or not at all.

    Raises:
        UserError: see :func:`check_picture`; or the file cannot be written.
    """
    check_picture(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, encoded(figure, path.suffix.lower().removeprefix(".")))
    except OSError as error:
        raise UserError(f"picture {path} cannot be written: {error}") from error


def _return_after(num_steps: int) -> str:
    return f"train/return_after_{num_steps}_steps"
