"""Trials: play a batch of tasks in stages, and update the belief about each between stages.

Training, evaluation, recording and ``Agent.adapt`` share :func:`play_trials`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from maml_rl.errors import UserError
from maml_rl.learners.base import Belief, Learner, LearnerState
from maml_rl.learners.checks import check_belief
from maml_rl.sampling.collector import Collector
from maml_rl.sampling.episodes import Episodes
from maml_rl.sampling.failures import (
    BASELINE,
    INNER_STEP,
    NO_EPISODE,
    FailedTasks,
    Failure,
    TooManyFailures,
    TrialFailures,
    example,
)
from maml_rl.settings.drawn_tasks import Task
from maml_rl.system.distributed import Ranks
from maml_rl.system.random_streams import RandomStreams
from maml_rl.system.stopwatch import Stopwatch


class Trial(NamedTuple):
    """Episodes and beliefs of every stage, for T tasks.

    A task fails if it has no valid episode, if its advantages are not finite, or if its update is
    not. From then on it keeps its belief, and its episodes are discarded.
    """

    episodes: list[Episodes]
    """Episodes played after 0, 1, ... updates, with advantages."""
    beliefs: list[Belief]
    """The belief after 0, 1, ... updates, each (T, ...)."""
    failed_tasks: FailedTasks
    """Which tasks failed, where and why."""
    first_stage: int
    """Number of updates before the first stage."""

    @property
    def valid_tasks(self) -> Tensor:
        """Indices of the tasks that did not fail."""
        return (~self.failed_tasks.mask).nonzero()[:, 0]

    @property
    def valid_episodes(self) -> list[Episodes]:
        """Episodes of every stage, of the tasks that did not fail."""
        valid = self.valid_tasks
        return [stage.chosen(valid) for stage in self.episodes]

    @property
    def failures(self) -> TrialFailures:
        """Causes of the failures of episodes and tasks."""
        num_tasks = len(self.failed_tasks.cause)
        cause = self.failed_tasks.cause.new_zeros((num_tasks, 0, 0))
        if self.episodes:
            cause = torch.stack([stage.cause for stage in self.episodes], dim=1)
        return TrialFailures(cause, self.failed_tasks, self.first_stage)


def sample_tasks(
    collector: Collector, streams: RandomStreams, num_tasks: int | None = None
) -> list[Task]:
    """Sample the tasks of all processes; every process samples the same list.

    Args:
        collector: its environment samples them.
        streams: of random numbers.
        num_tasks: how many; default is the number that the collectors of all processes play.

    Raises:
        UserError: if the environment does not return one mapping per task.
    """
    collector.env.np_random = streams.tasks()
    num_tasks = num_tasks or collector.meta_batch_size
    tasks = list(collector.env.sample_tasks(num_tasks))
    if len(tasks) != num_tasks or not all(isinstance(task, Mapping) for task in tasks):
        raise UserError(
            f"sample_tasks({num_tasks}) of the environment must return {num_tasks} tasks, each a "
            f"mapping from names to values such as {{'goal': 1.0}}; got {tasks!r:.200}"
        )
    return tasks


def play_trials(
    learner: Learner,
    state: LearnerState,
    collector: Collector,
    tasks: Sequence[Task] | None,
    *,
    num_adaptation_steps: int,
    streams: RandomStreams,
    belief: Belief | None = None,
    first_stage: int = 0,
    num_updates_before: int = 0,
    final_episodes: bool = True,
    deterministic: bool = False,
    watch: Stopwatch | None = None,
) -> Trial:
    """Play every task, update the belief about it, play again, and so on.

    Args:
        learner: chooses actions and updates beliefs.
        state: what it has learned.
        collector: plays T tasks.
        tasks: T of them, or ``None`` to keep the environments' tasks.
        num_adaptation_steps: updates of the belief.
        streams: of random numbers.
        belief: to begin with, (T, ...); default is the prior.
        first_stage: number of the first stage, for random streams and environments.
        num_updates_before: updates that led to ``belief``, in addition to ``first_stage``.
        final_episodes: whether to play once more after the last update.
        deterministic: whether to play the most probable actions, in all stages.
        watch: records the times ``collection``, ``advantages`` and ``adaptation``.
    """
    watch = watch or Stopwatch()
    if tasks is not None:
        collector.set_tasks(tasks)
    beliefs = [learner.prior(state, collector.num_tasks) if belief is None else belief]
    episodes: list[Episodes] = []
    failed = FailedTasks.none_of(collector.num_tasks, collector.device)
    last_stage = first_stage + num_adaptation_steps
    for stage in range(first_stage, last_stage + final_episodes):
        # Play every task with its own belief.
        noise = None
        if not deterministic:
            noise = collector.noise(
                learner.draw_noise, streams, stage, learner.draw_noise_on_device
            )
        actor = learner.actor(state, beliefs[-1], noise)
        collected = collector.collect(actor, streams, stage)
        watch.lap("collection")
        # Compute advantages; exclude tasks without valid ones.
        usable, failed = usable_episodes(learner, collected, stage, failed)
        episodes.append(usable)
        watch.lap("advantages")
        # Update, and restore failed tasks; the final episodes are only played.
        if stage < last_stage:
            updated = learner.update(state, beliefs[-1], usable, num_updates_before + stage)
            updated, failed = contained_update(beliefs[-1], updated, stage, failed)
            beliefs.append(updated)
            watch.lap("adaptation")
    return Trial(episodes, beliefs, failed, first_stage)


def play_most_probable(
    learner: Learner,
    state: LearnerState,
    collector: Collector,
    trial: Trial,
    streams: RandomStreams,
) -> Trial:
    """Play every stage of a trial with the most probable actions, and update nothing.

    A stage starts from the same belief and initial states as that of the trial. A task that has
    failed before it is excluded.

    Args:
        learner: see :func:`play_trials`.
        state: see :func:`play_trials`.
        collector: still has the tasks of the trial.
        trial: its beliefs are played.
        streams: those of the trial.

    Returns:
        The trial with the new episodes, one stage for each belief, without advantages.
    """
    failed = trial.failed_tasks
    episodes = []
    for stage, belief in enumerate(trial.beliefs, trial.first_stage):
        played = collector.collect(learner.actor(state, belief, None), streams, stage)
        episodes.append(played.without(failed.mask & (failed.stage < stage)))
    return trial._replace(episodes=episodes)


def usable_episodes(
    learner: Learner, collected: Episodes, stage: int, failed: FailedTasks
) -> tuple[Episodes, FailedTasks]:
    """Compute advantages, and discard the episodes of failed tasks.

    Args:
        learner: computes the advantages.
        collected: episodes of T tasks.
        stage: number of updates so far.
        failed: tasks that have failed so far.

    Returns:
        The episodes with advantages, and ``failed`` with the newly failed tasks.
    """
    failed = failed.with_failed(collected.num_steps == 0, NO_EPISODE, stage)
    episodes = learner.with_advantages(collected)
    if not isinstance(episodes, Episodes):
        raise UserError(
            f"with_advantages of a learner must return Episodes, got {type(episodes).__name__}"
        )
    is_fitted = (episodes.advantages + episodes.inner_advantages).isfinite().flatten(1).all(-1)
    failed = failed.with_failed(~is_fitted, BASELINE, stage)
    if failed.mask.any():
        episodes = episodes.without(failed.mask)
    return episodes, failed


def contained_update(
    belief: Belief, updated: Belief, stage: int, failed: FailedTasks
) -> tuple[Belief, FailedTasks]:
    """Keep the old belief about failed tasks, and about tasks whose update is not finite.

    Args:
        belief: before the update, each (T, ...).
        updated: after it.
        stage: number of updates so far.
        failed: tasks that have failed so far.

    Returns:
        The belief, and ``failed`` with the newly failed tasks.

    Raises:
        UserError: if ``updated`` does not have the names, shapes and types of ``belief``.
    """
    check_belief(updated, belief)
    finite = torch.stack(
        [value.isfinite().reshape(len(value), -1).all(1) for value in updated.values()]
    ).all(0)
    failed = failed.with_failed(~finite, INNER_STEP, stage)
    if not failed.mask.any():
        return updated, failed
    # Restore the belief about failed tasks.
    kept = {}
    for name, value in updated.items():
        is_failed = failed.mask.reshape(-1, *[1] * (value.dim() - 1))
        kept[name] = torch.where(is_failed, belief[name], value)
    return kept, failed


class TrainingTrial(NamedTuple):
    """The trial of a training iteration, in which not too much has failed."""

    trial: Trial
    """Of this process."""
    failures: TrialFailures
    """Of all processes."""
    rows: list[Failure]
    """Rows of failures.csv, of all processes."""
    tasks: Sequence[Task]
    """Of this process."""


def training_trial(
    learner: Learner,
    state: LearnerState,
    collector: Collector,
    *,
    num_adaptation_steps: int,
    streams: RandomStreams,
    ranks: Ranks,
    max_failed_share: float,
    tasks: Sequence[Task] | None = None,
    belief: Belief | None = None,
    watch: Stopwatch | None = None,
) -> TrainingTrial:
    """Sample tasks, and play the trials of this process.

    Args:
        learner: see :func:`play_trials`.
        state: see :func:`play_trials`.
        collector: plays the tasks of this process.
        num_adaptation_steps: updates of the belief.
        streams: of random numbers, for this iteration.
        ranks: the processes that share the tasks.
        max_failed_share: largest share of discarded episodes, and of failed tasks, to tolerate.
        tasks: of all processes, instead of sampled ones.
        belief: about the tasks of this process; see :func:`play_trials`.
        watch: see :func:`play_trials`.

    Raises:
        TooManyFailures: if a larger share failed, or all tasks of one process.
    """
    tasks = sample_tasks(collector, streams) if tasks is None else tasks
    played_tasks = collector.of_this_process(tasks)
    trial = play_trials(
        learner,
        state,
        collector,
        played_tasks,
        num_adaptation_steps=num_adaptation_steps,
        streams=streams,
        belief=belief,
        watch=watch,
    )
    failures = trial.failures.gathered(ranks)
    rows = failures.rows(tasks)
    # Every process needs a task to learn from.
    if ranks.number > 1:
        has_no_task = trial.failed_tasks.mask.all()[None]
        if float(ranks.sum(has_no_task)) > 0:
            number = ranks.number
            raise TooManyFailures(
                f"all tasks of one of {number} processes failed: {example(rows)}", rows
            )
    failures.check(rows, max_failed_share, f"meta-iteration {streams.iteration + 1}")
    collector.check_stop()
    return TrainingTrial(trial, failures, rows, played_tasks)
