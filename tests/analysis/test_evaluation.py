"""Evaluation: returns after 0, 1, ... K steps on fresh tasks, as a table."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from helpers.runs import tiny

import maml_rl
from maml_rl.agents.agent import Agent
from maml_rl.analysis.evaluation import Evaluation, evaluate, fresh_tasks
from maml_rl.errors import UserError
from maml_rl.learners.trials import sample_tasks
from maml_rl.settings.env import EnvConfig
from maml_rl.system.random_streams import Phase, RandomStreams
from maml_rl.training.compose import open_training

DESCRIPTION = {"episodes_per_step": 2, "actions": "sampled", "learner": {"name": "maml"}}


@pytest.fixture(scope="module")
def agent(tmp_path_factory) -> Agent:
    config = maml_rl.load_config(
        env="PointNavigation",
        device="cpu",
        num_iterations=1,
        meta_batch_size=2,
        num_episodes=2,
        horizon=6,
        policy={"hidden_sizes": [8]},
        logging={"final_evaluation": False, "final_video": False},
        output=str(tmp_path_factory.mktemp("evaluation") / "run"),
    )
    return maml_rl.load(maml_rl.train(config))


def run_evaluation(agent: Agent, seed: int = 0, **sizes: int) -> Evaluation:
    return evaluate(agent, seed=seed, **{"num_tasks": 5, "num_episodes": 4} | sizes)


@pytest.fixture(scope="module")
def result(agent) -> Evaluation:
    return run_evaluation(agent, num_steps=2)


def test_sizes(result):
    assert result.returns.shape == (3, 5, 4)
    assert len(result.tasks) == 5
    assert result.task_returns.shape == (3, 5)
    assert result.mean.shape == (3,)
    assert result.interval.shape == (3, 2)
    assert np.isfinite(result.returns).all()


def still(agent: Agent) -> Agent:
    """Return the agent with zero parameters and a tiny standard deviation: it does not move."""
    belief = {name: 0 * v - 20 * (name == "log_std") for name, v in agent.belief.items()}
    return dataclasses.replace(agent, belief=belief)


def test_returns_are_those_of_the_task(agent):
    """With a step that goes nowhere, the return follows from the goal alone."""
    result = run_evaluation(still(agent), num_steps=0)
    for task, returns in zip(result.tasks, result.returns[0], strict=True):
        np.testing.assert_allclose(
            returns, -6 * np.hypot(task["goal_x"], task["goal_y"]), rtol=1e-4
        )


@pytest.mark.parametrize("num_steps", [0, 1, 3])
def test_the_table_has_a_row_per_step(agent, num_steps):
    result = run_evaluation(agent, num_steps=num_steps)
    header, *rows = result.table().splitlines()
    assert "return" in header
    if num_steps:
        assert (
            rows.pop() == "adaptation step sizes after training: 0.1 (chosen on 2 training tasks)"
        )
    assert [int(row.split()[0]) for row in rows] == list(range(num_steps + 1))
    for row, mean, (low, high) in zip(rows, result.mean, result.interval, strict=True):
        assert f" {mean:.1f} " in row
        assert f"[{low:.1f}, {high:.1f}]" in row


def test_it_prints_as_one_line():
    returns = np.array([[[1.0, 2.0]], [[3.0, np.nan]]])
    evaluation = Evaluation([{}], returns, np.full_like(returns, np.nan), {})
    assert repr(evaluation) == "Evaluation(1 task, 2 episodes per step, return [1.5, 3.0])"


def test_the_same_seed_gives_the_same_result(agent, result):
    again = run_evaluation(agent, num_steps=2)
    np.testing.assert_array_equal(again.returns, result.returns)
    np.testing.assert_array_equal(again.interval, result.interval)
    assert again.tasks == result.tasks


def test_another_seed_gives_fresh_tasks(agent, result):
    other = run_evaluation(agent, seed=1, num_steps=2)
    assert all(task not in result.tasks for task in other.tasks)
    assert not np.array_equal(other.returns, result.returns)


def test_tasks_are_not_those_of_training(agent):
    seed = agent.config.seed
    evaluated = run_evaluation(agent, seed=seed, num_steps=0).tasks
    with open_training(agent.config) as training:
        for iteration in range(3):
            streams = RandomStreams(seed, Phase.TRAINING, iteration)
            trained = sample_tasks(training.collector, streams, len(evaluated))
            assert not [task for task in evaluated if task in trained]


def test_more_steps_do_not_change_the_earlier_ones(agent, result):
    np.testing.assert_array_equal(run_evaluation(agent, num_steps=1).returns, result.returns[:2])


def test_one_task_has_no_interval():
    result = Evaluation([{}], np.array([[[1.0, 3.0]]]), np.full((1, 1, 2), np.nan), DESCRIPTION)
    assert np.isnan(result.interval).all()
    assert "–" in result.table()
    assert "nan" not in result.table()


def test_discarded_episodes_are_excluded_and_counted():
    returns = np.array([[[1.0, np.nan], [3.0, 5.0]]])
    success = np.array([[[1.0, np.nan], [0.0, 1.0]]])
    result = Evaluation([{"a": 1.0}, {"a": 2.0}], returns, success, DESCRIPTION)
    np.testing.assert_allclose(result.task_returns, [[1.0, 4.0]])
    np.testing.assert_allclose(result.mean, [2.5])
    np.testing.assert_allclose(result.task_success, [[1.0, 0.5]])
    assert result.num_discarded_episodes == 1
    assert "75 %" in result.table()


def test_sizes_may_be_integers_of_numpy(agent):
    sizes = {"num_tasks": np.uint8(3), "num_episodes": np.int64(2), "num_steps": np.int8(1)}
    assert evaluate(agent, **sizes, seed=np.int64(0)).returns.shape == (2, 3, 2)


def test_an_empty_task_is_refused_where_tasks_have_names(agent, tmp_path):
    goal = {"goal_x": 0.1, "goal_y": 0.1}
    with pytest.raises(UserError, match=r"a task must be a mapping with the names goal_x, goal_y"):
        evaluate(agent, tasks=[goal, {}], num_episodes=1, num_steps=0)
    with pytest.raises(UserError, match=r"a task must be a mapping with the names goal_x, goal_y"):
        maml_rl.record(agent, tmp_path / "video.gif", tasks=[{}], num_steps=0)


def test_success_is_that_of_the_last_step(agent):
    """A point that does not move is where it started: within the tolerance of the goal, or not."""
    env = EnvConfig(
        name="PointNavigation", kwargs={"low": -0.02, "high": 0.02, "goal_tolerance": 0.01}
    )
    result = evaluate(still(agent), env=env, num_tasks=40, num_episodes=2, num_steps=0)
    reached = [max(abs(task["goal_x"]), abs(task["goal_y"])) < 0.01 for task in result.tasks]
    assert 0 < sum(reached) < 40
    np.testing.assert_array_equal(result.task_success[0], reached)


def test_a_family_without_success_has_none(tmp_path):
    config = maml_rl.load_config(
        env="HalfCheetahVel",
        device="cpu",
        num_iterations=1,
        meta_batch_size=2,
        num_episodes=2,
        horizon=3,
        policy={"hidden_sizes": [8]},
        logging={"final_evaluation": False, "final_video": False},
        output=str(tmp_path / "run"),
    )
    result = run_evaluation(maml_rl.load(maml_rl.train(config)), num_steps=0)
    assert np.isnan(result.success).all()
    assert "success" not in result.table()


def test_evaluating_changes_nothing_about_the_agent(agent):
    before = {name: value.clone() for name, value in agent.belief.items()}
    run_evaluation(agent, num_steps=1)
    assert all((agent.belief[name] == value).all() for name, value in before.items())


def test_an_adapted_agent_goes_on_with_its_next_step(agent):
    """Its second step has a size of nearly 0."""
    inner = dataclasses.replace(agent.learner.inner, test_step_sizes=(0.5, 1e-9))
    stepping = dataclasses.replace(agent, learner=dataclasses.replace(agent.learner, inner=inner))
    task = {"goal_x": 0.5, "goal_y": 0.0}
    measured = {"tasks": [task], "num_steps": 1, "num_episodes": 4, "deterministic": True}
    before, after = evaluate(stepping, **measured).returns
    assert not np.array_equal(before, after)
    before, after = evaluate(stepping.adapt(task=task, num_steps=1), **measured).returns
    np.testing.assert_allclose(before, after, rtol=1e-4)


def test_the_tasks_are_held_out_by_default(tmp_path):
    """Actuator 0 is never disabled in training."""
    with open_training(tiny(tmp_path / "run", env="CrippledHalfCheetah", horizon=3)) as training:
        agent = training.agent
    result = evaluate(agent, num_tasks=5, num_episodes=1, num_steps=0)
    for tasks in (result.tasks, fresh_tasks(agent, 0)):
        assert {task["disabled_actuator"] for task in tasks} == {0}
    assert result.description["env_settings"]["split"] == "held_out"


def test_on_chosen_tasks(agent):
    chosen = [{"goal_x": 0.3, "goal_y": -0.2}, {"goal_x": -0.1, "goal_y": 0.4}]
    result = evaluate(agent, tasks=chosen, num_episodes=3, num_steps=1)
    assert result.tasks == chosen
    assert result.returns.shape == (2, 2, 3)
    swapped = evaluate(agent, tasks=chosen[::-1], num_episodes=3, num_steps=0)
    assert swapped.tasks == chosen[::-1]
    alone = evaluate(agent, tasks=chosen[:1], num_episodes=3, num_steps=1)
    np.testing.assert_allclose(alone.returns[:, 0], result.returns[:, 0], rtol=1e-4)


def test_a_stage_of_one_episode_is_played_in_several_trials_of_each_task(tmp_path):
    """The bandit plays one arm, then the other, then the better one."""
    config = tiny(tmp_path / "run", num_iterations=1, learner="helpers.bandit:Bandit")
    bandit = maml_rl.load(maml_rl.train(config))
    tasks = [{"goal_x": 0.4, "goal_y": 0.4}, {"goal_x": -0.5, "goal_y": -0.5}]
    result = evaluate(bandit, tasks=tasks, num_episodes=4, num_steps=2)
    assert result.returns.shape == (3, 2, 4)
    assert result.description["num_episodes"] == 4
    assert result.description["episodes_per_step"] == 1
    assert (result.returns.std(axis=2) < 0.01).all()
    first, second, last = result.task_returns
    assert first[0] > second[0] + 1
    assert first[1] < second[1] - 1
    np.testing.assert_allclose(last, np.maximum(first, second), rtol=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tasks": [{"goal_x": 0.1, "goal_y": 0.1}], "num_tasks": 1}, "tasks or num_tasks"),
        ({"tasks": []}, "at least one task"),
        ({"tasks": 7}, "at least one task"),
        ({"tasks": "goal_x=0.1"}, "at least one task"),
        ({"tasks": [{"goal_x": float("nan"), "goal_y": 0.1}]}, "goal_x"),
        ({"tasks": {"goal_x": 0.1, "goal_y": 0.1}}, "a list of at least one task"),
        ({"tasks": [{"goal_x": 0.1}]}, "goal_y missing"),
        ({"tasks": [{"goal_z": 0.1}]}, "goal_x"),
    ],
)
def test_invalid_tasks_are_refused(agent, arguments, message):
    with pytest.raises(UserError, match=message):
        evaluate(agent, num_episodes=2, num_steps=0, **arguments)
