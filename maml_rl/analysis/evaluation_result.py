"""The result of an evaluation: returns of tasks after 0, 1, ... K updates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from maml_rl.analysis.statistics import interval_text, mean_interval, mean_of_valid
from maml_rl.settings.drawn_tasks import Task
from maml_rl.settings.families import change_of
from maml_rl.system.text import counted, text_table


@dataclass(frozen=True)
class Evaluation:
    """Undiscounted returns of N tasks after each adaptation step (update).

    Args:
        tasks: N tasks.
        returns: (K + 1, N, E): after step k, in task i, of episode j; NaN for discarded episodes,
            and for all episodes of a task once it has failed.
        success: (K + 1, N, E): 1 if the episode was successful, else 0; NaN like ``returns``, and
            everywhere if the environment never reports success.
        description: what was evaluated, as plain values for the files.
        rewards: (K + 1, N, H): mean reward of each control step over the episodes of a task, 0
            after the end of an episode; NaN like ``returns``. Only if the dynamics of a task change
            in the middle of an episode, else ``None``.
        lasting: (K + 1, N): share of the episodes of a task that last until the horizon; NaN and
            ``None`` like ``rewards``.
    """

    tasks: Sequence[Task]
    returns: np.ndarray
    success: np.ndarray
    description: dict[str, Any]
    rewards: np.ndarray | None = None
    lasting: np.ndarray | None = None

    def __repr__(self) -> str:
        num_tasks, num_episodes = self.returns.shape[1:]
        sizes = f"{counted(num_tasks, 'task')}, {counted(num_episodes, 'episode')} per step"
        means = ", ".join(f"{mean:.1f}" for mean in self.mean)
        return f"Evaluation({sizes}, return [{means}])"

    @property
    def episodes_used(self) -> np.ndarray:
        """Episodes of a task that adaptation has used after each step, (K + 1,)."""
        return np.arange(len(self.returns)) * self.description["episodes_per_step"]

    @property
    def actions(self) -> str:
        """Actions whose returns were measured: ``"mean actions"`` or ``"sampled actions"``."""
        return f"{self.description['actions']} actions"

    @property
    def task_returns(self) -> np.ndarray:
        """Mean over each task's episodes, (K + 1, N); NaN once a task has failed."""
        return mean_of_valid(self.returns, 2)

    @property
    def mean(self) -> np.ndarray:
        """Mean over the tasks that have not failed, after each step, (K + 1,)."""
        return mean_of_valid(self.task_returns, 1)

    @property
    def interval(self) -> np.ndarray:
        """95 % interval of :attr:`mean` over tasks, (K + 1, 2)."""
        return mean_interval(self.task_returns)

    @property
    def task_success(self) -> np.ndarray:
        """Share of each task's episodes that were successful, (K + 1, N); NaN if not reported."""
        return mean_of_valid(self.success.astype(np.float64), 2)

    @property
    def changes(self) -> dict[int, dict[int, int]]:
        """Control steps of the changes in mid-episode: for each step k those of tasks by index."""
        return changes_in_episodes(
            self.tasks, self.description["env"], len(self.returns), self.description["horizon"]
        )

    @property
    def num_discarded_episodes(self) -> int:
        """Number of episodes without a return: discarded ones, and those of failed tasks."""
        return int(np.isnan(self.returns).sum())

    @property
    def failed(self) -> np.ndarray:
        """Whether each task failed, (N,) bool."""
        return np.isnan(self.task_returns).any(axis=0)

    def table(self) -> str:
        """Format the result as text, one row per step."""
        head = ["steps", "episodes used", f"return ({self.actions})"]
        rows = [[*head, "95 % interval over tasks", "std over tasks", "success"]]
        success = mean_of_valid(self.task_success, 1)
        for k, (mean, interval) in enumerate(zip(self.mean, self.interval, strict=True)):
            std = f"{np.nanstd(self.task_returns[k]):.1f}"
            share = f"{100 * success[k]:.0f} %"
            used = str(self.episodes_used[k])
            rows.append([str(k), used, f"{mean:.1f}", interval_text(interval), std, share])
        if np.isnan(success).all():
            rows = [row[:-1] for row in rows]
        note = self.description["learner"].get("note")
        notes = [note] if note and len(self.returns) > 1 else []
        notes += failed_note(int(self.failed.sum()), len(self.tasks))
        return "\n".join([*text_table(rows), *notes])


def changes_in_episodes(
    tasks: Sequence[Task], env_name: str, num_stages: int, horizon: int
) -> dict[int, dict[int, int]]:
    """Find the changes of the dynamics in the middle of an episode.

    Args:
        tasks: tasks of a trial.
        env_name: the environment's name.
        num_stages: number of stages of a trial.
        horizon: of an episode.

    Returns:
        For each stage with a change, the control step of the change by index of the task.
    """
    changes: dict[int, dict[int, int]] = {}
    for i, task in enumerate(tasks):
        change = change_of(env_name, task)
        if change is not None and change[0] < num_stages and 0 < change[1] < horizon:
            changes.setdefault(change[0], {})[i] = change[1]
    return dict(sorted(changes.items()))


def failed_note(num_failed: int, num_tasks: int) -> list[str]:
    """Return a line for a table whose means exclude failed tasks; no line if none failed."""
    if not num_failed:
        return []
    return [f"{num_failed} of {num_tasks} tasks failed and are excluded from later averages"]
