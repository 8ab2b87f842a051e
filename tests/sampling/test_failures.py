"""Failures are contained, counted and logged, and stop a run only if there are too many."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from helpers.drawn import drawn_task
from helpers.runs import MODULE, assert_same_state, last, tiny
from mujoco.batch import SimulationError

import maml_rl
from maml_rl.analysis.comparison.compare import Comparison
from maml_rl.analysis.comparison.entries import Entry
from maml_rl.analysis.evaluation import Evaluation, evaluate
from maml_rl.analysis.report.files import write_report
from maml_rl.analysis.statistics import mean_interval, mean_of_valid
from maml_rl.cli import main
from maml_rl.learners.base import Belief, Iteration, LearnerState
from maml_rl.learners.iteration_result import MAX_FAILED_OUTER_STEPS
from maml_rl.learners.maml.learner import MAML
from maml_rl.learners.maml.objective import MetaBatch, MetaObjective
from maml_rl.learners.maml.outer import OUTER, reptile
from maml_rl.learners.trials import Trial, play_trials, sample_tasks
from maml_rl.runs.checkpoint import latest_checkpoint
from maml_rl.sampling.episodes import Episodes
from maml_rl.sampling.failures import (
    BASELINE,
    CODES,
    INNER_STEP,
    LINE_SEARCH,
    NO_EPISODE,
    OBSERVATION,
    OUTER_STEP,
    REWARD,
    SIMULATION,
    TASK_EXCLUDED,
    FailedTasks,
    Failure,
    TooManyFailures,
    TrialFailures,
    example,
)
from maml_rl.sampling.gym_vector_env import GymTaskVectorEnv
from maml_rl.settings.config import Config
from maml_rl.settings.drawn_tasks import Task
from maml_rl.system.random_streams import Phase, RandomStreams
from maml_rl.training.compose import Training, open_training
from maml_rl.training.start import resume, train

T, E = 5, 4
CHEETAH = {"env": {"name": "HalfCheetahVel"}, "meta_batch_size": T, "num_episodes": E, "horizon": 6}
POINT = {"meta_batch_size": T, "num_episodes": E, "horizon": 6, "max_failed_share": 0.3}


def table(run: Path) -> list[dict[str, str]]:
    with (run / "failures.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def iterate(config: Config, spoil: Callable[[Training], None] = lambda training: None) -> Iteration:
    """One meta-iteration after ``spoil``."""
    with open_training(config) as training:
        spoil(training)
        return training.iterate()


def play(training: Training) -> tuple[Trial, list[Task]]:
    """The trials of the first meta-iteration, and their tasks."""
    agent, collector, _ = training
    streams = RandomStreams(agent.config.seed, Phase.TRAINING, 0)
    tasks = sample_tasks(collector, streams)
    num_steps = agent.learner.num_adaptation_steps
    trial = play_trials(
        agent.learner,
        agent.state,
        collector,
        tasks,
        num_adaptation_steps=num_steps,
        streams=streams,
    )
    return trial, tasks


def gradient_of(
    config: Config,
    spoil: Callable[[Training], None] = lambda training: None,
    without: int | None = None,
) -> tuple[torch.Tensor, list[Failure], list[bool]]:
    """The meta-gradient of the tasks that did not fail, without task ``without``.

    Returns:
        The gradient, the rows of failures.csv, and for each task whether it failed.
    """
    with open_training(config) as training:
        spoil(training)
        learner, theta = training.agent.learner, training.agent.state.tensors["theta"]
        trial, tasks = play(training)
        failed = trial.failed_tasks.mask
        kept = ~failed
        if without is not None:
            kept[without] = False
        *supports, query = trial.episodes
        batch = MetaBatch(tuple(supports), query, tuple(trial.beliefs)).chosen(kept)
        objective = MetaObjective(learner.policy, batch, learner.inner, 4)
        gradient = objective.surrogate_and_gradient(theta)[1]
        return gradient, trial.failures.rows(tasks), failed.tolist()


def assert_contained(
    config: Config, spoil: Callable[[Training], None], task: int, what: list[str]
) -> None:
    """Task ``task`` fails for these reasons, and the gradient is that of the others."""
    gradient, rows, failed = gradient_of(config, spoil)
    expected, rows_without, _ = gradient_of(config, without=task)
    assert rows_without == []
    assert [row.what for row in rows] == what
    assert failed == [i == task for i in range(T)]
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-9)


def test_rows_are_sorted_by_step_cause_and_task():
    cause = torch.zeros(3, 2, 2, dtype=torch.int8)
    cause[2, 0] = torch.tensor([CODES[REWARD], CODES[SIMULATION]])
    cause[0, 0, 1] = CODES[REWARD]
    cause[1, 1] = CODES[OBSERVATION]
    failed = FailedTasks.none_of(3, torch.device("cpu"))
    failed = failed.with_failed(torch.tensor([False, True, False]), NO_EPISODE, 4)
    tasks = [{"goal": i} for i in range(3)]
    assert TrialFailures(cause, failed, 3).rows(tasks) == [
        Failure(3, SIMULATION, 1, {"goal": 2}),
        Failure(3, REWARD, 1, {"goal": 0}),
        Failure(3, REWARD, 1, {"goal": 2}),
        Failure(4, OBSERVATION, 2, {"goal": 1}),
        Failure(4, NO_EPISODE, 0, {"goal": 1}),
    ]


def test_the_advice_for_a_simulation_includes_memory_on_a_device():
    text = example([Failure(0, SIMULATION, 1, {"goal": 1.0})])
    assert "lower policy.action_scale" in text
    assert "more contacts than the device had memory for" in text


def test_a_task_fails_once_and_later_failures_of_its_episodes_have_no_row():
    is_first = torch.tensor([True, False])
    failed = FailedTasks.none_of(2, torch.device("cpu")).with_failed(is_first, INNER_STEP, 0)
    failed = failed.with_failed(torch.tensor([True, True]), BASELINE, 1)
    assert failed.mask.tolist() == [True, True]
    assert failed.stage.tolist() == [0, 1]
    cause = torch.zeros(2, 2, 3, dtype=torch.int8)
    cause[0, :, 0] = CODES[REWARD]
    cause[0, 1, 1] = TASK_EXCLUDED
    failures = TrialFailures(cause, failed, 0)
    rows = failures.rows([{"goal": 0}, {"goal": 1}])
    assert rows == [
        Failure(0, REWARD, 1, {"goal": 0}),
        Failure(0, INNER_STEP, 0, {"goal": 0}),
        Failure(1, BASELINE, 0, {"goal": 1}),
    ]
    with pytest.raises(TooManyFailures, match="2 of 2 tasks failed in here"):
        failures.check(rows, 1.0, "here")


def test_too_many_discarded_episodes_are_refused():
    cause = torch.zeros(2, 1, 4, dtype=torch.int8)
    cause[1, 0, :3] = CODES[REWARD]
    failures = TrialFailures(cause, FailedTasks.none_of(2, torch.device("cpu")), 0)
    rows = failures.rows([{}, {}])
    failures.check(rows, 0.375, "here")
    with pytest.raises(TooManyFailures, match=r"3 of 8 episodes were discarded in here.*0\.3:"):
        failures.check(rows, 0.3, "here")


def spoil_simulation(sims: list[int], at: int, how: str = "nan") -> Callable[[Training], None]:
    """Simulations that diverge, or that MuJoCo refuses to step, at step ``at``."""

    def spoil(training: Training) -> None:
        engine = training.collector.env.engine
        step, count = engine.batch.step, 0

        class Spoilt:
            def __getattr__(self, name: str) -> Any:
                return getattr(batch, name)

            def step(self, ids: Any = None, **kwargs: Any) -> None:
                nonlocal count
                count += 1
                if count == at and how == "nan":
                    engine.state["qvel"][sims, 0] = np.nan
                if count == at and how == "huge":
                    engine.state["qvel"][sims] = 1e9
                step(ids, **kwargs)
                if count == at and how == "error":
                    raise SimulationError(np.array(sims), "the arena is full")

        batch, engine.batch = engine.batch, Spoilt()

    return spoil


@pytest.mark.parametrize("how", ["nan", "huge", "error"])
def test_a_simulation_that_diverges_costs_its_episode(tmp_path, how):
    config = tiny(tmp_path / "run", **CHEETAH)
    _, metrics, failures = iterate(config, spoil_simulation([E + 1], 3, how))
    assert [(row.adaptation_step, row.what, row.num_episodes) for row in failures] == [
        (0, SIMULATION, 1)
    ]
    assert "goal_velocity" in failures[0].task
    assert (
        metrics["train/discarded_episodes"],
        metrics["train/failed_tasks"],
        metrics["outer/failed"],
    ) == (1, 0, 0)


def test_mujoco_writes_nothing_of_its_own_about_what_is_counted(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert iterate(tiny(tmp_path / "run", **CHEETAH), spoil_simulation([1], 3, "huge")).failures
    assert capfd.readouterr().err == ""
    assert not (tmp_path / "MUJOCO_LOG.TXT").exists()


def test_mujoco_writes_nothing_about_a_single_simulation_either(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    env = gym.make("maml_rl/HalfCheetahDir-v0").unwrapped
    env.reset(seed=0)
    env.engine.data.qvel[:] = 1e11
    *_, info = env.step(env.action_space.sample())
    assert info["unstable"]
    assert capfd.readouterr().err == ""
    assert not (tmp_path / "MUJOCO_LOG.TXT").exists()


def test_other_episodes_do_not_depend_on_a_discarded_one(tmp_path):
    config = tiny(tmp_path / "run", **CHEETAH)
    with open_training(config) as training, open_training(config) as intact:
        spoil_simulation([E + 1], 3)(training)
        spoilt, whole = (play(one)[0].episodes[0] for one in (training, intact))
    valid = ~spoilt.discarded
    assert valid.sum() == T * E - 1
    for name in ("observations", "actions", "rewards", "mask", "log_probs"):
        assert torch.equal(getattr(spoilt, name)[valid], getattr(whole, name)[valid])


@pytest.mark.parametrize("how", ["nan", "error"])
def test_a_task_without_a_valid_episode_is_excluded(tmp_path, how):
    config = tiny(tmp_path / "run", **CHEETAH)
    everything = list(range(2 * E, 3 * E))
    assert_contained(config, spoil_simulation(everything, 2, how), 2, [SIMULATION, NO_EPISODE])


BREAKING = MODULE.replace("Line-v0", "{id}").replace(
    "        return self.x.copy(), -abs",
    "        if self.goal > {above}:\n            {spoil}\n        return self.x.copy(), -abs",
)


def breaking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, spoil: str, above: float
) -> str:
    """An environment that runs ``spoil`` in every step if the goal is above ``above``."""
    text = (
        BREAKING.replace("{id}", f"{name}-v0")
        .replace("{above}", str(above))
        .replace("{spoil}", spoil)
    )
    module = f"env_{name.lower()}"
    (tmp_path / f"{module}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    return f"{module}:{name}-v0"


@pytest.mark.filterwarnings("ignore:.*(NaN|not within)")
@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        ("return self.x.copy(), float('nan'), False, False, {}", REWARD),
        ("return self.x * np.float32('nan'), 0.0, False, False, {}", OBSERVATION),
    ],
    ids=["reward", "observation"],
)
@pytest.mark.parametrize("vectorization", ["sync", pytest.param("async", marks=pytest.mark.slow)])
def test_a_task_whose_environment_returns_nan_is_excluded(
    tmp_path, monkeypatch, spoil, what, vectorization
):
    env = {"name": "", "vectorization": vectorization}
    probe = tiny(
        tmp_path / "probe",
        env={"name": breaking(tmp_path, monkeypatch, "Fine" + what.split()[1], spoil, 1e9)},
        **POINT,
    )
    with open_training(probe) as training:
        goals = [
            task["goal"]
            for task in sample_tasks(training.collector, RandomStreams(0, Phase.TRAINING, 0))
        ]
    above = sorted(goals)[-2]
    env["name"] = breaking(
        tmp_path, monkeypatch, f"Bad{what.split()[1]}{vectorization}", spoil, above
    )
    config = tiny(tmp_path / "run", env=env, **POINT)
    gradient, rows, failed = gradient_of(config)
    assert [(row.what, row.num_episodes) for row in rows] == [(what, E), (NO_EPISODE, 0)]
    assert failed == [goal > above for goal in goals]
    expected, _, _ = gradient_of(probe, without=goals.index(max(goals)))
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-9)


def test_an_episode_that_starts_with_inf_is_discarded(tmp_path, monkeypatch):
    config = tiny(tmp_path / "run", **POINT)
    reset = None

    def spoilt(*args: Any, **kwargs: Any) -> Any:
        observation, info = reset(*args, **kwargs)
        observation = observation.copy()
        observation[1] = np.inf
        return observation, info

    def spoil(training: Training) -> None:
        nonlocal reset
        reset = training.collector.env.reset
        monkeypatch.setattr(training.collector.env, "reset", spoilt)

    _, metrics, failures = iterate(config, spoil)
    assert [(row.what, row.num_episodes) for row in failures] == [
        (OBSERVATION, 1),
        (OBSERVATION, 1),
    ]
    assert metrics["train/discarded_episodes"] == 2


@pytest.mark.parametrize("reward", [np.inf, 1e39])
@pytest.mark.parametrize("learner", ["maml", "rl2", "pearl"])
def test_a_reward_that_float32_cannot_hold_costs_its_episode(
    tmp_path, monkeypatch, learner, reward
):
    config = tiny(tmp_path / "run", learner=learner, meta_batch_size=8, horizon=6)
    with open_training(config) as training:
        env, step = training.collector.env, training.collector.env.step

        def spoilt(actions: Any) -> Any:
            observation, rewards, *others = step(actions)
            rewards = rewards.astype(float)
            rewards[1] = reward
            return observation, rewards, *others

        monkeypatch.setattr(env, "step", spoilt)
        trial, tasks = play(training)
    rows = trial.failures.rows(tasks)
    assert {row.what for row in rows} <= {REWARD, NO_EPISODE}
    assert any(row.what == REWARD for row in rows)
    for stage in trial.episodes:
        assert stage.rewards.isfinite().all()
        assert stage.discarded.sum() >= 1


@pytest.mark.filterwarnings("ignore:.*inf value")
def test_the_adapter_steps_a_broken_environment_no_further(tmp_path, monkeypatch):
    """It is reset, and what it returns then is ignored."""
    spoil = "return self.x.copy(), float('inf') if self.x[0] < 8 else 1 / 0, False, False, {}"
    name = breaking(tmp_path, monkeypatch, "Inf", spoil, -9.0)
    env = maml_rl.sampling.environments.make_task_vector_env(
        maml_rl.settings.env.EnvConfig(name=name), 2, 50
    )
    assert isinstance(env, GymTaskVectorEnv)
    env.set_tasks([{"goal": 1.0}, {"goal": 1.0}])
    env.reset(seed=0)
    assert np.isinf(env.step(np.full((2, 1), 1.0, np.float32))[1]).all()
    for _ in range(40):
        assert (env.step(np.full((2, 1), 1.0, np.float32))[1] == 0).all()
    env.close()


def spoil_inner_step(task: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first inner step explodes for one task."""
    original = MAML.update

    def spoilt(
        self: MAML, state: LearnerState, belief: Belief, episodes: Episodes, stage: int
    ) -> Belief:
        adapted = original(self, state, belief, episodes, stage)
        if stage == 0:
            adapted["weight_0"][task] = float("inf")
        return adapted

    monkeypatch.setattr(MAML, "update", spoilt)


