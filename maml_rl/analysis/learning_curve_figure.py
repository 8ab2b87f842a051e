"""Figures of learning curves."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from maml_rl.analysis.figures import COLORS, MARKERS, add_legend, encoded, new_figure
from maml_rl.analysis.learning_curves import X_AXES, Curve, Group, Run, View, return_after
from maml_rl.analysis.run_labels import group_settings
from maml_rl.analysis.statistics import FEW_RUNS, mean_interval
from maml_rl.errors import UserError
from maml_rl.system.atomic_files import write_whole

_FORMATS = (".png", ".svg", ".pdf")
_FEW_POINTS = 20
"""A curve of as many points can have a marker on each."""


def draw(groups: Sequence[Group], labels: Sequence[str], view: View, title: str | None) -> Figure:
    """Plot a line per group: the mean over its runs.

    Two or three runs are also plotted one by one. For more runs, a band shows the 95 % interval
    over runs by Student's t; for two or three it would cover the figure.

    Args:
        groups: groups of runs.
        labels: one per group.
        view: what to plot.
        title: default is the family, if several groups have it in common.

    Raises:
        UserError: if a run has no value of the metric.
    """
    # Lines.
    figure = new_figure(7, 4)
    axes = figure.add_subplot()
    if view.log_x:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
    entries: list[tuple[Artist, str]] = []
    stages = {group.stage_label for group in groups}
    for i, (group, label) in enumerate(zip(groups, labels, strict=True)):
        curve = group.curve(view.metric_of(group), view.x, view.smooth)
        start = group.curve(return_after(0), view.x, view.smooth) if view.before else None
        line = _draw_curve(axes, curve, start, i, len(groups))
        seeds = f" ({len(group.runs)} seeds)" if len(group.runs) > 1 else ""
        stage = f", {group.stage_label}" if view.metric is None and len(stages) > 1 else ""
        line.set_label(label + seeds + stage)
        entries.append((line, str(line.get_label())))
    # Axes, title and legend.
    returns = "return"
    if len(stages) == 1:
        returns += f" {'in ' if groups[0].stage_is_episode else ''}{groups[0].stage_label}"
    axes.set(xlabel=X_AXES[view.x][0], ylabel=view.metric or returns)
    axes.grid(alpha=0.3)
    families = {group.settings["env.name"] for group in groups}
    if title is None and len(families) == 1 < len(groups):
        (title,) = families
    axes.set_title(title or "", parse_math=False)
    handles, texts = zip(*entries, *_explanations(groups, view), strict=True)
    add_legend(figure, handles, texts)
    return figure


def learning_curves(runs: Mapping[str, Sequence[Run]]) -> Figure:
    """Plot the return after adaptation of several methods against control steps.

    Args:
        runs: of each method, by its label; they have the same settings but different seeds.
    """
    view = View(metric=None, x="steps", smooth=1, before=False)
    groups = [Group(group_settings(of_method[0].config), of_method) for of_method in runs.values()]
    return draw(groups, list(runs), view, None)


def _draw_curve(axes: Axes, curve: Curve, start: Curve | None, i: int, num_groups: int) -> Line2D:
    """Plot the curve of the ``i``-th group; ``start`` is the return before adaptation.

    Returns the line of the mean.
    """
    colour = COLORS[i % len(COLORS)]
    marker = MARKERS[i % len(MARKERS)]
    # The spread of the runs.
    num_runs = len(curve.series)
    if num_runs > FEW_RUNS:
        ends = mean_interval(curve.values.T).T
        axes.fill_between(curve.x, *ends, color=colour, alpha=0.15, linewidth=0)
    elif num_runs > 1:
        for one in curve.series:
            axes.plot(one.x, one.y, color=colour, linewidth=0.7, alpha=0.6)
    # The means.
    if start is not None:
        axes.plot(start.x, start.mean, color=colour, linewidth=1.3, linestyle="--")
    (line,) = axes.plot(
        curve.x, curve.mean, color=colour, linewidth=1.8, marker=marker, markersize=5, zorder=3
    )
    # A single short curve has every marker: a choice would be at irregular distances.
    if num_groups > 1 or len(curve.x) > _FEW_POINTS:
        line.set_markevery(_marked(curve.x, i / num_groups, axes.get_xscale() == "log"))
    return line


def _marked(x: np.ndarray, offset: float, is_log: bool) -> list[int]:
    """Indices of up to eight values that are evenly spaced on the axis.

    Args:
        x: increasing, (N,).
        offset: of the first one, as a share of the spacing.
        is_log: whether the axis is logarithmic.
    """
    place = np.log(x) if is_log else x
    targets = place[0] + (np.arange(8) + offset) / 8 * np.ptp(place)
    return np.unique(np.searchsorted(place, targets)).tolist()


def _explanations(groups: Sequence[Group], view: View) -> Iterator[tuple[Artist, str]]:
    """Yield legend entries that are common to all groups."""
    if view.before:
        labels = dict.fromkeys(group.first_stage_label for group in groups)
        yield Line2D([], [], color="grey", linewidth=1.3, linestyle="--"), " or ".join(labels)
    num_runs = [len(group.runs) for group in groups]
    if any(1 < num <= FEW_RUNS for num in num_runs):
        yield Line2D([], [], color="grey", linewidth=0.7), "single runs"
    if max(num_runs) > FEW_RUNS:
        yield Patch(color="grey", alpha=0.3, linewidth=0), "95 % interval over runs (Student's t)"


def check_figure_path(path: Path) -> None:
    """Check the path of a figure.

    Raises:
        UserError: if its suffix is unknown, or it is a folder.
    """
    if path.suffix.lower() not in _FORMATS or os.path.isdir(path):
        raise UserError(
            f"figure {path} must be a file that ends in {', '.join(_FORMATS[:-1])} or "
            f"{_FORMATS[-1]}"
        )


def save(figure: Figure, path: Path) -> None:
    """Write a figure atomically.

    Raises:
        UserError: if the path is invalid, or the file cannot be written.
    """
    check_figure_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, encoded(figure, path.suffix.lower().removeprefix(".")))
    except OSError as error:
        raise UserError(f"figure {path} cannot be written: {error}") from error
