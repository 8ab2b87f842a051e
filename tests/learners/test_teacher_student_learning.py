"""Teacher and student learn: the student adapts, and system identification finds the dynamics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import helpers.identification_tasks
import helpers.memory_tasks
import numpy as np
import pytest
from helpers.teacher_student import KINDS

import maml_rl
from maml_rl.learners.teacher_student.learner import TeacherStudent
from maml_rl.learners.trials import play_trials, sample_tasks
from maml_rl.policies.normalizer import ObservationNormalizer
from maml_rl.system.random_streams import Phase, RandomStreams
from maml_rl.training.compose import open_training

NO_END = {"final_video": False, "final_evaluation": False}
SMALL: dict[str, dict[str, Any]] = {
    "rma": {"latent_size": 2, "encoder_hidden_sizes": [16], "hidden_size": 16},
    "sysid": {"window": 4, "estimator_hidden_sizes": [16]},
}


@pytest.mark.thorough
@pytest.mark.parametrize("kind", KINDS)
def test_a_student_learns_from_rewards_where_to_go(kind: str, tmp_path: Path) -> None:
    """Five steps to the right or to the left, as only rewards show: the first is by chance.

    A policy without memory earns 0 on average, because it does the same on both sides. Who knows
    the side earns 5; who sees it after one step, 4 in the first episode and 5 in the second.
    """
    config = maml_rl.load_config(
        env="helpers.memory_tasks:memory/Opposite-v0",
        device="cpu",
        num_iterations=40,
        meta_batch_size=64,
        num_episodes=1,
        policy={"hidden_sizes": [16], "action_scale": 1.0},
        learner={
            "name": kind,
            "teacher_iterations": 25,
            "step_size": 1e-2,
            "student_step_size": 1e-2,
            **SMALL[kind],
        },
        logging=NO_END,
        output=str(tmp_path / "run"),
    )
    agent = maml_rl.load(maml_rl.train(config))
    result = maml_rl.evaluate(agent, num_tasks=100, num_steps=1, num_episodes=1, seed=3)
    first, second = result.returns.mean(axis=(1, 2))
    pulls = helpers.memory_tasks.PULLS
    assert 0.5 * pulls < first < pulls - 0.5
    assert second > 0.8 * pulls


@pytest.mark.thorough
@pytest.mark.parametrize(("name", "num_iterations"), [("Pendulum", 60), ("Block", 30)])
def test_system_identification_finds_the_dynamics(
    name: str, num_iterations: int, tmp_path: Path
) -> None:
    """To 5 % on average over fresh tasks, from the ten steps of one episode of random actions."""
    config = maml_rl.load_config(
        env=f"helpers.identification_tasks:identification/{name}-v0",
        device="cpu",
        torch_threads=1,
        tasks_per_block=64,
        num_iterations=num_iterations,
        meta_batch_size=256,
        num_episodes=1,
        policy={"hidden_sizes": [16], "nonlinearity": "relu", "normalize_observations": True},
        learner={
            "name": "sysid",
            "teacher_iterations": 1,
            "num_episodes": 1,
            "window": 8,
            "student_epochs": 8,
            "student_step_size": 2e-3,
        },
        logging=NO_END,
        output=str(tmp_path / "run"),
    )
    with open_training(config) as training:
        learner = training.agent.learner
        assert isinstance(learner, TeacherStudent)
        for _ in range(num_iterations):
            training = training.continued(training.iterate().state)
        # Play fresh tasks, and estimate them from what is remembered.
        state = training.agent.state
        streams = RandomStreams(0, Phase.EVALUATION, 0)
        tasks = sample_tasks(training.collector, streams)
        trial = play_trials(
            learner,
            state,
            training.collector,
            tasks,
            num_adaptation_steps=1,
            streams=streams,
            final_episodes=False,
        )
    theta = {**state.tensors["theta"], **state.tensors["student"]}
    memory = learner.student.outputs_of(trial.beliefs[-1]["memory"])
    estimates = learner.student.estimates(theta, memory).double()
    statistics = ObservationNormalizer(**state.tensors["task_normalizer"])
    found = (estimates * statistics.std + statistics.mean).numpy()
    names = sorted(tasks[0])
    true = np.array([[task[key] for key in names] for task in tasks])
    error = np.abs(found / true - 1).mean(0)
    assert (error < 0.05).all(), dict(zip(names, error, strict=True))
    # Without an episode, nothing better than the mean is known.
    guess = np.abs(statistics.mean.numpy() / true - 1).mean(0)
    assert (guess > 0.09).all()