@pytest.mark.parametrize("num_steps", [1, 2])
def test_a_task_whose_inner_step_explodes_is_excluded(tmp_path, monkeypatch, num_steps):
    config = tiny(tmp_path / "run", **POINT, inner={"num_steps": num_steps})
    expected, _, _ = gradient_of(config, without=3)
    spoil_inner_step(3, monkeypatch)
    gradient, rows, _ = gradient_of(config)
    assert [(row.adaptation_step, row.what) for row in rows] == [(0, INNER_STEP)]
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-9)
    _, metrics, rows = iterate(config)
    assert metrics["outer/gradient_norm"] == pytest.approx(float(expected.norm()), rel=1e-5)
    assert metrics["train/failed_tasks"] == 1
    assert metrics["train/discarded_episodes"] == 0
    assert math.isfinite(metrics["train/return_after_1_steps"])
    assert [row.what for row in rows] == [INNER_STEP]


def test_a_failed_task_keeps_its_parameters(tmp_path, monkeypatch):
    config = tiny(tmp_path / "run", **POINT)
    spoil_inner_step(3, monkeypatch)
    with open_training(config) as training:
        trial, _ = play(training)
    for name, value in training.agent.state.tensors["theta"].items():
        assert torch.equal(trial.beliefs[-1][name][3], value)
        assert name == "log_std" or not torch.equal(trial.beliefs[-1][name][2], value)


