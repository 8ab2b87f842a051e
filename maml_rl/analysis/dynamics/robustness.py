"""How the returns of methods depend on the dynamics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from maml_rl.analysis.comparison.compare import Comparison
from maml_rl.analysis.comparison.entries import Entry, change_note, change_rows
from maml_rl.analysis.statistics import (
    Difference,
    difference,
    interval_text,
    is_log_spaced,
    mean_interval,
    mean_of_valid,
)

ORACLE = "oracle"
"""Label of the method that observes the dynamics."""

_SMALL_EXCESS = 0.05
"""Share by which the control steps of a run may exceed the budget without a note."""


class Origin(NamedTuple):
    """Where the policies of a method come from."""

    observes: str
    """What they observe beside their observation."""
    num_env_steps: Sequence[int]
    """Control steps in the training of each run."""
    hours: Sequence[float] = ()
    """Duration of the training of each run, if known."""

    @property
    def steps_text(self) -> str:
        """Control steps in millions; a range if the runs differ."""
        millions = [number / 1e6 for number in self.num_env_steps]
        low, high = f"{min(millions):.3g}", f"{max(millions):.3g}"
        return low if low == high else f"{low} to {high}"


@dataclass(frozen=True)
class Robustness:
    """Returns of methods where the dynamics are drawn as in training, and along sweeps.

    All returns are those after as many adaptation steps as in training, or after the last one of
    the evaluation if that has fewer. The curves have those after each step.

    Args:
        comparison: of the methods. Its sweeps vary one quantity each.
        origins: of the methods, by label.
        trained: range of each swept quantity in training.
        reference: label of the method that each other one is compared with, if any.
        budget: control steps that each run was to take, if known.
    """

    comparison: Comparison
    origins: Mapping[str, Origin]
    trained: Mapping[str, tuple[float, float]]
    reference: str | None = None
    budget: int | None = None

    @property
    def labels(self) -> list[str]:
        """Labels of the methods."""
        return [entry.label for entry in self.comparison.main]

    def along(self, label: str, name: str) -> list[Entry]:
        """Return the entries of a method along the sweep of a quantity, in ascending order."""
        entries = [entry for entry in self.comparison.sweep(name) if entry.label == label]
        return sorted(entries, key=lambda entry: entry.swept[name])

    def swept(self, label: str, *, is_inside: bool) -> list[Entry]:
        """Return the entries of a method inside the ranges of training, or outside, of all sweeps.

        Args:
            label: of the method.
            is_inside: whether the swept quantity is inside its range.
        """
        entries = []
        for name, (low, high) in self.trained.items():
            for entry in self.along(label, name):
                if (low <= entry.swept[name] <= high) == is_inside:
                    entries.append(entry)
        return entries

    def area(self, label: str, name: str) -> float:
        """Return the area under the curve of return against a quantity, divided by its width.

        It is the mean return along the sweep. Of a factor whose values are spaced evenly by their
        logarithms, the curve is over the logarithm: each doubling has an equal weight.
        """
        entries = self.along(label, name)
        x = np.array([entry.swept[name] for entry in entries])
        if is_log_spaced(x):
            x = np.log2(x)
        returns = np.array([entry.center[entry.adapted_step] for entry in entries])
        return float(np.trapezoid(returns, x) / np.ptp(x))

    def worst_tenth(self, label: str) -> float:
        """Return the mean of the lowest tenth of the returns of all points and tasks of sweeps."""
        entries = [*self.swept(label, is_inside=True), *self.swept(label, is_inside=False)]
        returns = np.concatenate([entry.task_returns[entry.adapted_step] for entry in entries])
        valid = np.sort(returns[~np.isnan(returns)])
        return float(mean_of_valid(valid[: math.ceil(len(valid) / 10)], 0))

    def summary(self) -> list[list[str]]:
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
        for entry in self.comparison.main:
            label, k = entry.label, entry.adapted_step
            origin = self.origins[label]
            cells = [entry.name, origin.observes, origin.steps_text]
            cells += [str(entry.episodes_used[k]), _with_interval(_run_means([entry]))]
            for is_inside in (True, False):
                means = _run_means(self.swept(label, is_inside=is_inside))
                cells += [_with_interval(means), self._share(means, is_inside)]
            rows.append([*cells, f"{self.worst_tenth(label):.1f}"])
        return rows

    def _share(self, means: np.ndarray, is_inside: bool) -> str:
        """Format a return as percentage of the oracle's.

        It is a dash without an oracle, if the oracle's return is not positive, or if another method
        without adaptation has a higher one: training has then not made use of the dynamics.
        """
        entries = self.swept(ORACLE, is_inside=is_inside)
        if not entries:
            return "–"
        of_oracle = float(_run_means(entries).mean())
        others = [
            float(_run_means(self.swept(entry.label, is_inside=is_inside)).mean())
            for entry in self.comparison.main
            if not entry.adapts and entry.label != ORACLE
        ]
        if of_oracle <= 0 or any(other > of_oracle for other in others):
            return "–"
        return f"{100 * means.mean() / of_oracle:.0f}"

    def training(self) -> list[list[str]]:
        """Return the cells of the table of training, with its header: a row for each method.

        There is none if no duration is known.
        """
        if not any(origin.hours for origin in self.origins.values()):
            return []
        rows = [["policy", "control steps (M)", "hours of training"]]
        for entry in self.comparison.main:
            origin = self.origins[entry.label]
            hours = f"{np.mean(origin.hours):.3g}" if origin.hours else "–"
            rows.append([entry.name, origin.steps_text, hours])
        return rows

    def budget_notes(self) -> list[str]:
        """Return a note if the runs of some methods took more control steps than the budget.

        A short run can: its last iteration is completed.
        """
        if self.budget is None:
            return []
        most = {label: max(origin.num_env_steps) for label, origin in self.origins.items()}
        over = [
            f"{label} ({number:,})"
            for label, number in most.items()
            if number > (1 + _SMALL_EXCESS) * self.budget
        ]
        if not over:
            return []
        return [
            f"more control steps in training than the {self.budget:,} of --num_env_steps: "
            f"{', '.join(over)}; a run completes its last iteration, so methods whose iterations "
            "are larger were trained for longer"
        ]

    def gains(self) -> list[list[str]]:
        """Return the cells of the table of returns before and after adaptation, with its header.

        There is none if no method adapts.
        """
        if not any(entry.adapts for entry in self.comparison.main):
            return []
        rows = [["policy", "episodes used"]]
        for where in ("inside", "outside"):
            rows[0] += [f"{where}: before", "after", "gain", "95 % interval"]
        for entry in self.comparison.main:
            cells = [entry.name, str(entry.episodes_used[entry.adapted_step])]
            for is_inside in (True, False):
                entries = self.swept(entry.label, is_inside=is_inside)
                cells += _gain_cells(entries) if entries else ["–"] * 4
            rows.append(cells)
        return rows

    def curves(self, label: str, *, is_inside: bool) -> np.ndarray:
        """Return the return of each run after each step, (S, K + 1); (0, 0) without such points.

        It is the mean over the tasks of all points of sweeps inside the ranges of training, or
        outside.

        Args:
            label: of the method.
            is_inside: whether the swept quantity is inside its range.
        """
        return _run_curves(self.swept(label, is_inside=is_inside))

    def adaptation(self) -> list[list[str]]:
        """Return the cells of the table of returns after each step, with its header.

        There is none if no method adapts.
        """
        if not any(entry.adapts for entry in self.comparison.main):
            return []
        rows = [["policy", "steps", "episodes used"]]
        for where in ("inside", "outside"):
            rows[0] += [where, "95 % interval"]
        for entry in self.comparison.main:
            curves = [self.curves(entry.label, is_inside=is_inside) for is_inside in (True, False)]
            for k, used in enumerate(entry.episodes_used):
                cells = [entry.name, str(k), str(used)]
                for curve in curves:
                    cells += _mean_cells(curve[:, k]) if len(curve) else ["–", "–"]
                rows.append(cells)
        return rows

    def minus_reference(self, label: str, *, is_inside: bool) -> Difference | None:
        """Return the return of a method minus that of the reference, on the same points and tasks.

        Args:
            label: of the method.
            is_inside: whether the swept quantity is inside its range.

        Returns:
            The mean over all sweeps; ``None`` without such points.
        """
        assert self.reference is not None, "called only with a reference"
        returns = [
            _returns_of_runs(self.swept(name, is_inside=is_inside))
            for name in (label, self.reference)
        ]
        if not all(values.size for values in returns):
            return None
        return difference(returns[0], returns[1])

    def differences(self) -> list[list[str]]:
        """Return the cells of the table of differences to the reference, with its header.

        There is none without a reference, or without another method. With one run of each, there
        is no interval: their returns on several points are not independent.
        """
        others = [entry for entry in self.comparison.main if entry.label != self.reference]
        if self.reference is None or not others:
            return []
        (name,) = [one.name for one in self.comparison.main if one.label == self.reference]
        rows = [["difference", "inside", "95 % interval", "outside", "95 % interval"]]
        for entry in others:
            cells = [f"{entry.name} − {name}"]
            for is_inside in (True, False):
                value = self.minus_reference(entry.label, is_inside=is_inside)
                if value is None:
                    cells += ["–", "–"]
                    continue
                is_over_runs = value.over == "runs"
                interval = interval_text(value.interval) if is_over_runs else "–"
                cells += [f"{value.mean:.1f}", interval]
            rows.append(cells)
        return rows

    def areas(self) -> list[list[str]]:
        """Return the cells of the table of areas, with its header: a row for each method."""
        names = list(self.trained)
        rows = [["policy", *names]]
        for entry in self.comparison.main:
            rows.append([entry.name, *(f"{self.area(entry.label, name):.1f}" for name in names)])
        return rows

    def pairs(self) -> list[list[str]]:
        """Return the cells of the table of two quantities, with its header; empty without one.

        It has a row for each pair of values, and a column for each method.
        """
        names = tuple(self.trained)[:2]
        entries = self.comparison.sweep(*names) if len(names) == 2 else []
        if not entries:
            return []
        returns = {
            (entry.label, *entry.swept.values()): entry.center[entry.adapted_step]
            for entry in entries
        }
        rows = [[*names, *self.labels]]
        for values in dict.fromkeys(tuple(entry.swept.values()) for entry in entries):
            cells = [f"{returns[label, *values]:.1f}" for label in self.labels]
            rows.append([*(f"{value:.3g}" for value in values), *cells])
        return rows

    def failures(self) -> list[tuple[str, list[list[str]]]]:
        """Return a title and the cells of a table for each failure of an actuator in mid-episode.

        The tables have a header and a row for each method that was evaluated.
        """
        versions: dict[tuple[tuple[str, float], ...], list[Entry]] = {}
        for entry in self.comparison.entries:
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

    def failure_notes(self) -> list[str]:
        """Return what explains the tables of failures, with the reason why a method is not there.

        There is none without a failure.
        """
        entries = [entry for entry in self.comparison.entries if entry.responses]
        if not entries:
            return []
        notes = [change_note()]
        if ORACLE in self.labels and not any(entry.label == ORACLE for entry in entries):
            notes.append(
                f"{ORACLE} is left out: it observes the dynamics, and has not observed a failure "
                "in training"
            )
        return notes

    def values(self) -> list[dict[str, object]]:
        """Return everything as plain values, for results.json."""
        content: list[dict[str, object]] = []
        for entry in self.comparison.main:
            label = entry.label
            means = {
                name: _run_means(self.swept(label, is_inside=name == "inside")).tolist()
                for name in ("inside", "outside")
            }
            curves = {
                name: self.curves(label, is_inside=name == "inside").tolist()
                for name in ("inside", "outside")
            }
            content.append(
                {
                    "policy": label,
                    "observes": self.origins[label].observes,
                    "num_env_steps": list(self.origins[label].num_env_steps),
                    "training_hours": list(self.origins[label].hours),
                    "run_returns": {"as_in_training": _run_means([entry]).tolist(), **means},
                    "adaptation": {"episodes_used": entry.episodes_used.tolist(), **curves},
                    "worst_tenth": self.worst_tenth(label),
                    "areas": {name: self.area(label, name) for name in self.trained},
                    "minus_reference": self._difference_values(label),
                }
            )
        return content

    def _difference_values(self, label: str) -> dict[str, object] | None:
        """Return the differences to the reference as plain values; ``None`` if there are none."""
        if self.reference in (None, label):
            return None
        content: dict[str, object] = {"reference": self.reference}
        for name in ("inside", "outside"):
            value = self.minus_reference(label, is_inside=name == "inside")
            content[name] = None
            if value is not None and np.isfinite(value.mean):
                has_interval = value.over == "runs" and bool(np.isfinite(value.interval).all())
                content[name] = {
                    "return": value.mean,
                    "interval_95": value.interval.tolist() if has_interval else None,
                }
        return content


def _run_means(entries: Sequence[Entry]) -> np.ndarray:
    """Return the mean return of each run over entries of one method, (S,); (0,) without any."""
    return _run_curves(entries)[:, entries[0].adapted_step] if entries else np.zeros(0)


def _run_curves(entries: Sequence[Entry]) -> np.ndarray:
    """Return :func:`_run_means` after each step, (S, K + 1); (0, 0) without any entry."""
    if not entries:
        return np.zeros((0, 0))
    return mean_of_valid(np.stack([entry.run_returns for entry in entries]), 0)


def _returns_of_runs(entries: Sequence[Entry]) -> np.ndarray:
    """Return the returns of each run on all points and tasks of one method, (S, points · N)."""
    if not entries:
        return np.zeros((0, 0))
    return np.concatenate(
        [[one.task_returns[entry.adapted_step] for one in entry.evaluations] for entry in entries],
        axis=1,
    )


def _gain_cells(entries: Sequence[Entry]) -> list[str]:
    """Return the mean before and after adaptation, the gain and its interval, of one method."""
    after = _returns_of_runs(entries)
    if not entries[0].adapts:
        return ["–", f"{mean_of_valid(after, (0, 1)):.1f}", "–", "–"]
    before = np.concatenate(
        [[one.task_returns[0] for one in entry.evaluations] for entry in entries], axis=1
    )
    # A single run has no interval: its returns on several points are not independent.
    gains = after - before
    interval = "–" if len(gains) == 1 else interval_text(mean_interval(mean_of_valid(gains, 1)))
    means = [mean_of_valid(one, (0, 1)) for one in (before, after, gains)]
    return [*(f"{mean:.1f}" for mean in means), interval]


def _mean_cells(means: np.ndarray) -> list[str]:
    """Return the mean over runs, and its interval over them, which a single run does not have."""
    return [f"{means.mean():.1f}", interval_text(mean_interval(means))]


def _with_interval(means: np.ndarray) -> str:
    """Format the mean over runs, with its interval over them if there are several."""
    if not len(means):
        return "–"
    mean, interval = _mean_cells(means)
    return mean if len(means) == 1 else f"{mean} {interval}"
