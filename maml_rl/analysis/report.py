"""The files of an evaluation: results.json, results.csv, plots (PNG, SVG), and report.html, which holds them all."""

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
from maml_rl.analysis.comparison import Comparison, Entry, failed_notes, run_notes
from maml_rl.analysis.evaluation import Evaluation
from maml_rl.analysis.statistics import Difference, written
from maml_rl.runs.pretrained import run_name
from maml_rl.runs.run_folder import versions
from maml_rl.system.atomic_files import write_whole

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1f24; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 0.25rem 0.8rem; text-align: right; border-bottom: 1px solid #d8dde3; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
td small { color: #57606a; }
img { max-width: 100%; height: auto; display: block; margin: 1rem 0; }
dl { display: grid; grid-template-columns: max-content auto; gap: 0.15rem 1.2rem; } dd { margin: 0; }
dt, summary, p.note { color: #57606a; }
.wide { overflow-x: auto; }
"""


def write_report(
    folder: Path,
    comparison: Comparison,
    trained: Mapping[str, tuple[float, float]] | None = None,
    command: str | None = None,
) -> None:
    """Write every file, each whole or not at all; plots of an earlier report that this one lacks go away.

    Args:
        folder: where to.
        comparison: what to report.
        trained: the range in training of each number that is swept, where it is known.
        command: that asked for it, as typed, for report.html.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures = _pictures(comparison, trained or {})
    write_whole(folder / "results.json", json.dumps(_content(comparison), indent=2) + "\n")
    write_whole(folder / "results.csv", _csv(comparison))
    drawn = {}
    for name, figure in pictures.items():
        drawn[name] = figures.encoded(figure, "svg")
        write_whole(folder / f"{name}.svg", drawn[name])
        write_whole(folder / f"{name}.png", figures.encoded(figure, "png"))
    write_whole(folder / "report.html", _html(comparison, drawn, command))
    for pattern in ("adaptation.*", "tasks.*", "tasks_*.*", "scratch.*", "sweep_*.*", "grid_*.*"):
        for path in folder.glob(pattern):
            if path.stem not in pictures:
                path.unlink()


def _pictures(
    comparison: Comparison, trained: Mapping[str, tuple[float, float]]
) -> dict[str, Figure]:
    found = {"adaptation": figures.adaptation_figure(comparison)}
    for i, figure in enumerate(figures.tasks_figures(comparison)):
        found[f"tasks_{i + 1}" if i else "tasks"] = figure
    if comparison.scratch is not None:
        found["scratch"] = figures.scratch_figure(comparison)
    for names in comparison.sweeps:
        file = "_".join(names).replace("/", ".")
        if len(names) == 1:
            found[f"sweep_{file}"] = figures.sweep_figure(
                comparison, names[0], trained.get(names[0])
            )
        else:
            found[f"grid_{file}"] = figures.grid_figure(comparison, (names[0], names[1]))
    return found


def _plain(values: Any) -> Any:
    """Lists with ``None`` in place of NaN, which JSON does not know."""
    if isinstance(values, (list, tuple)):
        return [_plain(value) for value in values]
    return None if isinstance(values, float) and math.isnan(values) else values


def _content(comparison: Comparison) -> dict[str, Any]:
    scratch = comparison.scratch
    learned = scratch and {
        "policy": scratch.label,
        "source": run_name(scratch.source),
        "tasks": list(scratch.tasks),
        "num_env_steps": scratch.num_env_steps.tolist(),
        "returns": scratch.returns.tolist(),
    }
    return {
        **comparison.settings,
        "scratch": learned,
        "differences": [
            {
                "first": first.label,
                "second": second.label,
                "steps": [_plain_difference(step) for step in steps],
            }
            for first, second, steps in comparison.differences
        ],
        "results": [
            {
                "policy": entry.label,
                "sources": [run_name(source) for source in entry.sources],
                "training_seeds": [e.description["training_seed"] for e in entry.evaluations],
                "num_iterations": [e.description["num_iterations"] for e in entry.evaluations],
                "swept": dict(entry.swept),
                "return": _plain(entry.center.tolist()),
                "interval_95": _plain(entry.interval.tolist()),
                "interval_over": entry.over,
                "run_returns": _plain(entry.run_returns.tolist()),
                "std_over_tasks": np.nanstd(entry.task_returns, axis=1).tolist(),
                "success": _plain(entry.success.tolist()),
                "num_episodes": entry.num_episodes.tolist(),
                "num_void_episodes": sum(
                    evaluation.num_void_episodes for evaluation in entry.evaluations
                ),
                "num_failed_tasks": entry.num_failed_tasks,
                "step_size": entry.evaluations[0].description["step_size"],
                "tasks": [
                    {"task": dict(task), "returns": _plain(entry.task_returns[:, i].tolist())}
                    for i, task in enumerate(entry.evaluations[0].tasks)
                ],
            }
            for entry in comparison.entries
        ],
    }


def _plain_difference(step: Difference) -> dict[str, Any]:
    return {
        "return": _plain(step.mean),
        "interval_95": _plain(step.interval.tolist()),
        "interval_over": step.over,
        "probability_of_improvement": _plain(step.probability),
    }


def _csv(comparison: Comparison) -> str:
    """A row for every policy, run, task and step."""
    tasks = [task for entry in comparison.entries for task in entry.evaluations[0].tasks]
    names = list(dict.fromkeys(name for task in tasks for name in task))
    swept = list(dict.fromkeys(name for entry in comparison.entries for name in entry.swept))
    buffer = io.StringIO()
    head = [*(f"swept_{name}" for name in swept), "task", *(f"task_{name}" for name in names)]
    writer = csv.writer(buffer)
    writer.writerow(["policy", "source", *head, "step", "num_episodes", "return", "success"])
    for entry in comparison.entries:
        for source, evaluation in zip(entry.sources, entry.evaluations, strict=True):
            returns, success = evaluation.task_returns, evaluation.task_success
            for i, task in enumerate(evaluation.tasks):
                version = [entry.swept.get(name, "") for name in swept]
                row = [entry.label, run_name(source), *version, i]
                row += [task.get(name, "") for name in names]
                for k, used in enumerate(entry.num_episodes):
                    found = [
                        "" if math.isnan(value) else value
                        for value in (returns[k, i], success[k, i])
                    ]
                    writer.writerow([*row, k, used, *found])
    return buffer.getvalue()


def _html(comparison: Comparison, drawn: Mapping[str, bytes], command: str | None) -> str:
    settings = comparison.settings
    tasks = f"{settings['num_tasks']} {comparison.kind_of_tasks} tasks"
    number = f"{tasks}, {settings['num_episodes']} episodes per task and adaptation step"
    facts = {
        "environment": settings["env"],
        "settings": ", ".join(f"{name} {value}" for name, value in settings["env_settings"].items())
        or "default",
        "episodes": f"{number}, of at most {settings['horizon']} control steps",
        "random seed": settings["seed"],
    }
    for entry in comparison.main:
        runs = zip(entry.sources, entry.evaluations, strict=True)
        facts[entry.label] = "; ".join(_run(source, evaluation) for source, evaluation in runs)
    if comparison.scratch is not None:
        facts[comparison.scratch.label] = run_name(comparison.scratch.source)
    facts |= {"date": f"{datetime.now().astimezone():%Y-%m-%d %H:%M %z}"}
    facts |= {"command": command} if command is not None else {}
    packages = versions()
    commit = packages.pop("commit", None)
    installed = [f"{name} {version}" for name, version in packages.items() if version]
    facts |= {"versions": ", ".join(installed)}
    facts |= {"commit": commit} if commit else {}
    title = f"Adaptation of {settings['env']}"
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        "<dl>"
        + "".join(
            f"<dt>{html.escape(k)}</dt><dd>{html.escape(str(v))}</dd>" for k, v in facts.items()
        )
        + "</dl>",
        "<h2>Return after 0, 1, ... adaptation steps</h2>",
        _table(comparison.main, ()),
        f'<p class="note">{html.escape(_NOTE)}</p>',
        _image(drawn, "adaptation"),
    ]
    if comparison.differences:
        parts += ["<h2>Differences on the same tasks</h2>"]
        parts += [_difference_table(comparison.differences)]
        parts += [f'<p class="note">{html.escape(_DIFFERENCE_NOTE)}</p>']
    if "tasks" in drawn:
        parts += ["<h2>Task by task</h2>"]
        parts += [_image(drawn, name) for name in drawn if name.startswith("tasks")]
    if comparison.scratch is not None:
        rows = "".join(
            f"<tr><td>{html.escape(name)}</td><td>{steps:,}</td><td>{value:.1f}</td></tr>"
            for name, steps, value in comparison.scratch_rows()
        )
        head = "<tr><th>policy</th><th>control steps in each task</th><th>return</th></tr>"
        parts += ["<h2>Against learning from scratch</h2>"]
        parts += [
            f"<p>On {len(comparison.scratch.tasks)} of these tasks.</p>",
            f"<table>{head}{rows}</table>",
        ]
        parts += [_image(drawn, "scratch")]
    for names in comparison.sweeps:
        picture = ("sweep_" if len(names) == 1 else "grid_") + "_".join(names).replace("/", ".")
        parts += [f"<h2>Bodies that training did not see: {html.escape(' and '.join(names))}</h2>"]
        table = f"<details><summary>Numbers</summary>{_table(comparison.sweep(*names), names)}</details>"
        parts += [_image(drawn, picture), table]
    body = "\n".join(parts)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>\n'
        f"<body>\n{body}\n</body></html>\n"
    )


