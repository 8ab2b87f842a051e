"""Several policies on the same tasks, with the same seeds, in one or several versions of the environment."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from maml_rl.agents.agent import MetaPolicy
from maml_rl.analysis.evaluation import Evaluation, evaluate, failed_note, origin_of, plain_task
from maml_rl.analysis.statistics import (
    FEW_RUNS,
    Difference,
    Over,
    difference,
    mean_interval,
    mean_of_valid,
    written,
)
from maml_rl.errors import UserError
from maml_rl.settings.drawn_tasks import Task
from maml_rl.settings.env import EnvConfig
from maml_rl.system.atomic_files import unwritable_refused, write_whole
from maml_rl.system.untrusted_files import LONGEST_TABLE, read_json

META_TRAINED = "meta-trained"
"""What runs of one configuration are called beside baselines."""


@dataclass(frozen=True)
class Subject:
    """A policy to evaluate.

    Args:
        label: what it is called; subjects of one label are runs of one method with different seeds.
        source: the folder that it comes from.
        policy: to adapt.
        num_steps: inner steps to take.
    """

    label: str
    source: Path
    policy: MetaPolicy
    num_steps: int


@dataclass(frozen=True)
class Condition:
    """A version of the environment.

    Args:
        env_of: the environment for a policy, which may be told the task.
        swept: the numbers of a task that a sweep fixes, by name; empty for the environment as it
            is.
        fixed: those of them that replace the numbers of each task; the others are in the
            environment's settings.
    """

    env_of: Callable[[MetaPolicy], EnvConfig]
    swept: Mapping[str, float] = field(default_factory=dict)
    fixed: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """The evaluations of one method in one condition.

    Args:
        label: of the method.
        sources: S folders, one per run.
        evaluations: S, all on the same N tasks.
        swept: as in :class:`Condition`.
    """

    label: str
    sources: tuple[Path, ...]
    evaluations: tuple[Evaluation, ...]
    swept: Mapping[str, float]

    @property
    def name(self) -> str:
        """The label, and how many runs there are where there are several."""
        return (
            self.label
            if len(self.evaluations) == 1
            else f"{self.label} ({len(self.evaluations)} runs)"
        )

    @property
    def task_returns(self) -> np.ndarray:
        """Return on each task, the mean over runs, (K + 1, N); NaN from where it failed in any of them on."""
        return np.mean([evaluation.task_returns for evaluation in self.evaluations], axis=0)

    @property
    def success(self) -> np.ndarray:
        """Share of episodes that ended in success, (K + 1,); NaN where the environment does not tell."""
        return mean_of_valid(
            np.stack([evaluation.task_success for evaluation in self.evaluations]), (0, 2)
        )

    @property
    def num_failed_tasks(self) -> int:
        """Tasks that failed in any run, and are left out from there on."""
        return int(np.any([evaluation.failed for evaluation in self.evaluations], axis=0).sum())

    @property
    def num_episodes(self) -> np.ndarray:
        """Episodes of a task that adaptation has used after each step, (K + 1,)."""
        return np.arange(len(self.center)) * self.evaluations[0].returns.shape[2]

    @property
    def shown_step(self) -> int:
        """The step that pictures call after adaptation: as many as in training, and the last one without training."""
        last = len(self.evaluations[0].returns) - 1
        return min(last, self.evaluations[0].description["num_steps_in_training"] or last)

    @property
    def run_returns(self) -> np.ndarray:
        """Return of each run, mean over the tasks that failed in none of them, (S, K + 1)."""
        failed = np.isnan(self.task_returns)
        return mean_of_valid(np.where(failed, np.nan, self._scores), 2)

    @property
    def center(self) -> np.ndarray:
        """Mean over tasks, and over runs where there are several, (K + 1,)."""
        return mean_of_valid(self.task_returns, 1)

    @property
    def over(self) -> Over:
        """What :attr:`interval` is over."""
        return "tasks" if len(self.evaluations) == 1 else "runs"

    @property
    def interval(self) -> np.ndarray:
        """95 % interval of :attr:`center`, (K + 1, 2); of several runs that on just these tasks."""
        return mean_interval(self.task_returns if self.over == "tasks" else self.run_returns.T)

    def minus(self, other: Entry) -> list[Difference]:
        """The difference to another method after each step, K + 1 of them.

        A method that has fewer steps, as an oracle has none, is taken after its last one.
        """
        return [
            difference(scores, other._scores[:, min(k, len(other.center) - 1)])
            for k, scores in enumerate(self._scores.swapaxes(0, 1))
        ]

    @property
    def _scores(self) -> np.ndarray:
        """(S, K + 1, N)."""
        return np.stack([evaluation.task_returns for evaluation in self.evaluations])


@dataclass(frozen=True)
class Scratch:
    """Learning from scratch on some of the tasks.

    Args:
        label: of the method.
        source: the file that it comes from.
        tasks: which of the comparison's tasks, n of them.
        num_env_steps: control steps behind each of P points.
        returns: (n, P).
    """

    label: str
    source: Path
    tasks: tuple[int, ...]
    num_env_steps: np.ndarray
    returns: np.ndarray

    @classmethod
    def read(cls, path: Path, tasks: Sequence[Mapping[str, Any]]) -> Scratch | None:
        """The learning curves that ``python -m maml_rl.baselines`` wrote, of those ``tasks`` that it trained on.

        ``None`` where it trained on none of them.

        Raises:
            UserError: the file is damaged.
        """
        try:
            curves = read_json(path, LONGEST_TABLE)["tasks"]
            found = [
                (list(tasks).index(curve["task"]), curve)
                for curve in curves
                if curve["task"] in tasks
            ]
            steps = np.array([curve["num_env_steps"] for _, curve in found], float)
            returns = np.array([curve["returns"] for _, curve in found], float)
            if found and not (
                steps.ndim == 2
                and steps.shape == returns.shape
                and steps.size
                and (steps >= 0).all()
            ):
                raise ValueError(
                    f"num_env_steps {steps.shape} and returns {returns.shape} are no learning "
                    f"curves"
                )
            if not (np.isfinite(steps).all() and np.isfinite(returns).all()):
                raise ValueError("a learning curve is not finite")
        except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
            raise UserError(
                f"{path} cannot be read ({error!r}): delete it and train the baseline anew"
            ) from error
        if not found:
            return None
        return cls("PPO from scratch", path, tuple(i for i, _ in found), steps[0], returns)


@dataclass(frozen=True)
class Comparison:
    """What an evaluation found.

    Args:
        entries: methods in the environment as it is, then in every version of a sweep.
        scratch: learning from scratch on some of the tasks, in the environment as it is.
    """

    entries: Sequence[Entry]
    scratch: Scratch | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """Of the evaluation, plain values; ``task_units`` are those of every parameter that a task here has."""
        described = [entry.evaluations[0].description for entry in self.entries]
        names = ("env", "env_settings", "horizon", "num_tasks", "num_episodes", "seed")
        units: dict[str, str] = {}
        for part in described:
            units |= part["task_units"]
        return {name: described[0][name] for name in names} | {"task_units": units}

    @property
    def kind_of_tasks(self) -> str:
        """Whether they are fresh, or given."""
        return (
            "given"
            if self.entries[0].evaluations[0].description.get("tasks_are_given")
            else "fresh"
        )

    @property
    def main(self) -> list[Entry]:
        """The methods in the environment as it is."""
        return [entry for entry in self.entries if not entry.swept]

    def sweep(self, *names: str) -> list[Entry]:
        """Every entry in which just these parameters are swept."""
        return [entry for entry in self.entries if entry.swept and set(entry.swept) == set(names)]

    @property
    def sweeps(self) -> list[tuple[str, ...]]:
        """The parameters of each sweep: one of them, or two where a grid was evaluated."""
        return list(dict.fromkeys(tuple(entry.swept) for entry in self.entries if entry.swept))

    @property
    def differences(self) -> list[tuple[Entry, Entry, list[Difference]]]:
        """The first method and each other one in the environment as it is, and how they differ."""
        first, *others = self.main
        return [(first, other, first.minus(other)) for other in others]

    def table(self) -> str:
        """Returns after each step as text: a row per method, and for the versions of a sweep one per version."""
        lines = []
        for names in [(), *self.sweeps]:
            entries = self.main if not names else self.sweep(*names)
            rows = [row for entry in entries for row in _rows(entry)]
            head = [*names, "policy", "steps", "return", "95 % interval", "over", "success"]
            if all(row[-1] == "–" for row in rows):
                head, rows = head[:-1], [row[:-1] for row in rows]
            lines += [*_aligned([head, *rows]), *run_notes(entries), *failed_notes(entries), ""]
        if self.differences:
            k = self.main[0].shown_step
            head = ["difference", "steps", "return", "95 % interval", "over"]
            rows = [[*head, "probability of improvement"]]
            for first, second, steps in self.differences:
                mean, interval, over, probability = steps[k]
                name = f"{first.name} − {second.name}"
                share = "–" if np.isnan(probability) else f"{probability:.2f}"
                numbers = f"{mean:.1f}", written(interval), over, share
                rows.append([name, str(k), *numbers])
            lines += [*_aligned(rows), ""]
        if self.scratch is not None:
            learned = self.scratch_rows()
            width = max(len(name) for name, _, _ in learned)
            lines += [
                f"on {len(self.scratch.tasks)} of these tasks, return after so many control steps "
                f"in each:"
            ]
            lines += [
                f"{name:>{width}}  {steps:>9,}  {value:.1f}" for name, steps, value in learned
            ]
        return "\n".join(lines).rstrip()

    def scratch_rows(self) -> list[tuple[str, int, float]]:
        """Methods on the tasks that were also learned from scratch: name, control steps in each, mean return."""
        assert self.scratch is not None, "asked for where there is some"
        tasks, scratch, found = list(self.scratch.tasks), self.scratch, []
        for entry in self.main:
            k = entry.shown_step if len(entry.center) > 1 else 0
            used = int(entry.num_episodes[k]) * self.settings["horizon"]
            found.append((entry.name, used, float(mean_of_valid(entry.task_returns[k, tasks], 0))))
        points = range(0, len(scratch.num_env_steps), max(1, (len(scratch.num_env_steps) - 1) // 5))
        returns = scratch.returns.mean(axis=0)
        return found + [
            (scratch.label, int(scratch.num_env_steps[p]), float(returns[p])) for p in points
        ]


def run_notes(entries: Sequence[Entry]) -> list[str]:
    """A line with the return of each run, for each entry of a few runs: their interval is wide."""
    notes = []
    for entry in entries:
        if 1 < len(entry.evaluations) <= FEW_RUNS:
            k = entry.shown_step
            returns = ", ".join(f"{value:.1f}" for value in entry.run_returns[:, k])
            after = f"after {k} step{'s' * (k != 1)}"
            notes.append(f"{entry.name}{_version(entry)}, each run {after}: {returns}")
    return notes


def failed_notes(entries: Sequence[Entry]) -> list[str]:
    """A line for each entry whose means leave tasks out."""
    notes = []
    for entry in entries:
        found = failed_note(entry.num_failed_tasks, len(entry.evaluations[0].tasks))
        notes += [f"{entry.name}{_version(entry)}: {note}" for note in found]
    return notes


def _version(entry: Entry) -> str:
    return "".join(f" at {name} {value:.4g}" for name, value in entry.swept.items())


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of a table as lines of text."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.rjust(n) for cell, n in zip(row, widths, strict=True)) for row in rows]


def _rows(entry: Entry) -> list[list[str]]:
    swept = [f"{value:.4g}" for value in entry.swept.values()]
    success = ["–" if np.isnan(share) else f"{100 * share:.0f} %" for share in entry.success]
    rows = []
    for k, center in enumerate(entry.center):
        interval = written(entry.interval[k])
        rows.append([*swept, entry.name, str(k), f"{center:.1f}", interval, entry.over, success[k]])
    return rows


def compare(
    subjects: Sequence[Subject],
    conditions: Sequence[Condition],
    *,
    num_tasks: int,
    num_episodes: int,
    seed: int,
    tasks: Sequence[Task] | None = None,
    unfinished: Path | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Comparison:
    """Evaluate every policy in every condition, on the same tasks with the same seeds.

    A policy that is told the task is left out of sweeps: it knows no task by other parameters than
    those it was trained on.

    Args:
        subjects: the policies; those of one label must be adapted by equally many steps.
        conditions: the environments.
        num_tasks: fresh tasks, or those that are given.
        num_episodes: per task and adaptation step.
        seed: of tasks and episodes.
        tasks: in place of fresh ones.
        unfinished: folder that keeps what is done if this is interrupted, so that the next call
            goes on there.
        progress: told after every evaluation which one it was.

    Raises:
        UserError: the policies do not see the same tasks.
    """
    labels = list(dict.fromkeys(subject.label for subject in subjects))
    entries = []
    for condition in conditions:
        found: dict[str, list[Evaluation]] = {label: [] for label in labels}
        for subject in subjects:
            env = condition.env_of(subject.policy)
            if condition.swept and env.observe_task:
                continue
            sizes = {
                "num_tasks": num_tasks,
                "num_episodes": num_episodes,
                "num_steps": subject.num_steps,
                "seed": seed,
            }
            swept = ", ".join(f"{name}={value:g}" for name, value in condition.swept.items())
            found[subject.label].append(
                _evaluated(subject.policy, env, sizes, tasks, unfinished, condition.fixed)
            )
            progress(f"{subject.label}{' at ' if swept else ''}{swept}")
        evaluations = [evaluation for several in found.values() for evaluation in several]
        if any(list(evaluation.tasks) != list(evaluations[0].tasks) for evaluation in evaluations):
            raise UserError(
                "the runs draw different tasks: compare runs of one environment with the same "
                "settings"
            )
        entries += [
            Entry(
                label,
                tuple(s.source for s in subjects if s.label == label),
                tuple(several),
                condition.swept,
            )
            for label, several in found.items()
            if several
        ]
    return Comparison(entries)


def _evaluated(
    policy: MetaPolicy,
    env: EnvConfig,
    sizes: Mapping[str, int],
    tasks: Sequence[Task] | None,
    unfinished: Path | None,
    fixed: Mapping[str, float] | None = None,
) -> Evaluation:
    """An evaluation, read from ``unfinished`` if it was made there already."""
    drawn = (
        dict(sizes)
        if tasks is None
        else {name: size for name, size in sizes.items() if name != "num_tasks"}
    )
    if unfinished is None:
        return evaluate(policy, env=env, tasks=tasks, fixed=fixed, **drawn)
    digest = hashlib.sha256()
    for name, value in sorted(policy.theta.items()):
        digest.update(
            f"{name} {tuple(value.shape)}".encode() + value.cpu().contiguous().numpy().tobytes()
        )
    for value in policy.normalizer or ():
        digest.update(value.cpu().contiguous().numpy().tobytes())
    inner = dataclasses.asdict(policy.config.inner)
    baseline = dataclasses.asdict(policy.config.baseline)
    given = None if tasks is None else [plain_task(task, env.name) for task in tasks]
    settings = [
        dataclasses.asdict(env),
        dict(sizes),
        given,
        dict(fixed or {}),
        inner,
        baseline,
        policy.config.horizon,
    ]
    digest.update(json.dumps(settings).encode())
    path = unfinished / f"{digest.hexdigest()}.json"
    if path.exists():
        try:
            return _evaluation_of(read_json(path, LONGEST_TABLE), policy, env, sizes)
        except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
            raise UserError(
                f"{path} of an interrupted evaluation is damaged ({error}): delete it"
            ) from error
    result = evaluate(policy, env=env, tasks=tasks, fixed=fixed, **drawn)
    values = {
        "tasks": [dict(task) for task in result.tasks],
        "returns": result.returns.tolist(),
        "success": result.success.tolist(),
        "description": result.description,
    }
    with unwritable_refused(unfinished):
        unfinished.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(values))
    return result


def _evaluation_of(
    values: Any, policy: MetaPolicy, env: EnvConfig, sizes: Mapping[str, int]
) -> Evaluation:
    """An evaluation from what its file holds.

    Raises:
        KeyError, TypeError, ValueError, OverflowError: it holds something else.
    """
    tasks, description = values["tasks"], values["description"]
    is_list = isinstance(tasks, list) and len(tasks) == sizes["num_tasks"]
    if not (is_list and all(isinstance(task, dict) for task in tasks)):
        raise ValueError(f"tasks must be {sizes['num_tasks']} mappings")
    shape = (sizes["num_steps"] + 1, sizes["num_tasks"], sizes["num_episodes"])
    with np.errstate(over="ignore"):  # told below
        arrays = {
            name: np.array(values[name], float).astype(np.float32)
            for name in ("returns", "success")
        }
    for name, array in arrays.items():
        if array.shape != shape:
            raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
        if np.isinf(array).any():
            raise ValueError(f"{name} has an infinite number")
    wanted = {
        **{name: sizes[name] for name in ("num_tasks", "num_episodes", "seed")},
        **{"env": policy.config.env.name, "horizon": policy.config.horizon},
        **{"env_settings": json.loads(json.dumps(dict(env.kwargs)))},
        **{"num_steps_in_training": policy.config.inner.num_steps},
    }
    for name, value in wanted.items():
        if description[name] != value:
            raise ValueError(f"its {name} is {description[name]!r:.100}, expected {value!r:.100}")
    units = description["task_units"]
    if not (isinstance(units, dict) and all(isinstance(unit, str) for unit in units.values())):
        raise ValueError(f"task_units must be texts by name, got {units!r:.100}")
    # The file is found by its parameters, and another run may have the same ones.
    return Evaluation(tasks, arrays["returns"], arrays["success"], description | origin_of(policy))
