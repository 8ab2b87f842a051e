"""A learner of a user's own, through everything that a run and an agent offer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.bandit import Bandit
from helpers.runs import assert_equal_runs, last, progress, tiny

import maml_rl
from maml_rl.cli import main
from maml_rl.errors import UserError
from maml_rl.learners.base import LearnerState
from maml_rl.settings.config import Config
from maml_rl.training.loop import resume, train

BANDIT = {"name": "helpers.bandit:Bandit", "size": 0.3, "growth": 0.2}
UP, DOWN = {"goal_x": 0.4, "goal_y": 0.4}, {"goal_x": -0.4, "goal_y": -0.4}


def config_of(folder: Path, **settings: Any) -> Config:
    return tiny(folder, learner=BANDIT, **{"num_iterations": 4, "num_episodes": 4} | settings)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(config_of(tmp_path_factory.mktemp("bandit") / "run"))


@pytest.fixture
def agent(run: Path) -> maml_rl.Agent:
    return maml_rl.load(run)


def test_a_state_counts_its_iterations_and_keeps_what_does_not_change() -> None:
    one, two = {"x": torch.ones(1)}, {"x": torch.zeros(2)}
    state = LearnerState.initial({"a": one, "b": one}, num_calls=0)
    for i in range(1, 3):
        state = state.after_iteration({"b": two}, num_env_steps=7, num_calls=10 * i)
        assert state.tensors == {"a": one, "b": two}
        assert state.counters == {"iteration": i, "num_env_steps": 7 * i, "num_calls": 10 * i}
    assert state.after_iteration({}, 1).counters["num_calls"] == 20


# --- training ---


def test_it_trains_with_stages_of_its_own_size(run: Path) -> None:
    counters = {name: last(run).values[name] for name in ("iteration", "num_tasks")}
    assert counters == {"iteration": 4, "num_tasks": 4}
    # Three tasks in three stages of one episode of five steps.
    assert last(run).values["num_env_steps"] == 4 * 3 * 3 * 5
    for row in progress(run):
        returns = [float(row[f"train/return_after_{k}_steps"]) for k in range(3)]
        assert returns[2] >= max(returns[:2]) - 0.1  # it tries both arms, and plays the better one
    assert last(run).tensors.keys() == {"arms"}
    assert last(run).tensors["arms"]["mean_return"].abs().min() > 0


def test_interrupted_and_resumed_equals_uninterrupted(run: Path, tmp_path: Path, monkeypatch):
    iteration = Bandit.iteration

    def interrupted(self: Bandit, state: LearnerState, *args: Any) -> Any:
        if state.counters["iteration"] == 2:
            raise KeyboardInterrupt
        return iteration(self, state, *args)

    with monkeypatch.context() as patched:
        patched.setattr(Bandit, "iteration", interrupted)
        with pytest.raises(maml_rl.Interrupted):
            train(config_of(tmp_path / "run"))
    assert last(tmp_path / "run").values["num_tasks"] == 2
    resume(tmp_path / "run")
    assert_equal_runs(run, tmp_path / "run")


def test_a_new_run_starts_from_what_another_has_learned(run: Path, tmp_path: Path, monkeypatch):
    starts = []
    iteration = Bandit.iteration
    monkeypatch.setattr(
        Bandit, "iteration", lambda *args: (starts.append(args[1]), iteration(*args))[1]
    )
    train(config_of(tmp_path / "run", num_iterations=1, init_from=str(run)))
    [start] = starts
    expected = last(run).tensors["arms"]["mean_return"]
    assert torch.equal(start.tensors["arms"]["mean_return"], expected)
    assert set(start.counters.values()) == {0}


# --- what an agent does ---


def test_an_evaluation_plays_independent_trials_of_each_task(agent: maml_rl.Agent) -> None:
    result = maml_rl.evaluate(agent, tasks=[UP, DOWN], num_episodes=4, num_steps=2)
    assert result.returns.shape == (3, 2, 4)
    for episodes in result.returns.reshape(6, 4):
        assert len(np.unique(episodes)) == 4
    # All trials of a task agree on its better arm; the first arm goes up, the second down.
    assert (result.returns[0, 0] > result.returns[0, 1] + 0.5).all()
    assert (result.returns[1, 0] < result.returns[1, 1] - 0.5).all()
    assert (abs(result.returns[2, 0] - result.returns[0, 0]) < 0.1).all()
    assert (abs(result.returns[2, 1] - result.returns[1, 1]) < 0.1).all()
    described = {"num_tasks": 2, "num_episodes": 4, "episodes_per_step": 1}
    assert described.items() <= result.description.items()
    assert result.description["learner"] == {"name": BANDIT["name"]}


def test_predict_carries_the_memory_and_begins_again_with_an_episode(agent: maml_rl.Agent) -> None:
    observations = np.zeros((2, 2), np.float32)

    def predict(state: Any = None, episode_start: Any = None) -> Any:
        actions, state = agent.predict(observations, state, episode_start, deterministic=True)
        return actions[:, 0] / first, state

    first = agent.predict(observations[0], deterministic=True)[0][0]
    sizes, state = predict()
    np.testing.assert_allclose(sizes, [1, 1], rtol=1e-6)
    np.testing.assert_allclose(predict()[0], [1, 1], rtol=1e-6)
    sizes, state = predict(state)
    np.testing.assert_allclose(sizes, [1.2, 1.2], rtol=1e-6)
    sizes, state = predict(state, np.array([False, True]))
    np.testing.assert_allclose(sizes, [1.4, 1], rtol=1e-6)
    sizes, state = predict(state, np.array([False, False]))
    np.testing.assert_allclose(sizes, [1.6, 1.2], rtol=1e-6)
    np.testing.assert_allclose(predict(state, True)[0], [1, 1], rtol=1e-6)
    for wrong in (3, (np.zeros(3, np.float32),), "memory"):
        with pytest.raises(UserError, match="state must be None or what the last call"):
            predict(wrong)


def test_it_adapts_by_one_episode_a_step_and_is_saved_with_its_belief(
    agent: maml_rl.Agent, tmp_path: Path
) -> None:
    up, down = (agent.adapt(task=task) for task in (UP, DOWN))
    for adapted, sign in ((up, 1), (down, -1)):
        assert adapted.num_adaptation_steps == 2
        assert adapted.belief["count"].tolist() == [[1, 1]]
        action, _ = adapted.predict(np.zeros(2, np.float32), deterministic=True)
        assert (sign * action > 0).all()
    assert agent.belief["count"].tolist() == [[0, 0]]
    in_two_calls = agent.adapt(task=DOWN, num_steps=1).adapt(task=DOWN, num_steps=1)
    loaded = maml_rl.load(down.save(tmp_path / "down"))
    for same in (in_two_calls, loaded):
        assert same.num_adaptation_steps == 2
        assert all(torch.equal(same.belief[name], value) for name, value in down.belief.items())
    prior = maml_rl.load(agent.save(tmp_path / "prior"))
    assert all(torch.equal(prior.belief[name], value) for name, value in agent.belief.items())


def test_it_adapts_to_a_logged_episode(agent: maml_rl.Agent) -> None:
    zeros = np.zeros((3, 2), np.float32)
    log = {"observations": zeros, "actions": zeros, "rewards": [1, 2, 4], "episode_ends": [0, 0, 1]}
    adapted = agent.adapt(episodes=log)
    assert adapted.belief["mean_return"][0, 0] == 7
    assert adapted.belief["count"].tolist() == [[1, 0]]


def test_what_needs_a_multilayer_perceptron_is_refused(agent: maml_rl.Agent, tmp_path: Path):
    for use in (agent.module, agent.to_sb3, lambda: agent.export(tmp_path / "policy.onnx")):
        with pytest.raises(UserError, match="learner Bandit is not a multilayer perceptron"):
            use()


@pytest.mark.slow
def test_the_commands_take_it(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ["--env=PointNavigation", "--learner=helpers.bandit:Bandit", "--learner.growth=0.2"]
    sizes = ["--num_iterations=2", "--meta_batch_size=2", "--num_episodes=4", "--horizon=5"]
    assert main(["train", *flags, *sizes, "--output=run", "--logging.evaluate_every=1"]) == 0
    assert maml_rl.load("run").config.learner.growth == 0.2
    assert Path("run/videos/final.mp4").stat().st_size > 1000
    evaluation = ["--num_tasks=2", "--num_episodes=4", "--num_steps=2", "--output=report"]
    assert main(["evaluate", "run", *evaluation]) == 0
    assert Path("report/report.html").exists()
    assert main(["record", "run", "--output=video.mp4"]) == 0
    assert capsys.readouterr().err == ""


# --- what is refused ---


def broken(agent: maml_rl.Agent, arms: dict[str, Any]) -> LearnerState:
    return agent.state._replace(tensors={"arms": arms})


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        ({}, r"the arms in here does not fit .*: mean_return is missing, expected \(2,\)"),
        ({"mean_return": torch.zeros(3, dtype=torch.float64)}, r"mean_return is \(3,\).*\(2,\)"),
        ({"mean_return": torch.zeros(2)}, r"float32, expected \(2,\) torch.float64"),
        (
            {"mean_return": torch.zeros(2, dtype=torch.float64), "mean": torch.zeros(2)},
            "mean is .* expected no tensor of that name",
        ),
        ({"mean_return": torch.tensor([0, torch.nan]).double()}, "arms mean_return is not finite"),
    ],
    ids=["missing", "shape", "dtype", "unknown", "nan"],
)
def test_a_state_that_does_not_fit_is_refused(agent: maml_rl.Agent, arms, message) -> None:
    agent.learner.check(agent.state, Path("here"))
    with pytest.raises(UserError, match=message):
        agent.learner.check(broken(agent, arms), Path("here"))


def test_a_learner_that_cannot_be_made_is_refused_in_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "wrong.py").write_text(
        "def nothing(config, observation_space, action_space, device):\n    return None\n"
        "def of_one_argument(config):\n    return None\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name, message in (
        ("wrong:nothing", "must make a maml_rl.learners.base.Learner, got NoneType"),
        ("wrong:of_one_argument", "cannot be made (TypeError: "),
    ):
        flags = ["--env=PointNavigation", f"--learner={name}", f"--output={tmp_path / 'run'}"]
        assert main(["train", *flags]) == 2
        err = capsys.readouterr().err.strip()
        assert message in err
        assert name in err
        assert "\n" not in err
    assert not (tmp_path / "run").exists()
