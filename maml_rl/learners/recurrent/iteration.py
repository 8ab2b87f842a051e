"""The parts of an iteration on trials: play, and update by PPO.

They are those of RL², and of a teacher and its student.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from maml_rl.learners.base import Belief, LearnerState
from maml_rl.learners.iteration_result import Update
from maml_rl.learners.recurrent.batch import TrialPolicy, evaluated_trials, trial_batch
from maml_rl.learners.recurrent.learner import MemoryLearner
from maml_rl.learners.recurrent.ppo import ppo_update
from maml_rl.learners.recurrent.sequence import TrialSequence, trial_sequence
from maml_rl.learners.recurrent.value_scale import ValueScale
from maml_rl.learners.trials import TrainingTrial, training_trial
from maml_rl.sampling.collector import Collector
from maml_rl.sampling.episodes import Episodes
from maml_rl.sampling.failures import OUTER_STEP
from maml_rl.settings.drawn_tasks import Task
from maml_rl.settings.learners.trial_ppo import TrialPPOConfig
from maml_rl.system.distributed import Ranks
from maml_rl.system.random_streams import RandomStreams
from maml_rl.system.stopwatch import Stopwatch


class PlayedTrials(NamedTuple):
    """The trials of an iteration, of which N of this process did not fail."""

    played: TrainingTrial
    """All trials of this process."""
    tasks: list[Task]
    """Tasks of the N trials."""
    stages: list[Episodes]
    """Their episodes."""
    sequence: TrialSequence
    """Their steps."""
    indices: Tensor
    """(N,): their indices among the trials of all processes."""
    num_trials: int
    """Number of trials of all processes, including those that failed."""


def played_trials(
    learner: MemoryLearner,
    state: LearnerState,
    collector: Collector,
    streams: RandomStreams,
    ranks: Ranks,
    watch: Stopwatch,
    tasks: Sequence[Task] | None = None,
    belief: Belief | None = None,
) -> PlayedTrials:
    """Play a trial in each task; the arguments are those of ``training_trial``."""
    num_tasks = collector.num_tasks
    belief = learner.prior(state, num_tasks) if belief is None else belief
    played = training_trial(
        learner,
        state,
        collector,
        num_adaptation_steps=learner.num_training_stages - 1,
        streams=streams,
        ranks=ranks,
        max_failed_share=learner.max_failed_share,
        tasks=tasks,
        belief=belief,
        watch=watch,
    )
    valid = played.trial.valid_tasks
    stages = played.trial.valid_episodes
    return PlayedTrials(
        played=played,
        tasks=[played.tasks[i] for i in valid.tolist()],
        stages=stages,
        sequence=trial_sequence(stages, belief["previous"][valid], learner.player.action_head),
        indices=valid + collector.first_task,
        num_trials=collector.meta_batch_size,
    )


def updated_by_ppo(
    policy: TrialPolicy,
    state: LearnerState,
    trials: PlayedTrials,
    tasks: Tensor | None,
    config: TrialPPOConfig,
    *,
    across: bool,
    rng: np.random.Generator,
    ranks: Ranks,
    block_size: int,
    watch: Stopwatch,
) -> Update:
    """Update policy and value network by PPO, and the normaliser of observations.

    If PPO fails, only the normaliser changes.

    Args:
        policy: the architecture.
        state: its ``theta`` has played the trials.
        trials: to learn from.
        tasks: (N, task_size) if a network observes them.
        config: settings.
        across: whether credit crosses the borders of episodes.
        rng: stream that divides the trials into minibatches, the same in all processes.
        ranks: the processes.
        block_size: trials that are computed at once.
        watch: records times.
    """
    theta = state.tensors["theta"]
    # Values, advantages, and the scale of the values' targets.
    batch, scale, metrics = trial_batch(
        trials.sequence,
        tasks,
        evaluated_trials(policy, theta, trials.sequence, tasks, block_size),
        ValueScale(**state.tensors["value_scale"]),
        config,
        across,
        ranks,
    )
    watch.lap("advantages")
    # Several passes over the trials.
    counters = state.counters
    step_size = config.step_size_at(counters["iteration"], counters["num_env_steps"])
    try:
        theta, optimizer, of_update = ppo_update(
            policy,
            theta,
            dict(state.tensors["optimizer"]),
            batch,
            trials.indices,
            trials.num_trials,
            config,
            step_size,
            rng,
            ranks,
            block_size,
        )
    except FloatingPointError as error:
        update = Update({}, metrics, OUTER_STEP, str(error))
    else:
        groups = {"theta": theta, "optimizer": optimizer, "value_scale": scale._asdict()}
        update = Update(groups, {**metrics, **of_update, "update/step_size": step_size})
    if "log_std" in theta:
        update.metrics["train/policy_std"] = float(theta["log_std"].exp().mean())
    # Statistics of the observations of all processes.
    normalizer = state.normalizer
    if normalizer is not None:
        observations = [stage.real_observations for stage in trials.stages]
        updated = normalizer.updated(observations, ranks, are_normalized=True)
        update.groups["normalizer"] = updated._asdict()
    watch.lap("update")
    return update