def _run(source: Path, evaluation: Evaluation) -> str:
    """A run in words: where it is, its seed, and its length where that is known."""
    seed, length = (evaluation.description[name] for name in ("training_seed", "num_iterations"))
    trained = "" if length is None else f", {length} iterations"
    return f"{run_name(source)}, seed {seed}{trained}"


_NOTE = (
    "Undiscounted return of the raw reward, mean over tasks, and over runs where a policy was "
    "trained with several seeds; in brackets the 95 % interval by Student's t: over tasks for one "
    "run, else over the runs' means on these tasks, since a run is one policy on all of them. "
    "Every policy is adapted on the same tasks with the same random seeds; each adaptation step "
    "takes fresh episodes, and the return after it is that of the episodes played next."
)
_DIFFERENCE_NOTE = (
    "Return of the first method minus that of the other, in brackets its 95 % interval: over runs, "
    "by Welch's t, where a method has several (a single run of the other counts as that one "
    "policy), else over tasks, for these two runs. Below it the probability of improvement: the "
    "share of tasks and pairs of runs in which the first has the higher return (Agarwal et al. "
    "2021)."
)


def _difference_table(differences: Sequence[tuple[Entry, Entry, Sequence[Difference]]]) -> str:
    rows = []
    for first, second, steps in differences:
        cells = [html.escape(f"{first.name} − {second.name}")]
        for step in steps:
            probability = "–" if math.isnan(step.probability) else f"{step.probability:.2f}"
            small = f"<small>{written(step.interval)}<br>{probability}</small>"
            cells.append(f"{step.mean:.1f} {small}")
        rows.append([*cells, steps[0].over])
    return _markup(["difference", *_steps(len(differences[0][2])), "interval over"], rows)


