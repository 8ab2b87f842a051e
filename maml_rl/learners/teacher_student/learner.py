"""A teacher and a student as a learner, and its two kinds of iterations.

RMA (Kumar et al. 2021) and UP-OSI (Yu et al. 2017): a policy that observes the task is trained
first, then an estimator of what the policy knows of the task.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from maml_rl.learners.adam import initial_state as initial_adam
from maml_rl.learners.base import Belief, Iteration, Learner, LearnerState
from maml_rl.learners.failed_steps import FAILED_OUTER_STEPS, with_outer_failure
from maml_rl.learners.metrics import SamplingMetrics, failure_metrics, time_metrics
from maml_rl.learners.rl2.actor import RecurrentActor, belief_after
from maml_rl.learners.rl2.batch import evaluated_trials, trial_batch
from maml_rl.learners.rl2.ppo import ppo_update
from maml_rl.learners.rl2.sequence import TrialSequence, trial_sequence
from maml_rl.learners.rl2.trial_gradient import trials_per_block
from maml_rl.learners.rl2.value_scale import ValueScale
from maml_rl.learners.teacher_student.networks import Student, Teacher
from maml_rl.learners.teacher_student.regression import StudentBatch, student_update
from maml_rl.learners.teacher_student.window import Window
from maml_rl.learners.trials import TrainingTrial, sample_tasks, training_trial
from maml_rl.policies.action_head import ActionHead
from maml_rl.policies.action_map import ActionMap
from maml_rl.policies.mlp import vector_size
from maml_rl.policies.normalizer import ObservationNormalizer
from maml_rl.policies.parameters import Params
from maml_rl.policies.plain_network import PlainModule
from maml_rl.policies.recurrent.cell import RecurrentCell
from maml_rl.policies.recurrent.plain_module import recurrent_module
from maml_rl.sampling.actors import Memory
from maml_rl.sampling.collector import Collector
from maml_rl.sampling.environments import as_task_vector_env
from maml_rl.sampling.episodes import Episodes
from maml_rl.sampling.failures import OUTER_STEP
from maml_rl.sampling.task_in_observation import TaskEncoder
from maml_rl.settings.config import Config
from maml_rl.settings.drawn_tasks import Task
from maml_rl.settings.learners.teacher_student import RMAConfig, SysIDConfig, TeacherStudentConfig
from maml_rl.system.distributed import Ranks
from maml_rl.system.random_streams import Phase, RandomStreams
from maml_rl.system.stopwatch import Stopwatch

TEACHER_ITERATIONS = "teacher_iterations"
"""Counter that does not change: iterations of this run that train the teacher."""


class _Update(NamedTuple):
    """The result of an update; one that fails changes no group."""

    groups: dict[str, Mapping[str, Tensor]]
    """The groups of the state that have changed."""
    metrics: dict[str, float]
    detail: str = ""
    """Why it failed; empty if it succeeded."""


class _Trials(NamedTuple):
    """The trials of an iteration."""

    played: TrainingTrial
    """All trials of this process."""
    valid: Tensor
    """Indices of those that did not fail, (N,)."""
    stages: list[Episodes]
    """Their episodes."""
    sequence: TrialSequence
    """Their steps."""


@dataclass(frozen=True, kw_only=True)
class TeacherStudent(Learner):
    """A teacher, trained by PPO on trials, then a student that regresses z on trials of its own.

    The belief is what the student remembers: ``memory`` (T, memory_size), and ``previous``
    (T, previous_size), the action, reward and end of an episode before the next step. A stage is
    one episode. The groups of the state are:

    - ``theta``, the teacher's parameters, and ``student``, the student's;
    - ``normalizer`` of observations, and ``task_normalizer`` of tasks as vectors;
    - ``optimizer`` and ``student_optimizer``, states of Adam;
    - ``value_scale``, the running mean and deviation of the value network's targets.

    Nothing but ``student`` and its optimiser changes once the student is trained.

    Args:
        teacher: its architecture.
        student: its architecture.
        config: settings.
        teacher_iterations: iterations of a new run that train the teacher.
        task_encoder: makes vectors of tasks.
        normalizes: whether observations are normalised.
        num_updates: adaptation steps of a trial, unless the user asks for another number.
        num_training_stages: episodes of a trial in training.
        max_failed_share: largest share of discarded episodes, and of failed tasks, that an
            iteration tolerates.
        device: of all tensors.
        seed: of the initial parameters.
        trials_per_block: trials whose gradient is computed at once; default depends on the device.
        plays_teacher: whether the teacher acts, with beliefs of :meth:`teacher_belief`.
    """

    ACTING = ("theta", "student", "normalizer", "task_normalizer")
    # A saved agent does not have what only training needs.
    OPTIONAL = ("optimizer", "student_optimizer", "value_scale")

    teacher: Teacher
    student: Student
    config: TeacherStudentConfig
    teacher_iterations: int
    task_encoder: TaskEncoder
    normalizes: bool
    num_updates: int
    num_training_stages: int
    max_failed_share: float
    device: torch.device
    seed: int
    trials_per_block: int | None = None
    plays_teacher: bool = False

    def initial_state(self) -> LearnerState:
        """Return the initial parameters, and statistics of nothing."""
        rng = RandomStreams(self.seed, Phase.INITIALISATION).parameters()
        theta, student = (
            {name: value.to(self.device) for name, value in parameters.items()}
            for parameters in (
                self.teacher.initial_parameters(rng),
                self.student.initial_parameters(rng),
            )
        )
        normalizer: Mapping[str, Tensor] = {}
        if self.normalizes:
            shape = (self.teacher.observation_size,)
            normalizer = ObservationNormalizer.empty(shape, self.device)._asdict()
        task_shape = (self.teacher.task_size,)
        return LearnerState.initial(
            {
                "theta": theta,
                "student": student,
                "normalizer": normalizer,
                "task_normalizer": ObservationNormalizer.empty(task_shape, self.device)._asdict(),
                "optimizer": initial_adam(theta),
                "student_optimizer": initial_adam(student),
                "value_scale": ValueScale.empty(self.device)._asdict(),
            },
            **{FAILED_OUTER_STEPS: 0, TEACHER_ITERATIONS: self.teacher_iterations},
        )

    def prior(self, state: LearnerState, num_tasks: int) -> Belief:
        """Return an empty memory for every task."""
        before = self._nothing_before(state, num_tasks)
        return {
            "memory": before.new_zeros(num_tasks, self.student.memory_size),
            "previous": before,
        }

    def teacher_belief(self, state: LearnerState, tasks: Sequence[Task]) -> Belief:
        """Return the belief that knows z, for a learner whose teacher plays.

        Args:
            state: what has been learned.
            tasks: T of them.
        """
        return {
            "memory": self._latents(state, self._vectors(tasks)),
            "previous": self._nothing_before(state, len(tasks)),
        }

    def _nothing_before(self, state: LearnerState, num_tasks: int) -> Tensor:
        """Return what came before the first step of a trial: zeros (T, previous_size)."""
        like = next(iter(state.tensors["theta"].values()))
        return like.new_zeros(num_tasks, self.teacher.previous_size)

    def draw_noise(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Draw the noise of the policy's distribution."""
        return self.teacher.action_head.draw_noise(rng, shape)

    def draw_noise_on_device(self, rng: torch.Generator, shape: tuple[int, ...]) -> Tensor:
        """Draw it on a GPU."""
        return self.teacher.action_head.draw_noise_on_device(rng, shape)

    @property
    def _player(self) -> Teacher | Student:
        return self.teacher if self.plays_teacher else self.student

    def actor(
        self,
        state: LearnerState,
        belief: Belief,
        noise: Tensor | None,
        memory: Memory | None = None,
    ) -> RecurrentActor:
        """Return an actor that remembers within the episode, too."""
        normalizer = state.normalizer
        return RecurrentActor(self._player, _acting(state), belief, noise, normalizer, memory)

    @torch.no_grad()
    def update(self, state: LearnerState, belief: Belief, episodes: Episodes, stage: int) -> Belief:
        """Return the memory after the episodes, which follow one another."""
        return belief_after(self._player, _acting(state), belief, episodes, self._trials_per_block)

    def notice(self, num_env_steps: int) -> str | None:
        """Say which policy is evaluated."""
        number = self.config.teacher_iterations or "two thirds of the"
        return (
            f"notice: the first {number} iterations train the teacher, which observes the task; "
            "evaluations, videos and saved agents play the student, which is untrained until then"
        )

    def describe(self, state: LearnerState) -> dict[str, Any]:
        """Say what a step is, and whether the student is untrained."""
        note = (
            "the return after k steps is that of episode k + 1; the student's memory adapts within "
            "it, too"
        )
        done, teacher = state.counters["iteration"], state.counters[TEACHER_ITERATIONS]
        if 0 < done <= teacher:
            note = f"the student is untrained after {done} of {teacher} iterations for the teacher"
        return {"note": note}

    def plain_module(
        self, state: LearnerState, belief: Belief, action_map: ActionMap
    ) -> PlainModule:
        """Return the student's policy, which begins with the belief."""
        (memory,), (previous,) = belief["memory"], belief["previous"]
        theta = {
            name: value
            for name, value in _acting(state).items()
            if not name.startswith("task_encoder_")
        }
        return recurrent_module(self.student, theta, memory, previous, state.normalizer, action_map)

    def iteration(
        self, state: LearnerState, collector: Collector, streams: RandomStreams, ranks: Ranks
    ) -> Iteration:
        """Train the teacher; after its iterations, train the student."""
        if state.counters["iteration"] < state.counters[TEACHER_ITERATIONS]:
            return self._teacher_iteration(state, collector, streams, ranks)
        return self._student_iteration(state, collector, streams, ranks)

    def _teacher_iteration(
        self, state: LearnerState, collector: Collector, streams: RandomStreams, ranks: Ranks
    ) -> Iteration:
        """Sample tasks, play a trial with the z of each, and update the teacher by PPO."""
        watch, num_bytes = Stopwatch(), ranks.num_bytes

        # Sample tasks, and update the statistics that normalise them.
        tasks = sample_tasks(collector, streams)
        state = self._with_tasks(state, tasks)

        # Play a trial with the z of each task.
        first = collector.first_task
        belief = self.teacher_belief(state, tasks[first : first + collector.num_tasks])
        player = dataclasses.replace(self, plays_teacher=True)
        trials = player._trials(state, collector, streams, ranks, watch, tasks, belief)

        # Update encoder, policy and value on the trials that did not fail.
        update = self._update_teacher(state, trials, collector, streams, ranks)

        # Update the normaliser of observations.
        normalizer = state.normalizer
        if normalizer is not None:
            seen = torch.cat([episodes.real_observations for episodes in trials.stages])
            update.groups["normalizer"] = normalizer.updated(seen, ranks)._asdict()
        update.groups["task_normalizer"] = state.tensors["task_normalizer"]
        theta = update.groups.get("theta", {})
        if "log_std" in theta:
            update.metrics["train/policy_std"] = float(theta["log_std"].exp().mean())
        update.metrics["update/phase"] = 1.0
        return self._finished(state, trials, update, ranks, watch, num_bytes)

    def _student_iteration(
        self, state: LearnerState, collector: Collector, streams: RandomStreams, ranks: Ranks
    ) -> Iteration:
        """Sample tasks, play a trial in each with the student, and regress the teacher's z."""
        watch, num_bytes = Stopwatch(), ranks.num_bytes
        trials = self._trials(state, collector, streams, ranks, watch)
        update = self._update_student(state, trials, collector, streams, ranks)
        update.metrics["update/phase"] = 2.0
        return self._finished(state, trials, update, ranks, watch, num_bytes)

    def _trials(
        self,
        state: LearnerState,
        collector: Collector,
        streams: RandomStreams,
        ranks: Ranks,
        watch: Stopwatch,
        tasks: Sequence[Task] | None = None,
        belief: Belief | None = None,
    ) -> _Trials:
        """Play a trial in each task.

        Args:
            state: what has been learned.
            collector: plays the tasks of this process.
            streams: of random numbers.
            ranks: the processes.
            watch: records times.
            tasks: of all processes; default is new ones.
            belief: about the tasks of this process; default is the prior.
        """
        played = training_trial(
            self,
            state,
            collector,
            num_updates=self.num_training_stages - 1,
            streams=streams,
            ranks=ranks,
            max_failed_share=self.max_failed_share,
            tasks=tasks,
            belief=belief,
            watch=watch,
        )
        valid = played.trial.valid_tasks
        stages = [episodes.chosen(valid) for episodes in played.trial.episodes]
        previous = self._nothing_before(state, len(valid))
        sequence = trial_sequence(stages, previous, self.teacher.action_head)
        return _Trials(played, valid, stages, sequence)

    def _update_teacher(
        self,
        state: LearnerState,
        trials: _Trials,
        collector: Collector,
        streams: RandomStreams,
        ranks: Ranks,
    ) -> _Update:
        """Run PPO; if it fails, change nothing."""
        theta, optimizer = state.tensors["theta"], dict(state.tensors["optimizer"])
        tasks = self._normalized(state, self._vectors(trials.played.tasks)[trials.valid])
        block_size = self._trials_per_block
        batch, scale, metrics = trial_batch(
            trials.sequence,
            tasks,
            evaluated_trials(self.teacher, theta, trials.sequence, tasks, block_size),
            ValueScale(**state.tensors["value_scale"]),
            self.config,
            False,  # the teacher learns nothing in an episode that later ones could use
            ranks,
        )
        step_size = self.config.step_size_at(state.counters["iteration"])
        try:
            theta, optimizer, of_update = ppo_update(
                self.teacher,
                theta,
                optimizer,
                batch,
                trials.valid + collector.first_task,
                collector.num_tasks_of_all or collector.num_tasks,
                self.config,
                step_size,
                streams.minibatches(),
                ranks,
                block_size,
            )
        except FloatingPointError as error:
            return _Update({}, metrics, str(error))
        groups = {"theta": theta, "optimizer": optimizer, "value_scale": scale._asdict()}
        return _Update(groups, {**metrics, **of_update, "update/step_size": step_size})

    def _update_student(
        self,
        state: LearnerState,
        trials: _Trials,
        collector: Collector,
        streams: RandomStreams,
        ranks: Ranks,
    ) -> _Update:
        """Regress z; if that fails, change nothing."""
        latents = self._latents(state, self._vectors(trials.played.tasks)[trials.valid])
        # Variance of z between tasks, to compare errors with.
        spread = ranks.mean(latents.square()) - ranks.mean(latents).square()
        try:
            student, optimizer, metrics = student_update(
                self.student,
                state.tensors["student"],
                dict(state.tensors["student_optimizer"]),
                StudentBatch(trials.sequence, latents),
                trials.valid + collector.first_task,
                collector.num_tasks_of_all or collector.num_tasks,
                self.config,
                streams.minibatches(),
                ranks,
                self._trials_per_block,
            )
        except FloatingPointError as error:
            return _Update({}, {}, str(error))
        metrics["update/latent_variance"] = float(spread.mean())
        return _Update({"student": student, "student_optimizer": optimizer}, metrics)

    def _finished(
        self,
        state: LearnerState,
        trials: _Trials,
        update: _Update,
        ranks: Ranks,
        watch: Stopwatch,
        num_bytes: int,
    ) -> Iteration:
        """Return the next state, metrics and failures."""
        what = OUTER_STEP if update.detail else ""
        num_updates = self.num_training_stages - 1
        failures, num_failed = with_outer_failure(
            state, trials.played.rows, num_updates, what, update.detail
        )
        watch.lap("update")
        sampling = SamplingMetrics(trials.stages, ranks)
        metrics = update.metrics | sampling.metrics() | failure_metrics(trials.played)
        metrics["update/failed"] = float(bool(update.detail))
        metrics |= time_metrics(watch, ranks, num_bytes)
        counters = {FAILED_OUTER_STEPS: num_failed}
        next_state = state.after_iteration(update.groups, sampling.num_env_steps, **counters)
        return Iteration(next_state, metrics, failures)

    def _vectors(self, tasks: Sequence[Task]) -> Tensor:
        """Return tasks as vectors (N, task_size) float64, not normalised."""
        vectors = np.array([self.task_encoder(task) for task in tasks], dtype=np.float64)
        return torch.from_numpy(vectors.reshape(-1, self.teacher.task_size)).to(self.device)

    def _normalized(self, state: LearnerState, vectors: Tensor) -> Tensor:
        """Return normalised tasks, of the type of the parameters."""
        like = next(iter(state.tensors["theta"].values()))
        return ObservationNormalizer(**state.tensors["task_normalizer"]).normalize(vectors).to(like)

    @torch.no_grad()
    def _latents(self, state: LearnerState, vectors: Tensor) -> Tensor:
        """Return the teacher's z of tasks, (N, latent_size)."""
        return self.teacher.latents(state.tensors["theta"], self._normalized(state, vectors))

    def _with_tasks(self, state: LearnerState, tasks: Sequence[Task]) -> LearnerState:
        """Return a state whose statistics of tasks include those of all processes."""
        old = ObservationNormalizer(**state.tensors["task_normalizer"])
        # Every process has all tasks.
        new = old.updated(old.normalize(self._vectors(tasks)), Ranks())
        return state._replace(tensors={**state.tensors, "task_normalizer": new._asdict()})

    @property
    def _trials_per_block(self) -> int:
        """Trials that are computed at once."""
        return self.trials_per_block or trials_per_block(self.device)


