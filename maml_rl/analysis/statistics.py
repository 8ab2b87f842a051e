"""Means, differences and their 95 % intervals, over tasks and over runs."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from scipy.special import stdtrit

Over = Literal["tasks", "runs"]
"""What the values are a sample of that an interval is computed from."""

FEW_RUNS = 3
"""Up to so many runs are shown one by one beside their mean, and drawn without a band.

Student's t is right for them, and wide: from end to end 18 standard deviations of 2 runs, 5 of 3,
3.2 of 4.
"""

_CONFIDENCE = 0.95


def mean_of_valid(values: np.ndarray, axis: int | tuple[int, ...]) -> np.ndarray:
    """Mean over ``axis`` of the entries that are not NaN; NaN where there is none."""
    valid = ~np.isnan(values)
    if valid.all():
        return values.mean(axis=axis)
    number = valid.sum(axis=axis)
    return np.where(
        number > 0, np.where(valid, values, 0).sum(axis=axis) / np.maximum(number, 1), np.nan
    )


def mean_interval(values: np.ndarray) -> np.ndarray:
    """95 % interval of the mean over the last axis by Student's t: mean ± t(n − 1) · s / √n.

    The values must be independent: the tasks of one run, or the means over all tasks of several
    runs. A run is one policy on all tasks, so it counts once, however many tasks there are. The
    stratified bootstrap of Agarwal et al. (2021, section 4.1) resamples runs for each task on its
    own. That fits a benchmark where every pair of run and task is trained separately. Here the
    effect of a run would average out over the tasks, and with it most of the interval.

    Student's t takes the values as normally distributed, and is then exact from n = 2 on. A
    percentile bootstrap needs no distribution, but is far too narrow for few values (Colas et al.
    2018, "How Many Random Seeds?", and 2019, "A Hitchhiker's Guide to Statistical Comparisons of
    Reinforcement Learning Algorithms").

    Args:
        values: (..., n); NaN for those that are left out.

    Returns:
        (..., 2): the ends. NaN where there are fewer than two values: one has no spread.
    """
    values = np.asarray(values, np.float64)
    number = (~np.isnan(values)).sum(axis=-1)
    center = mean_of_valid(values, -1)
    squares = np.nansum((values - center[..., None]) ** 2, axis=-1)
    freedom = np.maximum(number - 1, 1)
    error = np.sqrt(squares / freedom / np.maximum(number, 1))
    half = np.where(number > 1, stdtrit(freedom, (1 + _CONFIDENCE) / 2) * error, np.nan)
    return np.stack([center - half, center + half], axis=-1)


class Difference(NamedTuple):
    """How far one method is ahead of another on the same tasks.

    Args:
        mean: return of the first minus return of the second, mean over runs and tasks.
        interval: (2,), the ends of its 95 % interval.
        over: what the interval is over.
        probability: of improvement, that of a higher return by the first.
    """

    mean: float
    interval: np.ndarray
    over: Over
    probability: float


def difference(first: np.ndarray, second: np.ndarray) -> Difference:
    """Return of one method minus that of another, paired on tasks.

    Where a method has several runs, the interval is over runs, as independent samples: Welch's t of
    the runs' means over tasks, which Colas et al. (2019) recommend for few runs. A single run of
    the other method then counts as that one policy, without a spread. With one run of each the
    interval is over tasks, by :func:`mean_interval` of each task's difference, for these two runs.

    The probability of improvement is P(X > Y) of Agarwal et al. (2021, section 4.3): the share of
    all pairs of runs and tasks in which the first has the higher return, ties half, mean over
    tasks. It has no interval: few runs often win all pairs or none, and leave no spread.

    Args:
        first: (S, N), returns of S runs on N tasks. A task that is NaN in any run of either method
            is left out.
        second: (S', N), of S' runs on the same tasks.
    """
    over: Over = "tasks" if len(first) == len(second) == 1 else "runs"
    valid = ~(np.isnan(first).any(axis=0) | np.isnan(second).any(axis=0))
    if not valid.any():
        return Difference(np.nan, np.full(2, np.nan), over, np.nan)
    ours, others = (scores[:, valid].astype(np.float64) for scores in (first, second))
    wins = (ours[:, None] > others).mean() + 0.5 * (ours[:, None] == others).mean()
    of_tasks = ours.mean(axis=0) - others.mean(axis=0)
    interval = mean_interval(of_tasks)
    if over == "runs":
        interval = _welch_interval(ours.mean(axis=1), others.mean(axis=1))
    return Difference(float(of_tasks.mean()), interval, over, float(wins))


def _welch_interval(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """95 % interval of the difference of two means (Welch 1947); a single value has no spread."""
    samples = (first, second)
    squares = np.array([v.var(ddof=1) / len(v) if len(v) > 1 else 0.0 for v in samples])
    weights = np.array([max(len(v) - 1, 1) for v in samples])
    freedom = squares.sum() ** 2 / (squares**2 / weights).sum() if squares.any() else 1.0
    half = stdtrit(freedom, (1 + _CONFIDENCE) / 2) * np.sqrt(squares.sum())
    return first.mean() - second.mean() + np.array([-half, half])


def written(interval: np.ndarray) -> str:
    """``[1.0, 2.0]``, or a dash where there is none."""
    return "–" if np.isnan(interval).any() else f"[{interval[0]:.1f}, {interval[1]:.1f}]"
