"""Compare agents on the same tasks and seeds, in one or several versions of the environment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from maml_rl.agents.agent import Agent
from maml_rl.analysis.comparison.entries import (
    Entry,
    StepDifference,
    change_note,
    change_rows,
    failed_notes,
    learner_notes,
    return_rows,
    run_notes,
    training_notes,
)
from maml_rl.analysis.comparison.saved_evaluations import evaluate_or_read
from maml_rl.analysis.comparison.scratch import Scratch
from maml_rl.analysis.evaluation_result import Evaluation
from maml_rl.analysis.statistics import interval_text, mean_of_valid
from maml_rl.errors import UserError
from maml_rl.settings.drawn_tasks import Task
from maml_rl.settings.env import EnvConfig
from maml_rl.settings.learners import JointConfig
from maml_rl.system.text import counted, text_table


def label_of(agent: Agent) -> str:
    """Label of runs that all have the same settings: ``"meta-trained"``, or ``"joint"``."""
    learner = agent.config.learner
    return learner.name if isinstance(learner, JointConfig) else "meta-trained"


@dataclass(frozen=True)
class Subject:
    """An agent to evaluate.

    Args:
        label: name of the method; subjects with the same label are seeds of one method.
        source: the folder that the agent was loaded from.
        agent: the agent to adapt.
        num_steps: number of adaptation steps.
    """

    label: str
    source: Path
    agent: Agent
    num_steps: int


@dataclass(frozen=True)
class Condition:
    """A version of the environment.

    Args:
        env_of: returns the environment for an agent; it depends on whether the agent observes the
            task.
        swept: values fixed by a sweep, by name; empty for the environment without a sweep.
        fixed: the part of ``swept`` to set in every task; ``env_of`` sets the rest, which are
            dynamics.
    """

    env_of: Callable[[Agent], EnvConfig]
    swept: Mapping[str, float] = field(default_factory=dict)
    fixed: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """The result of an evaluation.

    Args:
        entries: methods in the environment without a sweep, then in every version of a sweep.
        scratch: learning from scratch on some of the tasks, without a sweep.
    """

    entries: Sequence[Entry]
    scratch: Scratch | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of the evaluation, plain values: units and names of task values of all entries.

        The others are those of the first entry.
        """
        descriptions = [entry.evaluations[0].description for entry in self.entries]
        names = (
            "env",
            "env_settings",
            "horizon",
            "num_tasks",
            "num_episodes",
            "actions",
            "adaptation_actions",
            "seed",
        )
        settings = {name: descriptions[0][name] for name in names}
        for name in ("task_units", "task_value_names"):
            settings[name] = {}
            for description in descriptions:
                settings[name] |= description[name]
        return settings

    @property
    def labels(self) -> list[str]:
        """The methods, in the order of their first entries."""
        return list(dict.fromkeys(entry.label for entry in self.entries))

    @property
    def tasks_text(self) -> str:
        """``"40 fresh tasks"``, ``"3 given tasks"``, or ``"40 tasks (2 different)"``.

        They are given if the user chose them. Drawn ones that repeat, such as two directions, are
        not called fresh: training has had them.
        """
        evaluation = self.entries[0].evaluations[0]
        number = len(evaluation.tasks)
        if evaluation.description["tasks_are_given"]:
            return counted(number, "given task")
        num_different = len({repr(task) for task in evaluation.tasks})
        if num_different < number:
            return f"{counted(number, 'task')} ({num_different} different)"
        return counted(number, "fresh task")

    @property
    def actions(self) -> str:
        """``"mean actions"`` or ``"sampled actions"``: those whose returns were measured."""
        return self.entries[0].evaluations[0].actions

    @property
    def main(self) -> list[Entry]:
        """The methods in the environment without a sweep."""
        return self.sweep()

    def sweep(self, *names: str) -> list[Entry]:
        """Return the entries that sweep exactly these parameters; :attr:`main` without any."""
        return [entry for entry in self.entries if set(entry.swept) == set(names)]

    @property
    def sweeps(self) -> list[tuple[str, ...]]:
        """The parameters of each sweep: one, or two for a grid."""
        return list(dict.fromkeys(tuple(entry.swept) for entry in self.entries if entry.swept))

    @property
    def differences(self) -> list[tuple[Entry, Entry, list[StepDifference]]]:
        """The first method, each other one, and their differences, without a sweep."""
        first, *others = self.main
        return [(first, other, first.minus(other)) for other in others]

    def table(self) -> str:
        """Format the returns after each step as text, one row per policy, step and version."""
        lines = []
        for names in [(), *self.sweeps]:
            lines += [*text_table(self.return_rows(names)), *self.return_notes(names), ""]
        if self.has_changes:
            lines += [*text_table(self.change_rows()), change_note(), ""]
        if self.differences:
            lines += [*text_table(self.difference_rows(all_steps=False)), ""]
        if self.scratch is not None:
            num_tasks = len(self.scratch.tasks)
            lines.append(f"return on {num_tasks} of these tasks, against control steps in each:")
            lines += text_table(self.scratch_rows())
        return "\n".join(lines).rstrip()

    def return_rows(self, names: Sequence[str]) -> list[list[str]]:
        """Return the cells of the table of returns: a header, then a row for each entry and step.

        Args:
            names: the swept parameters; empty for the environment without a sweep.
        """
        head = [*names, "policy", "steps", "episodes used", f"return ({self.actions})"]
        rows = [[*head, "95 % interval", "interval over", "success"]]
        for entry in self.sweep(*names):
            rows += return_rows(entry)
        if all(row[-1] == "–" for row in rows[1:]):
            rows = [row[:-1] for row in rows]
        return rows

    def return_notes(self, names: Sequence[str]) -> list[str]:
        """Return the notes on the table of returns, a line each.

        Args:
            names: as for :meth:`return_rows`.
        """
        entries = self.sweep(*names)
        # Once: these are the same in sweeps.
        once = [] if names else [*learner_notes(entries), *training_notes(entries)]
        return [*once, *run_notes(entries), *failed_notes(entries)]

    def difference_rows(self, all_steps: bool) -> list[list[str]]:
        """Return the cells of the table of differences, with its header.

        Args:
            all_steps: whether to list all steps that can be compared, or only the number of steps
                in training.
        """
        head = ["difference", "steps", "episodes used", f"return ({self.actions})"]
        rows = [[*head, "95 % interval", "interval over", "probability of improvement"]]
        for first, second, differences in self.differences:
            for one in differences:
                k, j, value = one.step, one.other_step, one.value
                is_adapted = k == first.adapted_step and (first.adapts or j == second.adapted_step)
                if not (all_steps or is_adapted):
                    continue
                used = _both(first.episodes_used[k], second.episodes_used[j])
                share = "–" if np.isnan(value.probability) else f"{value.probability:.2f}"
                row = [f"{first.name} − {second.name}", _both(k, j), used, f"{value.mean:.1f}"]
                rows.append([*row, interval_text(value.interval), value.over, share])
        return rows

    @property
    def has_changes(self) -> bool:
        """Whether the dynamics change in the middle of an episode, in any version."""
        return any(entry.responses for entry in self.entries)

    def change_rows(self) -> list[list[str]]:
        """Return the cells of the table of changes, with its header."""
        return change_rows([entry for entry in self.entries if entry.responses])

    @property
    def scratch_label(self) -> str:
        """Label of learning from scratch, whose returns are always those of sampled actions."""
        assert self.scratch is not None, "called only with curves from scratch"
        is_same = self.actions == "sampled actions"
        return self.scratch.label if is_same else f"{self.scratch.label} (sampled actions)"

    def scratch_rows(self) -> list[list[str]]:
        """Return the cells of the table of the tasks that were also learned from scratch.

        A header, then one row for each method, and about six for learning from scratch.
        """
        assert self.scratch is not None, "called only with curves from scratch"
        scratch = self.scratch
        rows = [["policy", "control steps in each task", "return"]]
        for entry in self.main:
            k = entry.adapted_step
            num_env_steps = int(entry.episodes_used[k]) * entry.horizon
            returns = entry.task_returns[k, list(scratch.tasks)]
            mean = float(mean_of_valid(returns, 0))
            rows.append([entry.name, f"{num_env_steps:,}", f"{mean:.1f}"])
        num_points = len(scratch.num_env_steps)
        mean_returns = scratch.returns.mean(axis=0)
        for point in range(0, num_points, max(1, (num_points - 1) // 5)):
            num_env_steps = int(scratch.num_env_steps[point])
            rows.append([self.scratch_label, f"{num_env_steps:,}", f"{mean_returns[point]:.1f}"])
        return rows


def _both(first: int, second: int) -> str:
    """Return ``"20"``, or ``"20 and 2"``."""
    return str(first) if first == second else f"{first} and {second}"


def compare(
    subjects: Sequence[Subject],
    conditions: Sequence[Condition],
    *,
    num_tasks: int,
    num_episodes: int,
    seed: int,
    tasks: Sequence[Task] | None = None,
    deterministic: bool = False,
    deterministic_adaptation: bool = False,
    finished: Path | None = None,
    progress: Callable[[str], None] = lambda text: None,
    activity: Callable[[str], None] = lambda text: None,
) -> Comparison:
    """Evaluate every agent in every condition, on the same tasks with the same seeds.

    An agent whose observation includes the task is not part of a sweep over dynamics that did not
    vary in its training: it does not observe them.

    Args:
        subjects: the agents; all with the same label must have the same ``num_steps``.
        conditions: the environments.
        num_tasks: number of fresh tasks, or of ``tasks``.
        num_episodes: measured episodes per task and adaptation step.
        seed: seed of tasks and episodes.
        tasks: tasks to use instead of fresh ones.
        deterministic: see :func:`~maml_rl.analysis.evaluation.evaluate`.
        deterministic_adaptation: see :func:`~maml_rl.analysis.evaluation.evaluate`.
        finished: folder for finished evaluations, so that an interrupted call can be resumed.
        progress: called with a description after every evaluation.
        activity: called within an evaluation; see :func:`~maml_rl.analysis.evaluation.evaluate`.

    Raises:
        UserError: if the agents do not see the same tasks.
    """
    entries: list[Entry] = []
    for condition in conditions:
        # Evaluate the subjects that take part, on the same tasks, grouped by label.
        first: Evaluation | None = None
        groups: dict[str, list[Evaluation]] = {}
        for subject in [one for one in subjects if _takes_part(one, condition)]:
            arguments = {
                "num_tasks": num_tasks,
                "num_episodes": num_episodes,
                "num_steps": subject.num_steps,
                "seed": seed,
                "deterministic": deterministic,
                "deterministic_adaptation": deterministic_adaptation,
            }
            evaluation = evaluate_or_read(
                subject.agent,
                condition.env_of(subject.agent),
                arguments,
                tasks,
                fixed=condition.fixed,
                folder=finished,
                activity=activity,
            )
            first = first or evaluation
            check_same_tasks([first, evaluation])
            groups.setdefault(subject.label, []).append(evaluation)
            progress(f"{subject.label}{_version(condition)}")
        # Make an entry for each label.
        for label, evaluations in groups.items():
            sources = tuple(subject.source for subject in subjects if subject.label == label)
            entries.append(Entry(label, sources, tuple(evaluations), condition.swept))
    return Comparison(entries)


def _version(condition: Condition) -> str:
    """Return ``" at body_mass=2"``, or an empty string without a sweep."""
    swept = ", ".join(f"{name}={value:g}" for name, value in condition.swept.items())
    return f" at {swept}" if swept else ""


def num_evaluations(subjects: Sequence[Subject], conditions: Sequence[Condition]) -> int:
    """Return the number of evaluations that :func:`compare` makes."""
    return sum(_takes_part(subject, one) for one in conditions for subject in subjects)


def _takes_part(subject: Subject, condition: Condition) -> bool:
    """Whether an agent observes no task, or has observed all swept dynamics in training."""
    observes_task = condition.env_of(subject.agent).observe_task
    return not observes_task or _swept_dynamics(condition) <= _varied(subject.agent)


def _swept_dynamics(condition: Condition) -> set[str]:
    """Names of the dynamics that a condition fixes."""
    return condition.swept.keys() - condition.fixed.keys()


def _varied(agent: Agent) -> set[str]:
    """Names of the dynamics, or of arguments of the environment, that varied in training."""
    env = agent.config.env
    return {*env.kwargs.get("dynamics", {}), *env.kwarg_ranges}


def check_same_tasks(evaluations: Sequence[Evaluation]) -> None:
    """Raise UserError if the evaluations are on different tasks."""
    for evaluation in evaluations:
        if list(evaluation.tasks) != list(evaluations[0].tasks):
            raise UserError(
                "the runs draw different tasks: compare runs of one environment with the same "
                "settings"
            )