def test_a_task_whose_baseline_cannot_be_fitted_is_excluded(tmp_path):
    """Its observations are finite, and their squares are not."""

    def spoil(training: Training) -> None:
        env, step = training.collector.env, training.collector.env.step

        def spoilt(actions: Any) -> Any:
            observation, reward, *rest = step(actions)
            observation = observation.copy()
            observation[E : 2 * E] = 1e30
            return observation, reward, *rest

        env.step = spoilt

    assert_contained(tiny(tmp_path / "run", **POINT), spoil, 1, [BASELINE])


def outer_config(tmp_path: Path, name: str) -> Config:
    inner = {"num_steps": 2 if name == "reptile" else 1}
    return tiny(tmp_path / name, **POINT, outer={"name": name}, inner=inner)


def patch_outer(
    monkeypatch: pytest.MonkeyPatch, config: Config, spoil: Callable[[Any], Any]
) -> None:
    """Let the outer step return something else."""
    outer = OUTER[config.outer.name]
    spoiled = outer._replace(step=lambda *args: spoil(outer.step(*args)))
    monkeypatch.setitem(OUTER, config.outer.name, spoiled)


@pytest.mark.slow
@pytest.mark.parametrize("name", OUTER)
@pytest.mark.parametrize("where", ["gradient", "theta"])
def test_an_outer_step_that_is_not_finite_leaves_theta(tmp_path, monkeypatch, name, where):
    config = outer_config(tmp_path, name)
    with open_training(config) as training:
        training = training.continued(training.iterate().state)
        if where == "theta":
            patch_outer(
                monkeypatch,
                config,
                lambda result: ({**result[0], "weight_0": result[0]["weight_0"] / 0}, *result[1:]),
            )
        else:
            owner, method = (
                (reptile, "mean_movement")
                if name == "reptile"
                else (MetaObjective, "surrogate_and_gradient")
            )
            original = getattr(owner, method)

            def spoilt(objective: MetaObjective, *args: Any) -> Any:
                result = original(objective, *args)
                return result * math.nan if name == "reptile" else (result[0], result[1] * math.nan)

            monkeypatch.setattr(owner, method, spoilt)
        after, metrics, failures = training.iterate()
    assert [(row.what, row.task) for row in failures] == [(OUTER_STEP, None)]
    assert metrics["outer/failed"] == 1
    assert all(math.isfinite(value) for value in metrics.values())
    assert after.counters["failed_outer_steps"] == 1
    assert after.counters["iteration"] == 2
    for group in ("theta", "outer"):
        before, now = training.agent.state.tensors[group], after.tensors[group]
        assert before.keys() == now.keys()
        assert all(torch.equal(before[key], now[key]) for key in before)


