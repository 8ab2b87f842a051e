"""The reward around a change of the dynamics within a task, and how soon it recovers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

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
