"""A teacher and a student as a learner, and its two kinds of iterations.

RMA (Kumar et al. 2021) and UP-OSI (Yu et al. 2017): a policy that observes the task is trained
first, then an estimator of what the policy knows of the task.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from maml_rl.learners.adam import initial_state as initial_adam
from maml_rl.learners.base import Belief, Iteration, LearnerState, initial_normalizer
from maml_rl.learners.iteration_result import (
    FAILED_OUTER_STEPS,
    IterationWatch,
    Update,
    iteration_result,
)
from maml_rl.learners.recurrent.iteration import PlayedTrials, played_trials, updated_by_ppo
from maml_rl.learners.recurrent.learner import MemoryLearner
from maml_rl.learners.recurrent.value_scale import ValueScale
from maml_rl.learners.teacher_student.networks import Student, Teacher
from maml_rl.learners.teacher_student.regression import StudentBatch, student_update
from maml_rl.learners.trials import sample_tasks
from maml_rl.policies.action_map import ActionMap
from maml_rl.policies.normalizer import ObservationNormalizer
from maml_rl.policies.parameters import Params
from maml_rl.policies.plain_network import PlainModule
from maml_rl.policies.recurrent.plain_module import recurrent_module
from maml_rl.sampling.collector import Collector
from maml_rl.sampling.failures import OUTER_STEP
from maml_rl.sampling.task_in_observation import TaskEncoder
from maml_rl.settings.drawn_tasks import Task
from maml_rl.settings.learners.teacher_student import TeacherStudentConfig
from maml_rl.system.distributed import Ranks
from maml_rl.system.random_streams import Phase, RandomStreams

TEACHER_ITERATIONS = "teacher_iterations"
"""Counter of the iterations that trained the teacher."""


@dataclass(frozen=True, kw_only=True)
class TeacherStudent(MemoryLearner):
    """A teacher, trained by PPO on trials, then a student that regresses z on trials of its own.

    The memory is the student's, or z if the teacher plays. The groups of the state are:

    - ``theta``, the teacher's parameters, and ``student``, the student's;
    - ``normalizer`` of observations, and ``task_normalizer`` of tasks as vectors;
    - ``optimizer`` and ``student_optimizer``, states of Adam;
    - ``value_scale``, the running mean and deviation of the value network's targets.

    In the second phase only ``student`` and ``student_optimizer`` change.

    Args:
        teacher: its architecture.
        student: its architecture.
        config: settings.
        teacher_limits: iterations, and control steps, that train the teacher; the limit that is
            reached first counts.
        task_encoder: makes vectors of tasks.
        plays_teacher: whether the teacher acts, with beliefs of :meth:`teacher_belief`.
    """

    ACTING = ("theta", "student", "normalizer", "task_normalizer")
    CARRIED = ("value_scale",)  # of the targets of theta's value network

    teacher: Teacher
    student: Student
    config: TeacherStudentConfig
    teacher_limits: tuple[int, float]
    task_encoder: TaskEncoder
    plays_teacher: bool = False

    def initial_state(self) -> LearnerState:
        """Return the initial parameters, and empty statistics."""
        rng = RandomStreams(self.seed, Phase.INITIALISATION).parameters()
        theta, student = (
            {name: value.to(self.device) for name, value in parameters.items()}
            for parameters in (
                self.teacher.initial_parameters(rng),
                self.student.initial_parameters(rng),
            )
        )
        observation_shape = (self.teacher.observation_size,)
        task_shape = (self.teacher.task_size,)
        return LearnerState.initial(
            {
                "theta": theta,
                "student": student,
                "normalizer": initial_normalizer(self.normalizes, observation_shape, self.device),
                "task_normalizer": ObservationNormalizer.empty(task_shape, self.device)._asdict(),
                "optimizer": initial_adam(theta),
                "student_optimizer": initial_adam(student),
                "value_scale": ValueScale.empty(self.device)._asdict(),
            },
            **{FAILED_OUTER_STEPS: 0, TEACHER_ITERATIONS: 0},
        )

    def teacher_belief(self, state: LearnerState, tasks: Sequence[Task]) -> Belief:
        """Return the belief that knows z, for a learner whose teacher plays.

        Args:
            state: what has been learned.
            tasks: T of them.
        """
        return {**self.prior(state, len(tasks)), "memory": self._latents(state, tasks)}

    @property
    def player(self) -> Teacher | Student:
        """The student, or the teacher."""
        return self.teacher if self.plays_teacher else self.student

    def parameters(self, state: LearnerState) -> Params:
        """Return the parameters of teacher and student, whose names differ."""
        return {**state.tensors["theta"], **state.tensors["student"]}

    def notice(self, num_env_steps: int) -> str | None:
        """Say which policy is evaluated."""
        num_iterations, most = self.teacher_limits
        limits = []
        if num_iterations < most:  # an iteration takes at least one control step
            limits.append("iteration" if num_iterations == 1 else f"{num_iterations} iterations")
        if math.isfinite(most):
            limits.append(f"{most:,.0f} control steps")
        return (
            "notice: the teacher, which observes the task, is trained in the first "
            f"{' or '.join(limits)}; evaluations, videos and saved agents play the student, which "
            "is untrained until then"
        )

    def describe(self, state: LearnerState) -> dict[str, Any]:
        """Say what a step is, and whether the student is untrained."""
        note = (
            "the return after k steps is that of episode k + 1; the student's memory adapts within "
            "it, too"
        )
        # Not by counters: saved agents have none.
        initial = self.initial_state().tensors["student"]
        student = state.tensors["student"]
        if all(torch.equal(value, student[name]) for name, value in initial.items()):
            note = "the student is untrained: only the teacher learns at first"
        return {"note": note}

    def plain_module(
        self, state: LearnerState, belief: Belief, action_map: ActionMap
    ) -> PlainModule:
        """Return the student's policy, which begins with the belief."""
        (memory,), (previous,) = belief["memory"], belief["previous"]
        theta = {
            name: value
            for name, value in self.parameters(state).items()
            if not name.startswith("task_encoder_")
        }
        return recurrent_module(self.student, theta, memory, previous, state.normalizer, action_map)

    def iteration(
        self, state: LearnerState, collector: Collector, streams: RandomStreams, ranks: Ranks
    ) -> Iteration:
        """Train the teacher; after its iterations, train the student."""
        if self._trains_teacher(state.counters):
            return self._teacher_iteration(state, collector, streams, ranks)
        return self._student_iteration(state, collector, streams, ranks)

    def _trains_teacher(self, counters: Mapping[str, int]) -> bool:
        """Whether the next iteration is the teacher's; never again after one of the student."""
        num_iterations, num_env_steps = self.teacher_limits
        has_student = counters["iteration"] > counters[TEACHER_ITERATIONS]
        is_over = (
            counters["iteration"] >= num_iterations or counters["num_env_steps"] >= num_env_steps
        )
        return not has_student and not is_over

    def _teacher_iteration(
        self, state: LearnerState, collector: Collector, streams: RandomStreams, ranks: Ranks
    ) -> Iteration:
        """Sample tasks, play a trial with the z of each, and update the teacher by PPO."""
        watch = IterationWatch(ranks)

        # Sample tasks, and update the statistics that normalise them.
        tasks = sample_tasks(collector, streams)
        state = self._with_tasks(state, tasks)
        counters = {**state.counters, TEACHER_ITERATIONS: state.counters["iteration"] + 1}
        state = state._replace(counters=counters)

        # Play a trial with the z of each task.
        belief = self.teacher_belief(state, collector.of_this_process(tasks))
        player = dataclasses.replace(self, plays_teacher=True)
        trials = played_trials(player, state, collector, streams, ranks, watch, tasks, belief)

        # Update encoder, policy, value and normaliser on the trials that did not fail.
        update = updated_by_ppo(
            self.teacher,
            state,
            trials,
            self._observed(state, trials.tasks),
            self.config,
            across=False,  # the teacher learns nothing in an episode that later ones could use
            rng=streams.minibatches(),
            ranks=ranks,
            block_size=self.trials_per_block,
            watch=watch,
        )
        update.metrics["update/phase"] = 1.0
        return iteration_result(state, [trials.played], update, ranks, watch)

    def _student_iteration(
        self, state: LearnerState, collector: Collector, streams: RandomStreams, ranks: Ranks
    ) -> Iteration:
        """Sample tasks, play a trial in each with the student, and regress the teacher's z."""
        watch = IterationWatch(ranks)
        trials = played_trials(self, state, collector, streams, ranks, watch)
        update = self._update_student(state, trials, streams, ranks)
        watch.lap("update")
        update.metrics["update/phase"] = 2.0
        return iteration_result(state, [trials.played], update, ranks, watch)

    def _update_student(
        self, state: LearnerState, trials: PlayedTrials, streams: RandomStreams, ranks: Ranks
    ) -> Update:
        """Regress z; if that fails, change nothing."""
        latents = self._latents(state, trials.tasks)
        # Variance of z between tasks, to compare errors with.
        spread = ranks.mean(latents.square()) - ranks.mean(latents).square()
        try:
            student, optimizer, metrics = student_update(
                self.student,
                state.tensors["student"],
                dict(state.tensors["student_optimizer"]),
                StudentBatch(trials.sequence, latents),
                trials.indices,
                trials.num_trials,
                self.config,
                streams.minibatches(),
                ranks,
                self.trials_per_block,
            )
        except FloatingPointError as error:
            return Update({}, {}, OUTER_STEP, str(error))
        metrics["update/latent_variance"] = float(spread.mean())
        return Update({"student": student, "student_optimizer": optimizer}, metrics)

    def _vectors(self, tasks: Sequence[Task]) -> Tensor:
        """Return tasks as vectors (N, task_size) float64, not normalised."""
        return torch.from_numpy(self.task_encoder(tasks)).to(self.device)

    def _observed(self, state: LearnerState, tasks: Sequence[Task]) -> Tensor:
        """Return tasks as the teacher observes them: normalised, of the type of the parameters."""
        like = next(iter(state.tensors["theta"].values()))
        normalizer = ObservationNormalizer(**state.tensors["task_normalizer"])
        return normalizer.normalize(self._vectors(tasks)).to(like)

    @torch.no_grad()
    def _latents(self, state: LearnerState, tasks: Sequence[Task]) -> Tensor:
        """Return the teacher's z of tasks, (N, latent_size)."""
        return self.teacher.latents(state.tensors["theta"], self._observed(state, tasks))

    def _with_tasks(self, state: LearnerState, tasks: Sequence[Task]) -> LearnerState:
        """Return a state whose statistics of tasks include those of all processes."""
        old = ObservationNormalizer(**state.tensors["task_normalizer"])
        # Every process has all tasks.
        new = old.updated([self._vectors(tasks)], Ranks(), are_normalized=False)
        return state._replace(tensors={**state.tensors, "task_normalizer": new._asdict()})
