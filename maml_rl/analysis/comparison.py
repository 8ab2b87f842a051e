"""Compare agents on the same tasks and seeds, in one or several versions of the environment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from maml_rl.agents.agent import Agent
from maml_rl.analysis.evaluation import Evaluation, failed_note
from maml_rl.analysis.run_labels import stage_label
from maml_rl.analysis.saved_evaluations import evaluate_or_read
from maml_rl.analysis.scratch import Scratch
from maml_rl.analysis.statistics import (
    FEW_RUNS,
    RECOVERED,
    SMALL_DROP,
    WINDOW,
    Difference,
    Over,
    Response,
    difference,
    interval_text,
    mean_interval,
    mean_of_valid,
    recovery_text,
    response,
    rewards_around,
)
from maml_rl.analysis.tasks.words import value_text
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


class StepDifference(NamedTuple):
    """The difference of two methods, each after some of its adaptation steps."""

    step: int
    """Steps of the first method."""
    other_step: int
    """Steps of the other method."""
    value: Difference
    """The first method minus the other one."""


@dataclass(frozen=True)
class Entry:
    """The evaluations of one method in one condition.

    Args:
        label: name of the method.
        sources: S folders, one per run.
        evaluations: S evaluations on the same N tasks.
        swept: see :class:`Condition`.
    """

    label: str
    sources: tuple[Path, ...]
    evaluations: tuple[Evaluation, ...]
    swept: Mapping[str, float]

    @property
    def name(self) -> str:
        """The label, followed by the number of runs if there are several."""
        num_runs = len(self.evaluations)
        return self.label if num_runs == 1 else f"{self.label} ({num_runs} runs)"

    @property
    def task_returns(self) -> np.ndarray:
        """Return on each task, mean over runs, (K + 1, N); NaN once the task failed in any run."""
        return np.mean([evaluation.task_returns for evaluation in self.evaluations], axis=0)

    @property
    def success(self) -> np.ndarray:
        """Share of successful episodes, (K + 1,); NaN if the environment does not report it."""
        successes = np.stack([evaluation.task_success for evaluation in self.evaluations])
        return mean_of_valid(successes, (0, 2))

    @property
    def num_failed_tasks(self) -> int:
        """Number of tasks that failed in any run; means exclude them from then on."""
        return int(np.any([evaluation.failed for evaluation in self.evaluations], axis=0).sum())

    @property
    def episodes_used(self) -> np.ndarray:
        """Episodes per task that adaptation has used after each step, (K + 1,)."""
        return self.evaluations[0].episodes_used

    @property
    def adapts(self) -> bool:
        """Whether there are steps; a method without them has the same return after any."""
        return len(self.episodes_used) > 1

    def stage_label(self, k: int) -> str:
        """``"before adaptation"``, ``"after 2 steps, 40 episodes"``, or ``"episode 3"``."""
        return stage_label(k, int(self.episodes_used[k]), is_episode=self.stage_is_episode)

    def swept_text(self, name: str) -> str:
        """Return the value of a swept parameter: its name if it has one, else the number."""
        names = self.evaluations[0].description["task_value_names"]
        return value_text(name, self.swept[name], names)

    @property
    def stage_is_episode(self) -> bool:
        """:attr:`LearnerConfig.STAGE_IS_EPISODE` of the learner."""
        return bool(self.evaluations[0].description.get("stage_is_episode"))

    @property
    def adapted_step(self) -> int:
        """The step reported as "after adaptation": the last one of training, or of the evaluation.

        It is the evaluation's if that has fewer steps, or if training had none.
        """
        last = len(self.evaluations[0].returns) - 1
        return min(last, self.evaluations[0].description["num_steps_in_training"] or last)

    @property
    def run_returns(self) -> np.ndarray:
        """Return of each run, mean over the tasks that failed in no run, (S, K + 1)."""
        failed = np.isnan(self.task_returns)
        return mean_of_valid(np.where(failed, np.nan, self._task_returns_of_runs), 2)

    @property
    def center(self) -> np.ndarray:
        """Mean return over tasks and runs, (K + 1,)."""
        return mean_of_valid(self.task_returns, 1)

    @property
    def over(self) -> Over:
        """Whether :attr:`interval` is over tasks (one run) or over runs (several)."""
        return "tasks" if len(self.evaluations) == 1 else "runs"

    @property
    def interval(self) -> np.ndarray:
        """95 % interval of :attr:`center`, (K + 1, 2); over runs, it holds for these tasks."""
        return mean_interval(self.task_returns if self.over == "tasks" else self.run_returns.T)

    @property
    def responses(self) -> dict[int, Response]:
        """The response to a change of the dynamics in mid-episode, by the step k it comes after.

        Rewards are means over runs.
        """
        curves = [one.rewards for one in self.evaluations if one.rewards is not None]
        if len(curves) < len(self.evaluations):
            return {}
        rewards = np.mean(curves, axis=0)
        responses = {}
        for k, change_steps in self.evaluations[0].changes.items():
            tasks = list(change_steps)
            value = response(rewards[k, tasks], np.array(list(change_steps.values())))
            if value is not None:
                responses[k] = value
        return responses

    def response_intervals(self, k: int) -> np.ndarray:
        """Return 95 % intervals of the rewards before, after and at the end of :attr:`responses`.

        Args:
            k: one of the steps of :attr:`responses`.

        Returns:
            (3, 2), over tasks or runs as :attr:`interval`.
        """
        change_steps = self.evaluations[0].changes[k]
        tasks, steps = list(change_steps), np.array(list(change_steps.values()))
        curves = [one.rewards for one in self.evaluations if one.rewards is not None]
        rewards = np.stack([rewards_around(curve[k, tasks], steps) for curve in curves])
        rewards = rewards[:, np.isfinite(rewards).all(axis=(0, 2))]
        return mean_interval(rewards[0].T if self.over == "tasks" else rewards.mean(axis=1).T)

    def minus(self, other: Entry) -> list[StepDifference]:
        """Return the differences from another method after equal numbers of episodes used.

        One of them is after :attr:`adapted_step`. If the other method has no step with as many
        episodes, it is after its own :attr:`adapted_step`. A method that does not adapt, such as an
        oracle, is compared with each step.
        """
        # Pairs of steps.
        other_steps = {used: j for j, used in enumerate(other.episodes_used.tolist())}
        pairs = {self.adapted_step: other.adapted_step}
        for k, used in enumerate(self.episodes_used.tolist()):
            if not other.adapts:
                pairs[k] = 0
            elif used in other_steps:
                pairs[k] = other_steps[used]
        # Their differences.
        first, second = self._task_returns_of_runs, other._task_returns_of_runs
        return [
            StepDifference(k, j, difference(first[:, k], second[:, j]))
            for k, j in sorted(pairs.items())
        ]

    @property
    def _task_returns_of_runs(self) -> np.ndarray:
        """(S, K + 1, N)."""
        return np.stack([evaluation.task_returns for evaluation in self.evaluations])


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
        """Settings of the evaluation, plain values; those of task parameters cover all entries."""
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
        if evaluation.description.get("tasks_are_given"):
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
        return [entry for entry in self.entries if not entry.swept]

    def sweep(self, *names: str) -> list[Entry]:
        """Return the entries that sweep exactly these parameters."""
        return [entry for entry in self.entries if entry.swept and set(entry.swept) == set(names)]

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
            entries = self.sweep(*names) if names else self.main
            lines += text_table(self.return_rows(names))
            notes = [] if names else learner_notes(entries)  # once: they are the same in sweeps
            lines += [*notes, *run_notes(entries), *failed_notes(entries), ""]
        if self.has_changes:
            lines += [*text_table(self.change_rows()), change_note(), ""]
        if self.differences:
            lines += [*text_table(self.difference_rows(all_steps=False)), ""]
        if self.scratch is not None:
            num_tasks = len(self.scratch.tasks)
            lines.append(f"return on {num_tasks} of these tasks, against control steps in each:")
            lines += text_table(
                [[name, f"{n:,}", f"{value:.1f}"] for name, n, value in self.scratch_rows()]
            )
        return "\n".join(lines).rstrip()

    def return_rows(self, names: Sequence[str] = ()) -> list[list[str]]:
        """Return the cells of the table of returns: a header, then a row for each entry and step.

        Args:
            names: the swept parameters; default is the environment without a sweep.
        """
        head = [*names, "policy", "steps", "episodes used", f"return ({self.actions})"]
        rows = [[*head, "95 % interval", "interval over", "success"]]
        for entry in self.sweep(*names) if names else self.main:
            rows += _rows(entry)
        if all(row[-1] == "–" for row in rows[1:]):
            rows = [row[:-1] for row in rows]
        return rows

    def difference_rows(self, all_steps: bool) -> list[list[str]]:
        """Return the cells of the table of differences, with its header.

        Args:
            all_steps: whether to list all steps that can be compared, or only the number of steps
                in training.
        """
        head = ["difference", "steps", "episodes used", f"return ({self.actions})"]
        rows = [[*head, "95 % interval", "interval over", "probability of improvement"]]
        for first, second, differences in self.differences:
            for k, j, (mean, interval, over, probability) in differences:
                if not all_steps and k != first.adapted_step:
                    continue
                used = _both(first.episodes_used[k], second.episodes_used[j])
                share = "–" if np.isnan(probability) else f"{probability:.2f}"
                row = [f"{first.name} − {second.name}", _both(k, j), used, f"{mean:.1f}"]
                rows.append([*row, interval_text(interval), over, share])
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

    def scratch_rows(self) -> list[tuple[str, int, float]]:
        """Return name, control steps per task and mean return, on the tasks learned from scratch.

        Each method has one row; learning from scratch has about six.
        """
        assert self.scratch is not None, "called only with curves from scratch"
        scratch = self.scratch
        rows = []
        for entry in self.main:
            k = entry.adapted_step
            num_env_steps = int(entry.episodes_used[k]) * self.settings["horizon"]
            returns = entry.task_returns[k, list(scratch.tasks)]
            rows.append((entry.name, num_env_steps, float(mean_of_valid(returns, 0))))
        num_points = len(scratch.num_env_steps)
        mean_returns = scratch.returns.mean(axis=0)
        for point in range(0, num_points, max(1, (num_points - 1) // 5)):
            num_env_steps = int(scratch.num_env_steps[point])
            rows.append((self.scratch_label, num_env_steps, float(mean_returns[point])))
        return rows


def change_rows(entries: Sequence[Entry]) -> list[list[str]]:
    """Return the cells of a table of changes, with its header.

    Args:
        entries: those in which the dynamics change in mid-episode.
    """
    swept = list(dict.fromkeys(name for entry in entries for name in entry.swept))
    head = [*swept, "policy", "steps", "reward before the change", "after it", "at the end"]
    rows = [[*head, "control steps to recover", "tasks that recover"]]
    for entry in entries:
        version = [entry.swept_text(name) if name in entry.swept else "–" for name in swept]
        for k, value in entry.responses.items():
            intervals = entry.response_intervals(k)
            means = (value.before, value.after, value.end)
            rewards = [
                f"{mean:.3g} {interval_text(interval, '.3g')}".removesuffix(" –")
                for mean, interval in zip(means, intervals, strict=True)
            ]
            share = f"{value.num_recovered} of {value.num_tasks}"
            rows.append([*version, entry.name, str(k), *rewards, recovery_text(value), share])
    return rows


def change_note() -> str:
    """Explain the table of changes."""
    return (
        f"change of the dynamics in mid-episode: mean reward of {WINDOW} control steps each; to "
        f"recover: until that has come back {100 * RECOVERED:.0f} % of the way from its lowest "
        f"value to that before; no drop: right after the change it is lower by at most "
        f"{100 * SMALL_DROP:.0f} %; in brackets: 95 % interval, over tasks for one run, else over "
        "runs; tasks that recover: those whose own mean reward does, or does not drop"
    )


def learner_notes(entries: Sequence[Entry]) -> list[str]:
    """Return a line for each method whose learner has a note, such as its step sizes.

    If the notes of its runs differ, it lists them all, in the order of the runs.
    """
    notes = []
    for entry in entries:
        learners = [one.description.get("learner", {}) for one in entry.evaluations]
        texts = [learner["note"] for learner in learners if "note" in learner]
        if len(set(texts)) == 1:
            texts = texts[:1]
        if texts and entry.adapts:
            notes.append(f"{entry.name}: {'; '.join(texts)}")
    return list(dict.fromkeys(notes))  # a sweep has several entries of each method


def run_notes(entries: Sequence[Entry]) -> list[str]:
    """List the returns of single runs, one line per entry with few runs: its interval is wide."""
    notes = []
    for entry in entries:
        if 1 < len(entry.evaluations) <= FEW_RUNS:
            k = entry.adapted_step
            returns = ", ".join(f"{value:.1f}" for value in entry.run_returns[:, k])
            notes.append(
                f"{entry.name}{_version(entry)}, each run {entry.stage_label(k)}: {returns}"
            )
    return notes


def failed_notes(entries: Sequence[Entry]) -> list[str]:
    """Return a line for each entry whose means exclude tasks."""
    notes = []
    for entry in entries:
        for note in failed_note(entry.num_failed_tasks, len(entry.evaluations[0].tasks)):
            notes.append(f"{entry.name}{_version(entry)}: {note}")
    return notes


def _version(entry: Entry) -> str:
    """Return ``" at body_mass 2"``, or an empty string without a sweep."""
    return "".join(f" at {name} {entry.swept_text(name)}" for name in entry.swept)


def _both(first: int, second: int) -> str:
    """Return ``"20"``, or ``"20 and 2"``."""
    return str(first) if first == second else f"{first} and {second}"


def _rows(entry: Entry) -> list[list[str]]:
    """Return the table's cells for each step."""
    swept = [entry.swept_text(name) for name in entry.swept]
    rows = []
    for k, center in enumerate(entry.center):
        interval = interval_text(entry.interval[k])
        success = "–" if np.isnan(entry.success[k]) else f"{100 * entry.success[k]:.0f} %"
        row = [*swept, entry.name, str(k), str(entry.episodes_used[k]), f"{center:.1f}"]
        rows.append([*row, interval, entry.over, success])
    return rows


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
    unfinished: Path | None = None,
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
        unfinished: folder for finished evaluations, so that an interrupted call can be resumed.
        progress: called with a description after every evaluation.
        activity: called within an evaluation; see :func:`~maml_rl.analysis.evaluation.evaluate`.

    Raises:
        UserError: if the agents do not see the same tasks.
    """
    entries: list[Entry] = []
    for condition in conditions:
        # Evaluate the subjects, grouped by label.
        groups: dict[str, list[Evaluation]] = {}
        for subject in subjects:
            env = condition.env_of(subject.agent)
            if not _takes_part(subject, condition):
                continue
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
                env,
                arguments,
                tasks,
                fixed=condition.fixed,
                folder=unfinished,
                activity=activity,
            )
            groups.setdefault(subject.label, []).append(evaluation)
            swept = ", ".join(f"{name}={value:g}" for name, value in condition.swept.items())
            progress(f"{subject.label} at {swept}" if swept else subject.label)
        # Check that they saw the same tasks.
        check_same_tasks([evaluation for group in groups.values() for evaluation in group])
        # Make an entry for each label.
        for label, evaluations in groups.items():
            sources = tuple(subject.source for subject in subjects if subject.label == label)
            entry = Entry(
                label=label,
                sources=sources,
                evaluations=tuple(evaluations),
                swept=condition.swept,
            )
            entries.append(entry)
    return Comparison(entries)


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
    """Names of the dynamics that varied in an agent's training."""
    return set(agent.config.env.kwargs.get("dynamics", {}))


def check_same_tasks(evaluations: Sequence[Evaluation]) -> None:
    """Raise UserError if the evaluations are on different tasks."""
    for evaluation in evaluations:
        if list(evaluation.tasks) != list(evaluations[0].tasks):
            raise UserError(
                "the runs draw different tasks: compare runs of one environment with the same "
                "settings"
            )
