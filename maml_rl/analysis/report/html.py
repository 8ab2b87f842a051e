"""report.html: one page with the tables and plots of an evaluation."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from datetime import datetime

from maml_rl.analysis.comparison.compare import Comparison
from maml_rl.analysis.comparison.entries import change_note
from maml_rl.analysis.dynamics import tables
from maml_rl.analysis.dynamics.robustness import Robustness
from maml_rl.analysis.evaluation_result import Evaluation
from maml_rl.runs.pretrained import run_name
from maml_rl.runs.run_folder import versions
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


LEARNING_CURVES = "learning_curves"
"""File name of the plot of learning curves, without suffix."""

UNSEEN_ADAPTATION = "unseen_adaptation"
"""File name of the plot of adaptation inside and outside the dynamics of training."""


def sweep_plot(names: Sequence[str]) -> str:
    """Return the file name of the plot of a sweep, without suffix."""
    kind = "sweep" if len(names) == 1 else "grid"
    return f"{kind}_{'_'.join(names)}".replace("/", ".")


def report_html(
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
        _html_table(_run_rows(comparison)),
        *([] if robustness is None else _robustness_parts(robustness, svgs)),
        "<h2>Return after 0, 1, ... adaptation steps</h2>",
        _table(comparison, ()),
        f'<p class="note">{html.escape(_NOTE)}</p>',
        _image(svgs, "adaptation"),
    ]
    if robustness is None and comparison.has_changes:
        parts += _change_parts(comparison, svgs)
    parts += _comparison_parts(comparison, svgs)
    body = "\n".join(parts)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>\n'
        f"<body>\n{body}\n</body></html>\n"
    )


def _change_parts(comparison: Comparison, svgs: Mapping[str, bytes]) -> list[str]:
    """Return the table of changes of the dynamics in mid-episode, as HTML."""
    parts = [
        "<h2>Change of the dynamics in mid-episode</h2>",
        _html_table(comparison.change_rows()),
        f'<p class="note">{html.escape(change_note())}.</p>',
    ]
    return [*parts, _image(svgs, "change")] if "change" in svgs else parts


def _comparison_parts(comparison: Comparison, svgs: Mapping[str, bytes]) -> list[str]:
    """Return differences, returns by task, learning from scratch and sweeps, as HTML."""
    parts = []
    # Differences.
    if comparison.differences:
        parts.append("<h2>Differences on the same tasks</h2>")
        parts.append(_html_table(comparison.difference_rows(all_steps=True)))
        parts.append(f'<p class="note">{html.escape(_DIFFERENCE_NOTE)}</p>')
    # Tasks.
    if "tasks" in svgs:
        parts.append("<h2>Returns by task</h2>")
        kinds = ("tasks", "parallel")
        parts += [_image(svgs, name) for name in svgs if name.startswith(kinds)]
    # Learning from scratch.
    if comparison.scratch is not None:
        parts.append("<h2>Comparison with learning from scratch</h2>")
        parts.append(f"<p>On {len(comparison.scratch.tasks)} of these tasks.</p>")
        parts.append(_html_table(comparison.scratch_rows()))
        parts.append(_image(svgs, "scratch"))
    # Sweeps.
    for names in comparison.sweeps:
        parts.append(f"<h2>Sweep over {html.escape(' and '.join(names))}</h2>")
        if sweep_plot(names) in svgs:
            parts.append(_image(svgs, sweep_plot(names)))
        table = _table(comparison, names)
        parts.append(f"<details><summary>Numbers</summary>{table}</details>")
    return parts


def _robustness_parts(robustness: Robustness, svgs: Mapping[str, bytes]) -> list[str]:
    """Return the tables of a comparison on unseen dynamics, as HTML."""
    return [
        "<h2>Inside and outside the dynamics of training</h2>",
        _html_table(tables.summary(robustness)),
        f'<p class="note">{html.escape(_ROBUSTNESS_NOTE)}</p>',
        *(f'<p class="note">{html.escape(note)}.</p>' for note in tables.budget_notes(robustness)),
        *_adaptation_parts(robustness, svgs),
        *_reference_parts(robustness),
        "<h2>Mean return along each whole sweep</h2>",
        _html_table(tables.areas(robustness)),
        f'<p class="note">{html.escape(_AREA_NOTE)}</p>',
        *_pair_parts(tables.pairs(robustness)),
        *_failure_parts(robustness),
        *_training_parts(tables.training(robustness), svgs),
    ]


def _adaptation_parts(robustness: Robustness, svgs: Mapping[str, bytes]) -> list[str]:
    """Return gains and curves of adaptation, as HTML; nothing if no method adapts."""
    if UNSEEN_ADAPTATION not in svgs:
        return []
    return [
        "<h2>Before and after adaptation</h2>",
        _html_table(tables.gains(robustness)),
        f'<p class="note">{html.escape(_GAIN_NOTE)}</p>',
        "<h2>Adaptation inside and outside the dynamics of training</h2>",
        _image(svgs, UNSEEN_ADAPTATION),
        _html_table(tables.adaptation(robustness)),
        f'<p class="note">{html.escape(_ADAPTATION_NOTE)}</p>',
    ]


def _reference_parts(robustness: Robustness) -> list[str]:
    """Return the table of differences to the reference, as HTML; nothing without other methods."""
    rows = tables.differences(robustness)
    if not rows:
        return []
    title = f"<h2>Differences to {html.escape(robustness.reference)}</h2>"
    return [title, _html_table(rows), f'<p class="note">{html.escape(_REFERENCE_NOTE)}</p>']


def _pair_parts(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the table of two quantities together, as HTML; nothing without one."""
    return ["<h2>Two quantities together</h2>", _html_table(rows)] if rows else []


