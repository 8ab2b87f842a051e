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


WINDOW = 10
"""Control steps of the windows around a change of the dynamics, and of its running mean."""

RECOVERED = 0.8
"""Share of the way from the lowest reward after a change back to that before it."""


SMALL_DROP = 0.1
"""Share of the reward before a change by which it may fall without a drop being reported."""


class Response(NamedTuple):
    """Mean reward per control step around a change of the dynamics.

    Args:
        steps: (n,), control steps since the change, negative before it.
        rewards: (n,), mean reward over tasks.
        num_tasks: number of tasks in the mean.
        before: mean reward in the last ``WINDOW`` control steps before the change.
        after: in the first ``WINDOW`` control steps with the changed dynamics.
        end: in the last ``WINDOW`` control steps of the episode.
        num_recovered: number of tasks whose own reward (mean over episodes and runs) drops neither
            right after the change nor by the end, or drops right after it and comes back; none of
            those in which half of the episodes or more end before the horizon, or that drop with
            fewer than ``WINDOW`` control steps left.
        recovery: control steps until the running mean of ``WINDOW`` steps has come back
            ``RECOVERED`` of the way from its lowest value after the change to ``before``; 0 if it
            is never below ``before``, NaN if it does not come back within the episode, or if fewer
            than ``WINDOW`` control steps are left.
        lasts: whether more than half of the episodes last until the horizon.
    """

    steps: np.ndarray
    rewards: np.ndarray
    num_tasks: int
    before: float
    after: float
    end: float
    num_recovered: int
    recovery: float
    lasts: bool


def response(rewards: np.ndarray, change_steps: np.ndarray, lasting: np.ndarray) -> Response | None:
    """Return the mean reward around the change of each task, aligned at the change.

    Args:
        rewards: (N, H), mean reward of each control step in each task. A task that is NaN is
            excluded.
        change_steps: (N,), first control step with the changed dynamics, from 1 to H − 1.
        lasting: (N,), share of the episodes of each task that last until the horizon.

    Returns:
        The mean over tasks, at those distances from the change that all episodes include; ``None``
        without a valid task.
    """
    is_valid = np.isfinite(rewards).all(axis=1)
    if not is_valid.any():
        return None
    rewards, change_steps = rewards[is_valid].astype(np.float64), change_steps[is_valid]
    lasting = lasting[is_valid]
    steps = np.arange(-change_steps.min(), rewards.shape[1] - change_steps.max())
    aligned = np.take_along_axis(rewards, change_steps[:, None] + steps, axis=1)
    mean = aligned.mean(axis=0)
    of_tasks = rewards_around(rewards, change_steps)
    before, after, end = of_tasks.mean(axis=0).tolist()
    has_recovered = [
        np.isfinite(_recovery(row[step:], windows[0]))
        if _drops(*windows[:2])
        else not _drops(windows[0], windows[2])
        for row, step, windows in zip(rewards, change_steps, of_tasks, strict=True)
    ]
    # An episode that has ended has the reward 0, which may be higher than that before the change.
    lasts = lasting > 0.5
    return Response(
        steps=steps,
        rewards=mean,
        num_tasks=len(rewards),
        before=before,
        after=after,
        end=end,
        num_recovered=int((lasts & has_recovered).sum()),
        recovery=_recovery(mean[steps >= 0], before),
        lasts=bool(lasting.mean() > 0.5),
    )


def rewards_around(rewards: np.ndarray, change_steps: np.ndarray) -> np.ndarray:
    """Return the mean rewards before a change, after it and at the end, of each task.

    Args:
        rewards: (N, H), mean reward of each control step in each task.
        change_steps: (N,), see :func:`response`.

    Returns:
        (N, 3): the means of :class:`Response`.
    """
    windows = [
        [
            row[max(0, step - WINDOW) : step].mean(),
            row[step : step + WINDOW].mean(),
            row[-WINDOW:].mean(),
        ]
        for row, step in zip(rewards.astype(np.float64), change_steps, strict=True)
    ]
    return np.array(windows)


def _drops(before: float, after: float) -> bool:
    """Whether a reward after a change is lower by more than ``SMALL_DROP`` of that before it."""
    return after < before - SMALL_DROP * abs(before)


def recovery_text(value: Response) -> str:
    """Return the control steps to recover, or a text.

    - If half of the episodes or more end before the horizon: ``"not in the episode"``.
    - If the reward right after the change is lower by more than ``SMALL_DROP`` of that before it:
      the control steps, or ``"not in the episode"``.
    - If not, but the reward at the end is: ``"drops later"``.
    - If neither is: ``"no drop"``.
    - If fewer than ``WINDOW`` control steps after the change are common to all tasks: a dash.
    """
    if not value.lasts:
        return "not in the episode"
    if (value.steps >= 0).sum() < WINDOW:
        return "–"
    if not _drops(value.before, value.after):
        return "drops later" if _drops(value.before, value.end) else "no drop"
    return "not in the episode" if np.isnan(value.recovery) else f"{value.recovery:.0f}"


def _recovery(rewards: np.ndarray, before: float) -> float:
    """See :class:`Response`.

    Args:
        rewards: (n,), mean rewards from the change on.
        before: mean reward before the change.
    """
    if len(rewards) < WINDOW:
        return np.nan
    running = np.lib.stride_tricks.sliding_window_view(rewards, WINDOW).mean(axis=1)
    lowest = int(running.argmin())
    if running[lowest] >= before:
        return 0.0
    target = running[lowest] + RECOVERED * (before - running[lowest])
    reached = np.flatnonzero(running[lowest:] >= target)
    # running[i] is known after WINDOW + i control steps
    return float(WINDOW + lowest + reached[0]) if len(reached) else np.nan


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