def reject(monkeypatch: pytest.MonkeyPatch) -> None:
    """No candidate of a line search is better."""
    monkeypatch.setattr(MetaObjective, "value", lambda self, theta: (-math.inf, 0.0))


def test_a_rejected_line_search_is_counted_and_logged(tmp_path, monkeypatch):
    with open_training(tiny(tmp_path / "run", **POINT)) as training:
        with monkeypatch.context() as patched:
            reject(patched)
            after, metrics, failures = training.iterate()
        assert [row.what for row in failures] == [LINE_SEARCH]
        assert metrics["outer/failed"] == 1
        assert metrics["outer/accepted"] == 0
        theta = training.agent.state.tensors["theta"]
        assert all(torch.equal(after.tensors["theta"][name], theta[name]) for name in theta)
        assert after.counters["failed_outer_steps"] == 1
        fine = training.continued(after).iterate()
        assert fine.state.counters["failed_outer_steps"] == 0
        assert fine.failures == []


def test_without_a_gradient_no_outer_step_fails(tmp_path):
    """All returns are equal, as before a sparse reward is first reached."""
    config = tiny(tmp_path / "run", **POINT | {"horizon": 1, "num_episodes": 1})
    _, metrics, failures = iterate(config)
    assert metrics["outer/accepted"] == metrics["outer/gradient_norm"] == 0
    assert failures == []


