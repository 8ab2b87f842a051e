"""Write the files of an evaluation: results.json, results.csv, plots and report.html."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from maml_rl.analysis.comparison import figures
from maml_rl.analysis.comparison.compare import Comparison
from maml_rl.analysis.comparison.entries import Entry, StepDifference
from maml_rl.analysis.comparison.response import Response, recovery_text
from maml_rl.analysis.comparison.scratch import Scratch
from maml_rl.analysis.dynamics.figures import unseen_adaptation_figure
from maml_rl.analysis.dynamics.robustness import Robustness
from maml_rl.analysis.figures import encoded, fix_layout
from maml_rl.analysis.report.html import (
    LEARNING_CURVES,
    UNSEEN_ADAPTATION,
    report_html,
    sweep_plot,
)
from maml_rl.analysis.tasks.figures import parallel_figures, tasks_figures
from maml_rl.runs.pretrained import run_name
from maml_rl.runs.run_folder import versions
from maml_rl.system.atomic_files import write_whole

_KINDS = ("svg", "png", "pdf")
"""Of files of plots."""


def write_report(
    folder: Path,
    comparison: Comparison,
    trained: Mapping[str, tuple[float, float]] | None = None,
    command: str | None = None,
    robustness: Robustness | None = None,
    learning_curves: Figure | None = None,
) -> None:
    """Write all files, each atomically; delete plots that only an earlier report had.

    Args:
        folder: folder of the files.
        comparison: what to report.
        trained: range in training of each swept parameter, if known.
        command: the command line, for report.html.
        robustness: of the same comparison, to begin with.
        learning_curves: of its runs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    had_report = (folder / "results.json").exists()
    others = "drawn for each task" if robustness is None else "nominal"
    plots = _plots(comparison, trained or {}, others)
    unseen = None if robustness is None else unseen_adaptation_figure(robustness)
    if unseen is not None:
        plots[UNSEEN_ADAPTATION] = unseen
    if learning_curves is not None:
        plots[LEARNING_CURVES] = learning_curves
    # Draw all plots before the first file is written.
    files: dict[str, dict[str, bytes]] = {}
    for name, figure in plots.items():
        fix_layout(figure)
        files[name] = {kind: encoded(figure, kind) for kind in _KINDS}
    # Tables.
    content = _finite({**_content(comparison, robustness), "versions": versions()})
    write_whole(folder / "results.json", json.dumps(content, indent=2, allow_nan=False) + "\n")
    write_whole(folder / "results.csv", _csv(comparison))
    # Plots.
    for name, kinds in files.items():
        for kind, image in kinds.items():
            write_whole(folder / f"{name}.{kind}", image)
    # Report.
    svgs = {name: kinds["svg"] for name, kinds in files.items()}
    write_whole(folder / "report.html", report_html(comparison, svgs, command, robustness))
    # Old plots.
    numbered = ("tasks", "tasks_[0-9]*", "parallel", "parallel_[0-9]*")
    names = ("adaptation", UNSEEN_ADAPTATION, "change", LEARNING_CURVES, "scratch")
    for name in (*names, *numbered, "sweep_*", "grid_*") if had_report else ():
        for kind in _KINDS:
            for path in folder.glob(f"{name}.{kind}"):
                if path.stem not in plots:
                    path.unlink()


def _plots(
    comparison: Comparison, trained: Mapping[str, tuple[float, float]], others: str
) -> dict[str, Figure]:
    """Return the figures by file name, without suffix.

    Args:
        comparison: what to plot.
        trained: range in training of each swept parameter, if known.
        others: what values are that a sweep does not fix.
    """
    plots = {"adaptation": figures.adaptation_figure(comparison)}
    for i, figure in enumerate(tasks_figures(comparison)):
        plots[f"tasks_{i + 1}" if i else "tasks"] = figure
    for i, figure in enumerate(parallel_figures(comparison)):
        plots[f"parallel_{i + 1}" if i else "parallel"] = figure
    change = figures.change_figure(comparison)
    if change is not None:
        plots["change"] = change
    if comparison.scratch is not None:
        plots["scratch"] = figures.scratch_figure(comparison)
    for names in comparison.sweeps:
        if len(names) == 1:
            figure = figures.sweep_figure(comparison, names[0], trained.get(names[0]), others)
        elif all(len({one.swept[name] for one in comparison.sweep(*names)}) > 1 for name in names):
            figure = figures.grid_figure(comparison, (names[0], names[1]))
        else:
            continue  # one value of a quantity makes no grid
        plots[sweep_plot(names)] = figure
    return plots


