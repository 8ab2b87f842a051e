"""Pictures of a comparison: returns against steps, episodes, tasks, and bodies."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from maml_rl.comparison import Comparison
from maml_rl.intervals import mean_of_valid

COLORS = ("#0072B2", "#E69F00", "#000000", "#D55E00", "#56B4E9", "#009E73", "#CC79A7")
"""Of Okabe and Ito (2008), without the yellow, which is hardly seen on white; neighbours differ in lightness."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
"""As many as have no divisor in common with the colours, so that 63 lines look different."""
_LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 1)))


def encoded(figure: Figure, kind: str) -> bytes:
    """A picture as the content of a file; the same one for the same picture.

    Args:
        figure: to encode.
        kind: png, svg or pdf.
    """
    buffer = io.BytesIO()
    metadata: dict[str, Any] = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[kind]
    with rc_context({"svg.hashsalt": "maml_rl"}):
        figure.savefig(buffer, format=kind, dpi=150, metadata=metadata)
    return buffer.getvalue()


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _style(i: int) -> dict[str, Any]:
    color, line, marker = COLORS[i % len(COLORS)], _LINES[i % len(_LINES)], MARKERS[i % len(MARKERS)]
    return {"color": color, "linestyle": line, "marker": marker, "markersize": 5}


def _draw(axes: Axes, x: Any, center: np.ndarray, interval: np.ndarray, i: int, label: str) -> None:
    """A line with its interval as a band."""
    style = _style(i)
    axes.plot(x, center, label=label, **style)
    if np.isfinite(interval).all():
        axes.fill_between(x, interval[:, 0], interval[:, 1], color=style["color"], alpha=0.15, linewidth=0)


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
            for axes, end in ((by_steps, last), (by_episodes, last * entry.evaluations[0].returns.shape[2])):
                _draw(axes, [0, end], entry.center.repeat(2), entry.interval.repeat(2, axis=0), i, entry.name)
        else:
            _draw(by_steps, np.arange(len(entry.center)), entry.center, entry.interval, i, entry.name)
            _draw(by_episodes, entry.num_episodes, entry.center, entry.interval, i, entry.name)
    by_steps.set(xlabel="adaptation steps", ylabel="return", xticks=range(last + 1))
    used = sorted({number for entry in comparison.main for number in entry.num_episodes.tolist()})
    by_episodes.set(xlabel="episodes used per task", xticks=used if len(used) <= 8 else used[:: len(used) // 6])
    what = f"mean over {comparison.settings['num_tasks']} {comparison.kind_of_tasks} tasks and 95 % interval over tasks"
    if any(len(entry.evaluations) > 1 for entry in comparison.main):
        what += "; of several runs\ninterquartile mean over runs and tasks and 95 % interval over runs"
    return _finish(figure, f"{_name(comparison)}: {what}")


def tasks_figure(comparison: Comparison) -> Figure | None:
    """Each task's return before and after adaptation: over its parameter, or on the map of goals.

    ``None`` for tasks that differ in nothing, in names, in more than two parameters, or in ones that are no numbers.
    """
    entry = comparison.main[0]
    units = comparison.settings["task_units"]
    tasks = entry.evaluations[0].tasks
    if any(task.keys() != tasks[0].keys() for task in tasks):
        return None
    varying = [name for name in tasks[0] if any(task[name] != tasks[0][name] for task in tasks)]
    if not all(isinstance(task[name], (int, float)) for task in tasks for name in varying):
        return None
    values = np.array([[float(task[name]) for name in varying] for task in tasks])
    after = entry.shown_step
    shown = {_after(0): entry.task_returns[0], _after(after): entry.task_returns[after]}
    if len(shown) == 2 and len(varying) == 1:
        return _task_curve(f"{_name(comparison)}, {entry.label}", _spoken(varying[0], units), values[:, 0], shown)
    if len(shown) == 2 and len(varying) == 2:
        is_place = units.get(varying[0], "") == units.get(varying[1], "") != ""
        names = [_spoken(name, units) for name in varying]
        return _task_map(f"{_name(comparison)}, {entry.label}", names, values, shown, is_place)
    return None


def _task_curve(title: str, name: str, values: np.ndarray, shown: Mapping[str, np.ndarray]) -> Figure:
    figure = _figure(6, 4)
    axes = figure.subplots()
    different = np.unique(values)
    jitter = np.zeros(len(values))
    if len(different) < len(values):  # tasks that coincide would hide each other
        gap = np.diff(different).min()
        jitter = gap * np.linspace(-0.12, 0.12, len(values))
        axes.set_xticks(different)
    for i, (label, returns) in enumerate(shown.items()):
        style = _style(i) | {"linestyle": "none"}
        axes.plot(values + jitter, returns, label=label, alpha=0.8, **style)
    before, after = shown.values()
    axes.vlines(values + jitter, before, after, color="0.6", linewidth=0.8, zorder=0)
    axes.set(xlabel=name, ylabel="return (mean over the task's episodes)")
    return _finish(figure, f"{title}: each task before and after adaptation")


def _task_map(
    title: str, names: list[str], values: np.ndarray, shown: Mapping[str, np.ndarray], is_place: bool
) -> Figure:
    figure = _figure(9, 4)
    both = np.concatenate(list(shown.values()))
    for axes, (label, returns) in zip(figure.subplots(1, 2, sharex=True, sharey=True), shown.items(), strict=True):
        points = axes.scatter(
            *values.T, c=returns, vmin=np.nanmin(both), vmax=np.nanmax(both), cmap="cividis", s=45, edgecolors="black"
        )
        axes.set(xlabel=names[0], title=label)
        if is_place:
            axes.set_aspect("equal", adjustable="box")
        axes.margins(0.1)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel(names[1])
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
    axes.plot(scratch.num_env_steps, scratch.returns.mean(axis=0), label=scratch.label, **_style(i + 1))
    axes.fill_between(
        scratch.num_env_steps,
        scratch.returns.min(axis=0),
        scratch.returns.max(axis=0),
        color="0.85",
        linewidth=0,
        zorder=0,
    )
    smallest = min(
        [scratch.num_env_steps[1], *(e.num_episodes[1] * per_episode for e in comparison.main if len(e.center) > 1)]
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
        several = sorted((entry for entry in entries if entry.label == label), key=lambda entry: entry.swept[name])
        x = [entry.swept[name] for entry in several]
        after = several[0].shown_step
        for k in dict.fromkeys((0, after)):
            center, interval = (np.stack([getattr(e, what)[k] for e in several]) for what in ("center", "interval"))
            _draw(axes, x, center, interval, 2 * i + (k != 0), f"{label}, {_after(k)}")
    if trained is None:
        pass
    elif trained[0] < trained[1]:
        axes.axvspan(*trained, color="0.88", zorder=0, label="in training")
    else:
        axes.axvline(trained[0], color="0.5", linewidth=1.5, zorder=0, label="in training")
    axes.set(xlabel=_spoken(name, comparison.settings["task_units"]), ylabel="return")
    return _finish(figure, f"{_name(comparison)}: tasks with {name.replace('_', ' ')} fixed")


def grid_figure(comparison: Comparison, names: tuple[str, str]) -> Figure:
    """Return before and after adaptation of the first method, as a table of two parameters of the body."""
    entries = comparison.sweep(*names)
    entries = [entry for entry in entries if entry.label == entries[0].label]
    first, second = (sorted({entry.swept[name] for entry in entries}) for name in names)
    cells = np.full((2, len(second), len(first)), np.nan)
    for entry in entries:
        cells[:, second.index(entry.swept[names[1]]), first.index(entry.swept[names[0]])] = entry.center[
            [0, entry.shown_step]
        ]
    figure = _figure(2 + 1.2 * len(first) * 1.6, 1.8 + 0.6 * len(second))
    spoken = [_spoken(name, comparison.settings["task_units"]) for name in names]
    titles = (_after(0), _after(entries[0].shown_step))
    for axes, values, title in zip(figure.subplots(1, 2, sharey=True), cells, titles, strict=True):
        picture = axes.imshow(
            values, cmap="cividis", origin="lower", aspect="auto", vmin=np.nanmin(cells), vmax=np.nanmax(cells)
        )
        for (row, column), value in np.ndenumerate(values):
            is_bright = picture.norm(value) > 0.55
            text_color = "black" if is_bright else "white"
            axes.text(column, row, f"{round(value) + 0}", ha="center", va="center", color=text_color, fontsize=9)
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
    return f"after {num_steps} step{'' if num_steps == 1 else 's'}" if num_steps else "before adaptation"


def _spoken(name: str, units: Mapping[str, str]) -> str:
    unit = units.get(name)
    return name.replace("_", " ") + (f" ({unit})" if unit else "")
