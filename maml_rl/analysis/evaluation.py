"""How fast does a policy adapt? Returns after 0, 1, ... K inner steps on tasks drawn afresh."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from maml_rl.agents.agent import MetaPolicy
from maml_rl.analysis.statistics import mean_interval, mean_of_valid, written
from maml_rl.errors import UserError, did_you_mean
from maml_rl.learners.trials import collect_through_adaptation, sample_tasks
from maml_rl.sampling.collector import Collector
from maml_rl.sampling.environments import as_task_vector_env
from maml_rl.sampling.episodes import success_of_all
from maml_rl.settings.drawn_tasks import Task
from maml_rl.settings.env import EnvConfig, is_family
from maml_rl.settings.ranges import check_integers
from maml_rl.system.random_streams import Phase, RandomStreams
from maml_rl.system.safe_yaml import check_types, plain_values
from maml_rl.system.torch_runtime import standard_torch, torch_threads

NUM_TASKS = 40
"""Tasks that an evaluation draws by default."""


@dataclass(frozen=True)
class Evaluation:
    """Undiscounted returns of N tasks after each adaptation step.

    Args:
        tasks: N of them.
        returns: (K + 1, N, E): after step k, task i, episode j; NaN for void episodes, and for all
            of a task from where it failed on.
        success: (K + 1, N, E): 1 where the episode ended in success, else 0; NaN as above, and
            where the environment reports none in any episode.
        description: what was evaluated, for the files: plain values.
    """

    tasks: Sequence[Task]
    returns: np.ndarray
    success: np.ndarray
    description: dict[str, Any]

    @property
    def task_returns(self) -> np.ndarray:
        """Mean over each task's episodes, (K + 1, N); NaN from where a task failed on."""
        return mean_of_valid(self.returns, 2)

    @property
    def mean(self) -> np.ndarray:
        """Mean over the tasks that had not failed after each step, (K + 1,)."""
        return mean_of_valid(self.task_returns, 1)

    @property
    def interval(self) -> np.ndarray:
        """95 % interval of the mean over tasks after each step, (K + 1, 2); see :mod:`maml_rl.analysis.statistics`."""
        return mean_interval(self.task_returns)

    @property
    def task_success(self) -> np.ndarray:
        """Share of each task's episodes that ended in success, (K + 1, N); NaN where the environment does not tell."""
        return mean_of_valid(self.success.astype(np.float64), 2)

    @property
    def num_void_episodes(self) -> int:
        """Episodes that are left out: void ones, and those of failed tasks."""
        return int(np.isnan(self.returns).sum())

    @property
    def failed(self) -> np.ndarray:
        """Whether each task failed before the last step, (N,) bool."""
        return np.isnan(self.task_returns).any(axis=0)

    def table(self) -> str:
        """The result as text."""
        rows = [["steps", "return", "95 % interval over tasks", "std over tasks", "success"]]
        success = mean_of_valid(self.task_success, 1)
        for k, (mean, interval) in enumerate(zip(self.mean, self.interval, strict=True)):
            spread = np.nanstd(self.task_returns[k])
            rows.append(
                [
                    str(k),
                    f"{mean:.1f}",
                    written(interval),
                    f"{spread:.1f}",
                    f"{100 * success[k]:.0f} %",
                ]
            )
        if np.isnan(success).all():
            rows = [row[:-1] for row in rows]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = [
            "  ".join(cell.rjust(n) for cell, n in zip(row, widths, strict=True)) for row in rows
        ]
        return "\n".join([*lines, *failed_note(int(self.failed.sum()), len(self.tasks))])


def failed_note(num_failed: int, num_tasks: int) -> list[str]:
    """What to say beside means that leave tasks out: one line, or none."""
    return (
        [f"{num_failed} of {num_tasks} tasks failed and are left out from there on"]
        if num_failed
        else []
    )


