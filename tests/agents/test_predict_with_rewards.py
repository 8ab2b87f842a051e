"""``Agent.predict`` of a recurrent agent, which remembers rewards and the ends of episodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import helpers.memory_tasks
import numpy as np
import pytest
import torch
from helpers.recurrent import moved
from helpers.runs import tiny

import maml_rl
from maml_rl.agents.agent import Agent
from maml_rl.errors import UserError
from maml_rl.learners.trials import play_trials
from maml_rl.settings.learners.rl2 import Cell
from maml_rl.system.random_streams import Phase, RandomStreams
from maml_rl.training.compose import Training, open_training

OBSERVATIONS = np.array([[0.1, 0.2], [-0.3, 0.4], [0.5, -0.6]])
REWARDS = np.array([1.0, -2.0, 0.5])
STREAMS = RandomStreams(0, Phase.TRAINING, 0)


def config(folder: Path, **learner: Any) -> maml_rl.Config:
    return tiny(
        folder,
        env="helpers.memory_tasks:memory/Wander-v0",
        horizon=helpers.memory_tasks.LENGTH,
        meta_batch_size=1,
        num_episodes=1,
        learner={"name": "rl2", "hidden_size": 8, "num_minibatches": 1, **learner},
    )


def with_other_parameters(training: Training) -> Agent:
    """Its agent, with parameters with which actions depend on the memory."""
    state = training.agent.state
    theta = {name: value.float() for name, value in moved(state.tensors["theta"], 0.3).items()}
    return training.agent.with_state(state._replace(tensors={**state.tensors, "theta": theta}))


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Agent:
    with open_training(config(tmp_path_factory.mktemp("gru") / "run")) as training:
        return with_other_parameters(training)


@pytest.fixture(scope="module")
def state(agent: Agent) -> Any:
    """After the first step of three episodes."""
    return agent.predict(OBSERVATIONS, deterministic=True)[1]


def test_a_missing_reward_is_refused(agent: Agent, state: Any) -> None:
    with pytest.raises(UserError, match=r"pass reward \(that of its last action\)"):
        agent.predict(OBSERVATIONS, state)
    with pytest.raises(UserError, match=r"pass reward \(that of its last action\)"):
        agent.predict(OBSERVATIONS, state, [True, False, True])
    agent.predict(OBSERVATIONS, state, [True, True, True])  # nothing came before


@pytest.mark.parametrize(
    "reward",
    [
        *(np.nan, [1.0, np.inf, 0.0], 1e39, np.full(3, -1e300)),
        *([1.0, 2.0], np.ones((3, 1)), np.ones(4), [], "1", ["1", "2", "3"], {}, [None] * 3),
        *([[1.0], [1.0, 2.0], 3.0], 1j, len),
    ],
    ids=repr,
)
def test_an_invalid_reward_is_refused(agent: Agent, state: Any, reward: Any) -> None:
    with pytest.raises(UserError, match="reward must be 3 finite numbers, one for each"):
        agent.predict(OBSERVATIONS, state, reward=reward)


def test_an_end_without_a_reward_is_refused(agent: Agent, state: Any) -> None:
    with pytest.raises(UserError, match="ended needs reward"):
        agent.predict(OBSERVATIONS, state, ended=[False, True, False])


def test_a_first_call_may_say_that_nothing_has_ended(agent: Agent) -> None:
    """A loop can pass the same arguments in its first call as in all others."""
    actions, _ = agent.predict(OBSERVATIONS, None, deterministic=True, reward=None, ended=False)
    np.testing.assert_array_equal(actions, agent.predict(OBSERVATIONS, deterministic=True)[0])


@pytest.mark.parametrize(
    "ended",
    ["yes", np.ones(2, bool), [[1], [1, 2]], np.full(3, 0.5), 2, torch.ones(3, device="meta")],
    ids=repr,
)
def test_invalid_ends_are_refused(agent: Agent, state: Any, ended: Any) -> None:
    with pytest.raises(UserError, match="ended must be 3 Booleans"):
        agent.predict(OBSERVATIONS, state, reward=REWARDS, ended=ended)


def test_the_state_of_another_agent_is_refused(agent: Agent, state: Any, tmp_path: Path) -> None:
    with open_training(config(tmp_path / "run", cell="lstm")) as training:
        other = training.agent
    with pytest.raises(
        UserError, match=r"must have arrays of shape \(N, 16\) and \(N, 4\), got \(3, 8\), \(3, 4\)"
    ):
        other.predict(OBSERVATIONS, state, reward=REWARDS)
    for wrong in (state[:1], (*state, state[0]), (state[1], state[0])):
        with pytest.raises(UserError, match=r"state"):
            agent.predict(OBSERVATIONS, wrong, reward=REWARDS)
    message = r"for 2 observations, got arrays of shapes \[\(3, 8\), \(3, 4\)\]"
    with pytest.raises(UserError, match=message):
        agent.predict(OBSERVATIONS[:2], state, reward=REWARDS[:2])


def test_each_environment_has_its_own_reward_end_and_start(agent: Agent, state: Any) -> None:
    """A batch is as its rows alone."""
    first, _ = agent.predict(OBSERVATIONS, deterministic=True)
    ended, starts = np.array([True, False, False]), np.array([False, False, True])
    kept = [part.copy() for part in state]
    actions, after = agent.predict(
        OBSERVATIONS, state, starts, deterministic=True, reward=REWARDS, ended=ended
    )
    for i in range(3):
        alone, memory = agent.predict(
            OBSERVATIONS[i],
            tuple(part[i : i + 1] for part in state),
            starts[i],
            deterministic=True,
            reward=REWARDS[i],
            ended=ended[i],
        )
        np.testing.assert_allclose(actions[i], alone, rtol=1e-5, atol=1e-6)
        for part, expected in zip(after, memory, strict=True):
            np.testing.assert_allclose(part[i], expected[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(actions[2], first[2])
    # Reward and end matter, each.
    for other in ({"ended": ~ended}, {"reward": REWARDS + 1}):
        changed, _ = agent.predict(
            OBSERVATIONS,
            state,
            starts,
            deterministic=True,
            **{"reward": REWARDS, "ended": ended, **other},
        )
        assert (changed[:2] != actions[:2]).all()
        np.testing.assert_array_equal(changed[2], actions[2])
    # The state that was passed has not changed.
    for part, before in zip(state, kept, strict=True):
        np.testing.assert_array_equal(part, before)


def test_one_reward_is_that_of_all(agent: Agent, state: Any) -> None:
    one, _ = agent.predict(OBSERVATIONS, state, deterministic=True, reward=2)
    each, _ = agent.predict(OBSERVATIONS, state, deterministic=True, reward=np.full(3, 2.0))
    np.testing.assert_array_equal(one, each)


def test_the_first_call_ignores_a_reward(agent: Agent) -> None:
    plain, _ = agent.predict(OBSERVATIONS, deterministic=True)
    rewarded, _ = agent.predict(OBSERVATIONS, deterministic=True, reward=REWARDS)
    np.testing.assert_array_equal(plain, rewarded)


@pytest.mark.parametrize("cell", get_args(Cell))
def test_predict_plays_the_trial_that_the_collector_plays(cell: str, tmp_path: Path) -> None:
    """Three episodes that end early, with ``ended`` between them."""
    with open_training(config(tmp_path / "run", cell=cell)) as training:
        agent = with_other_parameters(training)
        collector = training.collector
        trial = play_trials(
            agent.learner,
            agent.state,
            collector,
            [{"side": 1.0}],
            num_adaptation_steps=2,
            streams=STREAMS,
            deterministic=True,
        )
        memory = reward = None
        ended = False
        for stage, episodes in enumerate(trial.episodes):
            observation, _ = collector.env.reset(seed=STREAMS.reset_seed(stage, 1))
            length = int(episodes.mask.sum())
            rewards = []
            for t in range(length):
                before = {} if reward is None else {"reward": reward, "ended": [ended]}
                action, memory = agent.predict(observation, memory, deterministic=True, **before)
                observation, reward, terminated, truncated, _ = collector.env.step(action)
                ended = bool(terminated[0] or truncated[0])
                assert ended == (t == length - 1)
                rewards.append(reward[0])
            played = episodes.actions[0, 0, :length].numpy()
            assert len(np.unique(played)) > 2
            np.testing.assert_allclose(rewards, episodes.rewards[0, 0, :length], rtol=1e-5)
