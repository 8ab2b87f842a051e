"""Figures of a comparison: returns against steps, episodes and dynamics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure

from maml_rl.analysis.comparison.compare import Comparison
from maml_rl.analysis.comparison.entries import Entry, learner_notes
from maml_rl.analysis.figures import (
    HEIGHT_OF_A_LINE,
    draw_line,
    finish_figure,
    line_style,
    new_figure,
    set_title,
    wrapped,
)
from maml_rl.analysis.statistics import FEW_RUNS, is_log_spaced, mean_of_valid
from maml_rl.analysis.tasks.words import value_key, value_text, with_unit

_MOST_WITH_TWO_LINES = 3
"""Methods that a sweep plots before and after adaptation."""
_MOST_GRIDS_IN_A_ROW = 4
_MOST_NOTES = 2
"""Notes on learners in a title; the tables have all."""


def styles_of(comparison: Comparison) -> dict[str, dict[str, Any]]:
    """Return the style of each method, which is the same in all figures of a comparison."""
    return {label: line_style(i) for i, label in enumerate(comparison.labels)}


def _draw(
    axes: Axes,
    x: Any,
    points: Sequence[tuple[Entry, int]],
    style: Mapping[str, Any],
    label: str,
) -> None:
    """Draw a line through returns, with their spread.

    Args:
        axes: axes to draw on.
        x: x of each point.
        points: for each point an entry and a step; all entries have the same number of runs.
        style: of the line.
        label: label in the legend.
    """
    center = np.array([entry.center[k] for entry, k in points])
    runs = np.stack([entry.run_returns[:, k] for entry, k in points], axis=1)
    intervals = np.stack([entry.interval[k] for entry, k in points])
    draw_line(axes, x, center, runs, intervals, style, label)


def spread_of(entries: Sequence[Entry]) -> str:
    """Describe the bands and thin lines of entries, for a title."""
    num_runs = {
        len(entry.evaluations) for entry in entries if np.isfinite(entry.interval).all(1).any()
    }
    most = max(num_runs, default=0)
    parts = []
    if 1 in num_runs and most > FEW_RUNS:
        parts.append("band: 95 % interval, over tasks for one run, else over runs")
    elif 1 in num_runs or most > FEW_RUNS:
        parts.append(f"band: 95 % interval over {'tasks' if 1 in num_runs else 'runs'}")
    if any(1 < number <= FEW_RUNS for number in num_runs):
        parts.append("thin lines: single runs")
    return "; ".join(parts)


def adaptation_figure(comparison: Comparison) -> Figure:
    """Plot returns against the episodes that adaptation used.

    If all methods use equally many in a step, a second axis counts steps, or numbers the episodes
    whose return is measured; else the axis of episodes is logarithmic, but with 0. Methods without
    adaptation are dashed lines without markers.
    """
    figure = new_figure(6, 4)
    axes = figure.subplots()
    most = max(int(entry.episodes_used[-1]) for entry in comparison.main) or 1
    styles = styles_of(comparison)
    for entry in comparison.main:
        style = styles[entry.label]
        if entry.adapts:
            points = [(entry, k) for k in range(len(entry.center))]
            _draw(axes, entry.episodes_used, points, style, entry.name)
        else:  # a horizontal line
            style = style | {"linestyle": "--", "marker": ""}
            _draw(axes, [0, most], [(entry, 0), (entry, 0)], style, entry.name)
    axes.set(xlabel="episodes used per task", ylabel=return_of_stages(comparison.main))
    mark_steps(axes, [entry for entry in comparison.main if entry.adapts])
    title = f"{subject_of(comparison)}: mean over {comparison.tasks_text}"
    notes = learner_notes(comparison.main)
    if len(notes) > _MOST_NOTES:
        notes = []
    return finish_figure(figure, "\n".join([title, spread_of(comparison.main), *notes]))


def return_of_stages(entries: Sequence[Entry]) -> str:
    """Return what the returns of all stages are: ``"return after each adaptation step"``."""
    kinds = {entry.stage_is_episode for entry in entries if entry.adapts}
    words = {False: "after each adaptation step", True: "in each episode"}
    return " ".join(["return", "\nor ".join(words[kind] for kind in sorted(kinds))]).strip()


def return_at(stages: Sequence[str]) -> str:
    """Return what returns are that all belong to one stage, ``"return after 1 step"``.

    Args:
        stages: when returns were measured; if they differ, the legend has them, and it is
            ``"return"``.
    """
    return f"return {stages[0]}" if len(set(stages)) == 1 else "return"


def name_ticks(axis: Axis, name: str, values: Sequence[float], comparison: Comparison) -> None:
    """Mark an axis with the names of values, if a task parameter has them.

    Args:
        axis: x or y of some axes.
        name: the task parameter.
        values: those that are plotted.
        comparison: has the names.
    """
    names = comparison.settings["task_value_names"].get(name, {})
    named = [value for value in sorted(set(values)) if value_key(value) in names]
    if named:
        axis.set_ticks(named, [names[value_key(value)] for value in named])


def mark_steps(axes: Axes, entries: Sequence[Entry]) -> None:
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
        axes.set_xlabel(f"{axes.get_xlabel()} (linear up to {num_episodes}, then logarithmic)")
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


def change_figure(comparison: Comparison) -> Figure | None:
    """Plot rewards against control steps around a change of the dynamics, one panel per step k.

    There is no figure without a change in the environment without a sweep.
    """
    stages = sorted({k for entry in comparison.main for k in entry.responses})
    if not stages:
        return None
    figure = new_figure(1 + 5 * len(stages), 4)
    panels = figure.subplots(1, len(stages), sharey=True, squeeze=False)[0]
    styles = styles_of(comparison)
    for axes, k in zip(panels, stages, strict=True):
        axes.axvline(0, color="0.5", linewidth=1.5, zorder=0, label="change of the dynamics")
        titles = []
        for entry in comparison.main:
            if k not in entry.responses:
                continue
            of_entry = entry.responses[k]
            style = styles[entry.label] | {"marker": ""}
            axes.plot(of_entry.steps, of_entry.rewards, label=entry.name, **style)
            titles.append(entry.stage_label(k))
        title = "; ".join(dict.fromkeys(titles))  # learners count steps or episodes
        axes.set(xlabel="control steps since the change", title=title)
    panels[0].set_ylabel("reward per control step")
    return finish_figure(figure, f"{subject_of(comparison)}: mean over tasks and episodes")


def scratch_figure(comparison: Comparison) -> Figure:
    """Plot returns of learning from scratch and of adaptation against control steps in a task."""
    scratch = comparison.scratch
    assert scratch is not None, "called only with curves from scratch"
    tasks = list(scratch.tasks)
    figure = new_figure(6, 4)
    axes = figure.subplots()
    # Methods that adapt, or observe the task.
    styles = styles_of(comparison)
    for entry in comparison.main:
        style = styles[entry.label]
        returns = mean_of_valid(entry.task_returns[:, tasks], 1)
        if not entry.adapts:
            axes.axhline(returns[0], label=entry.name, **(style | {"marker": ""}))
        else:
            axes.plot(entry.episodes_used * entry.horizon, returns, label=entry.name, **style)
    # Learning from scratch.
    x = scratch.num_env_steps
    label = comparison.scratch_label
    axes.plot(x, scratch.returns.mean(axis=0), label=label, **line_style(len(styles)))
    worst, best = scratch.returns.min(axis=0), scratch.returns.max(axis=0)
    axes.fill_between(x, worst, best, color="0.85", linewidth=0, zorder=0)
    # Axes: logarithmic, but with 0.
    smallest = [scratch.num_env_steps[1]]
    smallest += [one.episodes_used[1] * one.horizon for one in comparison.main if one.adapts]
    axes.set_xscale("symlog", linthresh=min(smallest))
    axes.set_xlim(left=0)
    axes.set(xlabel="control steps taken in the task", ylabel="return after these steps")
    note = "the same task"
    if len(tasks) > 1:
        note = f"means over the same {len(tasks)} tasks\ngrey: {scratch.label}, worst to best task"
    return finish_figure(figure, f"{subject_of(comparison)}: {note}")


def sweep_figure(
    comparison: Comparison,
    name: str,
    trained: tuple[float, float] | None,
    others: str = "drawn for each task",
) -> Figure:
    """Plot returns after adaptation against a parameter; its training range is grey.

    Of up to three methods, pale lines are the returns before adaptation. The axis of a factor whose
    values are spaced evenly by their logarithms is logarithmic.

    Args:
        comparison: has a sweep over the parameter.
        name: of the parameter.
        trained: its range in training, if known.
        others: what the other values of the tasks are, for the title.
    """
    figure = new_figure(6, 4)
    axes = figure.subplots()
    entries = comparison.sweep(name)
    labels = list(dict.fromkeys(entry.label for entry in entries))
    styles = styles_of(comparison)
    stages: list[str] = []
    # One or two lines for each method.
    for label in labels:
        of_method = [entry for entry in entries if entry.label == label]
        of_method.sort(key=lambda entry: entry.swept[name])
        x = [entry.swept[name] for entry in of_method]
        last = of_method[0].adapted_step
        pale = styles[label] | {"alpha": 0.45, "linewidth": 1.0, "marker": ""}
        is_crowded = len(labels) > _MOST_WITH_TWO_LINES
        for k in [last] if is_crowded else dict.fromkeys((0, last)):
            first = of_method[0]
            line_label = f"{first.name}, {first.stage_label(k)}" if first.adapts else first.name
            if first.adapts:
                stages.append(f"{'in ' if first.stage_is_episode else ''}{first.stage_label(k)}")
            style = pale if k == 0 < last else styles[label]
            _draw(axes, x, [(entry, k) for entry in of_method], style, line_label)
    # The range in training.
    if trained is not None:
        low, high = trained
        if low < high:
            axes.axvspan(low, high, color="0.88", zorder=0, label="in training")
        else:
            axes.axvline(low, color="0.5", linewidth=1.5, zorder=0, label="in training")
    xlabel = with_unit(name, comparison.settings["task_units"])
    values = sorted({entry.swept[name] for entry in entries})
    if is_log_spaced(values):
        axes.set_xscale("log", base=2)
        axes.set_xticks(values, [f"{value:.3g}" for value in values])
        axes.minorticks_off()
    axes.set(xlabel=xlabel, ylabel=return_at(stages))
    name_ticks(axes.xaxis, name, values, comparison)
    what = f"{name.replace('_', ' ')} fixed, other values {others}"
    title = f"{subject_of(comparison)}\n{what}\n{spread_of(entries)}"
    return finish_figure(figure, title)


def grid_figure(comparison: Comparison, swept: tuple[str, str]) -> Figure:
    """Plot returns as a grid of two parameters.

    The panels are one method before and after adaptation, or several methods after adaptation.
    """
    entries = comparison.sweep(*swept)
    # The entries of each panel, and the step whose return they show.
    panels: dict[str, list[tuple[Entry, int]]] = {}
    has_one = len({entry.label for entry in entries}) == 1
    for entry in entries:
        for k in (0, entry.adapted_step) if has_one else (entry.adapted_step,):
            title = entry.stage_label(k) if has_one else entry.label
            panels.setdefault(title, []).append((entry, k))
    # Returns, (panels, rows, columns).
    x_name, y_name = swept
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
    titles = [wrapped(title, width) for title in panels]
    height += HEIGHT_OF_A_LINE * max(title.count("\n") for title in titles)
    figure = new_figure(1 + width * num_columns, 0.8 + height * num_rows)
    all_axes = figure.subplots(num_rows, num_columns, sharey=True, squeeze=False).ravel()
    for axes in all_axes[len(panels) :]:
        axes.remove()
    spread = np.nanmax(returns) - np.nanmin(returns)
    digits = max(0, 1 - math.floor(math.log10(spread))) if spread > 0 else 2
    units = comparison.settings["task_units"]
    names = comparison.settings["task_value_names"]
    for axes, values, title in zip(all_axes, returns, titles, strict=False):
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
            text = f"{value:.{digits}f}" if np.isfinite(value) else "none"
            axes.text(column, row, text, ha="center", va="center", color=color, fontsize=9)
        # Axes.
        axes.set_title(title, fontsize=10, parse_math=False)
        axes.set_xlabel(with_unit(x_name, units))
        axes.set_xticks(range(len(columns)), [value_text(x_name, x, names) for x in columns])
        axes.set_yticks(range(len(rows)), [value_text(y_name, y, names) for y in rows])
    for axes in all_axes[: len(panels) : num_columns]:
        axes.set_ylabel(with_unit(y_name, units))
    figure.colorbar(image, ax=figure.axes, label="return")
    label = f", {entries[0].label}" if has_one else ""
    set_title(figure, f"{subject_of(comparison)}{label}")
    return figure


def subject_of(comparison: Comparison) -> str:
    """Environment and actions, for a title."""
    return f"{comparison.settings['env']}, {comparison.actions}"