def evaluate_with(
    collector: Collector,
    policy: MetaPolicy,
    num_steps: int,
    streams: RandomStreams,
    env_settings: Mapping[str, object] | None = None,
    tasks: Sequence[Task] | None = None,
    fixed: Mapping[str, float] | None = None,
) -> Evaluation:
    """Evaluate on T tasks, as many as the collector plays.

    Args:
        collector: plays T tasks, E episodes each.
        policy: what to adapt.
        num_steps: K; each step uses fresh episodes, and they are also what the return after step k
            is measured on.
        streams: of tasks and episodes.
        env_settings: arguments of the collector's environment, for the description; default is the
            policy's own.
        tasks: default is to draw fresh ones.
        fixed: numbers that replace those of every task, by name.

    Raises:
        UserError: a task cannot be written, or has no number of such a name.
        TooManyFailures: more than ``max_failed_share`` of the episodes are void, or of the tasks
            failed.
    """
    env_settings = policy.config.env.kwargs if env_settings is None else env_settings
    first, is_given = collector.first_task, tasks is not None
    tasks = (
        sample_tasks(collector, streams)[first : first + collector.num_tasks]
        if tasks is None
        else tasks
    )
    tasks = [with_fixed(task, fixed or {}, policy.config.env.name) for task in tasks]
    plain_tasks = [
        plain_task(task, policy.config.env.name) for task in tasks
    ]  # refuses before anything is played
    inner = replace(policy.config.inner, num_steps=num_steps)
    episodes, _, failures = collect_through_adaptation(
        collector,
        policy.theta,
        tasks,
        inner,
        policy.config.baseline,
        streams=streams,
        normalizer=policy.normalizer,
    )
    failures.check(policy.config.max_failed_share, "the evaluation")
    returns = torch.stack([collected.returns for collected in episodes])
    success = success_of_all(torch.stack([collected.success for collected in episodes]), returns)
    units = getattr(collector.env, "task_units", {})
    description = {
        "env": policy.config.env.name,
        "env_settings": dict(env_settings),
        "num_tasks": collector.num_tasks,
        "num_episodes": collector.num_episodes,
        "horizon": collector.horizon,
        "num_steps_in_training": policy.config.inner.num_steps,
        "step_size": list(inner.test_step_sizes) or inner.step_size,
        "seed": streams.seed,
        **origin_of(policy),
        "task_units": {name: units[name] for name in tasks[0] if name in units},
        **({"tasks_are_given": True} if is_given else {}),
    }
    return Evaluation(plain_tasks, returns.cpu().numpy(), success.cpu().numpy(), description)


def origin_of(policy: MetaPolicy) -> dict[str, int | None]:
    """Seed and length of the training that a policy comes from, as a description has them."""
    return {"training_seed": policy.config.seed, "num_iterations": policy.num_iterations}


def with_fixed(task: Task, fixed: Mapping[str, float], env_name: str) -> Task:
    """``task`` with other numbers; an integer stays one where the number in its place is one too.

    Raises:
        UserError: the task has no number of such a name.
    """
    changed = dict(task)
    for name, value in fixed.items():
        old = task.get(name)
        if not isinstance(old, (int, float, np.integer, np.floating)) or isinstance(old, bool):
            numbers = [
                key for key, entry in plain_values(task).items() if type(entry) in (int, float)
            ]
            valid = f"Valid are {', '.join(numbers)}." if numbers else "Its tasks hold none."
            raise UserError(
                f"a task of {env_name} has no number {name!r}.{did_you_mean(name, numbers)} {valid}"
            )
        is_whole = isinstance(old, (int, np.integer)) and float(value).is_integer()
        changed[name] = int(value) if is_whole else value
    return changed if fixed else task


