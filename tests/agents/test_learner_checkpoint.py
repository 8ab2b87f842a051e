"""Checkpoints of agents: what they adapted to comes back, also as the version before wrote it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from helpers.runs import assert_same_state, last, tiny

import maml_rl
from maml_rl.agents.agent import Agent
from maml_rl.errors import UserError
from maml_rl.runs.checkpoint import save_checkpoint
from maml_rl.runs.run_folder import create_run_folder
from maml_rl.settings.config import origin, to_mapping

GOAL = {"goal_x": 0.4, "goal_y": -0.3}
SETTINGS: dict[str, dict[str, Any]] = {
    "all": {"policy": {"hidden_sizes": [8], "normalize_observations": True}},
    "head": {"policy": {"hidden_sizes": [8]}, "inner": {"adapts": "head"}},
    "step sizes": {
        "policy": {"hidden_sizes": [8]},
        "inner": {"learned_step_size": "per_layer"},
    },
    "inner steps": {
        "policy": {"hidden_sizes": [8]},
        "inner": {
            "num_steps": 2,
            "learned_step_size": "scalar",
            "learned_per_step": True,
            "advantage": "sum",
            "max_kl": 0.1,
        },
    },
    "context": {
        "policy": {"hidden_sizes": [8], "context_size": 3},
        "inner": {"adapts": "context"},
    },
}


@pytest.fixture(scope="module", params=SETTINGS)
def adapted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Agent:
    folder = tmp_path_factory.mktemp("run") / "run"
    run = maml_rl.train(tiny(folder, num_iterations=1, **SETTINGS[request.param]))
    return maml_rl.load(run).adapt(task=GOAL, num_steps=2)


def saved_before(agent: Agent, folder: Path) -> Path:
    """Save as the version before: the adapted parameters, with the context, are theta."""
    config = to_mapping(agent.config)
    del config["learner"]
    create_run_folder(folder, config)
    theta = {name: value[0] for name, value in agent.belief.items()}
    tensors = {"theta": theta, "normalizer": agent.state.tensors["normalizer"]}
    values = {
        "iteration": 0,
        "num_env_steps": 0,
        "num_adaptation_steps": agent.num_adaptation_steps,
        "run": origin(agent.config),
    }
    save_checkpoint(folder / "checkpoints", 0, tensors, values)
    return folder


def assert_same_agent(loaded: Agent, agent: Agent) -> None:
    assert loaded.config == agent.config
    assert loaded.num_adaptation_steps == agent.num_adaptation_steps
    assert list(loaded.belief) == list(agent.belief)
    for name, value in agent.belief.items():
        assert torch.equal(loaded.belief[name], value), name
    observations = np.random.default_rng(0).normal(size=(5, 2))
    np.testing.assert_array_equal(
        loaded.predict(observations, deterministic=True)[0],
        agent.predict(observations, deterministic=True)[0],
    )
    again, expected = (one.adapt(task=GOAL) for one in (loaded, agent))
    for name, value in expected.belief.items():
        assert torch.equal(again.belief[name], value), name


def test_a_saved_agent_has_the_meta_parameters_and_the_belief(
    adapted: Agent, tmp_path: Path
) -> None:
    folder = adapted.save(tmp_path / "adapted")
    loaded = maml_rl.load(folder)
    assert_same_agent(loaded, adapted)
    theta = adapted.state.tensors["theta"]
    for name, value in theta.items():
        assert torch.equal(loaded.state.tensors["theta"][name], value), name
    assert last(folder).tensors["belief"].keys() == adapted.belief.keys()


def test_an_agent_that_has_not_adapted_is_saved_without_a_belief(
    adapted: Agent, tmp_path: Path
) -> None:
    agent = adapted.with_state(adapted.state)
    assert agent.num_adaptation_steps == 0
    folder = agent.save(tmp_path / "start")
    assert "belief" not in last(folder).tensors
    assert_same_agent(maml_rl.load(folder), agent)


def test_an_adapted_agent_of_the_version_before_has_its_belief(
    adapted: Agent, tmp_path: Path
) -> None:
    loaded = maml_rl.load(saved_before(adapted, tmp_path / "before"))
    assert loaded.num_adaptation_steps == 2
    assert_same_agent(loaded, adapted)
    # Saved again, it is the same.
    assert_same_agent(maml_rl.load(loaded.save(tmp_path / "again")), adapted)


def test_no_adaptation_steps_of_the_version_before_leave_the_start(
    adapted: Agent, tmp_path: Path
) -> None:
    """Its adapt(num_steps=0) added the context to theta, at its initial value."""
    agent = adapted.with_state(adapted.state)
    assert_same_agent(maml_rl.load(saved_before(agent, tmp_path / "before")), agent)


def test_adapted_parameters_of_another_architecture_are_refused(
    adapted: Agent, tmp_path: Path
) -> None:
    folder = saved_before(adapted, tmp_path / "before")
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("- 8", "- 9"))
    with pytest.raises(
        UserError, match=r"does not fit the settings: bias_0 is .*8.*, expected .*9"
    ):
        maml_rl.load(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("not finite", "belief bias_0 is not finite"),
        ("missing", "bias_0 is missing"),
        ("of two tasks", r"bias_0 is \(2, 8\)"),
    ],
)
def test_a_damaged_belief_is_refused(
    adapted: Agent, tmp_path: Path, damage: str, message: str
) -> None:
    folder = adapted.save(tmp_path / "adapted")
    checkpoint = last(folder)
    belief = checkpoint.tensors["belief"]
    if damage == "not finite":
        belief["bias_0"].fill_(torch.nan)
    elif damage == "missing":
        del belief["bias_0"]
    else:
        belief["bias_0"] = belief["bias_0"].repeat(2, 1)
    save_checkpoint(folder / "checkpoints", 0, checkpoint.tensors, checkpoint.values)
    with pytest.raises(UserError, match=message):
        maml_rl.load(folder)


def without_adaptation(run: Path, copy: Path) -> Path:
    """A copy of a run as versions without the group ``adaptation`` wrote it."""
    shutil.copytree(run, copy)
    checkpoint = last(run)
    tensors = {name: group for name, group in checkpoint.tensors.items() if name != "adaptation"}
    folder = copy / "checkpoints"
    shutil.rmtree(folder)
    save_checkpoint(folder, checkpoint.values["iteration"], tensors, checkpoint.values)
    return copy


@pytest.mark.slow
def test_a_checkpoint_without_the_group_adaptation_loads_evaluates_and_resumes(
    tmp_path: Path,
) -> None:
    inner = {"choose_test_step_sizes": False}
    run = maml_rl.train(tiny(tmp_path / "run", num_iterations=2, inner=inner))
    older = without_adaptation(run, tmp_path / "older")
    assert set(last(older).tensors) == set(last(run).tensors) - {"adaptation"}
    agents = [maml_rl.load(folder) for folder in (run, older)]
    for name, value in agents[0].state.tensors["adaptation"].items():
        assert torch.equal(agents[1].state.tensors["adaptation"][name], value), name
    means = [maml_rl.evaluate(agent, num_tasks=3, num_episodes=2).mean for agent in agents]
    np.testing.assert_array_equal(*means)
    for folder in (run, older):
        maml_rl.resume(folder, 3)
    assert_same_state(run, older)


@pytest.mark.slow
def test_a_saved_agent_keeps_the_shared_scale(tmp_path: Path) -> None:
    inner = {"shared_advantage_scale": True}
    agent = maml_rl.load(maml_rl.train(tiny(tmp_path / "run", num_iterations=1, inner=inner)))
    assert float(agent.state.tensors["adaptation"]["advantage_std"]) != 1
    loaded = maml_rl.load(agent.adapt(task=GOAL).save(tmp_path / "adapted"))
    for name, value in agent.state.tensors["adaptation"].items():
        assert torch.equal(loaded.state.tensors["adaptation"][name], value)
    again, expected = (one.adapt(task=GOAL) for one in (loaded, agent.adapt(task=GOAL)))
    for name, value in expected.belief.items():
        assert torch.equal(again.belief[name], value), name


@pytest.mark.slow
@pytest.mark.parametrize("value", [0.0, -1.0])
def test_a_scale_that_is_not_positive_is_refused(tmp_path: Path, value: float) -> None:
    run = maml_rl.train(tiny(tmp_path / "run", num_iterations=1))
    checkpoint = last(run)
    checkpoint.tensors["adaptation"]["advantage_std"].fill_(value)
    save_checkpoint(run / "checkpoints", 1, checkpoint.tensors, checkpoint.values)
    with pytest.raises(UserError, match=rf"advantage_std in .* must be positive, got \[{value}\]"):
        maml_rl.load(run)


class Bounded(gym.Env):
    """Its class has the bounds of its actions."""

    observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space: spaces.Space[Any] = spaces.Box(-0.4, 0.4, (1,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observation_space.sample(), float(action[0]), False, False, {}


def test_other_bounds_of_actions_than_in_training_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would scale the policy's outputs. Those of another dtype are the same."""
    monkeypatch.setitem(gym.registry, "Bounded-v0", EnvSpec("Bounded-v0", entry_point=Bounded))
    run = maml_rl.train(tiny(tmp_path / "run", env={"name": "Bounded-v0"}, num_iterations=1))
    saved = maml_rl.load(run).save(tmp_path / "saved")
    monkeypatch.setattr(Bounded, "action_space", spaces.Box(-0.4, 0.4, (1,), np.float64))
    for folder in (run, saved):
        maml_rl.load(folder).adapt(Bounded())
    monkeypatch.setattr(Bounded, "action_space", spaces.Box(-0.4, 1.2, (1,), np.float32))
    message = r"written with the actions Box\(\[-0\.4.*\], \[0\.4.*now Box\(\[-0\.4.*\[1\.2"
    for folder in (run, saved):
        with pytest.raises(UserError, match=message):
            maml_rl.load(folder)
    with pytest.raises(UserError, match=message):
        maml_rl.resume(run, num_iterations=2)
