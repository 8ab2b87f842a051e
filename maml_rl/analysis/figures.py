"""Figures of a comparison: returns against steps, episodes, tasks and dynamics."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from maml_rl.analysis.comparison import Comparison, Entry, learner_notes
from maml_rl.analysis.statistics import FEW_RUNS, mean_of_valid
from maml_rl.system.text import counted

COLORS = ("#0072B2", "#E69F00", "#000000", "#D55E00", "#56B4E9", "#009E73", "#CC79A7")
"""Okabe and Ito (2008) without yellow, which is hardly visible; neighbours differ in lightness."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
"""Nine markers: coprime to the seven colours, so that 63 lines look different."""
_MAX_PANELS = 40
_LONGEST_OF_TWO_COLUMNS = 32
"""Characters of a label in a legend with two columns."""
_MOST_WITH_TWO_LINES = 3
"""Methods that a sweep plots before and after adaptation."""
_MOST_GRIDS_IN_A_ROW = 4
_LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 1)))


def encoded(figure: Figure, kind: str) -> bytes:
    """Encode a figure as the content of a file; equal figures give equal bytes.

    Args:
        figure: figure to encode.
        kind: png, svg or pdf.
    """
    buffer = io.BytesIO()
    undated = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
    metadata: dict[str, Any] = undated[kind]
    with rc_context({"svg.hashsalt": "maml_rl"}):
        figure.savefig(buffer, format=kind, dpi=150, metadata=metadata)
    return buffer.getvalue()


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _style(i: int) -> dict[str, Any]:
    """Return the style of the ``i``-th line."""
    return {
        "color": COLORS[i % len(COLORS)],
        "linestyle": _LINES[i % len(_LINES)],
        "marker": MARKERS[i % len(MARKERS)],
        "markersize": 5,
    }


def _draw(axes: Axes, x: Any, points: Sequence[tuple[Entry, int]], i: int, label: str) -> None:
    """Draw a line through returns, with their spread.

    The spread is a band of the intervals, or a thin line for each run if there are few.

    Args:
        axes: axes to draw on.
        x: x of each point.
        points: for each point an entry and a step; all entries have the same number of runs.
        i: index of the line, for its style.
        label: label in the legend.
    """
    style = _style(i)
    axes.plot(x, [entry.center[k] for entry, k in points], label=label, **style)
    if 1 < len(points[0][0].evaluations) <= FEW_RUNS:
        runs = np.stack([entry.run_returns[:, k] for entry, k in points])
        axes.plot(x, runs, color=style["color"], linewidth=0.7, alpha=0.6)
        return
    intervals = np.stack([entry.interval[k] for entry, k in points])
    if np.isfinite(intervals).all():
        axes.fill_between(x, *intervals.T, color=style["color"], alpha=0.15, linewidth=0)


def _spread(entries: Sequence[Entry]) -> str:
    """Describe the bands and thin lines of :func:`_draw`, for a title."""
    num_runs = {len(entry.evaluations) for entry in entries}
    parts = []
    if 1 in num_runs and max(num_runs) > FEW_RUNS:
        parts.append("band: 95 % interval, over tasks for one run, else over runs")
    elif 1 in num_runs or max(num_runs) > FEW_RUNS:
        parts.append(f"band: 95 % interval over {'tasks' if 1 in num_runs else 'runs'}")
    if any(1 < number <= FEW_RUNS for number in num_runs):
        parts.append("thin lines: single runs")
    return "; ".join(parts)


def _finish(figure: Figure, title: str) -> Figure:
    """Add a grid to all axes, one legend, and the title."""
    for axes in figure.axes:
        axes.grid(alpha=0.3)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if len(labels) > 1:
        num_columns = 1 if max(map(len, labels)) > _LONGEST_OF_TWO_COLUMNS else 2
        figure.legend(handles, labels, loc="outside lower center", ncols=num_columns, fontsize=9)
    figure.suptitle(title, fontsize=10)
    return figure


def adaptation_figure(comparison: Comparison) -> Figure:
    """Plot returns against the episodes that adaptation used.

    If all methods use equally many in a step, a second axis counts steps, or numbers the episodes
    whose return is measured; else the axis of episodes is logarithmic, but with 0.
    """
    figure = _figure(6, 4.4)
    axes = figure.subplots()
    most = max(int(entry.episodes_used[-1]) for entry in comparison.main)
    for i, entry in enumerate(comparison.main):
        if entry.adapts:
            points = [(entry, k) for k in range(len(entry.center))]
            _draw(axes, entry.episodes_used, points, i, entry.name)
        else:  # a horizontal line
            _draw(axes, [0, most], [(entry, 0), (entry, 0)], i, entry.name)
    axes.set(xlabel="episodes used per task", ylabel="return")
    _mark_steps(axes, [entry for entry in comparison.main if entry.adapts])
    tasks = counted(comparison.settings["num_tasks"], f"{comparison.kind_of_tasks} task")
    title = f"{_subject(comparison)}: mean over {tasks}"
    notes = [textwrap.fill(note, 80) for note in learner_notes(comparison.main)]
    return _finish(figure, "\n".join([title, _spread(comparison.main), *notes]))