@pytest.mark.slow
def test_ten_failed_outer_steps_in_a_row_stop_the_run_over_a_resume_too(
    tmp_path, monkeypatch, caplog
):
    reject(monkeypatch)
    most = MAX_FAILED_OUTER_STEPS
    run = train(tiny(tmp_path / "run", **POINT | {"num_iterations": most - 2}))
    assert last(run).values["failed_outer_steps"] == most - 2
    caplog.set_level("INFO", "maml_rl")
    with pytest.raises(
        TooManyFailures, match=f"{most} outer steps in a row failed.*{LINE_SEARCH}.*lower"
    ):
        resume(run, most + 5)
    assert f"iteration {most - 1} is saved" in caplog.messages[-1]
    assert f"--init_from {run}" in caplog.messages[-1]
    assert len(table(run)) == most


def test_the_message_of_a_failed_outer_step_is_reported(tmp_path, monkeypatch):
    def failing(*_: Any) -> Any:
        raise FloatingPointError("theta ran away")

    config = tiny(tmp_path / "run", **POINT | {"num_iterations": MAX_FAILED_OUTER_STEPS})
    monkeypatch.setitem(OUTER, config.outer.name, OUTER[config.outer.name]._replace(step=failing))
    with pytest.raises(
        TooManyFailures, match=re.escape(f"the last because {OUTER_STEP} (theta ran away)")
    ):
        train(config)


