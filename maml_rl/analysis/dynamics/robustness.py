"""How the returns of methods depend on the dynamics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from maml_rl.analysis.comparison.compare import Comparison
from maml_rl.analysis.comparison.entries import Entry
from maml_rl.analysis.statistics import (
    Difference,
    difference,
    is_log_spaced,
    mean_of_valid,
)

Region = Literal["inside", "outside"]
"""Where a point of a sweep is: inside the ranges of training, with all quantities, or outside."""
REGIONS: tuple[Region, ...] = ("inside", "outside")


class Origin(NamedTuple):
    """Where the policies of a method come from."""

    observes: str
    """What they observe beside their observation."""
    num_env_steps: Sequence[int]
    """Control steps in the training of each run."""
    hours: Sequence[float]
    """Duration of the training of each run."""

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
        comparison: of the methods: sweeps of one quantity each, two quantities together, and
            failures of an actuator.
        origins: of the methods, by label.
        trained: range of each swept quantity in training.
        nominal: nominal value of each.
        reference: label of the method that each other one is compared with.
        budget: control steps that each run was to take.
    """

    comparison: Comparison
    origins: Mapping[str, Origin]
    trained: Mapping[str, tuple[float, float]]
    nominal: Mapping[str, float]
    reference: str
    budget: int

    @property
    def labels(self) -> list[str]:
        """Labels of the methods."""
        return [entry.label for entry in self.comparison.main]

    def along(self, label: str, name: str) -> list[Entry]:
        """Return the entries of a method along the sweep of a quantity, in ascending order."""
        entries = [entry for entry in self.comparison.sweep(name) if entry.label == label]
        return sorted(entries, key=lambda entry: entry.swept[name])

    def swept(self, label: str, where: Region) -> list[Entry]:
        """Return the entries of a method inside the ranges of training, or outside, of all sweeps.

        The nominal dynamics are a point of several sweeps, and counted once.
        """
        entries = []
        has_nominal = False
        for name in self.trained:
            for entry in self.along(label, name):
                is_nominal = entry.swept[name] == self.nominal[name]
                if self._is_inside(entry) != (where == "inside") or (is_nominal and has_nominal):
                    continue
                entries.append(entry)
                has_nominal |= is_nominal
        return entries

    def _is_inside(self, entry: Entry) -> bool:
        """Whether all quantities at a point are inside their ranges in training."""
        values = {**self.nominal, **entry.swept}
        return all(low <= values[name] <= high for name, (low, high) in self.trained.items())

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

    def worst_tenths(self, label: str) -> np.ndarray:
        """Return the mean of the lowest tenth of each run's returns at all points and tasks, (S,).

        The points are those of all sweeps.
        """
        entries = [entry for where in REGIONS for entry in self.swept(label, where)]
        tenths = []
        returns = returns_of_runs(entries)
        for valid in np.sort(returns[:, ~np.isnan(returns).any(axis=0)]):
            tenths.append(mean_of_valid(valid[: math.ceil(len(valid) / 10)], 0))
        return np.array(tenths)

    def curves(self, label: str, where: Region) -> np.ndarray:
        """Return the return of each run after each step, (S, K + 1); (0, 0) without such points.

        It is the mean over the tasks of all points of sweeps inside the ranges of training, or
        outside.
        """
        return _run_curves(self.swept(label, where))

    def minus_reference(self, label: str, where: Region) -> Difference | None:
        """Return the return of a method minus that of the reference, on the same points and tasks.

        It is the mean over all sweeps; ``None`` without such points.
        """
        returns = [returns_of_runs(self.swept(name, where)) for name in (label, self.reference)]
        if not all(values.size for values in returns):
            return None
        return difference(returns[0], returns[1])

    def values(self) -> list[dict[str, object]]:
        """Return everything as plain values, for results.json."""
        content: list[dict[str, object]] = []
        for entry in self.comparison.main:
            label = entry.label
            means: dict[str, object] = {}
            curves: dict[str, object] = {}
            for where in REGIONS:
                means[where] = run_means(self.swept(label, where)).tolist()
                curves[where] = self.curves(label, where).tolist()
            content.append(
                {
                    "policy": label,
                    "observes": self.origins[label].observes,
                    "num_env_steps": list(self.origins[label].num_env_steps),
                    "training_hours": list(self.origins[label].hours),
                    "run_returns": {
                        "as_in_training": run_means([entry]).tolist(),
                        **means,
                        "worst_tenth": self.worst_tenths(label).tolist(),
                    },
                    "adaptation": {"episodes_used": entry.episodes_used.tolist(), **curves},
                    "areas": {name: self.area(label, name) for name in self.trained},
                    "minus_reference": self._difference_values(label),
                }
            )
        return content

    def _difference_values(self, label: str) -> dict[str, object] | None:
        """Return the differences to the reference as plain values; ``None`` for itself."""
        if label == self.reference:
            return None
        content: dict[str, object] = {"reference": self.reference}
        for where in REGIONS:
            value = self.minus_reference(label, where)
            content[where] = None
            if value is not None and np.isfinite(value.mean):
                has_interval = value.over == "runs" and bool(np.isfinite(value.interval).all())
                content[where] = {
                    "return": value.mean,
                    "interval_95": value.interval.tolist() if has_interval else None,
                }
        return content


def run_means(entries: Sequence[Entry]) -> np.ndarray:
    """Return the mean return of each run over entries of one method, (S,); (0,) without any."""
    return _run_curves(entries)[:, entries[0].adapted_step] if entries else np.zeros(0)


def _run_curves(entries: Sequence[Entry]) -> np.ndarray:
    """Return :func:`run_means` after each step, (S, K + 1); (0, 0) without any entry.

    Each point counts the same, with the mean over its tasks that failed in no run.
    """
    if not entries:
        return np.zeros((0, 0))
    return mean_of_valid(np.stack([entry.run_returns for entry in entries]), 0)


def returns_of_runs(entries: Sequence[Entry], step: int | None = None) -> np.ndarray:
    """Return the returns of each run on all points and tasks of one method, (S, points · N).

    Args:
        entries: of the method; without any, the result is (0, 0).
        step: adaptation step; default is :attr:`Entry.adapted_step`.
    """
    if not entries:
        return np.zeros((0, 0))
    k = entries[0].adapted_step if step is None else step
    return np.concatenate(
        [[one.task_returns[k] for one in entry.evaluations] for entry in entries], axis=1
    )