def _steps(number: int) -> list[str]:
    """What the columns of so many steps are called."""
    return ["before", *(f"{k} step{'' if k == 1 else 's'}" for k in range(1, number))]


def _markup(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; the cells of its rows are markup already."""
    header = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{header}</tr>\n{body}</table></div>'


def _table(entries: Sequence[Entry], swept: Sequence[str]) -> str:
    num_steps = max(len(entry.center) for entry in entries)
    has_success = any(not math.isnan(share) for entry in entries for share in entry.success)
    head = ["policy", *swept, *_steps(num_steps), "interval over"]
    head += ["success before", "success after"] if has_success else []
    rows = []
    for entry in entries:
        cells = [html.escape(entry.name), *(f"{value:.4g}" for value in entry.swept.values())]
        for center, interval in zip(entry.center, entry.interval, strict=True):
            cells.append(f"{center:.1f} <small>{written(interval)}</small>")
        cells += [""] * (num_steps - len(entry.center)) + [entry.over]
        if has_success:
            cells += [
                "–" if math.isnan(share) else f"{100 * share:.0f} %"
                for share in entry.success[[0, entry.shown_step]]
            ]
        rows.append(cells)
    notes = [*run_notes(entries), *failed_notes(entries)]
    lines = [f'\n<p class="note">{html.escape(note)}.</p>' for note in notes]
    return _markup(head, rows) + "".join(lines)


def _image(drawn: Mapping[str, bytes], name: str) -> str:
    encoded = base64.b64encode(drawn[name]).decode()
    return f'<img alt="{html.escape(name.replace("_", " "))}" src="data:image/svg+xml;base64,{encoded}">'
