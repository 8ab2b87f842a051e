"""Means, differences and their 95 % intervals, over tasks and over runs."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from scipy.special import stdtrit

Over = Literal["tasks", "runs"]
"""What the values are a sample of that an interval is computed from."""

FEW_RUNS = 3
"""Up to so many runs are shown one by one beside their mean, and drawn without a band.

Student's t is right for them, and wide: 18 standard deviations of the runs from end to end for 2, 5 for 3, 3.2 for 4.
"""

_CONFIDENCE = 0.95


def mean_of_valid(values: np.ndarray, axis: int | tuple[int, ...]) -> np.ndarray:
    """Mean over ``axis`` of the entries that are not NaN; NaN where there is none."""
    valid = ~np.isnan(values)
    if valid.all():
        return values.mean(axis=axis)
    number = valid.sum(axis=axis)
    return np.where(number > 0, np.where(valid, values, 0).sum(axis=axis) / np.maximum(number, 1), np.nan)


def mean_interval(values: np.ndarray) -> np.ndarray:
    """95 % interval of the mean over the last axis by Student's t: mean ± t(n − 1) · s / √n.

    The values must be independent: the tasks of one run, or the means over all tasks of several runs. A run is one
    policy on all tasks, so it counts once, however many tasks there are. The stratified bootstrap of Agarwal et al.
    (2021, section 4.1) resamples runs for each task on its own. That fits a benchmark where every (run, task) pair is
    trained separately. Here the effect of a run would average out over the tasks, and with it most of the interval.

    Student's t takes the values as normally distributed, and is then exact for any n from 2 on. Percentile
    bootstraps need no such distribution, but are far too narrow for few values (Colas et al. 2018, "How Many Random
    Seeds?", and 2019, "A Hitchhiker's Guide to Statistical Comparisons of Reinforcement Learning Algorithms").

    Args:
        values: (..., n); NaN for those that are left out.

    Returns:
        (..., 2): the ends. NaN where there are fewer than two values, since one says nothing about others.
    """
    values = np.asarray(values, np.float64)
    number = (~np.isnan(values)).sum(axis=-1)
    center = mean_of_valid(values, -1)
    squares = np.nansum((values - center[..., None]) ** 2, axis=-1)
    freedom = np.maximum(number - 1, 1)
    half = stdtrit(freedom, (1 + _CONFIDENCE) / 2) * np.sqrt(squares / freedom / np.maximum(number, 1))
    half = np.where(number > 1, half, np.nan)
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

    Where both have several runs, the interval is over runs, as independent samples: Welch's t of the runs' means over
    tasks, which Colas et al. (2019) recommend for few runs. Otherwise it is over tasks, by :func:`mean_interval` of
    each task's difference, and holds for these runs only.

    The probability of improvement is P(X > Y) of Agarwal et al. (2021, section 4.3): the share of all pairs of runs
    and tasks in which the first has the higher return, ties half, mean over tasks. It has no interval: all pairs are
    often won, and of few runs that leaves no spread to compute one from.

    Args:
        first: (S, N), returns of S runs on N tasks. A task that has NaN for any run of either method is left out.
        second: (S', N), of S' runs on the same tasks.
    """
    valid = ~(np.isnan(first).any(axis=0) | np.isnan(second).any(axis=0))
    ours, others = (scores[:, valid].astype(np.float64) for scores in (first, second))
    if not valid.any():
        return Difference(np.nan, np.full(2, np.nan), "tasks", np.nan)
    wins = (ours[:, None] > others).mean() + 0.5 * (ours[:, None] == others).mean()
    of_tasks = ours.mean(axis=0) - others.mean(axis=0)
    over: Over = "runs" if min(len(ours), len(others)) > 1 else "tasks"
    interval = _welch_interval(ours.mean(axis=1), others.mean(axis=1)) if over == "runs" else mean_interval(of_tasks)
    return Difference(float(of_tasks.mean()), interval, over, float(wins))


def _welch_interval(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """95 % interval of the difference of two means of independent values, at least two of each (Welch 1947)."""
    squares = np.array([values.var(ddof=1) / len(values) for values in (first, second)])
    weights = np.array([len(first) - 1, len(second) - 1])
    freedom = squares.sum() ** 2 / (squares**2 / weights).sum() if squares.any() else 1.0
    half = stdtrit(freedom, (1 + _CONFIDENCE) / 2) * np.sqrt(squares.sum())
    return first.mean() - second.mean() + np.array([-half, half])


def written(interval: np.ndarray) -> str:
    """``[1.0, 2.0]``, or a dash where there is none."""
    return "–" if np.isnan(interval).any() else f"[{interval[0]:.1f}, {interval[1]:.1f}]"