def plain_task(task: Task, env_name: str) -> dict[str, Any]:
    """A task as results hold it: plain values, with NumPy's numbers and arrays as numbers and lists.

    Args:
        task: as an environment draws it, or as it was given.
        env_name: what the user calls the environment.

    Raises:
        UserError: it holds something that no file can.
    """
    plain: dict[str, Any] = plain_values(task)
    check_types(plain, f"a task of environment {env_name!r}: task")
    return plain


def held_out(env: EnvConfig) -> EnvConfig:
    """The environment on tasks that training did not draw, where a task family keeps some back by its ``split``."""
    keeps_back = is_family(env.name) and env.kwargs.get("split") == "train"
    return replace(env, kwargs={**env.kwargs, "split": "held_out"}) if keeps_back else env


def fresh_tasks(policy: MetaPolicy, seed: int, num_tasks: int = NUM_TASKS) -> list[Task]:
    """The tasks that :func:`evaluate` draws by default, as the environment draws them.

    Args:
        policy: of whose environment.
        seed: of the tasks.
        num_tasks: that are drawn at once, which what a family draws may depend on.

    Raises:
        UserError: the environment cannot be used.
    """
    with as_task_vector_env(None, held_out(policy.config.env), 1, policy.config.horizon) as envs:
        envs.np_random = RandomStreams(seed, Phase.EVALUATION).tasks()
        return list(envs.sample_tasks(num_tasks))


@standard_torch()
def evaluate(
    policy: MetaPolicy,
    *,
    env: EnvConfig | None = None,
    tasks: Sequence[Task] | None = None,
    num_tasks: int | None = None,
    num_episodes: int = 20,
    num_steps: int = 3,
    seed: int = 0,
    fixed: Mapping[str, float] | None = None,
) -> Evaluation:
    """Evaluate a policy on fresh tasks, or on tasks of your choice.

    Args:
        policy: what to adapt.
        env: where, as ``maml_rl.load_config(env={"name": ..., "low": ..., "dynamics": {...}}).env``
            says it; default is the policy's own environment, on its held-out tasks where the family
            keeps some back.
        tasks: each a mapping such as ``{"goal_velocity": 1.5}``; default is to draw ``num_tasks``
            of them.
        num_tasks: tasks to draw; default is 40.
        num_episodes: per task and adaptation step.
        num_steps: inner steps.
        seed: of tasks and episodes.
        fixed: numbers that replace those of every task, as ``{"goal_velocity": 1.5}``; default is
            none.

    Raises:
        UserError: an argument is none, or the environment cannot be used.
    """
    if not isinstance(policy, MetaPolicy):
        raise UserError(
            f"evaluate takes a policy, as maml_rl.load(run) gives one; got {policy!r:.100}"
        )
    if tasks is not None:
        if num_tasks is not None:
            raise UserError(
                f"give tasks or num_tasks, got both: {tasks!r:.100} and num_tasks {num_tasks}"
            )
        if (
            not isinstance(tasks, Sequence)
            or not tasks
            or not all(isinstance(task, Mapping) for task in tasks)
        ):
            raise UserError(
                f"tasks must be a list of at least one task, each a mapping, got {tasks!r:.100}"
            )
    num_tasks = len(tasks) if tasks is not None else NUM_TASKS if num_tasks is None else num_tasks
    check_integers(1, num_tasks=num_tasks, num_episodes=num_episodes)
    check_integers(0, num_steps=num_steps, seed=seed)
    horizon, streams = policy.config.horizon, RandomStreams(seed, Phase.EVALUATION)
    config = held_out(policy.config.env) if env is None else env
    num_envs = num_tasks * num_episodes
    threads = torch_threads(policy.config.torch_threads)
    with threads, as_task_vector_env(None, config, num_envs, horizon, num_tasks=num_tasks) as envs:
        policy.check_spaces(envs.single_observation_space, envs.single_action_space)
        collector = Collector(
            envs, policy.policy, num_tasks, num_episodes, horizon, policy.action_map, policy.device
        )
        return evaluate_with(collector, policy, num_steps, streams, config.kwargs, tasks, fixed)
