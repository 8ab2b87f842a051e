"""Intervals for means over tasks and over runs."""

from __future__ import annotations

import numpy as np
from scipy.special import stdtrit

_NUM_RESAMPLES = 10_000
_CONFIDENCE = 0.95


def mean_of_valid(values: np.ndarray, axis: int | tuple[int, ...]) -> np.ndarray:
    """Mean over ``axis`` of the entries that are not NaN; NaN where there is none."""
    valid = ~np.isnan(values)
    if valid.all():
        return values.mean(axis=axis)
    number = valid.sum(axis=axis)
    return np.where(number > 0, np.where(valid, values, 0).sum(axis=axis) / np.maximum(number, 1), np.nan)


def mean_interval(values: np.ndarray) -> np.ndarray:
    """95 % percentile-bootstrap interval of the mean over the last axis.

    Args:
        values: (..., N), one per task; NaN for those that are left out.

    Returns:
        (..., 2): the ends. NaN where there are fewer than two tasks, since one says nothing about others.
    """
    rows = [row[~np.isnan(row)] for row in values.reshape(-1, values.shape[-1])]
    return np.stack([_row_interval(row) for row in rows]).reshape(*values.shape[:-1], 2)


def _row_interval(row: np.ndarray) -> np.ndarray:
    if len(row) < 2:
        return np.full(2, np.nan)
    chosen = np.random.default_rng(0).integers(len(row), size=(_NUM_RESAMPLES, len(row)))
    return _ends(row[chosen].mean(axis=-1))


def interquartile_mean(scores: np.ndarray) -> float:
    """Mean of the middle half of all scores of several runs (Agarwal et al. 2021, section 4.3).

    Args:
        scores: (S, N), of S runs on N tasks. A task that has NaN for any run is left out.
    """
    from scipy import stats  # here, since it takes a second to load

    return float(stats.trim_mean(_whole_tasks(scores), 0.25, axis=None))


def interquartile_mean_interval(scores: np.ndarray) -> np.ndarray:
    """95 % interval of :func:`interquartile_mean` by the stratified bootstrap (Agarwal et al. 2021, section 4.1).

    Every resample draws, for each task on its own, S of its S scores with replacement: the runs are what is uncertain,
    the tasks are given.

    Args:
        scores: (S, N), of S runs on N tasks. A task that has NaN for any run is left out.

    Returns:
        (2,): the ends. NaN for one run, which says nothing about others.
    """
    from scipy import stats

    scores = _whole_tasks(scores)
    num_runs, num_tasks = scores.shape
    if num_runs < 2:
        return np.full(2, np.nan)
    chosen = np.random.default_rng(0).integers(num_runs, size=(_NUM_RESAMPLES, num_runs, num_tasks))
    resampled = scores[chosen, np.arange(num_tasks)].reshape(_NUM_RESAMPLES, -1)
    return _ends(stats.trim_mean(resampled, 0.25, axis=1))


def _whole_tasks(scores: np.ndarray) -> np.ndarray:
    return scores[:, ~np.isnan(scores).any(axis=0)]


def mean_interval_over_seeds(values: np.ndarray) -> np.ndarray:
    """95 % interval of the mean over S ≥ 2 runs by Student's t.

    It takes runs as normally distributed. A bootstrap does without, but from two to five runs its intervals are far too
    narrow: with two it can never leave the range between them, which misses the mean half of the time.

    Args:
        values: (..., S).

    Returns:
        (..., 2): the ends.
    """
    num_runs = values.shape[-1]
    half = stdtrit(num_runs - 1, (1 + _CONFIDENCE) / 2) * values.std(axis=-1, ddof=1) / np.sqrt(num_runs)
    return np.stack([values.mean(axis=-1) - half, values.mean(axis=-1) + half], axis=-1)


def written(interval: np.ndarray) -> str:
    """``[1.0, 2.0]``, or a dash where there is none."""
    return "–" if np.isnan(interval).any() else f"[{interval[0]:.1f}, {interval[1]:.1f}]"


def _ends(statistics: np.ndarray) -> np.ndarray:
    """Percentiles over the last axis, moved to the end."""
    tail = 50 * (1 - _CONFIDENCE)
    return np.moveaxis(np.percentile(statistics, [tail, 100 - tail], axis=-1), 0, -1)
