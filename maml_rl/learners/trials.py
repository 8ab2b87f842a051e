"""Trials: play a batch of tasks in stages, and update the parameters between stages.

Training, evaluation and ``MetaPolicy.adapt`` share this module. The learner supplies the update.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch

from maml_rl.errors import UserError
from maml_rl.learners.advantages import with_advantages
from maml_rl.policies.normalizer import ObservationNormalizer
from maml_rl.policies.parameters import Params
from maml_rl.sampling.collector import Collector
from maml_rl.sampling.episodes import Episodes
from maml_rl.sampling.failures import BASELINE, INNER_STEP, NO_EPISODE, FailedTasks, TrialFailures
from maml_rl.settings.drawn_tasks import Task
from maml_rl.settings.learners import BaselineConfig
from maml_rl.system.random_streams import RandomStreams
from maml_rl.system.stopwatch import Stopwatch

Update = Callable[[Params, Episodes, int], Params]
"""(stack, episodes with advantages, number of updates so far) -> the updated stack.

Non-finite parameters of a task mean that it cannot be updated.
"""


class Trial(NamedTuple):
    """Episodes and parameters of every stage, for T tasks.

    A task fails if it has no valid episode, if its baseline cannot be fitted, or if its update is
    not finite. From then on it keeps its parameters, and its episodes are discarded.
    """

    episodes: list[Episodes]
    """Episodes played after 0, 1, ... updates, with advantages."""
    stacks: list[Params]
    """The parameters after 0, 1, ... updates, each (T, ...)."""
    failed_tasks: FailedTasks
    """Which tasks failed, where and why."""
    first_step: int
    """Number of updates before the first stage."""

    @property
    def failures(self) -> TrialFailures:
        """Causes of the failures of episodes and tasks."""
        num_tasks = len(self.failed_tasks.cause)
        cause = self.failed_tasks.cause.new_zeros((num_tasks, 0, 0))
        if self.episodes:
            cause = torch.stack([stage.cause for stage in self.episodes], dim=1)
        return TrialFailures(cause, self.failed_tasks, self.first_step)


def sample_tasks(collector: Collector, streams: RandomStreams) -> list[Task]:
    """Sample the tasks of all processes; every process samples the same list.

    Raises:
        UserError: if the environment does not return one mapping per task.
    """
    collector.env.np_random = streams.tasks()
    num_tasks = collector.num_tasks_of_all or collector.num_tasks
    tasks = list(collector.env.sample_tasks(num_tasks))
    if len(tasks) != num_tasks or not all(isinstance(task, Mapping) for task in tasks):
        raise UserError(
            f"sample_tasks({num_tasks}) of the environment must return {num_tasks} tasks, each a "
            f"mapping from names to values such as {{'goal': 1.0}}; got {tasks!r:.200}"
        )
    return tasks


def play_stages(
    collector: Collector,
    stack: Params,
    tasks: Sequence[Task] | None,
    update: Update,
    baseline: BaselineConfig,
    *,
    num_updates: int,
    streams: RandomStreams,
    normalizer: ObservationNormalizer | None,
    watch: Stopwatch | None = None,
    first_step: int = 0,
    final_episodes: bool = True,
) -> Trial:
    """Play every task, update its parameters, play again, and so on.

    Args:
        collector: plays T tasks.
        stack: initial parameters, each (T, ...).
        tasks: T of them, or ``None`` to keep the environments' tasks.
        update: of the parameters, between stages.
        baseline: how to turn rewards into advantages.
        num_updates: number of updates.
        streams: of random numbers.
        normalizer: of observations.
        watch: records the times ``collection``, ``advantages`` and ``adaptation``.
        first_step: number of updates that led to ``stack``; random streams continue from there.
        final_episodes: whether to play once more after the last update.
    """
    watch = watch or Stopwatch()
    if tasks is not None:
        collector.set_tasks(tasks)
    stacks: list[Params] = [stack]
    episodes: list[Episodes] = []
    failed = FailedTasks.none_of(collector.num_tasks, collector.device)
    last_step = first_step + num_updates
    for step in range(first_step, last_step + final_episodes):
        # Play every task with its own parameters.
        collected = collector.collect(stacks[-1], streams, step, normalizer)
        watch.lap("collection")
        # Compute advantages; exclude tasks without valid ones.
        support, failed = usable_episodes(collected, baseline, step, failed)
        episodes.append(support)
        watch.lap("advantages")
        # Update, and restore failed tasks; the final episodes are only played.
        if step < last_step:
            updated = update(stacks[-1], support, step)
            updated, failed = contained_update(stacks[-1], updated, step, failed)
            stacks.append(updated)
            watch.lap("adaptation")
    return Trial(episodes, stacks, failed, first_step)


def usable_episodes(
    collected: Episodes, baseline: BaselineConfig, step: int, failed: FailedTasks
) -> tuple[Episodes, FailedTasks]:
    """Compute advantages, and discard the episodes of failed tasks.

    Args:
        collected: episodes of T tasks.
        baseline: how to turn rewards into advantages.
        step: number of updates so far.
        failed: tasks that have failed so far.

    Returns:
        The episodes with advantages, and ``failed`` with the newly failed tasks.
    """
    failed = failed.with_failed(collected.num_steps == 0, NO_EPISODE, step)
    episodes = with_advantages(collected, baseline)
    is_fitted = episodes.advantages.isfinite().all(-1).all(-1)
    failed = failed.with_failed(~is_fitted, BASELINE, step)
    if failed.mask.any():
        episodes = episodes.without(failed.mask)
    return episodes, failed


def contained_update(
    stack: Params, updated: Params, step: int, failed: FailedTasks
) -> tuple[Params, FailedTasks]:
    """Keep the old parameters of failed tasks, and of tasks whose update is not finite.

    Args:
        stack: parameters before the update, each (T, ...).
        updated: parameters after it.
        step: number of updates so far.
        failed: tasks that have failed so far.

    Returns:
        The parameters, and ``failed`` with the newly failed tasks.
    """
    finite = torch.stack([value.isfinite().flatten(1).all(1) for value in updated.values()]).all(0)
    failed = failed.with_failed(~finite, INNER_STEP, step)
    if not failed.mask.any():
        return updated, failed
    # Restore the parameters of failed tasks.
    kept = {}
    for name, value in updated.items():
        is_failed = failed.mask.reshape(-1, *[1] * (value.dim() - 1))
        kept[name] = torch.where(is_failed, stack[name], value)
    return kept, failed
