"""Plain modules of policies, and exported files that are loaded again."""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from helpers import networks  # noqa: F401  registers Lights-v0
from helpers.runs import tiny
from helpers.synthetic_policies import KINDS, make_agent, observations_of

import maml_rl
from maml_rl.agents.agent import Agent
from maml_rl.errors import UserError
from maml_rl.policies.action_map import ActionMap
from maml_rl.policies.plain_network import invertible_gain_and_offset, unfolded
from maml_rl.training.compose import open_training


@pytest.fixture(params=KINDS)
def policy(request: pytest.FixtureRequest) -> Agent:
    return make_agent(request.param)


def expected(policy: Agent, observations: np.ndarray) -> np.ndarray:
    return policy.predict(observations, deterministic=True)[0]


def test_the_module_gives_the_policys_actions(policy: Agent) -> None:
    observations = observations_of(policy)
    actions = policy.module()(torch.from_numpy(observations)).detach().numpy()
    np.testing.assert_allclose(actions, expected(policy, observations), rtol=1e-4, atol=1e-5)
    assert type(policy.module()).__module__ == "maml_rl.policies.export"


def test_the_modules_distribution_is_the_one_that_predict_draws_from(policy: Agent) -> None:
    observation = observations_of(policy)[:1]
    dist = policy.module(with_distribution=True)(torch.from_numpy(observation))
    actions, _ = policy.predict(observation.repeat(20_000, 0), rng=np.random.default_rng(0))
    if isinstance(policy.action_space, spaces.Discrete):
        share = np.bincount(actions, minlength=3) / len(actions)
        np.testing.assert_allclose(dist.softmax(-1)[0].detach(), share, atol=0.02)
    else:
        mean, std = (value[0].detach().numpy() for value in dist)
        low, high = policy.action_space.low, policy.action_space.high
        clipped = np.clip(
            mean + std * np.random.default_rng(1).normal(size=(20_000, len(mean))), low, high
        )
        np.testing.assert_allclose(clipped.mean(0), actions.mean(0), atol=0.03 * std.max())
        np.testing.assert_allclose(clipped.std(0), actions.std(0), rtol=0.03)


def test_unfolding_undoes_folding() -> None:
    policy = make_agent("plain")
    unfolded_network = unfolded(policy.plain_network, policy.action_map)
    theta = policy.learner.policy.parameters_of(unfolded_network)
    assert theta.keys() == policy.belief.keys()
    for name, value in theta.items():
        torch.testing.assert_close(value, policy.belief[name][0])


def test_a_standard_deviation_below_the_policys_is_refused() -> None:
    policy = make_agent("plain")
    network = policy.plain_network
    assert network.log_std is not None
    tiny = network._replace(log_std=network.log_std - 20)
    with pytest.raises(UserError, match="too small"):
        policy.learner.policy.parameters_of(tiny)


def test_a_mean_of_observations_far_above_their_deviation_costs_no_precision() -> None:
    agent = make_agent("normalized")
    statistics = agent.state.tensors["normalizer"]
    mean = torch.full((4,), 1000.0, dtype=torch.float64)
    changed = {**statistics, "mean": mean, "squares": torch.full_like(mean, 0.1)}
    tensors = {**agent.state.tensors, "normalizer": changed}
    agent = dataclasses.replace(agent, state=agent.state._replace(tensors=tensors))
    observations = observations_of(agent)
    actions = agent.module()(torch.from_numpy(observations)).detach().numpy()
    np.testing.assert_allclose(actions, expected(agent, observations), rtol=1e-6, atol=1e-6)


def test_actions_stay_within_bounds_that_are_no_float32() -> None:
    space = spaces.Box(-0.1, 0.1, (2,), np.float64)
    assert float(np.float32(0.1)) > 0.1  # rounds outwards
    agent = dataclasses.replace(make_agent("plain"), action_space=space)
    module = agent.module()
    limits = torch.stack([module.low, module.high]).numpy()
    np.testing.assert_allclose(limits, [space.low, space.high], rtol=1e-6)
    for limit in limits:
        assert limit in space


def test_actions_have_the_type_of_their_space() -> None:
    for kind in (np.float16, np.float32, np.float64):
        space = spaces.Box(-0.1, 0.7, (2,), kind)
        (action,) = ActionMap(space, 1.0)(np.full((1, 2), 1e6, np.float32))
        assert action in space
        np.testing.assert_array_equal(action, space.high)


@pytest.mark.slow
def test_images_of_a_multilayer_perceptron(tmp_path: Path) -> None:
    run = maml_rl.train(
        tiny(tmp_path / "run", env={"name": "Lights-v0", "size": 4}, num_iterations=1, horizon=4)
    )
    agent = maml_rl.load(run)
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), np.uint8)
    actions = expected(agent, images)
    raw = torch.from_numpy(images).float()
    path = agent.export(tmp_path / "policy.pt2")
    for module in (agent.module(), torch.export.load(path).module()):
        np.testing.assert_allclose(module(raw).detach().numpy(), actions, rtol=1e-4, atol=1e-5)
    # Stable-Baselines3 trains on flattened observations.
    model = agent.to_sb3(n_steps=4, batch_size=4)
    model.learn(4)
    model = agent.to_sb3()
    ours, _ = model.predict(images.reshape(5, -1), deterministic=True)
    np.testing.assert_allclose(ours, actions, rtol=1e-4, atol=1e-5)
    back = maml_rl.from_sb3(model, {"name": "Lights-v0", "size": 4}, horizon=4)
    np.testing.assert_allclose(expected(back, images), actions, rtol=1e-4, atol=1e-5)


