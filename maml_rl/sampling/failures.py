"""Numbers that went wrong, contained to an episode, a task or an outer step: counted, and too many of them refused."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

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

_ORDER = (SIMULATION, OBSERVATION, ACTION, REWARD, NO_EPISODE, BASELINE, INNER_STEP)
"""In which the failures of a collection, and of the inner step after it, are told."""

_SMALLER_OUTER_STEPS = "lower outer.max_kl or outer.step_size"
ADVICE = {
    SIMULATION: "lower policy.action_scale, or draw bodies that are closer to the model",
    OBSERVATION: "see what the environment returns",
    REWARD: "see what the environment returns",
    ACTION: "lower inner.step_size",
    BASELINE: "see whether rewards and observations are of reasonable size",
    INNER_STEP: "lower inner.step_size",
    LINE_SEARCH: _SMALLER_OUTER_STEPS,
    OUTER_STEP: _SMALLER_OUTER_STEPS,
}
"""What the user can do about each cause. ``NO_EPISODE`` follows from others."""


class TooManyFailures(FloatingPointError):
    """Numbers went wrong in more episodes, tasks or outer steps than is sound; ``rows`` are those of this iteration."""

    def __init__(self, text: str, rows: Sequence[Failure]) -> None:
        super().__init__(text)
        self.rows = rows


class Failure(NamedTuple):
    """Something that went wrong and was contained."""

    adaptation_step: int
    """Inner steps behind the parameters that it happened with; 0 is before the first."""
    what: str
    """One of the causes above."""
    num_episodes: int
    """Episodes that became void; 0 where a whole task or the outer step failed."""
    task: Task | None
    """Where it happened; ``None`` for the outer step."""
    detail: str = ""
    """What the outer step itself says of it, if anything; not in failures.csv."""

    def row(self) -> dict[str, Any]:
        """Its cells in failures.csv."""
        cells = {**self._asdict(), "task": "" if self.task is None else as_json(self.task)}
        del cells["detail"]
        return cells


class Failures:
    """What went wrong in one pass through adaptation, and which tasks were set aside.

    Args:
        tasks: T of them.
        num_episodes: that the pass plays in all.
    """

    def __init__(self, tasks: Sequence[Task], num_episodes: int) -> None:
        self.tasks = tasks
        self.num_episodes = num_episodes
        self.rows: list[Failure] = []
        self.failed = np.zeros(len(tasks), bool)
        """(T,): tasks that are set aside. What goes wrong with them afterwards is not told."""

    @property
    def num_void_episodes(self) -> int:
        """Episodes that became void before their task failed."""
        return sum(row.num_episodes for row in self.rows)

    def void_episodes(self, adaptation_step: int, what: str, void: np.ndarray) -> None:
        """Tell that episodes ``void`` (T, E) bool mean nothing."""
        for i in np.flatnonzero(void.any(axis=1) & ~self.failed).tolist():
            self.rows.append(Failure(adaptation_step, what, int(void[i].sum()), self.tasks[i]))

    def set_aside(self, adaptation_step: int, what: str, failed: np.ndarray) -> None:
        """Tell that tasks ``failed`` (T,) bool take no further part; those that did so before are passed over."""
        for i in np.flatnonzero(failed & ~self.failed).tolist():
            self.rows.append(Failure(adaptation_step, what, 0, self.tasks[i]))
        self.failed |= failed

    def outer_step(
        self, adaptation_step: int, what: str, detail: str, number: int, most: int
    ) -> None:
        """Tell that the outer step failed.

        Args:
            adaptation_step: K.
            what: the cause.
            detail: what the outer step itself says of it, if anything.
            number: of outer steps that have failed one after the other, with this one.
            most: of them that is too many.

        Raises:
            TooManyFailures: it has come to that.
        """
        self.rows.append(Failure(adaptation_step, what, 0, None, detail))
        if number >= most:
            cause = f"{what} ({detail})" if detail else what
            raise TooManyFailures(
                f"{number} outer steps in a row failed, the last since {cause}: {ADVICE[what]}",
                self.rows,
            )

    def check(self, max_share: float, where: str) -> None:
        """Stop where too much has gone wrong, or no task is left.

        Args:
            max_share: of the episodes, and of the tasks.
            where: in which the share is exceeded, for the message.

        Raises:
            TooManyFailures: says what, how often, for which task, and what can be done.
        """
        num_failed, num_tasks = int(self.failed.sum()), len(self.tasks)
        if num_failed > max_share * num_tasks or num_failed == num_tasks:
            self._stop(f"{num_failed} of {num_tasks} tasks failed", max_share, where)
        if self.num_void_episodes > max_share * self.num_episodes:
            counted = f"{self.num_void_episodes} of {self.num_episodes:,} episodes are void"
            self._stop(counted, max_share, where)

    def refuse_failed_tasks(self) -> None:
        """Stop where a task failed and there is no other to go on with.

        Raises:
            TooManyFailures: says what went wrong.
        """
        if self.failed.any():
            raise TooManyFailures(f"adaptation failed: {self.example()}", self.rows)

    def of_all(self, ranks: Ranks, tasks: Sequence[Task], first_task: int) -> Failures:
        """What went wrong in all processes, in the order in which one alone would have told it.

        Args:
            ranks: the processes.
            tasks: those of all.
            first_task: number of this process's first one among them.

        Raises:
            TooManyFailures: a process has no task left.
        """
        if ranks.number == 1:
            return self
        numbers = {id(task): first_task + i for i, task in enumerate(self.tasks)}
        own = [
            (row.adaptation_step, _ORDER.index(row.what), numbers[id(row.task)], row.num_episodes)
            for row in self.rows
        ]
        told = ranks.gather(torch.tensor(own, dtype=torch.int64).reshape(-1, 4)).tolist()
        found = Failures(tasks, self.num_episodes * len(tasks) // len(self.tasks))
        found.rows = [
            Failure(step, _ORDER[what], number, tasks[i]) for step, what, i, number in sorted(told)
        ]
        found.failed = ranks.gather(torch.from_numpy(self.failed)).numpy()
        if float(ranks.sum(torch.tensor([self.failed.all()]))) > 0:
            raise TooManyFailures(
                f"all tasks of one of {ranks.number} processes failed: {found.example()}",
                found.rows,
            )
        return found

    def _stop(self, counted: str, max_share: float, where: str) -> None:
        limit = f"the share allowed is max_failed_share {max_share:g}"
        raise TooManyFailures(f"{counted} in {where}, and {limit}: {self.example()}", self.rows)

    def example(self) -> str:
        """The most frequent cause, a task that it happened to, and what can be done."""
        causes = Counter(row.what for row in self.rows if row.what in ADVICE)
        what = causes.most_common(1)[0][0]
        first = next(row for row in self.rows if row.what == what)
        task = f", task {as_json(first.task):.200}" if first.task else ""
        return f"{what} (first at adaptation step {first.adaptation_step}{task}): {ADVICE[what]}"


def summary(rows: Sequence[Failure]) -> str:
    """What went wrong in one iteration: ``3 episodes void (a reward is not finite), 1 task set aside (...)``."""
    parts = []
    for what in dict.fromkeys(row.what for row in rows):
        same = [row for row in rows if row.what == what]
        num_episodes = sum(row.num_episodes for row in same)
        if same[0].task is None:
            parts.append(f"outer step dropped ({same[0].detail or what})")
        elif num_episodes:
            parts.append(f"{counted(num_episodes, 'episode')} void ({what})")
        else:
            parts.append(f"{counted(len(same), 'task')} set aside ({what})")
    return ", ".join(parts)


def as_json(task: Mapping[str, Any]) -> str:
    """A task as JSON; what JSON does not know as its ``repr``."""
    return json.dumps(plain_values(task), default=repr)
