"""Tables of how the returns of methods depend on the dynamics, and notes on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from maml_rl.analysis.comparison.entries import Entry, change_note, change_rows
from maml_rl.analysis.dynamics.robustness import (
    REGIONS,
    Region,
    Robustness,
    returns_of_runs,
    run_means,
)
from maml_rl.analysis.statistics import interval_text, mean_interval, mean_of_valid

ORACLE = "oracle"
"""Label of the method that observes the dynamics."""
_SMALL_EXCESS = 0.05
"""Share by which the control steps of a run may exceed the budget without a note."""


def summary(robustness: Robustness) -> list[list[str]]:
    """Return the cells of the table of methods, with its header."""
    rows = [
        [
            "policy",
            "observes",
            "control steps in training (M)",
            "episodes used",
            "return, drawn as in training",
            "return inside",
            "% of oracle",
            "return outside",
            "% of oracle",
            "worst tenth",
        ]
    ]
    for entry in robustness.comparison.main:
        label, k = entry.label, entry.adapted_step
        origin = robustness.origins[label]
        cells = [entry.name, origin.observes, origin.steps_text]
        cells += [str(entry.episodes_used[k]), _with_interval(run_means([entry]))]
        for where in REGIONS:
            means = run_means(robustness.swept(label, where))
            cells += [_with_interval(means), _share(robustness, means, where)]
        rows.append([*cells, _with_interval(robustness.worst_tenths(label))])
    return rows


def _share(robustness: Robustness, means: np.ndarray, where: Region) -> str:
    """Format a return as percentage of the oracle's.

    It is a dash without an oracle, if the oracle's return is not positive, or if another method
    without adaptation has a higher one: training has then not made use of the dynamics.
    """
    entries = robustness.swept(ORACLE, where)
    if not entries:
        return "–"
    of_oracle = float(run_means(entries).mean())
    others = [
        float(run_means(robustness.swept(entry.label, where)).mean())
        for entry in robustness.comparison.main
        if not entry.adapts and entry.label != ORACLE
    ]
    if of_oracle <= 0 or any(other > of_oracle for other in others):
        return "–"
    return f"{100 * means.mean() / of_oracle:.0f}"


def training(robustness: Robustness) -> list[list[str]]:
    """Return the cells of the table of training, with its header: a row for each method."""
    rows = [["policy", "control steps (M)", "hours of training"]]
    for entry in robustness.comparison.main:
        origin = robustness.origins[entry.label]
        rows.append([entry.name, origin.steps_text, f"{np.mean(origin.hours):.3g}"])
    return rows


def budget_notes(robustness: Robustness) -> list[str]:
    """Return a note if the runs of some methods took more control steps than the budget.

    A short run can: its last iteration is completed.
    """
    most = {label: max(origin.num_env_steps) for label, origin in robustness.origins.items()}
    over = [
        f"{label} ({number:,})"
        for label, number in most.items()
        if number > (1 + _SMALL_EXCESS) * robustness.budget
    ]
    if not over:
        return []
    return [
        f"more control steps in training than the {robustness.budget:,} of --num_env_steps: "
        f"{', '.join(over)}; a run completes its last iteration, so methods whose iterations "
        "are larger were trained for longer"
    ]


def gains(robustness: Robustness) -> list[list[str]]:
    """Return the cells of the table of returns before and after adaptation, with its header.

    There is none if no method adapts.
    """
    if not any(entry.adapts for entry in robustness.comparison.main):
        return []
    rows = [["policy", "episodes used"]]
    for where in REGIONS:
        rows[0] += [f"{where}: before", "after", "gain", "95 % interval"]
    for entry in robustness.comparison.main:
        cells = [entry.name, str(entry.episodes_used[entry.adapted_step])]
        for where in REGIONS:
            entries = robustness.swept(entry.label, where)
            cells += _gain_cells(entries) if entries else ["–"] * 4
        rows.append(cells)
    return rows


def adaptation(robustness: Robustness) -> list[list[str]]:
    """Return the cells of the table of returns after each step, with its header.

    There is none if no method adapts.
    """
    if not any(entry.adapts for entry in robustness.comparison.main):
        return []
    rows = [["policy", "steps", "episodes used"]]
    for where in REGIONS:
        rows[0] += [where, "95 % interval"]
    for entry in robustness.comparison.main:
        curves = [robustness.curves(entry.label, where) for where in REGIONS]
        for k, used in enumerate(entry.episodes_used):
            cells = [entry.name, str(k), str(used)]
            for curve in curves:
                cells += _mean_cells(curve[:, k]) if len(curve) else ["–", "–"]
            rows.append(cells)
    return rows


def differences(robustness: Robustness) -> list[list[str]]:
    """Return the cells of the table of differences to the reference, with its header.

    There is none without another method. With one run of each, there is no interval: their returns
    on several points are not independent.
    """
    others = [entry for entry in robustness.comparison.main if entry.label != robustness.reference]
    if not others:
        return []
    (name,) = [one.name for one in robustness.comparison.main if one.label == robustness.reference]
    rows = [["difference", "inside", "95 % interval", "outside", "95 % interval"]]
    for entry in others:
        cells = [f"{entry.name} − {name}"]
        for where in REGIONS:
            value = robustness.minus_reference(entry.label, where)
            if value is None:
                cells += ["–", "–"]
                continue
            is_over_runs = value.over == "runs"
            interval = interval_text(value.interval) if is_over_runs else "–"
            cells += [f"{value.mean:.1f}", interval]
        rows.append(cells)
    return rows


def areas(robustness: Robustness) -> list[list[str]]:
    """Return the cells of the table of areas, with its header: a row for each method."""
    names = list(robustness.trained)
    rows = [["policy", *names]]
    for entry in robustness.comparison.main:
        rows.append([entry.name, *(f"{robustness.area(entry.label, name):.1f}" for name in names)])
    return rows


def pairs(robustness: Robustness) -> list[list[str]]:
    """Return the cells of the table of two quantities, with its header; empty without one.

    It has a row for each pair of values, and a column for each method.
    """
    names = tuple(robustness.trained)[:2]
    entries = robustness.comparison.sweep(*names) if len(names) == 2 else []
    if not entries:
        return []
    returns = {
        (entry.label, *entry.swept.values()): entry.center[entry.adapted_step] for entry in entries
    }
    rows = [[*names, *robustness.labels]]
    for values in dict.fromkeys(tuple(entry.swept.values()) for entry in entries):
        cells = [f"{returns[label, *values]:.1f}" for label in robustness.labels]
        rows.append([*(f"{value:.3g}" for value in values), *cells])
    return rows


def failures(robustness: Robustness) -> list[tuple[str, list[list[str]]]]:
    """Return a title and the cells of a table for each failure of an actuator in mid-episode.

    The tables have a header and a row for each method that was evaluated.
    """
    versions: dict[tuple[tuple[str, float], ...], list[Entry]] = {}
    for entry in robustness.comparison.entries:
        if entry.responses:
            versions.setdefault(tuple(entry.swept.items()), []).append(entry)
    tables = []
    for swept, entries in versions.items():
        values = dict(swept)
        title = f"An actuator fails in control step {values.pop('change_step'):g}"
        others = [f"{name.replace('_', ' ')} × {value:.3g}" for name, value in values.items()]
        if others:
            title += f" ({', '.join(others)})"
        alike = [replace(entry, swept={}) for entry in entries]
        tables.append((title, change_rows(alike)))
    return tables


def failure_notes(robustness: Robustness) -> list[str]:
    """Return what explains the tables of failures, with the reason why a method is not there.

    There is none without a failure.
    """
    entries = [entry for entry in robustness.comparison.entries if entry.responses]
    if not entries:
        return []
    notes = [change_note()]
    if ORACLE in robustness.labels and not any(entry.label == ORACLE for entry in entries):
        notes.append(
            f"{ORACLE} is left out: it observes the dynamics, and has not observed a failure "
            "in training"
        )
    return notes


def _gain_cells(entries: Sequence[Entry]) -> list[str]:
    """Return the mean before and after adaptation, the gain and its interval, of one method."""
    if not entries[0].adapts:
        return ["–", f"{run_means(entries).mean():.1f}", "–", "–"]
    points = []
    for entry in entries:
        # Both means over the same tasks: without those that failed in any run.
        stages = np.stack([returns_of_runs([entry], 0), returns_of_runs([entry])])
        points.append(mean_of_valid(stages[:, :, ~np.isnan(stages).any(axis=(0, 1))], 2))
    before, after = mean_of_valid(np.stack(points), 0)
    gains = after - before
    # A single run has no interval: its returns on several points are not independent.
    interval = "–" if len(gains) == 1 else interval_text(mean_interval(gains))
    return [*(f"{one.mean():.1f}" for one in (before, after, gains)), interval]


def _mean_cells(means: np.ndarray) -> list[str]:
    """Return the mean over runs, and its interval over them, which a single run does not have."""
    return [f"{means.mean():.1f}", interval_text(mean_interval(means))]


def _with_interval(means: np.ndarray) -> str:
    """Format the mean over runs, with its interval over them if there are several."""
    if not len(means):
        return "–"
    mean, interval = _mean_cells(means)
    return mean if len(means) == 1 else f"{mean} {interval}"