@pytest.mark.slow
def test_checkpoints_that_do_not_count_failed_outer_steps_load(tmp_path, monkeypatch):
    whole = train(tiny(tmp_path / "whole", num_iterations=4))
    save = maml_rl.training.saving.save_checkpoint

    def as_before(folder: Path, iteration: int, tensors: Any, values: Any, *more: Any) -> Path:
        kept = {name: value for name, value in values.items() if name != "failed_outer_steps"}
        return save(folder, iteration, tensors, kept, *more)

    with monkeypatch.context() as patched:
        patched.setattr("maml_rl.training.saving.save_checkpoint", as_before)
        run = train(tiny(tmp_path / "run", num_iterations=2))
    assert "failed_outer_steps" not in last(run).values
    assert_same_state(resume(run, 4), whole)


def spoil_some(monkeypatch: pytest.MonkeyPatch, num_tasks: int = 1) -> None:
    """In about every second iteration the inner steps of the first ``num_tasks`` tasks explode."""
    original = MAML.update

    def spoilt(
        self: MAML, state: LearnerState, belief: Belief, episodes: Episodes, stage: int
    ) -> Belief:
        adapted = original(self, state, belief, episodes, stage)
        if float(episodes.rewards.sum()) % 0.02 < 0.01:
            adapted["weight_0"][:num_tasks] = float("nan")
        return adapted

    monkeypatch.setattr(MAML, "update", spoilt)