def teacher_student(
    config: Config,
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    device: torch.device,
) -> TeacherStudent:
    """Make ``rma`` or ``sysid``; see :func:`maml_rl.learners.make.make_learner`."""
    settings = config.learner
    assert isinstance(settings, (RMAConfig, SysIDConfig)), "the settings choose the learner"
    observation_size = vector_size(observation_space, settings.name)
    head = ActionHead.of(action_space)
    with as_task_vector_env(None, config.env, 1, config.horizon) as env:
        task_encoder = TaskEncoder(env, config.env.name, f"learner {settings.name}")
    latent_size, encoder_hidden_sizes = task_encoder.size, None
    if isinstance(settings, RMAConfig):
        latent_size = settings.latent_size
        encoder_hidden_sizes = tuple(settings.encoder_hidden_sizes)
    teacher = Teacher(
        observation_size=observation_size,
        action_head=head,
        task_size=task_encoder.size,
        latent_size=latent_size,
        encoder_hidden_sizes=encoder_hidden_sizes,
        hidden_sizes=config.policy.hidden_sizes,
        nonlinearity=config.policy.nonlinearity,
        init_std=config.policy.init_std,
        horizon=config.horizon,
    )
    return TeacherStudent(
        teacher=teacher,
        student=_student(settings, teacher),
        config=settings,
        teacher_iterations=settings.first_student_iteration(config.num_iterations),
        task_encoder=task_encoder,
        normalizes=config.policy.normalize_observations,
        num_updates=settings.num_episodes - 1,
        num_training_stages=settings.num_episodes,
        max_failed_share=config.max_failed_share,
        device=device,
        seed=config.seed,
        trials_per_block=config.tasks_per_block,
    )


def _student(settings: RMAConfig | SysIDConfig, teacher: Teacher) -> Student:
    """Return a student with a GRU and a linear estimate, or with a window and a perceptron."""
    if isinstance(settings, RMAConfig):
        cell = RecurrentCell(
            observation_size=teacher.observation_size,
            action_head=teacher.action_head,
            cell="gru",
            hidden_size=settings.hidden_size,
        )
        return Student(teacher=teacher, memory=cell, output_size=cell.hidden_size, hidden_sizes=())
    window = Window(
        observation_size=teacher.observation_size,
        previous_size=teacher.previous_size,
        num_steps=settings.window,
    )
    return Student(
        teacher=teacher,
        memory=window,
        output_size=window.memory_size,
        hidden_sizes=tuple(settings.estimator_hidden_sizes),
    )


def _acting(state: LearnerState) -> Params:
    """Return the parameters of teacher and student, whose names differ."""
    return {**state.tensors["theta"], **state.tensors["student"]}
