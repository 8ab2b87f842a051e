"""An agent that remembers: logs, and the numbers of its episodes in tables, figures and videos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import maml_envs
import numpy as np
import pytest
import torch
from helpers.drawn import drawn_task
from helpers.fixed_noise import FixedNoise
from helpers.runs import tiny

import maml_rl
from maml_rl.agents.agent import Agent
from maml_rl.analysis.learning_curve_figure import draw
from maml_rl.analysis.learning_curves import View, group_runs, read_runs
from maml_rl.analysis.recording import play
from maml_rl.errors import UserError
from maml_rl.system.random_streams import Phase, RandomStreams
from maml_rl.training.reporting import log_start

NUM_EPISODES = 3
TASK = {"goal_x": 0.4, "goal_y": -0.3}
ENVS: dict[str, dict[str, Any]] = {
    "continuous": {"env": "PointNavigation", "horizon": 6},
    "discrete": {"env": "CartPole-v1", "horizon": 30},
}


@pytest.fixture(scope="module", params=ENVS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    learner = {"name": "rl2", "hidden_size": 8, "num_minibatches": 1, "num_epochs": 1}
    # At this scale no action is clipped, so a log has all of it.
    policy = {"hidden_sizes": [8], "normalize_observations": True, "action_scale": 0.1}
    folder = tmp_path_factory.mktemp(request.param) / "run"
    settings = ENVS[request.param] | {"learner": learner, "policy": policy}
    return maml_rl.train(tiny(folder, **settings, num_iterations=1))


@pytest.fixture(scope="module")
def agent(run: Path) -> Agent:
    return maml_rl.load(run)


def task_of(agent: Agent) -> dict[str, float] | None:
    return TASK if agent.config.env.name == "PointNavigation" else None


def played(agent: Agent) -> list[dict[str, np.ndarray]]:
    """Play the episodes of ``agent.adapt`` by hand, with ``predict``; return a log of each."""
    name, horizon = agent.config.env.name, agent.config.horizon
    if name == "PointNavigation":
        env = gym.make(maml_envs.env_id(name), max_episode_steps=horizon)
        env.unwrapped.set_task(TASK)  # type: ignore[attr-defined]
    else:
        env = gym.make(name, max_episode_steps=horizon)
    streams = RandomStreams(0, Phase.ADAPTATION)
    logs = []
    memory = reward = None
    is_over = False
    for k in range(NUM_EPISODES):
        noise = agent.learner.draw_noise(streams.actions(k, 0), (1, horizon))[0]
        rng: Any = FixedNoise(noise)
        observation, _ = env.reset(seed=streams.reset_seed(k, 1))
        rows = []
        is_new = True
        while is_new or not is_over:
            ended = None if reward is None else is_over
            action, memory = agent.predict(observation, memory, rng=rng, reward=reward, ended=ended)
            next_observation, reward, terminated, truncated, _ = env.step(action)
            is_over, is_new = terminated or truncated, False
            rows.append((observation, action, reward, is_over))
            observation = next_observation
        names = ("observations", "actions", "rewards", "episode_ends")
        columns = (np.array(column) for column in zip(*rows, strict=True))
        logs.append(dict(zip(names, columns, strict=True)))
    env.close()
    return logs


def joined(logs: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([log[name] for log in logs]) for name in logs[0]}


def assert_same(a: Agent, b: Agent) -> None:
    assert a.num_adaptation_steps == b.num_adaptation_steps
    for name, value in a.belief.items():
        torch.testing.assert_close(value, b.belief[name], rtol=1e-3, atol=1e-4)


def test_logs_are_remembered_as_episodes_in_an_environment(agent: Agent) -> None:
    logs = played(agent)
    if task_of(agent) is None:
        assert len({len(log["rewards"]) for log in logs}) > 1  # episodes of different length
    expected = agent.adapt(task=task_of(agent), num_steps=NUM_EPISODES)
    assert expected.num_adaptation_steps == NUM_EPISODES
    assert_same(agent.adapt(episodes=joined(logs)), expected)
    assert_same(agent.adapt(episodes=logs), expected)
    # Some of them first, the others later.
    part = agent.adapt(episodes=joined(logs[:2]))
    assert_same(part, agent.adapt(task=task_of(agent), num_steps=2))
    assert_same(part.adapt(episodes=logs[2]), expected)
    # Their order matters.
    other = agent.adapt(episodes=joined(logs[::-1]))
    assert not torch.allclose(other.belief["memory"], expected.belief["memory"], atol=1e-3)


def test_any_episodes_can_be_remembered(agent: Agent) -> None:
    log = joined(played(agent))
    still = log | {"actions": np.zeros_like(log["actions"])}
    adapted = agent.adapt(episodes=still)
    assert adapted.num_adaptation_steps == NUM_EPISODES
    assert adapted.belief["memory"].isfinite().all()
    assert not torch.equal(adapted.belief["memory"], agent.adapt(episodes=log).belief["memory"])
    with pytest.raises(UserError, match="not finite"):
        agent.adapt(episodes=log | {"rewards": log["rewards"] * np.nan})


def test_stages_are_numbered_episodes(run: Path, agent: Agent) -> None:
    result = maml_rl.evaluate(agent, num_tasks=2, num_episodes=2, num_steps=2)
    assert result.description["stage_is_episode"] is True
    assert result.episodes_used.tolist() == [0, 1, 2]
    assert "the return after k steps is that of episode k + 1" in result.table()
    (group,) = group_runs(read_runs([run]))
    view = View(metric=None, x="steps", smooth=1, before=True)
    figure = draw([group], ["rl2"], view, None)
    assert figure.axes[0].get_ylabel() == "return in episode 2"
    assert "episode 1" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_the_first_line_has_the_episodes_of_a_trial(
    agent: Agent, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        log_start(agent.config, agent, Path("run"))
    horizon = agent.config.horizon
    assert f"3 tasks x 2 episodes x {horizon} steps" in caplog.text
    assert f"at most {3 * 2 * horizon} control steps, on" in caplog.text
    assert "collection" not in caplog.text


def test_columns_of_a_video_are_episodes(agent: Agent) -> None:
    if agent.config.env.name != "PointNavigation":
        pytest.skip("one environment that renders is enough")
    assert play(agent, "gif", num_steps=2).labels == ["episode 1", "episode 2", "episode 3"]
    adapted = agent.adapt(task=drawn_task(agent), num_steps=1)
    assert play(adapted, "gif", num_steps=1).labels == ["episode 2", "episode 3"]
