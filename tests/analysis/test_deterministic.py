"""Evaluation with mean actions: in the measured episodes, and in those of adaptation."""

from __future__ import annotations

import csv
import dataclasses
import html
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.runs import tiny

import maml_rl
from maml_rl.agents.agent import Agent
from maml_rl.analysis.comparison import saved_evaluations
from maml_rl.analysis.comparison.compare import Comparison
from maml_rl.analysis.comparison.entries import Entry
from maml_rl.analysis.comparison.figures import adaptation_figure, sweep_figure
from maml_rl.analysis.comparison.saved_evaluations import evaluation_file
from maml_rl.analysis.evaluation import Evaluation, evaluate
from maml_rl.analysis.report.files import write_report
from maml_rl.analysis.tasks.figures import tasks_figures
from maml_rl.cli import main
from maml_rl.errors import UserError
from maml_rl.learners.trials import Trial, play_most_probable, play_trials
from maml_rl.sampling.collector import Collector
from maml_rl.sampling.environments import as_task_vector_env
from maml_rl.sampling.failures import INNER_STEP
from maml_rl.system.random_streams import Phase, RandomStreams

SIZES = {"num_tasks": 3, "num_episodes": 4, "num_steps": 2}
TASKS = [{"goal_x": 0.4, "goal_y": -0.2}, {"goal_x": -0.1, "goal_y": 0.3}]
STREAMS = RandomStreams(0, Phase.EVALUATION)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deterministic") / "run"
    return maml_rl.train(tiny(folder, num_iterations=1))


@pytest.fixture(scope="module")
def agent(run: Path) -> Agent:
    return maml_rl.load(run)


@pytest.fixture(scope="module")
def sampled(agent: Agent) -> Evaluation:
    return evaluate(agent, **SIZES)


@pytest.fixture(scope="module")
def mean(agent: Agent) -> Evaluation:
    return evaluate(agent, **SIZES, deterministic=True)


def trial_of(agent: Agent, collector: Collector) -> Trial:
    """Two updates on sampled episodes, in ``TASKS``."""
    return play_trials(
        agent.learner, agent.state, collector, TASKS, num_adaptation_steps=2, streams=STREAMS
    )


def test_mean_actions_are_those_of_predict(agent: Agent) -> None:
    task = {"goal_x": 0.3, "goal_y": -0.4}
    result = evaluate(agent, tasks=[task], num_episodes=1, num_steps=1, deterministic=True)
    position, total = np.zeros(2, np.float32), 0.0
    for _ in range(agent.config.horizon):
        action, _ = agent.predict(position, deterministic=True)
        position = position + action
        total -= float(np.hypot(*(position - [0.3, -0.4])))
    assert result.returns[0, 0, 0] == pytest.approx(total, rel=1e-4)


def test_adaptation_is_that_of_sampled_actions(agent: Agent) -> None:
    """The beliefs whose mean actions are measured are those of the evaluation with sampling."""
    result = evaluate(agent, tasks=TASKS, num_episodes=4, num_steps=2, deterministic=True)
    with as_task_vector_env(None, agent.config.env, 8, agent.config.horizon, num_tasks=2) as envs:
        collector = agent.collector(envs, num_tasks=2, num_episodes=4)
        trial = trial_of(agent, collector)
        measured = play_most_probable(agent.learner, agent.state, collector, trial, STREAMS)
    returns = torch.stack([stage.returns for stage in measured.episodes])
    np.testing.assert_array_equal(result.returns, returns)
    assert len(measured.episodes) == len(trial.episodes) == 3
    for played, new in zip(trial.episodes, measured.episodes, strict=True):
        # The same initial observations, other actions.
        first = played.observations[:, :, 0], new.observations[:, :, 0]
        torch.testing.assert_close(*first, rtol=0, atol=0)
        assert not torch.equal(played.actions, new.actions)


def test_the_tasks_are_those_of_sampled_actions(sampled: Evaluation, mean: Evaluation) -> None:
    assert list(mean.tasks) == list(sampled.tasks)
    assert mean.returns.shape == sampled.returns.shape
    assert np.isfinite(mean.returns).all()
    assert (mean.returns != sampled.returns).all()
    # Mean actions from equal initial states have equal returns, after every step.
    assert (mean.returns.std(axis=2) < 1e-5).all()
    assert (sampled.returns.std(axis=2) > 1e-3).all()
    # Adaptation by sampled episodes changes them.
    assert (np.abs(np.diff(mean.task_returns, axis=0)) > 1e-4).all()


def test_more_steps_do_not_change_the_earlier_ones(agent: Agent, mean: Evaluation) -> None:
    fewer = evaluate(agent, **SIZES | {"num_steps": 1}, deterministic=True)
    np.testing.assert_array_equal(fewer.returns, mean.returns[:2])


def test_adaptation_by_mean_actions(agent: Agent, mean: Evaluation) -> None:
    result = evaluate(agent, **SIZES, deterministic=True, deterministic_adaptation=True)
    np.testing.assert_allclose(result.returns[0], mean.returns[0], rtol=1e-6)
    assert not np.allclose(result.returns[1:], mean.returns[1:])
    assert result.description["adaptation_actions"] == "mean"
    assert mean.description["adaptation_actions"] == "sampled"


