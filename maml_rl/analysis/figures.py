"""Pictures of a comparison: returns against steps, episodes, tasks, and bodies."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from maml_rl.analysis.comparison import Comparison, Entry
from maml_rl.analysis.statistics import FEW_RUNS, mean_of_valid

COLORS = ("#0072B2", "#E69F00", "#000000", "#D55E00", "#56B4E9", "#009E73", "#CC79A7")
"""Of Okabe and Ito (2008), without the yellow, which is hardly seen on white; neighbours differ in lightness."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
"""As many as have no divisor in common with the colours, so that 63 lines look different."""
_MAX_PANELS = 40
_LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 1)))


def encoded(figure: Figure, kind: str) -> bytes:
    """A picture as the content of a file; the same one for the same picture.

    Args:
        figure: to encode.
        kind: png, svg or pdf.
    """
    buffer = io.BytesIO()
    metadata: dict[str, Any] = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[
        kind
    ]
    with rc_context({"svg.hashsalt": "maml_rl"}):
        figure.savefig(buffer, format=kind, dpi=150, metadata=metadata)
    return buffer.getvalue()


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _style(i: int) -> dict[str, Any]:
    color, line, marker = (
        COLORS[i % len(COLORS)],
        _LINES[i % len(_LINES)],
        MARKERS[i % len(MARKERS)],
    )
    return {"color": color, "linestyle": line, "marker": marker, "markersize": 5}