def _finite(values: Any) -> Any:
    """Replace NaN and infinity by ``None``, also in lists and mappings, since JSON has neither."""
    if isinstance(values, Mapping):
        return {name: _finite(value) for name, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [_finite(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values


def _content(comparison: Comparison, robustness: Robustness | None) -> dict[str, Any]:
    """Return the content of results.json."""
    differences = []
    for first, second, steps in comparison.differences:
        values = [_difference_values(first, second, step) for step in steps]
        differences.append({"first": first.label, "second": second.label, "steps": values})
    of_dynamics = {} if robustness is None else {"robustness": robustness.values()}
    return {
        **comparison.settings,
        **of_dynamics,
        "scratch": None if comparison.scratch is None else _scratch_values(comparison.scratch),
        "differences": differences,
        "results": [_entry_values(entry) for entry in comparison.entries],
    }


def _scratch_values(scratch: Scratch) -> dict[str, Any]:
    return {
        "policy": scratch.label,
        "source": run_name(scratch.source),
        "actions": "sampled",
        "tasks": list(scratch.tasks),
        "num_env_steps": scratch.num_env_steps.tolist(),
        "returns": scratch.returns.tolist(),
    }


def _difference_values(first: Entry, second: Entry, step: StepDifference) -> dict[str, Any]:
    k, j, value = step
    return {
        "steps": [k, j],
        "episodes_used": [int(first.episodes_used[k]), int(second.episodes_used[j])],
        "return": value.mean,
        "interval_95": value.interval.tolist(),
        "interval_over": value.over,
        "probability_of_improvement": value.probability,
    }


def _entry_values(entry: Entry) -> dict[str, Any]:
    evaluations = entry.evaluations
    tasks = []
    for i, task in enumerate(evaluations[0].tasks):
        returns = entry.task_returns[:, i].tolist()
        tasks.append({"task": dict(task), "returns": returns})
    return {
        "policy": entry.label,
        "sources": [run_name(source) for source in entry.sources],
        "training_seeds": [one.description["training_seed"] for one in evaluations],
        "num_iterations": [one.description["num_iterations"] for one in evaluations],
        "num_env_steps": [one.description["num_env_steps"] for one in evaluations],
        "is_best_iteration": [one.description["is_best"] for one in evaluations],
        "horizon": entry.horizon,
        "swept": dict(entry.swept),
        "return": entry.center.tolist(),
        "interval_95": entry.interval.tolist(),
        "interval_over": entry.over,
        "run_returns": entry.run_returns.tolist(),
        "std_over_tasks": np.ma.masked_invalid(entry.task_returns).std(axis=1).tolist(),
        "success": entry.success.tolist(),
        "episodes_used": entry.episodes_used.tolist(),
        "num_discarded_episodes": sum(one.num_discarded_episodes for one in evaluations),
        "num_failed_tasks": entry.num_failed_tasks,
        "learners": [one.description["learner"] for one in evaluations],
        "changes": [_change_values(entry, k, value) for k, value in entry.responses.items()],
        "tasks": tasks,
    }


def _change_values(entry: Entry, k: int, value: Response) -> dict[str, Any]:
    before, after, end = entry.response_intervals(k).tolist()
    return {
        "step": k,
        "num_tasks": value.num_tasks,
        "reward_before": value.before,
        "reward_after": value.after,
        "reward_at_end": value.end,
        "intervals_95": {
            "reward_before": before,
            "reward_after": after,
            "reward_at_end": end,
        },
        "interval_over": entry.over,
        "recovery": recovery_text(value),
        "control_steps_to_recover": value.recovery if value.lasts else None,
        "num_recovered_tasks": value.num_recovered,
        "control_steps": value.steps.tolist(),
        "rewards": value.rewards.tolist(),
    }


def _csv(comparison: Comparison) -> str:
    """Return the content of results.csv: a row for every policy, run, task and step."""
    # Header.
    tasks = [task for entry in comparison.entries for task in entry.evaluations[0].tasks]
    task_names = list(dict.fromkeys(name for task in tasks for name in task))
    swept = list(dict.fromkeys(name for entry in comparison.entries for name in entry.swept))
    columns = [f"swept_{name}" for name in swept]
    columns += ["task", *(f"task_{name}" for name in task_names)]
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    measured = ["step", "episodes_used", "actions", "return", "success"]
    writer.writerow(["policy", "source", "training_seed", *columns, *measured])
    # Rows.
    for entry in comparison.entries:
        version = [entry.swept.get(name, "") for name in swept]
        for source, evaluation in zip(entry.sources, entry.evaluations, strict=True):
            returns, success = evaluation.task_returns, evaluation.task_success
            for i, task in enumerate(evaluation.tasks):
                seed = evaluation.description["training_seed"]
                row = [entry.label, run_name(source), seed, *version, i]
                row += [task.get(name, "") for name in task_names]
                for k, used in enumerate(entry.episodes_used):
                    values = [_nan_as_empty(returns[k, i]), _nan_as_empty(success[k, i])]
                    actions = evaluation.description["actions"]
                    writer.writerow([*row, k, used, actions, *values])
    return buffer.getvalue()


def _nan_as_empty(value: Any) -> Any:
    return "" if math.isnan(value) else value
