"""The files of an evaluation: results.json, results.csv, plots (PNG, SVG) and report.html."""

from __future__ import annotations

import base64
import csv
import html
import io
import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from maml_rl.analysis import figures
from maml_rl.analysis.comparison import (
    Comparison,
    Entry,
    StepDifference,
    change_note,
    failed_notes,
    learner_notes,
    run_notes,
)
from maml_rl.analysis.dynamics.robustness import Robustness
from maml_rl.analysis.evaluation import Evaluation
from maml_rl.analysis.scratch import Scratch
from maml_rl.analysis.statistics import Response
from maml_rl.runs.pretrained import run_name
from maml_rl.runs.run_folder import versions
from maml_rl.system.atomic_files import write_whole
from maml_rl.system.text import counted

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1f24; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 0.25rem 0.8rem; text-align: right; white-space: nowrap; }
th, td { border-bottom: 1px solid #d8dde3; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; height: auto; display: block; margin: 1rem 0; }
dl { display: grid; grid-template-columns: max-content auto; gap: 0.15rem 1.2rem; }
dd { margin: 0; }
dt, summary, p.note { color: #57606a; }
.wide { overflow-x: auto; }
"""


def write_report(
    folder: Path,
    comparison: Comparison,
    trained: Mapping[str, tuple[float, float]] | None = None,
    command: str | None = None,
    robustness: Robustness | None = None,
) -> None:
    """Write all files, each atomically; delete plots that only an earlier report had.

    Args:
        folder: folder of the files.
        comparison: what to report.
        trained: range in training of each swept parameter, if known.
        command: the command line, for report.html.
        robustness: of the same comparison, to begin with.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plots = _plots(comparison, trained or {})
    # Tables.
    content = _content(comparison, robustness)
    write_whole(folder / "results.json", json.dumps(content, indent=2) + "\n")
    write_whole(folder / "results.csv", _csv(comparison))
    # Plots.
    svgs = {}
    for name, figure in plots.items():
        svgs[name] = figures.encoded(figure, "svg")
        write_whole(folder / f"{name}.svg", svgs[name])
        write_whole(folder / f"{name}.png", figures.encoded(figure, "png"))
    # Report.
    write_whole(folder / "report.html", _html(comparison, svgs, command, robustness))
    # Old plots.
    names = ("adaptation", "change", "tasks", "tasks_*", "scratch", "sweep_*", "grid_*")
    for pattern in (f"{name}.*" for name in names):
        for path in folder.glob(pattern):
            if path.stem not in plots:
                path.unlink()


def _plots(comparison: Comparison, trained: Mapping[str, tuple[float, float]]) -> dict[str, Figure]:
    """Return the figures by file name, without suffix."""
    plots = {"adaptation": figures.adaptation_figure(comparison)}
    for i, figure in enumerate(figures.tasks_figures(comparison)):
        plots[f"tasks_{i + 1}" if i else "tasks"] = figure
    change = figures.change_figure(comparison)
    if change is not None:
        plots["change"] = change
    if comparison.scratch is not None:
        plots["scratch"] = figures.scratch_figure(comparison)
    for names in comparison.sweeps:
        if len(names) == 1:
            figure = figures.sweep_figure(comparison, names[0], trained.get(names[0]))
        else:
            figure = figures.grid_figure(comparison, (names[0], names[1]))
        plots[_sweep_plot(names)] = figure
    return plots


def _sweep_plot(names: Sequence[str]) -> str:
    """Return the file name of the plot of a sweep, without suffix."""
    kind = "sweep" if len(names) == 1 else "grid"
    return f"{kind}_{'_'.join(names)}".replace("/", ".")


def _nan_as_none(values: Any) -> Any:
    """Replace NaN by ``None``, also in nested lists, since JSON has no NaN."""
    if isinstance(values, (list, tuple)):
        return [_nan_as_none(value) for value in values]
    return None if isinstance(values, float) and math.isnan(values) else values


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
        "return": _nan_as_none(value.mean),
        "interval_95": _nan_as_none(value.interval.tolist()),
        "interval_over": value.over,
        "probability_of_improvement": _nan_as_none(value.probability),
    }


def _entry_values(entry: Entry) -> dict[str, Any]:
    evaluations = entry.evaluations
    tasks = []
    for i, task in enumerate(evaluations[0].tasks):
        returns = _nan_as_none(entry.task_returns[:, i].tolist())
        tasks.append({"task": dict(task), "returns": returns})
    return {
        "policy": entry.label,
        "sources": [run_name(source) for source in entry.sources],
        "training_seeds": [one.description["training_seed"] for one in evaluations],
        "num_iterations": [one.description["num_iterations"] for one in evaluations],
        "is_best_iteration": [one.description.get("is_best", False) for one in evaluations],
        "swept": dict(entry.swept),
        "return": _nan_as_none(entry.center.tolist()),
        "interval_95": _nan_as_none(entry.interval.tolist()),
        "interval_over": entry.over,
        "run_returns": _nan_as_none(entry.run_returns.tolist()),
        "std_over_tasks": np.nanstd(entry.task_returns, axis=1).tolist(),
        "success": _nan_as_none(entry.success.tolist()),
        "episodes_used": entry.episodes_used.tolist(),
        "num_void_episodes": sum(one.num_void_episodes for one in evaluations),
        "num_failed_tasks": entry.num_failed_tasks,
        "learners": [one.description["learner"] for one in evaluations],
        "changes": [_change_values(k, value) for k, value in entry.responses.items()],
        "tasks": tasks,
    }


def _change_values(k: int, value: Response) -> dict[str, Any]:
    return {
        "step": k,
        "num_tasks": value.num_tasks,
        "reward_before": value.before,
        "reward_after": value.after,
        "reward_at_end": value.end,
        "control_steps_to_recover": _nan_as_none(value.recovery),
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
    writer.writerow(["policy", "source", *columns, *measured])
    # Rows.
    for entry in comparison.entries:
        version = [entry.swept.get(name, "") for name in swept]
        for source, evaluation in zip(entry.sources, entry.evaluations, strict=True):
            returns, success = evaluation.task_returns, evaluation.task_success
            for i, task in enumerate(evaluation.tasks):
                row = [entry.label, run_name(source), *version, i]
                row += [task.get(name, "") for name in task_names]
                for k, used in enumerate(entry.episodes_used):
                    values = [_nan_as_empty(returns[k, i]), _nan_as_empty(success[k, i])]
                    actions = evaluation.description["actions"]
                    writer.writerow([*row, k, used, actions, *values])
    return buffer.getvalue()


def _nan_as_empty(value: Any) -> Any:
    return "" if math.isnan(value) else value


def _html(
    comparison: Comparison,
    svgs: Mapping[str, bytes],
    command: str | None,
    robustness: Robustness | None,
) -> str:
    """Return the content of report.html.

    Args:
        comparison: what to report.
        svgs: plots by name.
        command: the command line.
        robustness: of the same comparison, to begin with.
    """
    what = "Adaptation" if robustness is None else "Unseen dynamics"
    title = html.escape(f"{what} of {comparison.settings['env']}")
    # Settings and returns.
    facts = [
        f"<dt>{html.escape(name)}</dt><dd>{html.escape(str(value))}</dd>"
        for name, value in _facts(comparison, command).items()
    ]
    parts = [
        f"<h1>{title}</h1>",
        f"<dl>{''.join(facts)}</dl>",
        *([] if robustness is None else _robustness_parts(robustness)),
        "<h2>Return after 0, 1, ... adaptation steps</h2>",
        _table(comparison, ()),
        f'<p class="note">{html.escape(_NOTE)}</p>',
        _image(svgs, "adaptation"),
    ]
    # Changes of the dynamics in mid-episode.
    if comparison.has_changes:
        parts.append("<h2>Change of the dynamics in mid-episode</h2>")
        parts.append(_html_table(comparison.change_rows()))
        parts.append(f'<p class="note">{html.escape(change_note())}.</p>')
        if "change" in svgs:
            parts.append(_image(svgs, "change"))
    # Differences.
    if comparison.differences:
        parts.append("<h2>Differences on the same tasks</h2>")
        parts.append(_html_table(comparison.difference_rows(all_steps=True)))
        parts.append(f'<p class="note">{html.escape(_DIFFERENCE_NOTE)}</p>')
    # Tasks.
    if "tasks" in svgs:
        parts.append("<h2>Returns by task</h2>")
        parts += [_image(svgs, name) for name in svgs if name.startswith("tasks")]
    # Learning from scratch.
    if comparison.scratch is not None:
        parts.append("<h2>Comparison with learning from scratch</h2>")
        parts.append(f"<p>On {len(comparison.scratch.tasks)} of these tasks.</p>")
        parts.append(_scratch_table(comparison))
        parts.append(_image(svgs, "scratch"))
    # Sweeps.
    for names in comparison.sweeps:
        parts.append(f"<h2>Sweep over {html.escape(' and '.join(names))}</h2>")
        parts.append(_image(svgs, _sweep_plot(names)))
        table = _table(comparison, names)
        parts.append(f"<details><summary>Numbers</summary>{table}</details>")
    body = "\n".join(parts)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>\n'
        f"<body>\n{body}\n</body></html>\n"
    )


def _robustness_parts(robustness: Robustness) -> list[str]:
    """Return the tables of a comparison on unseen dynamics, as HTML."""
    return [
        "<h2>Inside and outside the dynamics of training</h2>",
        _html_table(robustness.summary()),
        f'<p class="note">{html.escape(_ROBUSTNESS_NOTE)}</p>',
        "<h2>Mean return along each sweep</h2>",
        _html_table(robustness.areas()),
        *_pair_parts(robustness.pairs()),
    ]


def _pair_parts(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the table of two quantities together, as HTML; nothing without one."""
    return ["<h2>Two quantities together</h2>", _html_table(rows)] if rows else []


def _facts(comparison: Comparison, command: str | None) -> dict[str, object]:
    """Return what was evaluated, when and with what, by name."""
    settings = comparison.settings
    env_settings = [f"{name} {value}" for name, value in settings["env_settings"].items()]
    tasks = counted(settings["num_tasks"], f"{comparison.kind_of_tasks} task")
    episodes = f"{counted(settings['num_episodes'], 'measured episode')} per task and step"
    horizon = counted(settings["horizon"], "control step")
    facts: dict[str, object] = {
        "environment": settings["env"],
        "settings": ", ".join(env_settings) or "default",
        "episodes": f"{tasks}, {episodes}, of at most {horizon}",
        "actions": f"{settings['actions']}; in adaptation: {settings['adaptation_actions']}",
        "random seed": settings["seed"],
    }
    for entry in comparison.main:
        runs = zip(entry.sources, entry.evaluations, strict=True)
        facts[entry.label] = "; ".join(_run(source, evaluation) for source, evaluation in runs)
    if comparison.scratch is not None:
        facts[comparison.scratch_label] = run_name(comparison.scratch.source)
    facts["date"] = f"{datetime.now().astimezone():%Y-%m-%d %H:%M %z}"
    if command is not None:
        facts["command"] = command
    packages = versions()
    commit = packages.pop("commit", None)
    facts["versions"] = ", ".join(f"{name} {v}" for name, v in packages.items() if v)
    if commit:
        facts["commit"] = commit
    return facts


def _run(source: Path, evaluation: Evaluation) -> str:
    """Describe a run: name, seed, and length if known."""
    description = evaluation.description
    name = f"{run_name(source)}, seed {description['training_seed']}"
    num_iterations = description["num_iterations"]
    chosen = " (chosen by evaluations in training)" if description.get("is_best") else ""
    if num_iterations is None:
        return name
    return f"{name}, {counted(num_iterations, 'iteration')}{chosen}"


_NOTE = (
    "Undiscounted return of the raw reward, mean over tasks and runs. In brackets: the 95 % "
    "interval by Student's t. For a single run it is over tasks; for several runs it is over the "
    "means of the runs, since each run is one policy. All policies adapt to the same tasks with "
    "the same random seeds. Each adaptation step uses fresh episodes. Episodes used are those of "
    "one task that adaptation has learned from; the return is measured on later ones."
)
_ROBUSTNESS_NOTE = (
    "Returns after as many adaptation steps as in training, mean over tasks and runs; in brackets, "
    "the 95 % interval over runs by Student's t. Drawn as in training: all dynamics vary at once. "
    "Inside and outside: mean over the sweeps, in each of which one quantity varies and the others "
    "are nominal, at values inside and outside its range in training. Worst tenth: mean of the "
    "lowest tenth of the returns on all bodies and tasks of the sweeps. The mean return along a "
    "sweep is the area under its curve, divided by the width."
)
_DIFFERENCE_NOTE = (
    "Return of the first method minus that of the other, after equal numbers of episodes used. If "
    "the other has no step with as many, both are after their number of steps in training, and "
    "the table has both numbers. If either method has several runs, the interval is over runs, by "
    "Welch's t; a single run of the other method counts as a constant. With one run of each, it is "
    "over tasks. The probability of improvement is the share of tasks and pairs of runs in which "
    "the first has the higher return (Agarwal et al. 2021)."
)


def _scratch_table(comparison: Comparison) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{num_env_steps:,}</td><td>{value:.1f}</td></tr>"
        for name, num_env_steps, value in comparison.scratch_rows()
    )
    head = "<tr><th>policy</th><th>control steps in each task</th><th>return</th></tr>"
    return f"<table>{head}{rows}</table>"


def _html_table(rows: Sequence[Sequence[str]]) -> str:
    """Return a table of text; the header is the first row."""
    header, *body = [[html.escape(cell) for cell in row] for row in rows]
    lines = ["".join(f"<th>{cell}</th>" for cell in header)]
    lines += ["".join(f"<td>{cell}</td>" for cell in row) for row in body]
    table = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="wide"><table>{table}</table></div>'


def _table(comparison: Comparison, swept: Sequence[str]) -> str:
    """Return the table of returns after each step, with its notes."""
    entries = comparison.sweep(*swept) if swept else comparison.main
    notes = [*learner_notes(entries), *run_notes(entries), *failed_notes(entries)]
    lines = [f'\n<p class="note">{html.escape(note)}.</p>' for note in notes]
    return _html_table(comparison.return_rows(swept)) + "".join(lines)


def _image(svgs: Mapping[str, bytes], name: str) -> str:
    data = base64.b64encode(svgs[name]).decode()
    alt = html.escape(name.replace("_", " "))
    return f'<img alt="{alt}" src="data:image/svg+xml;base64,{data}">'