def _draw(axes: Axes, x: Any, points: Sequence[tuple[Entry, int]], i: int, label: str) -> None:
    """A line through the returns of entries after so many steps, and their spread.

    That is a band of their intervals, or of a few runs each as a thin line.

    Args:
        axes: to draw on.
        x: of each point.
        points: entries of as many runs each, and a step of each.
        i: of the line among the others.
        label: in the legend.
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
    """What the bands and the thin lines of :func:`_draw` are."""
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
    """A grid for every axes, one legend for all beside them, and the title."""
    for axes in figure.axes:
        axes.grid(alpha=0.3)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if len(labels) > 1:
        figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=9)
    figure.suptitle(title, fontsize=10)
    return figure


def adaptation_figure(comparison: Comparison) -> Figure:
    """Return against adaptation steps, and against the episodes that adaptation has used."""
    figure = _figure(8, 4)
    by_steps, by_episodes = figure.subplots(1, 2, sharey=True)
    last = max(len(entry.center) for entry in comparison.main) - 1
    for i, entry in enumerate(comparison.main):
        if len(entry.center) == 1:  # told the task, so there is nothing to adapt to
            for axes, end in (
                (by_steps, last),
                (by_episodes, last * entry.evaluations[0].returns.shape[2]),
            ):
                _draw(axes, [0, end], [(entry, 0)] * 2, i, entry.name)
        else:
            points = [(entry, k) for k in range(len(entry.center))]
            _draw(by_steps, np.arange(len(points)), points, i, entry.name)
            _draw(by_episodes, entry.num_episodes, points, i, entry.name)
    by_steps.set(xlabel="adaptation steps", ylabel="return", xticks=range(last + 1))
    used = sorted({number for entry in comparison.main for number in entry.num_episodes.tolist()})
    by_episodes.set(
        xlabel="episodes used per task", xticks=used if len(used) <= 8 else used[:: len(used) // 6]
    )
    what = f"mean over {comparison.settings['num_tasks']} {comparison.kind_of_tasks} tasks"
    return _finish(figure, f"{_name(comparison)}: {what}\n{_spread(comparison.main)}")


def tasks_figures(comparison: Comparison) -> list[Figure]:
    """Return on each task before and after adaptation, a figure per method.

    Over the value in which the tasks differ, on a map where they differ in two, and from three on
    a panel per value. Values that are not numeric are not drawn, and the title names them. There
    are no figures where no numeric value differs, or tasks hold different names.
    """
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
    units = comparison.settings["task_units"]
    columns = {name: np.array([float(task[name]) for task in tasks]) for name in numeric}
    axes = {_spoken(name, units): values for name, values in columns.items()}
    is_place = len(numeric) == 2 and units.get(numeric[0], "") == units.get(numeric[1], "") != ""
    found = []
    for entry in comparison.main:
        title = f"{_name(comparison)}, {entry.name}{note}"
        shown = {_after(k): entry.task_returns[k] for k in (0, entry.shown_step)}
        if len(entry.center) == 1:
            shown = {"without adaptation": entry.task_returns[0]}
        if len(axes) == 2:
            found.append(_task_map(title, axes, shown, is_place))
        else:
            found.append(_task_panels(title, axes, shown))
    return found


def _task_panels(
    title: str,
    values: Mapping[str, np.ndarray],
    shown: Mapping[str, np.ndarray],
) -> Figure:
    """A panel per value of a task: return against it."""
    names = list(values)[:_MAX_PANELS]
    num_columns = min(4, len(names))
    num_rows = -(-len(names) // num_columns)
    size = (6, 4) if len(names) == 1 else (1 + 2.5 * num_columns, 1 + 2.2 * num_rows)
    figure = _figure(*size)
    panels = figure.subplots(num_rows, num_columns, sharey=True, squeeze=False)
    for axes in panels.flat[len(names) :]:
        axes.remove()
    for axes, name in zip(panels.flat, names, strict=False):
        _task_curve(axes, name, values[name], shown)
    for axes in panels[:, 0]:
        axes.set_ylabel("return" if len(names) > 1 else "return (mean over the task's episodes)")
    what = "before and after adaptation" if len(shown) == 2 else next(iter(shown))
    left_out = ""
    if len(names) < len(values):
        left_out = f"\nthe first {len(names)} of {len(values)} values"
    return _finish(figure, f"{title}\neach task {what}{left_out}")


def _task_curve(axes: Axes, name: str, values: np.ndarray, shown: Mapping[str, np.ndarray]) -> None:
    different = np.unique(values)
    jitter = np.zeros(len(values))
    if len(different) < len(values):  # tasks that coincide would hide each other
        gap = np.diff(different).min()
        jitter = gap * np.linspace(-0.12, 0.12, len(values))
        if len(different) <= 10:
            axes.set_xticks(different)
    for i, (label, returns) in enumerate(shown.items()):
        style = _style(i) | {"linestyle": "none"}
        axes.plot(values + jitter, returns, label=label, alpha=0.8, **style)
    if len(shown) == 2:
        before, after = shown.values()
        axes.vlines(values + jitter, before, after, color="0.6", linewidth=0.8, zorder=0)
    axes.set_xlabel(name)


def _task_map(
    title: str,
    values: Mapping[str, np.ndarray],
    shown: Mapping[str, np.ndarray],
    is_place: bool,
) -> Figure:
    figure = _figure(1 + 4 * len(shown), 4)
    both = np.concatenate(list(shown.values()))
    panels = figure.subplots(1, len(shown), sharex=True, sharey=True, squeeze=False)[0]
    (across, up), (x, y) = values.keys(), values.values()
    for axes, (label, returns) in zip(panels, shown.items(), strict=True):
        points = axes.scatter(
            x,
            y,
            c=returns,
            vmin=np.nanmin(both),
            vmax=np.nanmax(both),
            cmap="cividis",
            s=45,
            edgecolors="black",
        )
        axes.set(xlabel=across, title=label)
        if is_place:
            axes.set_aspect("equal", adjustable="box")
        axes.margins(0.1)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel(up)
    figure.colorbar(points, ax=figure.axes, label="return")
    figure.suptitle(title, fontsize=10)
    return figure


def scratch_figure(comparison: Comparison) -> Figure:
    """Return against control steps taken in a task, of learning from scratch and of adaptation, on the same tasks."""
    scratch = comparison.scratch
    assert scratch is not None, "asked for where there is some"
    tasks = list(scratch.tasks)
    figure = _figure(6, 4.2)
    axes = figure.subplots()
    per_episode = comparison.settings["horizon"]
    i = 0
    for i, entry in enumerate(comparison.main):
        returns = mean_of_valid(entry.task_returns[:, tasks], 1)
        if len(returns) == 1:
            axes.axhline(returns[0], label=entry.name, **(_style(i) | {"marker": ""}))
        else:
            axes.plot(entry.num_episodes * per_episode, returns, label=entry.name, **_style(i))
    axes.plot(
        scratch.num_env_steps, scratch.returns.mean(axis=0), label=scratch.label, **_style(i + 1)
    )
    axes.fill_between(
        scratch.num_env_steps,
        scratch.returns.min(axis=0),
        scratch.returns.max(axis=0),
        color="0.85",
        linewidth=0,
        zorder=0,
    )
    smallest = min(
        [
            scratch.num_env_steps[1],
            *(e.num_episodes[1] * per_episode for e in comparison.main if len(e.center) > 1),
        ]
    )
    axes.set_xscale("symlog", linthresh=smallest)  # with a place for 0
    axes.set_xlim(left=0)
    axes.set(xlabel="control steps taken in the task", ylabel="return")
    where = "the same task"
    if len(tasks) > 1:
        where = f"means over the same {len(tasks)} tasks\ngrey: {scratch.label} on the worst and on the best of them"
    return _finish(figure, f"{_name(comparison)}: {where}")


def sweep_figure(comparison: Comparison, name: str, trained: tuple[float, float] | None) -> Figure:
    """Return before and after adaptation against one number of the tasks, with the range of training shaded."""
    figure = _figure(6, 4.2)
    axes = figure.subplots()
    entries = comparison.sweep(name)
    for i, label in enumerate(dict.fromkeys(entry.label for entry in entries)):
        several = sorted(
            (entry for entry in entries if entry.label == label),
            key=lambda entry: entry.swept[name],
        )
        x = [entry.swept[name] for entry in several]
        after = several[0].shown_step
        for k in dict.fromkeys((0, after)):
            line = f"{several[0].name}, {_after(k)}"
            _draw(axes, x, [(entry, k) for entry in several], 2 * i + (k != 0), line)
    if trained is None:
        pass
    elif trained[0] < trained[1]:
        axes.axvspan(*trained, color="0.88", zorder=0, label="in training")
    else:
        axes.axvline(trained[0], color="0.5", linewidth=1.5, zorder=0, label="in training")
    axes.set(xlabel=_spoken(name, comparison.settings["task_units"]), ylabel="return")
    title = f"{_name(comparison)}: tasks with {name.replace('_', ' ')} fixed"
    return _finish(figure, f"{title}\n{_spread(entries)}")


def grid_figure(comparison: Comparison, names: tuple[str, str]) -> Figure:
    """Return before and after adaptation of the first method, as a table of two parameters of the body."""
    entries = comparison.sweep(*names)
    entries = [entry for entry in entries if entry.label == entries[0].label]
    first, second = (sorted({entry.swept[name] for entry in entries}) for name in names)
    cells = np.full((2, len(second), len(first)), np.nan)
    for entry in entries:
        cells[:, second.index(entry.swept[names[1]]), first.index(entry.swept[names[0]])] = (
            entry.center[[0, entry.shown_step]]
        )
    figure = _figure(2 + 1.2 * len(first) * 1.6, 1.8 + 0.6 * len(second))
    spoken = [_spoken(name, comparison.settings["task_units"]) for name in names]
    titles = (_after(0), _after(entries[0].shown_step))
    for axes, values, title in zip(figure.subplots(1, 2, sharey=True), cells, titles, strict=True):
        picture = axes.imshow(
            values,
            cmap="cividis",
            origin="lower",
            aspect="auto",
            vmin=np.nanmin(cells),
            vmax=np.nanmax(cells),
        )
        for (row, column), value in np.ndenumerate(values):
            is_bright = picture.norm(value) > 0.55
            text_color = "black" if is_bright else "white"
            axes.text(
                column,
                row,
                f"{round(value) + 0}",
                ha="center",
                va="center",
                color=text_color,
                fontsize=9,
            )
        axes.set(title=title, xlabel=spoken[0])
        axes.set_xticks(range(len(first)), [f"{value:.3g}" for value in first])
        axes.set_yticks(range(len(second)), [f"{value:.3g}" for value in second])
    figure.axes[0].set_ylabel(spoken[1])
    figure.colorbar(picture, ax=figure.axes, label="return")
    figure.suptitle(f"{_name(comparison)}, {entries[0].label}", fontsize=10)
    return figure


def _name(comparison: Comparison) -> str:
    return str(comparison.settings["env"])


def _after(num_steps: int) -> str:
    return (
        f"after {num_steps} step{'' if num_steps == 1 else 's'}"
        if num_steps
        else "before adaptation"
    )


def _spoken(name: str, units: Mapping[str, str]) -> str:
    unit = units.get(name)
    return name.replace("_", " ") + (f" ({unit})" if unit else "")