@pytest.mark.slow
def test_a_run_that_is_stopped_and_resumed_has_the_same_failures(tmp_path, monkeypatch, caplog):
    spoil_some(monkeypatch)
    caplog.set_level("INFO", "maml_rl")
    whole = train(tiny(tmp_path / "whole", **POINT | {"num_iterations": 12}))
    rows = table(whole)
    assert 0 < len(rows) < 12
    assert {row["what"] for row in rows} == {INNER_STEP}
    assert all("goal_x" in json.loads(row["task"]) for row in rows)
    assert len([text for text in caplog.messages if "1 task excluded" in text]) == len(rows)
    # Rows beyond the checkpoint are there when the run is killed, and come again.
    config = tiny(
        tmp_path / "run", **POINT | {"num_iterations": 12}, logging={"checkpoint_every": 5}
    )
    original = MAML.iteration

    class Killed(BaseException):
        pass

    def iteration(self: MAML, state: LearnerState, *args: Any) -> Iteration:
        if state.counters["iteration"] == 9:
            raise Killed
        return original(self, state, *args)

    with monkeypatch.context() as patched:
        patched.setattr(MAML, "iteration", iteration)
        patched.setattr("maml_rl.training.training_run.save_after", lambda *args: None)
        with pytest.raises(Killed):
            train(config)
    run = tmp_path / "run"
    newest = latest_checkpoint(run / "checkpoints")
    assert newest is not None
    assert newest.name == "000005"
    assert table(run) == [row for row in rows if int(row["time/iteration"]) <= 9]
    resume(run)
    assert table(run) == rows
    assert_same_state(run, whole)


@pytest.mark.slow
def test_more_than_the_share_stops_with_a_line_that_says_why(tmp_path, monkeypatch):
    spoil_some(monkeypatch, 2)
    with pytest.raises(TooManyFailures) as stopped:
        train(tiny(tmp_path / "run", **POINT | {"num_iterations": 12}))
    text = str(stopped.value)
    assert "\n" not in text
    assert "2 of 5 tasks failed in meta-iteration" in text
    assert "max_failed_share 0.3" in text
    assert INNER_STEP in text
    assert "goal_x" in text
    assert "lower inner.step_size" in text
    assert len(table(tmp_path / "run")) == 2
    train(tiny(tmp_path / "more", **POINT | {"num_iterations": 12, "max_failed_share": 0.4}))


@pytest.mark.filterwarnings("ignore:.*(NaN|not within)")
def test_on_the_command_line_it_is_one_line(tmp_path, monkeypatch, capsys):
    spoil = "return self.x.copy(), float('nan'), False, False, {}"
    name = breaking(tmp_path, monkeypatch, "Nan", spoil, -9.0)
    flags = [
        "--num_iterations=2",
        "--meta_batch_size=2",
        "--num_episodes=2",
        "--horizon=5",
        "--device=cpu",
    ]
    flags += ["--logging.final_evaluation=false", "--logging.final_video=false"]
    assert main(["train", "--env", name, *flags, "--output", str(tmp_path / "run")]) == 1
    err = capsys.readouterr().err.strip().splitlines()[-1]
    assert err.startswith(f"error: {name}: 2 of 2 tasks failed in meta-iteration 1, ")
    assert REWARD in err
    assert "goal" in err


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_out_of_range_is_refused(tmp_path, share):
    with pytest.raises(ValueError, match="max_failed_share"):
        dataclasses.replace(tiny(tmp_path / "run"), max_failed_share=share)


