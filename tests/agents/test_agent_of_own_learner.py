"""An agent of a learner of the user's own: it has a memory, and no network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.runs import last, tiny

import maml_rl
from maml_rl.agents.agent import Agent
from maml_rl.errors import UserError
from maml_rl.runs.checkpoint import save_checkpoint
from maml_rl.training.compose import open_training

GOAL = {"goal_x": 0.4, "goal_y": 0.3}


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Agent:
    folder = tmp_path_factory.mktemp("bandit") / "run"
    config = tiny(folder, num_iterations=1, learner={"name": "helpers.bandit:Bandit", "size": 0.5})
    return maml_rl.load(maml_rl.train(config))


def test_an_agent_is_saved_without_what_only_training_needs(tmp_path: Path) -> None:
    learner = {"name": "helpers.bandit:BanditWithOptimizer"}
    agent = maml_rl.load(maml_rl.train(tiny(tmp_path / "run", num_iterations=1, learner=learner)))
    adapted = agent.adapt(task=GOAL)
    found = maml_rl.load(adapted.save(tmp_path / "saved"))
    assert found.belief.keys() == adapted.belief.keys()
    for name, value in adapted.belief.items():
        assert torch.equal(found.belief[name], value)
    assert found.state.tensors.keys() == agent.state.tensors.keys()


# --- predict, with a memory ---


def test_the_memory_is_returned_and_taken_again(agent: Agent) -> None:
    """An action grows with the steps that the agent remembers."""
    observation, state, sizes = np.zeros(2), None, []
    for step in range(3):
        action, state = agent.predict(observation, state, deterministic=True)
        sizes.append(np.abs(action))
        np.testing.assert_array_equal(state[0], [step + 1])
    forgetful, _ = agent.predict(observation, deterministic=True)
    np.testing.assert_allclose(np.abs(forgetful), sizes[0])
    np.testing.assert_allclose(sizes[1], 1.1 * sizes[0], rtol=1e-6)
    np.testing.assert_allclose(sizes[2], 1.2 * sizes[0], rtol=1e-6)


def test_an_episode_that_starts_is_not_remembered(agent: Agent) -> None:
    observations = np.zeros((3, 2))
    first, state = agent.predict(observations, deterministic=True)
    before = state[0].copy()
    starts = np.array([False, True, False])
    second, after = agent.predict(observations, state, starts, deterministic=True)
    np.testing.assert_array_equal(after[0], [2, 1, 2])
    np.testing.assert_allclose(second[1], first[1])
    np.testing.assert_allclose(second[[0, 2]], 1.1 * first[[0, 2]], rtol=1e-6)
    np.testing.assert_array_equal(state[0], before)


@pytest.mark.parametrize(
    "state",
    [
        *("kept", 3, (), (3,), (None,), [np.zeros(3)], np.zeros(3)),
        *((np.zeros(2),), (np.zeros(()),), (np.zeros(3), np.zeros(3)), (np.array(["a"] * 3),)),
    ],
    ids=repr,
)
def test_a_state_that_predict_did_not_return_is_refused(agent: Agent, state: Any) -> None:
    with pytest.raises(UserError, match=r"state must be None or .* for 3 observations, got"):
        agent.predict(np.zeros((3, 2)), state)


def test_a_memory_of_another_shape_is_refused_where_an_episode_starts(agent: Agent) -> None:
    with pytest.raises(UserError, match="state must be None or"):
        agent.predict(np.zeros((3, 2)), (np.zeros((3, 7)),), [True, False, False])


@pytest.mark.parametrize(
    "starts",
    [
        *(
            "yes",
            {},
            len,
            [[1], [1, 2]],
            ["a", "b", "c"],
            np.full(3, np.nan),
            np.ones(2, bool),
            torch.ones(3, dtype=torch.bool, device="meta"),
        ),
        *(np.ones(4, bool), np.ones((3, 1), bool), np.zeros(0, bool)),
    ],
    ids=repr,
)
def test_starts_of_another_type_or_length_are_refused(agent: Agent, starts: Any) -> None:
    _, state = agent.predict(np.zeros((3, 2)))
    for memory in (None, state):
        with pytest.raises(UserError, match="episode_start must be 3 Booleans"):
            agent.predict(np.zeros((3, 2)), memory, starts)


def test_an_actor_that_is_none_is_refused(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(agent.learner), "actor", lambda *args: None)
    with pytest.raises(
        UserError, match=r"must return a maml_rl\.sampling\.actors\.Actor, got None"
    ):
        agent.predict(np.zeros(2))


# --- adapt, save, load ---


def test_it_adapts_one_episode_at_a_time(agent: Agent) -> None:
    adapted = agent.adapt(task=GOAL, num_episodes=7)
    assert adapted.num_adaptation_steps == agent.learner.num_adaptation_steps == 2
    assert adapted.belief["count"].tolist() == [[1, 1]]
    once = agent.adapt(task=GOAL, num_steps=1)
    assert once.belief["count"].tolist() == [[1, 0]]


def test_it_adapts_to_a_log(agent: Agent) -> None:
    log = {
        "observations": np.zeros((2, 2)),
        "actions": np.zeros((2, 2)),
        "rewards": [1.5, 2.0],
        "truncated": [False, True],
    }
    adapted = agent.adapt(episodes=[log, {**log, "rewards": [-1.0, -1.0]}])
    assert adapted.belief["mean_return"].tolist() == [[3.5, -2.0]]
    assert adapted.num_adaptation_steps == 2


def test_without_its_belief_an_adapted_agent_is_refused(agent: Agent, tmp_path: Path) -> None:
    folder = agent.adapt(task=GOAL).save(tmp_path / "adapted")
    checkpoint = last(folder)
    del checkpoint.tensors["belief"]
    save_checkpoint(folder / "checkpoints", 0, checkpoint.tensors, checkpoint.values)
    with pytest.raises(UserError, match=r"the belief in .* count is missing"):
        maml_rl.load(folder)


def test_a_saved_agent_keeps_tensors_that_are_named_as_mamls(tmp_path: Path) -> None:
    name = "helpers.bandit:WithContext"
    with open_training(tiny(tmp_path, learner={"name": name, "size": 0.5})) as training:
        folder = training.agent.save(tmp_path / "saved")
    assert maml_rl.load(folder).state.tensors["theta"]["context"].tolist() == [0, 0, 0]


# --- without a network ---


@pytest.mark.parametrize("use", ["module", "export", "to_sb3"])
def test_export_and_conversion_are_refused(agent: Agent, tmp_path: Path, use: str) -> None:
    calls = {
        "module": agent.module,
        "export": lambda: agent.export(tmp_path / "policy.ts"),
        "to_sb3": agent.to_sb3,
    }
    with pytest.raises(UserError, match="learner Bandit is not a multilayer perceptron"):
        calls[use]()
    assert list(tmp_path.iterdir()) == []
