"""Learners ``rma`` and ``sysid``: their equations, phases, statistics of tasks, and failures."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import helpers.memory_tasks
import numpy as np
import pytest
import torch
from helpers.drawn import drawn_task
from helpers.recurrent import (
    HEADS,
    PlayedTrials,
    assert_gradient,
    make_batch,
    make_sequence,
    make_stages,
    moved,
)
from helpers.runs import last, tiny
from helpers.teacher_student import (
    KINDS,
    TASK_SIZE,
    make_parameters,
    make_student,
    make_teacher,
    plain_estimates,
    plain_perceptron,
)
from torch import Tensor

import maml_rl
from maml_rl.cli import main
from maml_rl.errors import UserError
from maml_rl.learners.adam import ascend, initial_state
from maml_rl.learners.base import LearnerState
from maml_rl.learners.recurrent import iteration as trial_iteration
from maml_rl.learners.recurrent import ppo
from maml_rl.learners.recurrent.actor import RecurrentActor
from maml_rl.learners.recurrent.sequence import trial_advantages, trial_sequence
from maml_rl.learners.recurrent.trial_gradient import mean_gradient
from maml_rl.learners.recurrent.value_scale import ValueScale
from maml_rl.learners.teacher_student import learner as learner_module
from maml_rl.learners.teacher_student import regression
from maml_rl.learners.teacher_student.learner import TEACHER_ITERATIONS, TeacherStudent
from maml_rl.learners.teacher_student.networks import Student, Teacher
from maml_rl.learners.teacher_student.regression import StudentBatch, latent_loss, student_update
from maml_rl.learners.trials import play_trials, sample_tasks, training_trial
from maml_rl.policies.normalizer import ObservationNormalizer
from maml_rl.policies.parameters import flatten
from maml_rl.policies.recurrent.memory import action_distribution, outputs_along_trials
from maml_rl.sampling.failures import NO_EPISODE, OUTER_STEP
from maml_rl.settings.learners import RL2Config, RMAConfig, SysIDConfig
from maml_rl.settings.parser import load_config
from maml_rl.system.distributed import Ranks
from maml_rl.system.random_streams import Phase, RandomStreams
from maml_rl.training.compose import Training, open_training

STREAMS = RandomStreams(0, Phase.TRAINING, 0)
ALL = 1 << 20
"""Trials per block: one block."""
kinds = pytest.mark.parametrize("kind", KINDS)
heads = pytest.mark.parametrize("head", HEADS)
SMALL: dict[str, dict[str, Any]] = {
    "rma": {"latent_size": 3, "encoder_hidden_sizes": [6], "hidden_size": 8},
    "sysid": {"window": 4, "estimator_hidden_sizes": [6]},
}


# --- The teacher ---


@heads
@kinds
def test_the_teacher_reads_observation_and_z_only(kind: str, head: str) -> None:
    teacher = make_teacher(kind, head)
    theta = make_parameters(teacher)
    sequence = make_sequence(teacher, garbage=3.0)
    rng = np.random.default_rng(2)
    tasks = torch.from_numpy(rng.standard_normal((4, TASK_SIZE)))
    latents = teacher.latents(theta, tasks)
    args = (theta, sequence.observations)
    dist, values = teacher.along_trials(*args, sequence.previous, tasks, None)
    again, _ = teacher.along_trials(*args, 0 * sequence.previous, tasks, 2)
    assert all(a.equal(b) for a, b in zip(dist, again, strict=True))
    for i in range(4):
        z = tasks[i] if kind == "sysid" else plain_perceptron(theta, "task_encoder", 2, tasks[i])
        torch.testing.assert_close(latents[i], z)
        elapsed = 0
        for t in range(int(sequence.mask[i].sum())):
            x = torch.cat([z, sequence.observations[i, t]])
            with_time = torch.cat([x, torch.tensor([elapsed / teacher.horizon]).double()])
            value = plain_perceptron(theta, "value", 2, with_time)[0]
            torch.testing.assert_close(values[i, t], value)
            elapsed = 0 if sequence.ends[i, t] else elapsed + 1
            expected = teacher.action_head.distribution(
                plain_perceptron(theta, "policy", 2, x)[None, None],
                None if teacher.action_head.discrete else theta["log_std"][None, None],
            )
            for part, of_all in zip(expected, dist, strict=True):
                at = min(t, of_all.shape[1] - 1)  # the deviation is the same at every step
                torch.testing.assert_close(part[0, 0], of_all[i, at])


@heads
@kinds
def test_the_gradient_of_the_teachers_loss_equals_finite_differences(kind: str, head: str) -> None:
    teacher = make_teacher(kind, head)
    theta = make_parameters(teacher)
    # The helper draws task vectors of a policy's task_size.
    batch = make_batch(teacher, theta, garbage=3.0)
    config = RL2Config(clip_range=0.1, entropy_coefficient=0.3, value_coefficient=0.7)
    assert_gradient(
        lambda at: ppo.loss(ppo.loss_terms(teacher, at, batch, config), config).sum(),
        moved(theta, 0.05),
    )


# --- The student's loss ---


def make_student_batch(student: Student, garbage: float = 0.0) -> StudentBatch:
    rng = np.random.default_rng(7)
    latents = torch.from_numpy(rng.standard_normal((4, student.teacher.latent_size)))
    return StudentBatch(make_sequence(student.teacher, garbage=garbage), latents)


@heads
@kinds
def test_the_students_loss_equals_the_equation(kind: str, head: str) -> None:
    student = make_student(kind, head)
    parameters = make_parameters(student)
    batch = make_student_batch(student, garbage=3.0)
    stages = make_stages(student.teacher)
    losses = latent_loss(student, parameters, batch, None)
    for i in range(4):
        estimates = plain_estimates(student, parameters, stages, i)
        expected = sum(float((z - batch.latents[i]).square().mean()) for z in estimates)
        assert float(losses[i]) == pytest.approx(expected, rel=1e-9)


@heads
@kinds
def test_the_gradient_of_the_students_loss_equals_finite_differences(kind: str, head: str) -> None:
    student = make_student(kind, head)
    batch = make_student_batch(student, garbage=3.0)
    assert_gradient(
        lambda at: latent_loss(student, at, batch, None).sum(), make_parameters(student)
    )


@kinds
def test_truncation_does_not_change_the_students_loss(kind: str) -> None:
    student = make_student(kind)
    parameters, batch = make_parameters(student), make_student_batch(student)
    losses = [latent_loss(student, parameters, batch, n) for n in (None, 2, ALL)]
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(losses[0], losses[2])


def test_the_teacher_begins_with_the_standard_deviation_of_the_settings() -> None:
    theta = make_teacher("rma").initial_parameters(np.random.default_rng(0))
    assert theta["log_std"].exp().tolist() == pytest.approx([0.7] * len(theta["log_std"]))


def test_truncation_cuts_the_students_backpropagation() -> None:
    student = make_student("rma")
    parameters = make_parameters(student)
    batch = make_student_batch(student)

    def gradient(truncation: int | None) -> Tensor:
        leaves = {name: value.clone().requires_grad_() for name, value in parameters.items()}
        loss = latent_loss(student, leaves, batch, truncation).sum()
        return torch.autograd.grad(loss, leaves["cell_weight_hh"])[0]

    torch.testing.assert_close(gradient(None), gradient(ALL))
    assert not torch.allclose(gradient(None), gradient(2), rtol=1e-3)
    # As the settings say.
    whole, as_long, cut = (
        run_update(student, batch, truncation=truncation)[1]["exp_avg"]
        for truncation in (None, 1000, 2)
    )
    torch.testing.assert_close(whole, as_long)
    assert not torch.allclose(whole, cut, rtol=1e-3)


def run_update(
    student: Student, batch: StudentBatch, block_size: int = ALL, **settings: Any
) -> tuple[Any, dict[str, Tensor], dict[str, float]]:
    config = {"student_epochs": 1, "num_minibatches": 1, "max_gradient_norm": 1e6, **settings}
    parameters = make_parameters(student)
    return student_update(
        student,
        parameters,
        initial_state(parameters),
        batch,
        torch.arange(4)[-len(batch.latents) :],
        4,
        RMAConfig(**config),
        STREAMS.minibatches(),
        Ranks(),
        block_size,
    )


@pytest.mark.parametrize("block_size", [1, 3, ALL])
@kinds
def test_an_update_descends_the_mean_error_per_step(kind: str, block_size: int) -> None:
    student = make_student(kind)
    parameters, batch = make_parameters(student), make_student_batch(student)
    leaves = {name: value.clone().requires_grad_() for name, value in parameters.items()}
    error = latent_loss(student, leaves, batch, None).sum() / batch.sequence.mask.sum()
    gradients = torch.autograd.grad(error, list(leaves.values()))
    gradient = torch.cat([value.flatten() for value in gradients])
    new, state, metrics = run_update(student, batch, block_size)
    torch.testing.assert_close(state["exp_avg"], 0.1 * gradient)
    expected, _ = ascend(parameters, -gradient, initial_state(parameters), 1e-3)
    torch.testing.assert_close(flatten(new), flatten(expected))
    assert metrics["update/latent_error"] == pytest.approx(error.item())
    assert metrics["update/gradient_norm"] == pytest.approx(float(gradient.norm()))
    assert metrics["update/num_steps"] == 1
    # A gradient beyond the bound is scaled down.
    _, scaled, _ = run_update(student, batch, block_size, max_gradient_norm=1e-3)
    assert float(scaled["exp_avg"].norm()) == pytest.approx(1e-4)


@kinds
def test_further_updates_fit_z_better(kind: str) -> None:
    student = make_student(kind)
    batch = make_student_batch(student)
    _, _, first = run_update(student, batch)
    _, _, later = run_update(student, batch, student_epochs=40, student_step_size=3e-2)
    assert later["update/num_steps"] == 40
    assert later["update/latent_error"] < 0.7 * first["update/latent_error"]


def test_the_error_is_the_mean_over_the_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = []

    def recorded(*arguments: Any) -> Any:
        gradient, means = mean_gradient(*arguments)
        errors.append(float(means[0]))
        return gradient, means

    monkeypatch.setattr(regression, "mean_gradient", recorded)
    student = make_student("rma")
    _, _, metrics = run_update(student, make_student_batch(student), student_epochs=3)
    assert len(set(errors)) == 3
    assert metrics["update/latent_error"] == pytest.approx(sum(errors) / 3)


def test_trials_that_failed_are_missing_from_their_minibatch() -> None:
    student = make_student("rma")
    left = make_student_batch(student).chosen(slice(3, 4))
    _, _, metrics = run_update(student, left, num_minibatches=4)
    assert metrics["update/num_steps"] == 1


def test_a_gradient_that_is_not_finite_is_refused() -> None:
    student = make_student("sysid")
    batch = make_student_batch(student)
    with pytest.raises(FloatingPointError, match="not finite"):
        run_update(student, batch._replace(latents=batch.latents * torch.inf))


# --- Playing ---


def wander(folder: Path, kind: str, *, discrete: bool = False, **settings: Any) -> maml_rl.Config:
    """Random walks whose episodes end early."""
    learner = {"name": kind, "num_episodes": 3, "num_minibatches": 1, "teacher_iterations": 1}
    values: dict[str, Any] = {
        "env": {
            "name": "helpers.memory_tasks:memory/Wander-v0",
            **({"discrete": True} if discrete else {}),
        },
        "horizon": helpers.memory_tasks.LENGTH,
        "policy": {"hidden_sizes": [8], "normalize_observations": True},
    }
    learner = {**learner, **SMALL[kind], **settings.pop("learner", {})}
    return tiny(folder / "run", **values | settings, learner=learner)


def in_float64(state: LearnerState) -> LearnerState:
    """Parameters far from the initial ones, so that memory matters."""
    tensors = {
        name: moved({key: value.double() for key, value in state.tensors[name].items()}, 0.3)
        for name in ("theta", "student")
    }
    return state._replace(tensors={**state.tensors, **tensors})


@pytest.mark.parametrize("discrete", [False, True])
@kinds
def test_playing_step_by_step_equals_the_pass_over_the_trial(
    kind: str, discrete: bool, tmp_path: Path
) -> None:
    """Memories and actions over early ends of episodes, in float64."""
    with open_training(wander(tmp_path, kind, discrete=discrete)) as training:
        learner = training.agent.learner
        assert isinstance(learner, TeacherStudent)
        student = learner.student
        state = in_float64(training.iterate().state)  # with statistics of observations
        theta = {**state.tensors["theta"], **state.tensors["student"]}
        played = PlayedTrials.of(training, state, student, theta, STREAMS)
        previous = learner.prior(state, 3)["previous"]
    lengths = torch.stack([stage.mask.sum((1, 2)) for stage in played.stages])
    assert lengths.min() < helpers.memory_tasks.LENGTH
    sequence = trial_sequence(played.stages, previous, student.action_head)
    args = (theta, sequence.observations, sequence.previous, None)
    outputs = outputs_along_trials(student.memory, *args)
    dist = action_distribution(student, theta, outputs, sequence.observations)
    played.assert_same_pass(student, dist, outputs, sequence.actions)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Informed(Student):
    """A student whose estimates are the teacher's z of the task."""

    latents: Tensor

    def estimates(self, theta: Any, outputs: Tensor) -> Tensor:
        return self.latents.reshape(len(outputs), *[1] * (outputs.dim() - 2), -1)