def test_a_failed_task_is_excluded_after_its_failure(agent: Agent) -> None:
    with as_task_vector_env(None, agent.config.env, 8, agent.config.horizon, num_tasks=2) as envs:
        collector = agent.collector(envs, num_tasks=2, num_episodes=4)
        trial = trial_of(agent, collector)
        first = torch.tensor([True, False])
        failed = trial.failed_tasks.with_failed(first, INNER_STEP, 1)
        broken = trial._replace(failed_tasks=failed)
        measured = play_most_probable(agent.learner, agent.state, collector, broken, STREAMS)
    valid = [stage.returns.isfinite().all(1).tolist() for stage in measured.episodes]
    assert valid == [[True, True], [True, True], [False, True]]
    assert [row.adaptation_step for row in measured.failures.rows([{}, {}])] == [1]


def test_adaptation_by_mean_actions_alone_is_refused(
    agent: Agent, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="deterministic_adaptation needs deterministic"):
        evaluate(agent, **SIZES, deterministic_adaptation=True)
    assert main(["evaluate", str(run), "--deterministic_adaptation"]) == 2
    assert "--deterministic_adaptation needs --deterministic" in capsys.readouterr().err


def test_another_setting_is_another_unfinished_evaluation(agent: Agent, tmp_path: Path) -> None:
    paths = {
        evaluation_file(
            tmp_path,
            agent,
            agent.config.env,
            {**SIZES, "seed": 0, "deterministic": one, "deterministic_adaptation": other},
            None,
            {},
        )
        for one, other in ((False, False), (True, False), (True, True))
    }
    assert len(paths) == 3


def test_all_that_a_result_depends_on_names_an_unfinished_evaluation(
    agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def path_of(agent: Agent, tasks: Any = None, fixed: Any = None, **env: Any) -> Path:
        env_config = dataclasses.replace(agent.config.env, **env)
        return evaluation_file(tmp_path, agent, env_config, SIZES, tasks, fixed or {})

    def with_settings(**settings: Any) -> Agent:
        return dataclasses.replace(agent, config=dataclasses.replace(agent.config, **settings))

    config = agent.config
    paths = [
        path_of(agent),
        path_of(agent, tasks=TASKS),
        path_of(agent, tasks=TASKS[::-1]),
        path_of(agent, fixed={"goal_x": 0.1}),
        path_of(agent, kwargs={"high": 0.7}),
        path_of(dataclasses.replace(agent, num_adaptation_steps=1)),
        path_of(with_settings(horizon=7)),
        path_of(with_settings(policy=dataclasses.replace(config.policy, action_scale=0.5))),
        path_of(with_settings(inner=dataclasses.replace(config.inner, step_size=0.3))),
        path_of(with_settings(baseline=dataclasses.replace(config.baseline, discount=0.5))),
    ]
    monkeypatch.setattr(saved_evaluations, "package_versions", lambda: {"mujoco": "9.9"})
    paths.append(path_of(agent))
    assert len(set(paths)) == len(paths)


def test_the_method_of_an_agent_is_the_function(agent: Agent, mean: Evaluation) -> None:
    result = agent.evaluate(**SIZES, deterministic=True)
    np.testing.assert_array_equal(result.returns, mean.returns)
    assert result.description == mean.description
    with pytest.raises(UserError, match="num_tasks must be an integer of at least 1, got 0"):
        agent.evaluate(num_tasks=0)


# --- names ---


@pytest.mark.thorough
@pytest.mark.parametrize("actions", ["sampled", "mean"])
def test_every_file_names_the_actions(
    actions: str, sampled: Evaluation, mean: Evaluation, tmp_path: Path
) -> None:
    result = {"sampled": sampled, "mean": mean}[actions]
    comparison = Comparison(
        [
            Entry("ours", (Path("a"),), (result,), {}),
            Entry("other", (Path("b"),), (result,), {}),
            *(Entry("ours", (Path("a"),), (result,), {"mass": mass}) for mass in (1.0, 2.0)),
        ]
    )
    name, other = f"{actions} actions", {"sampled": "mean", "mean": "sampled"}[actions] + " actions"
    for text in (result.table(), comparison.table()):
        assert f"return ({name})" in text
        assert other not in text
    figures = [adaptation_figure(comparison), sweep_figure(comparison, "mass", None)]
    for figure in [*figures, *tasks_figures(comparison)]:
        assert name in figure.get_suptitle()
    write_report(tmp_path, comparison)
    content = json.loads((tmp_path / "results.json").read_text())
    assert (content["actions"], content["adaptation_actions"]) == (actions, "sampled")
    with (tmp_path / "results.csv").open(newline="") as file:
        assert {row["actions"] for row in csv.DictReader(file)} == {actions}
    page = html.unescape((tmp_path / "report.html").read_text())
    assert page.count(f"<th>return ({name})</th>") == 3
    assert f"<dt>actions</dt><dd>{actions}; in adaptation: sampled</dd>" in page


@pytest.mark.slow
def test_the_flags(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--num_tasks=3", "--num_episodes=4", "--num_steps=2", "--output", str(tmp_path)]
    assert main(["evaluate", str(run), *flags, "--device=cpu", "--deterministic"]) == 0
    assert "return (mean actions)" in capsys.readouterr().out
    (result,) = json.loads((tmp_path / "results.json").read_text())["results"]
    expected = evaluate(maml_rl.load(run), **SIZES, deterministic=True).mean
    np.testing.assert_allclose(result["return"], expected, rtol=1e-5)