@pytest.mark.slow
def test_evaluation_leaves_failed_tasks_out(tmp_path, monkeypatch):
    policy = maml_rl.load(train(tiny(tmp_path / "run", **POINT | {"num_iterations": 1})))
    whole = evaluate(policy, num_tasks=T, num_episodes=E, num_steps=2)
    spoil_inner_step(3, monkeypatch)
    spoilt = evaluate(policy, num_tasks=T, num_episodes=E, num_steps=2)
    others = [0, 1, 2, 4]
    np.testing.assert_array_equal(spoilt.returns[:, others], whole.returns[:, others])
    np.testing.assert_array_equal(spoilt.returns[0, 3], whole.returns[0, 3])
    assert np.isnan(spoilt.returns[1:, 3]).all()
    np.testing.assert_allclose(
        spoilt.mean[1:], whole.task_returns[1:, others].mean(axis=1), rtol=1e-6
    )
    assert spoilt.failed.tolist() == [i == 3 for i in range(T)]
    assert "1 of 5 tasks failed" in spoilt.table()
    assert "nan" not in spoilt.table()
    assert "failed" not in whole.table()
    folder = tmp_path / "report"
    comparison = Comparison(
        [Entry("one", (Path("a"),), (spoilt,), {}), Entry("two", (Path("b"),), (whole,), {})]
    )
    write_report(folder, comparison)
    assert "one: 1 of 5 tasks failed" in comparison.table()
    assert "two: 1 of" not in comparison.table()
    results = json.loads((folder / "results.json").read_text())["results"]
    assert [result["num_failed_tasks"] for result in results] == [1, 0]
    assert results[0]["tasks"][3]["returns"][1:] == [None, None]
    assert "one: 1 of 5 tasks failed" in (folder / "report.html").read_text()
    with (folder / "results.csv").open(newline="") as file:
        assert [row["return"] == "" for row in csv.DictReader(file)].count(True) == 2


def test_an_evaluation_with_too_many_failed_tasks_stops(tmp_path, monkeypatch):
    policy = maml_rl.load(train(tiny(tmp_path / "run", **POINT | {"num_iterations": 1})))
    spoil_inner_step(0, monkeypatch)
    with pytest.raises(
        TooManyFailures, match=r"1 of 2 tasks failed in the evaluation.*max_failed_share 0\.3"
    ):
        evaluate(policy, num_tasks=2, num_episodes=E, num_steps=1)
    with pytest.raises(
        TooManyFailures,
        match=r"adaptation failed: the inner step is not finite.*lower inner\.step_size",
    ):
        policy.adapt(task=drawn_task(policy))


def test_means_and_intervals_leave_out_what_is_nan():
    values = np.random.default_rng(0).normal(size=(2, 12))
    holes = values.copy()
    holes[1, [2, 5]] = np.nan
    kept = np.delete(values[1], [2, 5])
    np.testing.assert_allclose(mean_of_valid(holes, 1), [values[0].mean(), kept.mean()])
    expected = [mean_interval(values[0]), mean_interval(kept)]
    np.testing.assert_allclose(mean_interval(holes), expected)
    assert np.isnan(mean_of_valid(np.full((1, 3), np.nan), 1)).all()
    assert np.isnan(mean_interval(np.array([1.0, np.nan]))).all()


def test_a_task_that_failed_in_one_of_several_runs_is_left_out():
    returns = np.arange(24.0).reshape(2, 6, 2)
    broken = returns.copy()
    broken[1, 4] = np.nan
    success = np.ones_like(returns)
    success[:, 4] = 0.0  # of the failed task, which only the other run has
    runs = [
        Evaluation([{}] * 6, each, np.where(np.isnan(each), np.nan, success), {})
        for each in (returns, broken)
    ]
    entry = Entry("several", (Path("a"), Path("b")), tuple(runs), {})
    np.testing.assert_allclose(entry.success, [5 / 6, 1.0])
    assert entry.num_failed_tasks == 1
    assert np.isfinite(entry.center).all()
    assert np.isfinite(entry.interval).all()
    assert np.isnan(entry.task_returns).sum() == 1
    others = np.delete(returns[1], 4, axis=0).mean()
    np.testing.assert_allclose(entry.run_returns[:, 1], [others, others])
    np.testing.assert_allclose(entry.interval[1], [others, others])
