"""Figures of returns against the values in which tasks differ, one for each method."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from maml_rl.analysis.comparison.compare import Comparison
from maml_rl.analysis.comparison.entries import Entry
from maml_rl.analysis.comparison.figures import name_ticks, subject_of
from maml_rl.analysis.figures import finish_figure, line_style, new_figure, set_title
from maml_rl.analysis.tasks.words import value_key, with_unit

_MAX_PANELS = 40
_MAX_COORDINATES = 12
_COLORS = "cividis"
_LEAST_TASKS_OF_A_CORRELATION = 20


class _Varying(NamedTuple):
    """The values in which the tasks of a comparison differ."""

    numbers: dict[str, np.ndarray]
    """Numeric values by name, (N,)."""
    note: str
    """A line for the title that names the others; empty if there are none."""


def tasks_figures(comparison: Comparison) -> list[Figure]:
    """Plot the return on each task before and after adaptation, one figure per method.

    If the tasks differ in one value, it is the x-axis; if in two, the figure is a map; if in more,
    it has a panel for each value. The title lists values that are not plotted, since they are not
    numeric. There are no figures if no numeric value differs, or not all tasks have the same names.
    The colours of all maps mean the same returns.
    """
    varying = _varying(comparison)
    figures = []
    for entry, title in _methods(comparison, varying):
        if len(varying.numbers) == 2:
            figures.append(_task_map(comparison, title, varying.numbers, _returns_of(entry)))
        else:
            figures.append(_task_panels(comparison, title, varying.numbers, _returns_of(entry)))
    return figures


def parallel_figures(comparison: Comparison) -> list[Figure]:
    """Plot each task as a line through all its values, coloured by its return after adaptation.

    There is a figure for each method if tasks differ in more than two numeric values, else none.
    """
    varying = _varying(comparison)
    if len(varying.numbers) < 3:
        return []
    return [
        _parallel_coordinates(comparison, title, varying.numbers, entry)
        for entry, title in _methods(comparison, varying)
    ]


def _varying(comparison: Comparison) -> _Varying:
    """Find the values in which tasks differ; none if not all tasks have the same names."""
    tasks = comparison.main[0].evaluations[0].tasks
    if any(task.keys() != tasks[0].keys() for task in tasks):
        return _Varying({}, "")
    names = [name for name in tasks[0] if any(task[name] != tasks[0][name] for task in tasks)]
    numeric = [name for name in names if all(isinstance(task[name], int | float) for task in tasks)]
    others = ", ".join(name for name in names if name not in numeric)
    numbers = {name: np.array([float(task[name]) for task in tasks]) for name in numeric}
    return _Varying(numbers, f"\nnot drawn, since not numeric: {others}" if others else "")


def _methods(comparison: Comparison, varying: _Varying) -> Iterator[tuple[Entry, str]]:
    """Yield each method and the title of its figures; nothing without numeric values."""
    if varying.numbers:
        for entry in comparison.main:
            yield entry, f"{subject_of(comparison)}, {entry.name}{varying.note}"


def _returns_of(entry: Entry) -> dict[str, np.ndarray]:
    """Return the returns (N,) of a method before and after adaptation, by stage."""
    if not entry.adapts:
        return {"without adaptation": entry.task_returns[0]}
    return {entry.stage_label(k): entry.task_returns[k] for k in (0, entry.adapted_step)}


def _scale(comparison: Comparison) -> Normalize:
    """Return the scale of colours: the range of the returns of all methods."""
    returns = [values for entry in comparison.main for values in _returns_of(entry).values()]
    valid = np.concatenate(returns)
    valid = valid[np.isfinite(valid)]
    return Normalize(valid.min(), valid.max()) if len(valid) else Normalize(0.0, 1.0)


def _task_panels(
    comparison: Comparison,
    title: str,
    values: Mapping[str, np.ndarray],
    returns: Mapping[str, np.ndarray],
) -> Figure:
    """Plot returns against each value of a task, one panel per value.

    Args:
        comparison: has the units and names of values.
        title: first line of the title.
        values: (N,) by name.
        returns: (N,) per legend label, before and after adaptation.
    """
    names = list(values)[:_MAX_PANELS]
    num_columns = min(4, len(names))
    num_rows = -(-len(names) // num_columns)
    size = (6, 4) if len(names) == 1 else (1 + 2.5 * num_columns, 1 + 2.2 * num_rows)
    figure = new_figure(*size)
    panels = figure.subplots(num_rows, num_columns, sharey=True, squeeze=False)
    for axes in panels.flat[len(names) :]:
        axes.remove()
    for axes, name in zip(panels.flat, names, strict=False):
        _task_curve(comparison, axes, name, values[name], returns)
    has_equal = any(len(np.unique(values[name])) < len(values[name]) for name in names)
    for axes in panels[:, 0]:
        axes.set_ylabel("return" if len(names) > 1 else "return (mean over the task's episodes)")
    what = " and ".join(returns)
    note = "\nequal values are drawn next to each other" if has_equal else ""
    if len(names) < len(values):
        note += f"\nthe first {len(names)} of {len(values)} values"
    return finish_figure(figure, f"{title}\neach task: {what}{note}")


def _task_curve(
    comparison: Comparison,
    axes: Axes,
    name: str,
    values: np.ndarray,
    returns: Mapping[str, np.ndarray],
) -> None:
    """Plot returns against one value, (N,) each."""
    different = np.unique(values)
    jitter = np.zeros(len(values))
    if len(different) < len(values):  # tasks with equal values would hide each other
        gap = np.diff(different).min()
        jitter = gap * np.linspace(-0.12, 0.12, len(values))
        if len(different) <= 10:
            axes.set_xticks(different)
    for i, (label, task_returns) in enumerate(returns.items()):
        style = line_style(i) | {"linestyle": "none"}
        axes.plot(values + jitter, task_returns, label=label, alpha=0.8, **style)
    if len(returns) == 2:
        before, after = returns.values()
        axes.vlines(values + jitter, before, after, color="0.6", linewidth=0.8, zorder=0)
    axes.set_xlabel(with_unit(name, comparison.settings["task_units"]))
    name_ticks(axes.xaxis, name, different.tolist(), comparison)


def _task_map(
    comparison: Comparison,
    title: str,
    values: Mapping[str, np.ndarray],
    returns: Mapping[str, np.ndarray],
) -> Figure:
    """Plot returns as colours over two values, one panel before and one after adaptation.

    Args:
        comparison: has the units and names of values, and the range of all returns.
        title: title of the figure.
        values: (N,) by name, two of them.
        returns: (N,) per panel.
    """
    units = comparison.settings["task_units"]
    figure = new_figure(1 + 4 * len(returns), 4)
    figure.set_layout_engine("compressed")  # square axes leave room at their sides
    panels = figure.subplots(1, len(returns), sharex=True, sharey=True, squeeze=False)[0]
    (x_name, x), (y_name, y) = values.items()
    scale = _scale(comparison)
    for axes, (label, task_returns) in zip(panels, returns.items(), strict=True):
        axes.scatter(x, y, c=task_returns, norm=scale, cmap=_COLORS, s=45, edgecolors="black")
        axes.set(xlabel=with_unit(x_name, units), title=label)
        axes.margins(0.1)
        # Coordinates need the same scale, in a square.
        if units.get(x_name, "") == units.get(y_name, "") != "":
            half = 0.6 * max(np.ptp(x), np.ptp(y))
            middles = [(values.min() + values.max()) / 2 for values in (x, y)]
            axes.set(xlim=(middles[0] - half, middles[0] + half), aspect="equal")
            axes.set_ylim(middles[1] - half, middles[1] + half)
        axes.set_axisbelow(True)
        axes.grid(alpha=0.3)
        name_ticks(axes.xaxis, x_name, x.tolist(), comparison)
    figure.axes[0].set_ylabel(with_unit(y_name, units))
    name_ticks(figure.axes[0].yaxis, y_name, y.tolist(), comparison)
    figure.colorbar(ScalarMappable(scale, _COLORS), ax=list(panels), label="return")
    set_title(figure, title)
    return figure


def _parallel_coordinates(
    comparison: Comparison, title: str, values: Mapping[str, np.ndarray], entry: Entry
) -> Figure:
    """Plot each task as a line whose heights are its values, between the least and the greatest.

    Args:
        comparison: has the units, and the range of all returns.
        title: first line of the title.
        values: (N,) by name, three or more.
        entry: the method.
    """
    # The values that move the return most come first; the others may have no room.
    stage, returns = list(_returns_of(entry).items())[-1]
    is_valid = np.isfinite(returns)
    strength = {
        name: _correlation(of_name[is_valid], returns[is_valid]) for name, of_name in values.items()
    }
    names = sorted(values, key=lambda name: -abs(strength[name]))[:_MAX_COORDINATES]
    # Lines, the task with the highest return in front.
    figure = new_figure(2 + 1.1 * len(names), 4.6)
    axes = figure.subplots()
    scale = _scale(comparison)
    heights = np.stack([_between_ends(values[name]) for name in names], axis=1)
    places = list(range(len(names)))
    for i in np.argsort(returns)[: is_valid.sum()]:
        color = ScalarMappable(scale, _COLORS).to_rgba(returns[i])
        axes.plot(places, heights[i], color=color, linewidth=1.4, alpha=0.85)
    # An axis for each value, with its least and greatest.
    units = comparison.settings["task_units"]
    value_names = comparison.settings["task_value_names"]
    for place, name in zip(places, names, strict=True):
        axes.axvline(place, color="0.6", linewidth=0.8, zorder=0)
        for end, height, align in (
            (values[name].min(), -0.02, "top"),
            (values[name].max(), 1.02, "bottom"),
        ):
            text = value_names.get(name, {}).get(value_key(end), f"{end:.3g}")
            axes.text(place, height, text, ha="center", va=align, fontsize=8)
    labels = [with_unit(name, units) for name in names]
    note = "each line is a task"
    if is_valid.sum() >= _LEAST_TASKS_OF_A_CORRELATION:
        labels = [f"{with_unit(name, units)}\nr = {strength[name]:+.2f}" for name in names]
        note += "; r: correlation of a value with the return"
    axes.set_xticks(places, labels, rotation=30, ha="right", fontsize=8)
    axes.set(ylim=(-0.1, 1.1), yticks=[])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, pad=6)
    figure.colorbar(ScalarMappable(scale, _COLORS), ax=axes, label=f"return {stage}")
    if len(names) < len(values):
        note += f"\nthe {len(names)} of {len(values)} values with the strongest correlation"
    set_title(figure, f"{title}\n{note}")
    return figure


def _correlation(values: np.ndarray, returns: np.ndarray) -> float:
    """Return Pearson's correlation of two arrays (N,); 0 if one of them is constant."""
    if len(values) < 2 or not (np.ptp(values) and np.ptp(returns)):
        return 0.0
    return float(np.corrcoef(values, returns)[0, 1])


def _between_ends(values: np.ndarray) -> np.ndarray:
    """Return where values are between the least (0) and the greatest (1), (N,)."""
    return (values - values.min()) / np.ptp(values)