def _training_parts(rows: Sequence[Sequence[str]], svgs: Mapping[str, bytes]) -> list[str]:
    """Return the table of training, and the curves if there are any, as HTML."""
    parts = ["<h2>Training</h2>", _html_table(rows)]
    if LEARNING_CURVES in svgs:
        note = f'<p class="note">{html.escape(_CURVES_NOTE)}</p>'
        parts += [_image(svgs, LEARNING_CURVES), note]
    return parts


def _failure_parts(robustness: Robustness) -> list[str]:
    """Return the tables of failures in mid-episode, as HTML; nothing without one."""
    parts = []
    for title, rows in tables.failures(robustness):
        parts += [f"<h2>{html.escape(title)}</h2>", _html_table(rows)]
    notes = [f"{html.escape(note)}." for note in tables.failure_notes(robustness)]
    return [*parts, *(f'<p class="note">{note}</p>' for note in notes)]


def _facts(comparison: Comparison, command: str | None) -> dict[str, object]:
    """Return what was evaluated, when and with what, by name."""
    settings = comparison.settings
    env_settings = [f"{name} {value}" for name, value in settings["env_settings"].items()]
    episodes = f"{counted(settings['num_episodes'], 'measured episode')} per task and step"
    horizons = sorted({entry.horizon for entry in comparison.entries})
    horizon = f"{' or '.join(map(str, horizons[:-1]))} or " if len(horizons) > 1 else ""
    horizon += counted(horizons[-1], "control step")
    facts: dict[str, object] = {
        "environment": settings["env"],
        "settings": ", ".join(env_settings) or "default",
        "episodes": f"{comparison.tasks_text}, {episodes}, of at most {horizon}",
        "actions": f"{settings['actions']}; in adaptation: {settings['adaptation_actions']}",
        "random seed": settings["seed"],
    }
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


def _run_rows(comparison: Comparison) -> list[list[str]]:
    """Return the cells of the table of runs, with its header."""
    rows = [["policy", "run", "learner", "seed", "iterations", "control steps in training"]]
    for entry in comparison.main:
        for source, evaluation in zip(entry.sources, entry.evaluations, strict=True):
            description = evaluation.description
            seed = str(description["training_seed"])
            row = [entry.label, run_name(source), description["learner"]["name"], seed]
            rows.append([*row, _iterations(evaluation), _number(description["num_env_steps"])])
    return rows


