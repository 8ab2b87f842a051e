"""The results of one method in one version of the environment, as rows and notes of tables too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from maml_rl.analysis.comparison.response import (
    RECOVERED,
    SMALL_DROP,
    WINDOW,
    Response,
    recovery_text,
    response,
    rewards_around,
)
from maml_rl.analysis.evaluation_result import Evaluation, failed_note
from maml_rl.analysis.run_labels import stage_label
from maml_rl.analysis.statistics import (
    FEW_RUNS,
    Difference,
    Over,
    difference,
    interval_text,
    mean_interval,
    mean_of_valid,
)
from maml_rl.analysis.tasks.words import value_text


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
        swept: see :class:`~maml_rl.analysis.comparison.compare.Condition`.
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
        """Share of successful episodes, (K + 1,); NaN if the environment does not report it.

        The mean over the tasks that failed in no run, as that of returns.
        """
        successes = np.stack([evaluation.task_success for evaluation in self.evaluations])
        failed = np.isnan(self.task_returns)
        return mean_of_valid(np.where(failed, np.nan, successes), (0, 2))

    @property
    def num_failed_tasks(self) -> int:
        """Number of tasks that failed in any run; means exclude them from then on."""
        return int(np.any([evaluation.failed for evaluation in self.evaluations], axis=0).sum())

    @property
    def episodes_used(self) -> np.ndarray:
        """Episodes per task that adaptation has used after each step, (K + 1,)."""
        return self.evaluations[0].episodes_used

    @property
    def horizon(self) -> int:
        """Most control steps of an episode."""
        return int(self.evaluations[0].description["horizon"])

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
        return bool(self.evaluations[0].description["stage_is_episode"])

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
        shares = [one.lasting for one in self.evaluations if one.lasting is not None]
        if len(curves) < len(self.evaluations):
            return {}
        rewards, lasting = np.mean(curves, axis=0), np.mean(shares, axis=0)
        responses = {}
        for k, change_steps in self.evaluations[0].changes.items():
            tasks, steps = list(change_steps), np.array(list(change_steps.values()))
            value = response(rewards[k, tasks], steps, lasting[k, tasks])
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
        oracle, is compared with each step of the other.
        """
        first, second = self._task_returns_of_runs, other._task_returns_of_runs
        return [
            StepDifference(k, j, difference(first[:, k], second[:, j]))
            for k, j in self._compared_steps(other)
        ]

    def _compared_steps(self, other: Entry) -> list[tuple[int, int]]:
        """Return the steps of both methods that :meth:`minus` compares."""
        if not self.adapts:
            return [(0, j) for j in range(len(other.episodes_used))]
        if not other.adapts:
            return [(k, 0) for k in range(len(self.episodes_used))]
        other_steps = {used: j for j, used in enumerate(other.episodes_used.tolist())}
        pairs = {self.adapted_step: other.adapted_step}
        for k, used in enumerate(self.episodes_used.tolist()):
            if used in other_steps:
                pairs[k] = other_steps[used]
        return sorted(pairs.items())

    @property
    def _task_returns_of_runs(self) -> np.ndarray:
        """(S, K + 1, N)."""
        return np.stack([evaluation.task_returns for evaluation in self.evaluations])


def return_rows(entry: Entry) -> list[list[str]]:
    """Return the table's cells for each step."""
    swept = [entry.swept_text(name) for name in entry.swept]
    rows = []
    for k, center in enumerate(entry.center):
        interval = interval_text(entry.interval[k])
        success = "–" if np.isnan(entry.success[k]) else f"{100 * entry.success[k]:.0f} %"
        row = [*swept, entry.name, str(k), str(entry.episodes_used[k]), f"{center:.1f}"]
        rows.append([*row, interval, entry.over, success])
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
        f"change of the dynamics in mid-episode: rewards are means of {WINDOW} control steps; to "
        f"recover: until this mean has regained {100 * RECOVERED:.0f} % of what it lost; no drop: "
        f"it is lower by at most {100 * SMALL_DROP:.0f} %, right after the change and at the end; "
        "drops later: at the end it is lower by more; in brackets: 95 % interval, over tasks for "
        "one run, else over runs; tasks that recover: those whose own mean reward does, or does "
        "not drop; if half of the episodes or more end before the horizon, nothing recovers"
    )


def learner_notes(entries: Sequence[Entry]) -> list[str]:
    """Return a line for each method whose learner has a note, such as its step sizes.

    If the notes of its runs differ, it lists them all, by training seed.
    """
    notes = []
    for entry in entries:
        noted = [
            one.description for one in entry.evaluations if "note" in one.description["learner"]
        ]
        texts = [one["learner"]["note"] for one in noted]
        if len(set(texts)) == 1:
            texts = texts[:1]
        else:
            texts = [f"seed {one['training_seed']}: {one['learner']['note']}" for one in noted]
        if texts and entry.adapts:
            notes.append(f"{entry.name}: {'; '.join(texts)}")
    return notes


def training_notes(entries: Sequence[Entry]) -> list[str]:
    """Return a line with the control steps of training, if methods differ in them by over a half.

    For several runs of a method it has their mean. Baselines without training have no number.
    """
    means = {}
    for entry in entries:
        numbers = [one.description["num_env_steps"] for one in entry.evaluations]
        known = [number for number in numbers if number is not None]
        if known:
            means[entry.name] = float(np.mean(known))
    if not means or max(means.values()) <= 1.5 * min(means.values()):
        return []
    listed = ", ".join(f"{name} {value:,.0f}" for name, value in means.items())
    return [f"control steps in training differ: {listed}"]


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
    """Return ``" at body_mass=2"``, or an empty string without a sweep."""
    swept = ", ".join(f"{name}={entry.swept_text(name)}" for name in entry.swept)
    return f" at {swept}" if swept else ""
