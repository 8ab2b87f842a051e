"""Why episodes, tasks and outer steps failed, as data; and when there are too many failures.

Episodes and tasks carry the codes of their causes (:data:`CODES`). What users see is computed from
these codes: the rows of failures.csv, the shares of failures, and the messages.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from maml_rl.settings.drawn_tasks import Task
from maml_rl.system.distributed import Ranks
from maml_rl.system.safe_yaml import plain_values
from maml_rl.system.text import counted

SIMULATION = "the simulation broke down"
OBSERVATION = "an observation is not finite"
ACTION = "an action is not finite"
REWARD = "a reward is not finite"
NO_EPISODE = "no valid episode is left"
BASELINE = "the baseline cannot be fitted"
INNER_STEP = "the inner step is not finite"
LINE_SEARCH = "the line search found no step"
OUTER_STEP = "the outer step cannot be taken"

_CAUSES = (SIMULATION, OBSERVATION, ACTION, REWARD, NO_EPISODE, BASELINE, INNER_STEP)
CODES = {what: code for code, what in enumerate(_CAUSES, 1)}
"""The integer code of each cause, in the order in which rows of failures.csv are sorted.

The first four are causes of episodes, the others of tasks. 0 means no failure.
"""
TASK_EXCLUDED = len(CODES) + 1
"""Code of an episode that is valid itself, but whose task has failed."""

_SMALLER_INNER_STEPS = "lower inner.step_size of MAML, learner.step_size of other learners"
_SMALLER_OUTER_STEPS = (
    "lower outer.max_kl or outer.step_size of MAML, learner.step_size of other learners "
    "(learner.student_step_size of a student)"
)
ADVICE = {
    SIMULATION: "lower policy.action_scale, or draw dynamics that are closer to the model; or it "
    "needed more contacts than the device had memory for, see the warning",
    OBSERVATION: "check what the environment returns",
    REWARD: "check what the environment returns",
    ACTION: _SMALLER_INNER_STEPS,
    BASELINE: "check whether rewards and observations are of reasonable size",
    INNER_STEP: _SMALLER_INNER_STEPS,
    LINE_SEARCH: _SMALLER_OUTER_STEPS,
    OUTER_STEP: _SMALLER_OUTER_STEPS,
}
"""What the user can do about each cause. ``NO_EPISODE`` always follows from one of these."""


class Failure(NamedTuple):
    """A failure that was contained: a row of failures.csv."""

    adaptation_step: int
    """Number of updates before it; 0 is before the first."""
    what: str
    """One of the causes above."""
    num_episodes: int
    """Episodes discarded; 0 if a whole task or the outer step failed."""
    task: Task | None
    """Task in which it happened; ``None`` for the outer step."""
    detail: str = ""
    """Message of the outer step, if any; not written to failures.csv."""

    def row(self) -> dict[str, Any]:
        """Its cells in failures.csv."""
        cells = {**self._asdict(), "task": "" if self.task is None else as_json(self.task)}
        return {name: cells[name] for name in FAILURE_COLUMNS}


FAILURE_COLUMNS = tuple(name for name in Failure._fields if name != "detail")
"""Columns of failures.csv."""


class TooManyFailures(FloatingPointError):
    """More episodes, tasks or outer steps failed than is allowed.

    Args:
        text: the message.
        rows: failures of this iteration.
    """

    def __init__(self, text: str, rows: Sequence[Failure] = ()) -> None:
        super().__init__(text)
        self.rows = rows


class FailedTasks(NamedTuple):
    """Where and why each of T tasks failed first."""

    cause: Tensor
    """(T,) int8 codes; 0 for a task that has not failed."""
    stage: Tensor
    """(T,) int64: number of updates before the failure; 0 for a task that has not failed."""

    @classmethod
    def none_of(cls, num_tasks: int, device: torch.device) -> FailedTasks:
        """No failure in any of T tasks."""
        return cls(
            cause=torch.zeros(num_tasks, dtype=torch.int8, device=device),
            stage=torch.zeros(num_tasks, dtype=torch.int64, device=device),
        )

    @property
    def mask(self) -> Tensor:
        """(T,) bool: tasks that have failed."""
        return self.cause != 0

    def with_failed(self, failed: Tensor, what: str, stage: int) -> FailedTasks:
        """Add tasks that failed in a stage; a task keeps its first failure.

        Args:
            failed: (T,) bool.
            what: the cause.
            stage: number of updates before.
        """
        first = failed & (self.cause == 0)
        return FailedTasks(
            cause=self.cause.masked_fill(first, CODES[what]),
            stage=self.stage.masked_fill(first, stage),
        )


class TrialFailures(NamedTuple):
    """Causes of all failures in the S stages of a trial in T tasks with E episodes each."""

    episode_cause: Tensor
    """(T, S, E) int8 codes; 0 for a valid episode."""
    tasks: FailedTasks
    """Failures of whole tasks."""
    first_stage: int
    """Number of updates before the first of the S stages."""

    def gathered(self, ranks: Ranks) -> TrialFailures:
        """Those of all processes, in task order."""
        return TrialFailures(
            ranks.gather(self.episode_cause),
            FailedTasks(ranks.gather(self.tasks.cause), ranks.gather(self.tasks.stage)),
            self.first_stage,
        )

    def rows(self, tasks: Sequence[Task]) -> list[Failure]:
        """Rows of failures.csv, sorted by adaptation step, cause and task.

        Failures in a task that failed in an earlier stage are left out.

        Args:
            tasks: T of them.
        """
        # Copy to the CPU.
        episode_cause = self.episode_cause.cpu().numpy()
        task_cause = self.tasks.cause.cpu().numpy()
        failed_at = self.tasks.stage.cpu().numpy()
        rows = []
        for stage, causes in enumerate(episode_cause.swapaxes(0, 1), self.first_stage):
            # Tasks that had not failed before this stage.
            takes_part = (task_cause == 0) | (failed_at >= stage)
            # One row for each cause and task.
            for what, code in CODES.items():
                num_episodes = (causes == code).sum(axis=1) * takes_part
                has_failed = (task_cause == code) & (failed_at == stage)
                for i in np.flatnonzero((num_episodes > 0) | has_failed).tolist():
                    rows.append(Failure(stage, what, int(num_episodes[i]), tasks[i]))
        return rows

    def check(self, rows: Sequence[Failure], max_share: float, where: str) -> None:
        """Raise if too many episodes or tasks failed, or no task is left.

        Args:
            rows: of these failures.
            max_share: allowed share of the episodes, and of the tasks.
            where: what is checked, for the message.

        Raises:
            TooManyFailures: names how much failed, a cause, a task, and a remedy.
        """
        num_tasks = len(self.tasks.cause)
        num_failed = int(self.tasks.mask.sum())
        num_episodes = self.episode_cause.numel()
        num_discarded = num_discarded_episodes(rows)
        if num_failed > max_share * num_tasks or num_failed == num_tasks:
            problem = f"{num_failed} of {num_tasks} tasks failed"
        elif num_discarded > max_share * num_episodes:
            problem = f"{num_discarded} of {num_episodes:,} episodes were discarded"
        else:
            return
        limit = f"max_failed_share {max_share:g}"
        raise TooManyFailures(f"{problem} in {where}, with {limit}: {example(rows)}", rows)

    def refuse_failed_tasks(self, tasks: Sequence[Task]) -> None:
        """Raise if any task failed.

        Args:
            tasks: T of them.

        Raises:
            TooManyFailures: names the cause, a task, and a remedy.
        """
        if self.tasks.mask.any():
            rows = self.rows(tasks)
            raise TooManyFailures(f"adaptation failed: {example(rows)}", rows)


def num_discarded_episodes(rows: Sequence[Failure]) -> int:
    """Number of episodes discarded; those of tasks that had failed before do not count."""
    return sum(row.num_episodes for row in rows)


def example(rows: Sequence[Failure]) -> str:
    """The cause of most rows, a task in which it occurred, and what the user can do."""
    causes = Counter(row.what for row in rows if row.what in ADVICE)
    what = causes.most_common(1)[0][0]
    first = next(row for row in rows if row.what == what)
    task = f", task {as_json(first.task):.200}" if first.task else ""
    return f"{what} (first at adaptation step {first.adaptation_step}{task}): {ADVICE[what]}"


def summary(rows: Sequence[Failure]) -> str:
    """One iteration's failures: ``3 episodes discarded (a reward is not finite), 1 task ...``."""
    parts = []
    for what in dict.fromkeys(row.what for row in rows):
        same = [row for row in rows if row.what == what]
        num_episodes = num_discarded_episodes(same)
        if same[0].task is None:
            parts.append(f"outer step dropped ({same[0].detail or what})")
        elif num_episodes:
            parts.append(f"{counted(num_episodes, 'episode')} discarded ({what})")
        else:
            parts.append(f"{counted(len(same), 'task')} excluded ({what})")
    return ", ".join(parts)


def as_json(task: Mapping[str, Any]) -> str:
    """A task as JSON; values that JSON does not support become their ``repr``."""
    return json.dumps(plain_values(task), default=repr)
