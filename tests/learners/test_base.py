"""States of learners, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.bandit import Bandit
from helpers.runs import last, tiny

import maml_rl
from maml_rl.cli import main
from maml_rl.errors import UserError
from maml_rl.learners.base import LearnerState
from maml_rl.settings.config import Config
from maml_rl.training.start import train

BANDIT = {"name": "helpers.bandit:Bandit", "size": 0.3, "growth": 0.2}


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


def test_a_new_run_does_not_start_from_another_learner(run: Path, tmp_path: Path, capsys) -> None:
    maml = train(tiny(tmp_path / "maml", num_iterations=1))
    flags = [f"--learner={BANDIT['name']}", f"--init_from={maml}", f"--output={tmp_path / 'run'}"]
    assert main(["train", "--env=PointNavigation", "--horizon=5", *flags]) == 2
    error = capsys.readouterr().err
    groups = "theta, normalizer, adaptation, outer"
    assert f"init_from is a run of another learner: it has {groups}, and no" in error
    assert not (tmp_path / "run").exists()


def test_the_trials_of_an_evaluation_are_counted_for_their_task(agent: maml_rl.Agent) -> None:
    tasks = [{"goal_x": goal, "goal_y": goal} for goal in (0.4, -0.4)]
    up, down = maml_rl.evaluate(agent, tasks=tasks, num_episodes=4, num_steps=2).returns.swapaxes(
        0, 1
    )
    # The first arm goes up, the second one down; then every trial plays the better arm of its task.
    assert (up[0] > down[0] + 0.5).all()
    assert (up[1] < down[1] - 0.5).all()
    assert (abs(up[2] - up[0]) < 0.1).all()
    assert (abs(down[2] - down[1]) < 0.1).all()


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