@pytest.mark.parametrize("discrete", [False, True])
@kinds
def test_a_student_that_knows_z_acts_as_the_teacher(
    kind: str, discrete: bool, tmp_path: Path
) -> None:
    with open_training(wander(tmp_path, kind, discrete=discrete)) as training:
        learner = training.agent.learner
        assert isinstance(learner, TeacherStudent)
        state = training.iterate().state
        tasks = sample_tasks(training.collector, STREAMS)
        belief = learner.teacher_belief(state, tasks)
        teacher = dataclasses.replace(learner, plays_teacher=True)
        fields = {f.name: getattr(learner.student, f.name) for f in dataclasses.fields(Student)}
        informed = Informed(**fields, latents=belief["memory"])
        student = dataclasses.replace(learner, student=informed)
        args = (state, training.collector, tasks)
        by_teacher = play_trials(teacher, *args, **TRIAL, belief=belief)
        by_student = play_trials(student, *args, **TRIAL)
        by_other = play_trials(learner, *args, **TRIAL)
    for a, b in zip(by_teacher.episodes, by_student.episodes, strict=True):
        assert a.actions.equal(b.actions)
        assert a.rewards.equal(b.rewards)
    if not discrete:  # choices may be the same
        assert not by_other.episodes[0].actions.equal(by_teacher.episodes[0].actions)
    # The teacher's belief about z does not change.
    assert by_teacher.beliefs[-1]["memory"].equal(belief["memory"])
    assert len(belief["memory"].unique(dim=0)) == len({task["side"] for task in tasks}) == 2