def _iterations(evaluation: Evaluation) -> str:
    """Iterations of training, if known, and whether their number was chosen."""
    description = evaluation.description
    chosen = " (chosen by evaluations in training)" if description["is_best"] else ""
    return f"{_number(description['num_iterations'])}{chosen}"


def _number(value: int | None) -> str:
    """Format a number with commas; a dash if it is not known."""
    return "–" if value is None else f"{value:,}"


_NOTE = (
    "Undiscounted return of the raw reward, mean over tasks and runs. In brackets: the 95 % "
    "interval by Student's t. For a single run it is over tasks; for several runs it is over the "
    "means of the runs, since each run is one policy. All policies adapt to the same tasks with "
    "the same random seeds. Each adaptation step uses fresh episodes. Episodes used are those of "
    "one task that adaptation has learned from; the return is measured on later ones."
)
_ROBUSTNESS_NOTE = (
    "Returns after as many adaptation steps as in training (or all of the evaluation, if fewer), "
    "mean over tasks and runs; in brackets, the 95 % interval over runs by Student's t. "
    "Drawn as in training: all dynamics vary at once. "
    "Inside and outside: mean over the sweeps, in each of which one quantity varies and the others "
    "are nominal, at values inside and outside its range in training. Worst tenth: mean of the "
    "lowest tenth of the returns at all points and tasks of the sweeps. The oracle observes the "
    "dynamics; at this budget its return does not bound those of others. The percentage of it is "
    "left out where another method without adaptation has a higher return."
)
_GAIN_NOTE = (
    "Mean returns inside and outside as above. Before: without any episode of the task; of a "
    "learner whose step is one episode, such as RL², the first episode, in which it adapts, too. "
    "The interval of the gain is over runs, by Student's t; a single run has none."
)
_ADAPTATION_NOTE = (
    "Mean returns inside and outside as above, after 0, 1, ... adaptation steps. The interval is "
    "over runs, by Student's t; a single run has none."
)
_AREA_NOTE = (
    "The area under the curve of a sweep, inside and outside, divided by its width. The axis of a "
    "factor is logarithmic, so that each doubling has an equal weight; other axes are linear. The "
    "returns inside and outside above weight all points of all sweeps equally."
)
_CURVES_NOTE = (
    "Returns in training, on its own tasks, mean over runs; hours are means over runs, on the "
    "machines that they ran on. A curve that still rises is that of a policy that is not fully "
    "trained."
)
_REFERENCE_NOTE = (
    "Mean return of the method minus that of the reference, at the same points and tasks, inside "
    "and outside as above. If either method has several runs, the interval is over runs, by "
    "Welch's t; with one run of each there is none."
)
_DIFFERENCE_NOTE = (
    "Return of the first method minus that of the other, after equal numbers of episodes used. If "
    "the other has no step with as many, both are after their number of steps in training, and "
    "the table has both numbers. If either method has several runs, the interval is over runs, by "
    "Welch's t; a single run of the other method counts as a constant. With one run of each, it is "
    "over tasks. The probability of improvement is the share of tasks and pairs of runs in which "
    "the first has the higher return (Agarwal et al. 2021)."
)


def _html_table(rows: Sequence[Sequence[str]]) -> str:
    """Return a table of text; the header is the first row."""
    header, *body = [[html.escape(cell) for cell in row] for row in rows]
    lines = ["".join(f"<th>{cell}</th>" for cell in header)]
    lines += ["".join(f"<td>{cell}</td>" for cell in row) for row in body]
    table = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="wide"><table>{table}</table></div>'


def _table(comparison: Comparison, swept: Sequence[str]) -> str:
    """Return the table of returns after each step, with its notes."""
    notes = comparison.return_notes(swept)
    lines = [f'\n<p class="note">{html.escape(note)}.</p>' for note in notes]
    return _html_table(comparison.return_rows(swept)) + "".join(lines)


def _image(svgs: Mapping[str, bytes], name: str) -> str:
    data = base64.b64encode(svgs[name]).decode()
    alt = html.escape(name.replace("_", " "))
    return f'<img alt="{alt}" src="data:image/svg+xml;base64,{data}">'