def _mark_steps(axes: Axes, entries: Sequence[Entry]) -> None:
    """Set the ticks of an axis of episodes to those used after each step.

    Args:
        axes: axes to mark.
        entries: the methods that adapt.
    """
    if not entries:
        axes.set_xticks([0])
        return
    episodes_used = [entry.episodes_used for entry in entries]
    ticks = np.unique(np.concatenate(episodes_used))
    per_step = sorted({int(used[1]) for used in episodes_used})
    num_episodes = per_step[0]
    if len(per_step) > 1:
        axes.set_xscale("symlog", linthresh=num_episodes)
        axes.set_xlim(left=-0.1 * num_episodes)  # markers at 0 are whole
        ticks = np.unique([used[k] for used in episodes_used for k in (0, 1, -1)])
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        return
    ticks = ticks[:: 1 if len(ticks) <= 8 else len(ticks) // 6]
    axes.set_xticks(ticks)

    first, label = 0, "adaptation steps"
    if all(entry.stage_is_episode for entry in entries):
        first, label = 1, "episode measured"

    def to_steps(episodes: Any) -> Any:
        return first + episodes / num_episodes

    def to_episodes(steps: Any) -> Any:
        return (steps - first) * num_episodes

    steps = axes.secondary_xaxis("top", functions=(to_steps, to_episodes))
    steps.set(xlabel=label, xticks=to_steps(ticks))


def tasks_figures(comparison: Comparison) -> list[Figure]:
    """Plot the return on each task before and after adaptation, one figure per method.

    If the tasks differ in one value, it is the x-axis; if in two, the figure is a map; if in more,
    it has a panel for each value. The title lists values that are not plotted, since they are not
    numeric. There are no figures if no numeric value differs, or not all tasks have the same names.
    """
    # The values in which tasks differ.
    tasks = comparison.main[0].evaluations[0].tasks
    if any(task.keys() != tasks[0].keys() for task in tasks):
        return []
    varying = [name for name in tasks[0] if any(task[name] != tasks[0][name] for task in tasks)]
    numbers = (int, float)
    numeric = [name for name in varying if all(isinstance(task[name], numbers) for task in tasks)]
    if not numeric:
        return []
    others = ", ".join(name for name in varying if name not in numeric)
    note = f"\nnot drawn, since not numeric: {others}" if others else ""
    # Their axes.
    units = comparison.settings["task_units"]
    values = {
        _with_unit(name, units): np.array([float(task[name]) for task in tasks]) for name in numeric
    }
    has_equal_units = len({units.get(name, "") for name in numeric}) == 1
    is_place = has_equal_units and units.get(numeric[0], "") != ""
    # A figure for each method.
    figures = []
    for entry in comparison.main:
        title = f"{_subject(comparison)}, {entry.name}{note}"
        returns = {entry.stage_label(k): entry.task_returns[k] for k in (0, entry.adapted_step)}
        if not entry.adapts:
            returns = {"without adaptation": entry.task_returns[0]}
        if len(values) == 2:
            figures.append(_task_map(title, values, returns, is_place))
        else:
            figures.append(_task_panels(title, values, returns))
    return figures


def _task_panels(
    title: str,
    values: Mapping[str, np.ndarray],
    returns: Mapping[str, np.ndarray],
) -> Figure:
    """Plot returns against each value of a task, one panel per value.

    Args:
        title: first line of the title.
        values: (N,) per axis label.
        returns: (N,) per legend label, before and after adaptation.
    """
    names = list(values)[:_MAX_PANELS]
    num_columns = min(4, len(names))
    num_rows = -(-len(names) // num_columns)
    size = (6, 4) if len(names) == 1 else (1 + 2.5 * num_columns, 1 + 2.2 * num_rows)
    figure = _figure(*size)
    panels = figure.subplots(num_rows, num_columns, sharey=True, squeeze=False)
    for axes in panels.flat[len(names) :]:
        axes.remove()
    for axes, name in zip(panels.flat, names, strict=False):
        _task_curve(axes, name, values[name], returns)
    for axes in panels[:, 0]:
        axes.set_ylabel("return" if len(names) > 1 else "return (mean over the task's episodes)")
    what = " and ".join(returns)
    note = ""
    if len(names) < len(values):
        note = f"\nthe first {len(names)} of {len(values)} values"
    return _finish(figure, f"{title}\neach task: {what}{note}")


def _task_curve(
    axes: Axes, name: str, values: np.ndarray, returns: Mapping[str, np.ndarray]
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
        style = _style(i) | {"linestyle": "none"}
        axes.plot(values + jitter, task_returns, label=label, alpha=0.8, **style)
    if len(returns) == 2:
        before, after = returns.values()
        axes.vlines(values + jitter, before, after, color="0.6", linewidth=0.8, zorder=0)
    axes.set_xlabel(name)


def _task_map(
    title: str,
    values: Mapping[str, np.ndarray],
    returns: Mapping[str, np.ndarray],
    is_place: bool,
) -> Figure:
    """Plot returns as colours over two values, one panel before and one after adaptation.

    Args:
        title: title of the figure.
        values: (N,) per axis label, two of them.
        returns: (N,) per panel.
        is_place: whether the values are coordinates, so that both axes need the same scale.
    """
    figure = _figure(1 + 4 * len(returns), 4)
    all_returns = np.concatenate(list(returns.values()))
    panels = figure.subplots(1, len(returns), sharex=True, sharey=True, squeeze=False)[0]
    (x_label, x), (y_label, y) = values.items()
    for axes, (label, task_returns) in zip(panels, returns.items(), strict=True):
        points = axes.scatter(
            x,
            y,
            c=task_returns,
            vmin=np.nanmin(all_returns),
            vmax=np.nanmax(all_returns),
            cmap="cividis",
            s=45,
            edgecolors="black",
        )
        axes.set(xlabel=x_label, title=label)
        if is_place:
            axes.set_aspect("equal", adjustable="box")
        axes.margins(0.1)
        axes.set_axisbelow(True)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel(y_label)
    figure.colorbar(points, ax=figure.axes, label="return")
    figure.suptitle(title, fontsize=10)
    return figure


def change_figure(comparison: Comparison) -> Figure | None:
    """Plot rewards against control steps around a change of the dynamics, one panel per step k.

    There is no figure without a change in the environment without a sweep.
    """
    stages = sorted({k for entry in comparison.main for k in entry.responses})
    if not stages:
        return None
    figure = _figure(1 + 5 * len(stages), 4.2)
    panels = figure.subplots(1, len(stages), sharey=True, squeeze=False)[0]
    for axes, k in zip(panels, stages, strict=True):
        axes.axvline(0, color="0.5", linewidth=1.5, zorder=0, label="change of the dynamics")
        titles = []
        for i, entry in enumerate(comparison.main):
            if k not in entry.responses:
                continue
            of_entry = entry.responses[k]
            style = _style(i) | {"marker": ""}
            axes.plot(of_entry.steps, of_entry.rewards, label=entry.name, **style)
            titles.append(entry.stage_label(k))
        title = "; ".join(dict.fromkeys(titles))  # learners count steps or episodes
        axes.set(xlabel="control steps since the change", title=title)
    panels[0].set_ylabel("reward per control step")
    return _finish(figure, f"{_subject(comparison)}: mean over tasks and episodes")


def scratch_figure(comparison: Comparison) -> Figure:
    """Plot returns of learning from scratch and of adaptation against control steps in a task."""
    scratch = comparison.scratch
    assert scratch is not None, "called only with curves from scratch"
    tasks = list(scratch.tasks)
    figure = _figure(6, 4.2)
    axes = figure.subplots()
    horizon = comparison.settings["horizon"]
    # Methods that adapt, or observe the task.
    for i, entry in enumerate(comparison.main):
        returns = mean_of_valid(entry.task_returns[:, tasks], 1)
        if not entry.adapts:
            axes.axhline(returns[0], label=entry.name, **(_style(i) | {"marker": ""}))
        else:
            axes.plot(entry.episodes_used * horizon, returns, label=entry.name, **_style(i))
    # Learning from scratch.
    x = scratch.num_env_steps
    label = comparison.scratch_label
    axes.plot(x, scratch.returns.mean(axis=0), label=label, **_style(len(comparison.main)))
    worst, best = scratch.returns.min(axis=0), scratch.returns.max(axis=0)
    axes.fill_between(x, worst, best, color="0.85", linewidth=0, zorder=0)
    # Axes: logarithmic, but with 0.
    smallest = [scratch.num_env_steps[1]]
    smallest += [entry.episodes_used[1] * horizon for entry in comparison.main if entry.adapts]
    axes.set_xscale("symlog", linthresh=min(smallest))
    axes.set_xlim(left=0)
    axes.set(xlabel="control steps taken in the task", ylabel="return")
    note = "the same task"
    if len(tasks) > 1:
        note = f"means over the same {len(tasks)} tasks\ngrey: {scratch.label}, worst to best task"
    return _finish(figure, f"{_subject(comparison)}: {note}")


def sweep_figure(comparison: Comparison, name: str, trained: tuple[float, float] | None) -> Figure:
    """Plot returns before and after adaptation against a parameter; its training range is grey.

    Of many methods, only the returns after adaptation are plotted.
    """
    figure = _figure(6, 4.2)
    axes = figure.subplots()
    entries = comparison.sweep(name)
    labels = list(dict.fromkeys(entry.label for entry in entries))
    # One or two lines for each method.
    for i, label in enumerate(labels):
        of_method = [entry for entry in entries if entry.label == label]
        of_method.sort(key=lambda entry: entry.swept[name])
        x = [entry.swept[name] for entry in of_method]
        last = of_method[0].adapted_step
        is_crowded = len(labels) > _MOST_WITH_TWO_LINES
        for k in [last] if is_crowded else dict.fromkeys((0, last)):
            first = of_method[0]
            line_label = f"{first.name}, {first.stage_label(k)}" if first.adapts else first.name
            points = [(entry, k) for entry in of_method]
            _draw(axes, x, points, i if is_crowded else 2 * i + (k != 0), line_label)
    # The range in training.
    if trained is not None:
        low, high = trained
        if low < high:
            axes.axvspan(low, high, color="0.88", zorder=0, label="in training")
        else:
            axes.axvline(low, color="0.5", linewidth=1.5, zorder=0, label="in training")
    axes.set(xlabel=_with_unit(name, comparison.settings["task_units"]), ylabel="return")
    title = f"{_subject(comparison)}: tasks with {name.replace('_', ' ')} fixed"
    return _finish(figure, f"{title}\n{_spread(entries)}")


def grid_figure(comparison: Comparison, names: tuple[str, str]) -> Figure:
    """Plot returns as a grid of two parameters.

    The panels are one method before and after adaptation, or several methods after adaptation.
    """
    entries = comparison.sweep(*names)
    # The entries of each panel, and the step whose return they show.
    panels: dict[str, list[tuple[Entry, int]]] = {}
    has_one = len({entry.label for entry in entries}) == 1
    for entry in entries:
        for k in (0, entry.adapted_step) if has_one else (entry.adapted_step,):
            title = entry.stage_label(k) if has_one else entry.label
            panels.setdefault(title, []).append((entry, k))
    # Returns, (panels, rows, columns).
    x_name, y_name = names
    columns = sorted({entry.swept[x_name] for entry in entries})
    rows = sorted({entry.swept[y_name] for entry in entries})
    returns = np.full((len(panels), len(rows), len(columns)), np.nan)
    for values, points in zip(returns, panels.values(), strict=True):
        for entry, k in points:
            row, column = rows.index(entry.swept[y_name]), columns.index(entry.swept[x_name])
            values[row, column] = entry.center[k]
    # A panel for each.
    num_columns = min(len(panels), _MOST_GRIDS_IN_A_ROW)
    num_rows = math.ceil(len(panels) / num_columns)
    width, height = 0.8 + 0.96 * len(columns), 1.0 + 0.6 * len(rows)
    figure = _figure(1 + width * num_columns, 0.8 + height * num_rows)
    all_axes = figure.subplots(num_rows, num_columns, sharey=True, squeeze=False).ravel()
    for axes in all_axes[len(panels) :]:
        axes.remove()
    units = comparison.settings["task_units"]
    for axes, values, title in zip(all_axes, returns, panels, strict=False):
        # Colours.
        image = axes.imshow(
            values,
            cmap="cividis",
            origin="lower",
            aspect="auto",
            vmin=np.nanmin(returns),
            vmax=np.nanmax(returns),
        )
        # Numbers, in a colour that contrasts.
        for (row, column), value in np.ndenumerate(values):
            color = "black" if image.norm(value) > 0.55 else "white"
            text = f"{round(value)}" if np.isfinite(value) else "none"
            axes.text(column, row, text, ha="center", va="center", color=color, fontsize=9)
        # Axes.
        axes.set(title=title, xlabel=_with_unit(x_name, units))
        axes.set_xticks(range(len(columns)), [f"{value:.3g}" for value in columns])
        axes.set_yticks(range(len(rows)), [f"{value:.3g}" for value in rows])
    for axes in all_axes[: len(panels) : num_columns]:
        axes.set_ylabel(_with_unit(y_name, units))
    figure.colorbar(image, ax=figure.axes, label="return")
    label = f", {entries[0].label}" if has_one else ""
    figure.suptitle(f"{_subject(comparison)}{label}", fontsize=10)
    return figure


def _subject(comparison: Comparison) -> str:
    """Environment and actions, for a title."""
    return f"{comparison.settings['env']}, {comparison.actions}"


def _with_unit(name: str, units: Mapping[str, str]) -> str:
    """``"goal velocity (m/s)"``."""
    unit = units.get(name)
    return name.replace("_", " ") + (f" ({unit})" if unit else "")