TRIAL: dict[str, Any] = {"num_adaptation_steps": 2, "streams": STREAMS}


# --- Phases ---


def groups_that_changed(before: LearnerState, after: LearnerState) -> set[str]:
    return {
        group
        for group, tensors in before.tensors.items()
        if any(not value.equal(after.tensors[group][name]) for name, value in tensors.items())
    }


@kinds
def test_each_phase_changes_its_own_groups_only(kind: str, tmp_path: Path) -> None:
    of_teacher = {"theta", "optimizer", "value_scale", "normalizer", "task_normalizer"}
    of_student = {"student", "student_optimizer"}
    config = wander(tmp_path, kind, learner={"teacher_iterations": 2}, num_iterations=4)
    with open_training(config) as training:
        for phase in (1, 1, 2, 2):
            before = training.agent.state
            iteration = training.iterate()
            changed = groups_that_changed(before, iteration.state)
            assert changed == (of_teacher if phase == 1 else of_student)
            assert iteration.metrics["update/phase"] == phase
            assert ("update/latent_error" in iteration.metrics) == (phase == 2)
            assert ("update/surrogate" in iteration.metrics) == (phase == 1)
            training = training.continued(iteration.state)


@kinds
def test_the_teacher_plays_the_first_phase_and_the_student_the_second(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    players: list[Any] = []
    original = RecurrentActor.__init__

    def recorded(self: RecurrentActor, policy: Any, *args: Any) -> None:
        players.append(policy)
        original(self, policy, *args)

    monkeypatch.setattr(RecurrentActor, "__init__", recorded)
    with open_training(wander(tmp_path, kind)) as training:
        first = training.iterate()
        assert {type(player) for player in players} == {Teacher}
        players.clear()
        training.continued(first.state).iterate()
        assert {type(player) for player in players} == {Student}
        players.clear()
        training.agent.adapt(task=drawn_task(training.agent), num_steps=1)
        assert {type(player) for player in players} == {Student}


def fail_task_0(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the first task of an iteration fails."""

    def failed(*args: Any, **options: Any) -> Any:
        played = training_trial(*args, **options)
        first = torch.arange(len(played.trial.failed_tasks.mask)) == 0
        tasks = played.trial.failed_tasks.with_failed(first, NO_EPISODE, 0)
        return played._replace(trial=played.trial._replace(failed_tasks=tasks))

    monkeypatch.setattr(trial_iteration, "training_trial", failed)


@pytest.mark.parametrize("fails", [False, True])
@kinds
def test_the_teacher_learns_from_credit_within_episodes_and_its_tasks(
    kind: str, fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []

    def recorded(*args: Any) -> Any:
        calls.append(args)
        return ppo.ppo_update(*args)

    monkeypatch.setattr(trial_iteration, "ppo_update", recorded)
    config = wander(tmp_path, kind, learner={"teacher_iterations": 2})
    with open_training(config) as training:
        training = training.continued(training.iterate().state)
        if fails:
            fail_task_0(monkeypatch)
        state = training.iterate().state
        before = training.agent.state.tensors
        tasks = sample_tasks(training.collector, training_streams(training))[int(fails) :]
    teacher, theta, _, batch, indices, num_trials, *_ = calls[-1]
    assert (indices.tolist(), num_trials) == ([1, 2] if fails else [0, 1, 2], 3)
    # The statistics include the tasks of this iteration, which played with them.
    statistics = ObservationNormalizer(**state.tensors["task_normalizer"])
    sides = torch.tensor([[task["side"]] for task in tasks], dtype=torch.float64)
    torch.testing.assert_close(batch.tasks, statistics.normalize(sides).float())
    # Advantages end with each episode.
    scale = ValueScale(**before["value_scale"])
    sequence = batch.sequence
    _, values = teacher.along_trials(
        theta, sequence.observations, sequence.previous, batch.tasks, None
    )
    args = (sequence, scale.denormalize(values), config.learner.discount, config.learner.gae_lambda)
    for across in (False, True):
        advantages = trial_advantages(*args, across)[sequence.mask > 0]
        expected = (advantages - advantages.mean()) / advantages.std(unbiased=False)
        is_same = torch.allclose(batch.advantages[sequence.mask > 0], expected, atol=1e-4)
        assert is_same == (not across)


@pytest.mark.parametrize("fails", [False, True])
@kinds
def test_the_student_learns_the_teachers_z_of_each_task(
    kind: str, fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[StudentBatch] = []

    def recorded(student: Any, parameters: Any, state: Any, batch: Any, *args: Any) -> Any:
        batches.append(batch)
        return student_update(student, parameters, state, batch, *args)

    monkeypatch.setattr(learner_module, "student_update", recorded)
    with open_training(wander(tmp_path, kind)) as training:
        learner = training.agent.learner
        assert isinstance(learner, TeacherStudent)
        training = training.continued(training.iterate().state)
        state = training.agent.state
        if fails:
            fail_task_0(monkeypatch)
        metrics = training.iterate().metrics
        tasks = sample_tasks(training.collector, training_streams(training))[int(fails) :]
    statistics = ObservationNormalizer(**state.tensors["task_normalizer"])
    vectors = torch.tensor([[task["side"]] for task in tasks], dtype=torch.float64)
    z = ((vectors - statistics.mean) / statistics.std).float()
    if kind == "rma":
        theta = state.tensors["theta"]
        z = torch.stack([plain_perceptron(theta, "task_encoder", 2, row) for row in z])
    torch.testing.assert_close(batches[0].latents, z)
    variance = z.var(0, unbiased=False).mean()
    assert metrics["update/latent_variance"] == pytest.approx(float(variance), rel=1e-4, abs=1e-6)


def training_streams(training: Training) -> RandomStreams:
    """The streams of the next iteration."""
    seed, iteration = training.agent.config.seed, training.agent.state.counters["iteration"]
    return RandomStreams(seed, Phase.TRAINING, iteration)


@pytest.mark.slow
@kinds
def test_the_teacher_does_not_learn_again_in_an_extended_run(kind: str, tmp_path: Path) -> None:
    """By default it has two thirds of the iterations with which the run begins."""
    config = wander(tmp_path, kind, num_iterations=3, learner={"teacher_iterations": None})
    run = maml_rl.train(config)
    before = last(run)
    assert before.values[TEACHER_ITERATIONS] == 2
    maml_rl.resume(run, 9)
    after = last(run)
    assert after.values[TEACHER_ITERATIONS] == 2
    for name, value in before.tensors["theta"].items():
        assert value.equal(after.tensors["theta"][name])
    assert any(
        not value.equal(after.tensors["student"][name])
        for name, value in before.tensors["student"].items()
    )


@pytest.mark.parametrize(("num_iterations", "expected"), [(2, 1), (3, 2), (300, 200)])
def test_two_thirds_of_a_run_train_the_teacher(num_iterations: int, expected: int) -> None:
    assert RMAConfig().teacher_limits(num_iterations, None) == (expected, math.inf)
    assert RMAConfig().teacher_limits(num_iterations, 600) == (expected, 400)
    chosen = SysIDConfig(teacher_iterations=7)
    assert chosen.teacher_limits(num_iterations, 600) == (7, math.inf)


@kinds
def test_two_thirds_of_the_control_steps_train_the_teacher(kind: str, tmp_path: Path) -> None:
    config = wander(
        tmp_path, kind, num_iterations=50, learner={"teacher_iterations": None}, max_env_steps=1000
    )
    phases, starts = [], []
    with open_training(config) as training:
        notice = str(training.agent.learner.notice(10))
        assert "is trained in the first 33 iterations or 667 control steps;" in notice
        while training.agent.state.counters["num_env_steps"] < 1000:
            starts.append(training.agent.state.counters["num_env_steps"])
            iteration = training.iterate()
            phases.append(iteration.metrics["update/phase"])
            training = training.continued(iteration.state)
    assert phases == [1.0 if start < 2000 / 3 else 2.0 for start in starts]
    assert set(phases) == {1.0, 2.0}
    assert len(phases) < 33


@kinds
def test_a_run_with_too_few_control_steps_for_both_phases_is_refused(kind: str) -> None:
    settings: dict[str, Any] = {"env": "PointNavigation", "learner": kind}
    config = load_config(**settings)
    least = 3 * config.meta_batch_size * config.learner.num_episodes * config.horizon
    load_config(**settings, max_env_steps=least)
    message = rf"max_env_steps must be at least {least:,}.*got {least - 1:,}"
    with pytest.raises(UserError, match=message):
        load_config(**settings, max_env_steps=least - 1)
    settings["learner"] = {"name": kind, "teacher_iterations": 1}
    load_config(**settings, max_env_steps=9)


@kinds
def test_dynamics_that_change_within_a_task_are_refused(kind: str, tmp_path: Path) -> None:
    dynamics = {"change_step": [1, 3], "changed/body_mass": [2.0, 3.0]}
    config = tiny(
        tmp_path / "run",
        env={"name": "HalfCheetahDir", "dynamics": dynamics},
        learner={"name": kind, "num_minibatches": 1},
        num_iterations=2,
    )
    message = r"dynamics that change within a task \(change_step, changed/body_mass\)"
    with pytest.raises(UserError, match=message), open_training(config):
        pass


@kinds
def test_a_run_without_an_iteration_for_the_student_is_refused(kind: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="num_iterations must be at least 2"):
        tiny(tmp_path, learner={"name": kind, "num_minibatches": 1}, num_iterations=1)


@kinds
def test_results_say_whether_the_student_is_untrained(kind: str, tmp_path: Path) -> None:
    config = wander(tmp_path, kind, learner={"teacher_iterations": 2}, num_iterations=4)
    notes = []
    with open_training(config) as training:
        learner = training.agent.learner
        assert "is trained in the first 2 iterations;" in str(learner.notice(10))
        for number in range(4):
            saved = maml_rl.load(training.agent.save(tmp_path / str(number)))
            notes.append(learner.describe(training.agent.state)["note"])
            assert saved.learner.describe(saved.state)["note"] == notes[-1]
            training = training.continued(training.iterate().state)
    assert ["the student is untrained" in note for note in notes] == [True, True, True, False]
    assert "that of episode k + 1" in notes[3]


# --- Task vectors ---


class Weighed(helpers.memory_tasks.Opposite):
    """Tasks with a value that never varies."""

    def sample_tasks(self, n: int) -> list[dict[str, float]]:
        return [{"gravity": 9.81, **task} for task in super().sample_tasks(n)]


class Unnamed(helpers.memory_tasks.Opposite):
    """Tasks that are not numbers."""

    def sample_tasks(self, n: int) -> list[dict[str, Any]]:
        return [{"side": "left"} for _ in range(n)]


for environment in (Weighed, Unnamed):
    helpers.memory_tasks.gym.register(
        id=f"teachers/{environment.__name__}-v0", entry_point=environment, max_episode_steps=4
    )


@kinds
def test_tasks_are_normalised_by_those_of_the_first_phase(kind: str, tmp_path: Path) -> None:
    config = wander(
        tmp_path,
        kind,
        env={"name": f"{__name__}:teachers/Weighed-v0"},
        horizon=4,
        learner={"teacher_iterations": 2},
    )
    seen = []
    with open_training(config) as training:
        learner = training.agent.learner
        assert isinstance(learner, TeacherStudent)
        for _ in range(3):
            tasks = sample_tasks(training.collector, training_streams(training))
            seen.append([[task["gravity"], task["side"]] for task in tasks])
            training = training.continued(training.iterate().state)
        state = training.agent.state
        first = learner.teacher_belief(state, tasks)["memory"]
        heavier = [{**task, "gravity": 1e6} for task in tasks]
        assert learner.teacher_belief(state, heavier)["memory"].isfinite().all()
    sides = np.array(seen[:2])[..., 1].ravel()  # those of the third iteration are not included
    statistics = ObservationNormalizer(**state.tensors["task_normalizer"])
    np.testing.assert_allclose(statistics.mean, [9.81, sides.mean()])
    np.testing.assert_allclose(statistics.std, [1, sides.std()])
    assert first.isfinite().all()
    if kind == "sysid":
        sides = np.array(seen[2])[:, 1]
        expected = (sides - float(statistics.mean[1])) / float(statistics.std[1])
        np.testing.assert_allclose(first[:, 1], expected, rtol=1e-6)
        np.testing.assert_allclose(first[:, 0], 0, atol=1e-6)


@kinds
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("CartPole-v1", "'CartPole-v1' draws no tasks, so there is none to observe"),
        (f"{__name__}:teachers/Unnamed-v0", "must have one number for each of"),
    ],
)
def test_tasks_that_cannot_be_observed_are_refused(
    kind: str, name: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--env", name, "--learner", kind, "--output", str(tmp_path / "run")]
    assert main(["train", *flags, "--num_iterations=2", "--horizon=4"]) == 2
    stderr = capsys.readouterr().err
    assert f"learner {kind}: " in stderr
    assert message in stderr
    assert "Traceback" not in stderr


# --- Settings ---


@kinds
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"num_iterations": 5, "learner": {"teacher_iterations": 5}},
            "learner.teacher_iterations must be below num_iterations 5, whose other iterations "
            "train the student, got 5",
        ),
        (
            {"env": {"name": "PointNavigation", "observe_task": True}},
            "env.observe_task must be false if learner.name is .*, got true: the teacher observes",
        ),
        ({"policy": {"context_size": 2}}, "policy.context_size must be 0 if learner.name is"),
        ({"meta_batch_size": 3}, "learner.num_minibatches must be at most meta_batch_size 3"),
        ({"learner": {"teacher_iteration": 3}}, "teacher_iteration.*teacher_iterations"),
        ({"inner": {"num_steps": 2}}, "inner.num_steps.*does not use"),
    ],
)
def test_contradictions(kind: str, settings: dict[str, Any], message: str) -> None:
    learner = {"name": kind, **settings.get("learner", {})}
    with pytest.raises(UserError, match=message):
        load_config(**{"env": "PointNavigation", **settings, "learner": learner})


@pytest.mark.parametrize(
    ("cls", "name", "values"),
    [
        *[(RMAConfig, name, (0, 2.5, None)) for name in ("latent_size", "hidden_size")],
        (RMAConfig, "encoder_hidden_sizes", ((0,), 8)),
        *[(SysIDConfig, "window", (0, -1, None)), (SysIDConfig, "estimator_hidden_sizes", ((0,),))],
        *[(cls, "teacher_iterations", (0, -1, 1.5)) for cls in (RMAConfig, SysIDConfig)],
        *[(cls, "student_epochs", (0, True)) for cls in (RMAConfig, SysIDConfig)],
        *[(cls, "student_step_size", (0.0, float("nan"))) for cls in (RMAConfig, SysIDConfig)],
        *[(cls, "num_episodes", (0, None)) for cls in (RMAConfig, SysIDConfig)],
    ],
)
def test_ranges(cls: Any, name: str, values: tuple[Any, ...]) -> None:
    for value in values:
        with pytest.raises(ValueError, match=rf"learner\.{name} must be .*, got "):
            cls(**{name: value})


# --- Failures ---


@pytest.mark.parametrize("phase", [1, 2])
@kinds
def test_an_update_that_is_not_finite_leaves_what_it_would_change(
    kind: str, phase: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_training(wander(tmp_path, kind)) as training:
        if phase == 2:
            training = training.continued(training.iterate().state)
        state = training.agent.state
        with monkeypatch.context() as patched:
            if phase == 1:
                terms = ppo.loss_terms
                patched.setattr(
                    ppo,
                    "loss_terms",
                    lambda *args: (t := terms(*args))._replace(surrogate=t.surrogate * torch.inf),
                )
            else:
                loss = regression.latent_loss
                patched.setattr(regression, "latent_loss", lambda *args: loss(*args) * torch.inf)
            failed = training.iterate()
        assert [failure.what for failure in failed.failures] == [OUTER_STEP]
        assert failed.metrics["update/failed"] == 1
        assert failed.metrics["update/phase"] == phase
        statistics = {"normalizer", "task_normalizer"} if phase == 1 else set()
        assert groups_that_changed(state, failed.state) == statistics
        assert failed.state.counters["failed_outer_steps"] == 1
        after = training.continued(failed.state).iterate()
    assert after.state.counters["failed_outer_steps"] == 0
    assert after.metrics["update/failed"] == 0