def test_gain_and_offset_are_the_action_maps() -> None:
    action_map = ActionMap(make_agent("plain").action_space, 0.3)
    gain, offset = invertible_gain_and_offset(action_map)
    for outputs in (np.zeros((1, 2), np.float32), np.array([[0.5, -0.7]], np.float32)):
        np.testing.assert_allclose(action_map(outputs), gain * outputs + offset.numpy(), rtol=1e-6)


def _run(path: Path, observations: np.ndarray) -> list[np.ndarray]:
    """Return the outputs of an exported file."""
    if path.suffix == ".onnx":
        runtime = pytest.importorskip("onnxruntime")
        outputs = runtime.InferenceSession(path).run(None, {"observation": observations})
        return [np.asarray(output) for output in outputs]
    module: Any = torch.jit.load(path) if path.suffix == ".ts" else torch.export.load(path).module()
    outputs = module(torch.from_numpy(observations))
    return [
        output.detach().numpy() for output in (outputs if isinstance(outputs, tuple) else [outputs])
    ]


@pytest.mark.thorough
@pytest.mark.parametrize("ending", [".ts", ".pt2", ".onnx"])
@pytest.mark.parametrize("kind", ["normalized", "discrete"])
def test_files_give_the_policys_actions_at_any_batch_size(
    kind: str, ending: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if ending == ".onnx":
        pytest.importorskip("onnxscript")
    policy = make_agent(kind)
    path = policy.export(tmp_path / f"policy{ending}")
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    for size in (1, 2, 5):
        observations = observations_of(policy)[:size]
        (actions,) = _run(path, observations)
        np.testing.assert_allclose(actions, expected(policy, observations), rtol=1e-4, atol=1e-5)
    path = policy.export(str(tmp_path / f"distribution{ending}"), with_distribution=True)
    dist: Any = policy.module(with_distribution=True)(torch.from_numpy(observations))
    outputs = [dist] if isinstance(policy.action_space, spaces.Discrete) else dist
    for actual, output in zip(_run(path, observations), outputs, strict=True):
        np.testing.assert_allclose(actual, output.detach(), rtol=1e-4, atol=1e-5)


def test_without_onnx_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name.startswith("onnx") else find(name)
    )
    with pytest.raises(UserError, match=r"onnx and onnxscript.*maml-rl\[export\]"):
        make_agent("plain").export(tmp_path / "policy.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("path", "message"), [("policy.pb", r"\.onnx, \.ts, \.pt2"), ("no/policy.ts", "no folder")]
)
def test_what_cannot_be_written_is_refused(path: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        make_agent("plain").export(tmp_path / path)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_network_that_reads_the_number_of_observations_is_refused(tmp_path: Path) -> None:
    config = tiny(tmp_path / "run", policy={"network": "helpers.networks:ReadsBatchSize"})
    with open_training(config) as training:
        agent = training.agent
    with pytest.raises(UserError, match="keeps the number of observations that it was traced"):
        agent.export(tmp_path / "policy.ts")
    assert not (tmp_path / "policy.ts").exists()


def test_actions_without_a_range_are_refused() -> None:
    policy = make_agent("plain")
    space = type(policy.action_space)(np.float32([0, 1]), np.float32([0, 2]))
    with pytest.raises(UserError, match="no range in dimension 0"):
        dataclasses.replace(policy, action_space=space).module()


@pytest.mark.parametrize(
    "space",
    [
        spaces.MultiDiscrete([2, 3]),
        spaces.Discrete(3, start=1),
        spaces.Box(-1.0, 1.0, (2, 2), np.float32),
    ],
    ids=str,
)
def test_actions_that_are_not_plain_are_refused(space: spaces.Space, tmp_path: Path) -> None:
    policy = dataclasses.replace(make_agent("plain"), action_space=space)
    log = {"observations": [], "actions": [], "rewards": [], "terminated": []}
    for use in (
        policy.module,
        lambda: policy.export(tmp_path / "policy.ts"),
        lambda: policy.to_sb3(),
        lambda: policy.adapt(episodes=log),
    ):
        with pytest.raises(UserError, match="Box of one axis, or Discrete from 0"):
            use()


def test_another_number_of_choices_is_refused() -> None:
    policy = dataclasses.replace(make_agent("plain"), action_space=spaces.Discrete(3))
    policy.check_spaces(policy.observation_space, spaces.Discrete(3))
    for other in (spaces.Discrete(4), spaces.Discrete(3, start=1)):
        with pytest.raises(UserError, match="the policy expects"):
            policy.check_spaces(policy.observation_space, other)
