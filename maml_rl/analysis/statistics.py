"""Means, differences and their 95 % intervals over tasks or runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

Over = Literal["tasks", "runs"]
"""What the values of an interval are: one per task, or one per run."""

FEW_RUNS = 3
"""Up to this number of runs, each run is listed in tables, and figures have no band.

Student's t is correct for few runs but wide: the interval spans 18 standard deviations for 2 runs,
5 for 3 and 3.2 for 4.
"""

_CONFIDENCE = 0.95


def mean_of_valid(values: np.ndarray, axis: int | tuple[int, ...]) -> np.ndarray:
    """Return the mean over ``axis`` of the entries that are not NaN, or NaN if there are none."""
    valid = ~np.isnan(values)
    if valid.all():
        return values.mean(axis=axis)
    num_valid = valid.sum(axis=axis)
    sums = np.where(valid, values, 0).sum(axis=axis)
    return np.where(num_valid > 0, sums / np.maximum(num_valid, 1), np.nan)


def mean_interval(values: np.ndarray) -> np.ndarray:
    """Return the 95 % interval of the mean over the last axis: mean ± t(n − 1) · s / √n.

    The values must be independent: the tasks of one run, or the means over all tasks of several
    runs. A run is one policy on all tasks, so it counts once, whatever the number of tasks. The
    stratified bootstrap of Agarwal et al. (2021, section 4.1) resamples the runs separately for
    each task. That fits a benchmark where every pair of run and task is trained separately. Here
    it would treat the results of one run on different tasks as independent, and be far too narrow.

    Student's t assumes normally distributed values, and is then exact for n >= 2. A percentile
    bootstrap makes no such assumption, but is far too narrow for few values (Colas et al. 2018,
    "How Many Random Seeds?", and 2019, "A Hitchhiker's Guide to Statistical Comparisons of
    Reinforcement Learning Algorithms").

    Args:
        values: (..., n); NaN for excluded values.

    Returns:
        (..., 2): lower and upper end; NaN for fewer than two values.
    """
    values = np.asarray(values, np.float64)
    num_valid = (~np.isnan(values)).sum(axis=-1)
    center = mean_of_valid(values, -1)
    squares = np.nansum((values - center[..., None]) ** 2, axis=-1)
    freedom = np.maximum(num_valid - 1, 1)
    error = np.sqrt(squares / freedom / np.maximum(num_valid, 1))
    half = np.where(num_valid > 1, _t_quantile(freedom) * error, np.nan)
    return np.stack([center - half, center + half], axis=-1)


def _t_quantile(freedom: np.ndarray | float) -> np.ndarray:
    """Return the end of a standardised 95 % interval, by Student's t."""
    from scipy.special import stdtrit  # slow to import, and training does not need it

    quantile: np.ndarray = stdtrit(freedom, (1 + _CONFIDENCE) / 2)
    return quantile


class Difference(NamedTuple):
    """The difference between two methods on the same tasks.

    Args:
        mean: return of the first minus return of the second, mean over runs and tasks.
        interval: (2,), 95 % interval of ``mean``.
        over: whether the interval is over tasks or runs.
        probability: probability of improvement: that the first has the higher return.
    """

    mean: float
    interval: np.ndarray
    over: Over
    probability: float


def difference(first: np.ndarray, second: np.ndarray) -> Difference:
    """Return the difference between two methods, paired on tasks.

    If either method has several runs, the interval is over runs, as independent samples: Welch's t
    of the runs' means over tasks, as Colas et al. (2019) recommend for few runs. If the other
    method has a single run, it counts as a constant. With one run of each, the interval is over
    tasks: :func:`mean_interval` of the difference on each task.

    The probability of improvement is P(X > Y) of Agarwal et al. (2021, section 4.3): the share of
    pairs of runs in which the first has the higher return, ties counted as half, mean over tasks.
    It has no interval: few runs often win all pairs or none, which leaves no spread.

    Args:
        first: (S, N), returns of S runs on N tasks. A task that is NaN in any run of either method
            is excluded.
        second: (S', N), returns of S' runs on the same tasks.
    """
    over: Over = "tasks" if len(first) == len(second) == 1 else "runs"
    valid = ~(np.isnan(first).any(axis=0) | np.isnan(second).any(axis=0))
    if not valid.any():
        return Difference(np.nan, np.full(2, np.nan), over, np.nan)
    first = first[:, valid].astype(np.float64)
    second = second[:, valid].astype(np.float64)
    wins = (first[:, None] > second).mean() + 0.5 * (first[:, None] == second).mean()
    task_differences = first.mean(axis=0) - second.mean(axis=0)
    if over == "runs":
        interval = _welch_interval(first.mean(axis=1), second.mean(axis=1))
    else:
        interval = mean_interval(task_differences)
    return Difference(
        mean=float(task_differences.mean()),
        interval=interval,
        over=over,
        probability=float(wins),
    )


def _welch_interval(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Welch's (1947) 95 % interval of the difference of means; a single value has variance 0."""
    samples = (first, second)
    squares = np.array([v.var(ddof=1) / len(v) if len(v) > 1 else 0.0 for v in samples])
    weights = np.array([max(len(v) - 1, 1) for v in samples])
    freedom = squares.sum() ** 2 / (squares**2 / weights).sum() if squares.any() else 1.0
    half = _t_quantile(freedom) * np.sqrt(squares.sum())
    return first.mean() - second.mean() + np.array([-half, half])


def is_log_spaced(values: Sequence[float] | np.ndarray) -> bool:
    """Whether ascending values are positive and spaced evenly by their logarithms.

    They may be rounded to three digits. There must be three or more.
    """
    if len(values) < 3 or values[0] <= 0:
        return False
    ratios, gaps = np.diff(np.log(values)), np.diff(values)
    # Values that are close to each other are also spaced almost evenly by their logarithms.
    is_linear = np.ptp(gaps) / gaps.mean() <= np.ptp(ratios) / ratios.mean()
    return bool(np.ptp(ratios) <= 0.02 and not is_linear)


def interval_text(interval: np.ndarray, number: str = ".1f") -> str:
    """``[1.0, 2.0]``, or a dash if there is no interval.

    Args:
        interval: (2,), its ends.
        number: format of a number.
    """
    if np.isnan(interval).any():
        return "–"
    return f"[{interval[0]:{number}}, {interval[1]:{number}}]"
