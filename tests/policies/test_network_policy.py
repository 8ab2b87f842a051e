"""Policies with a network of the user's: mathematics, refusals, and runs on images."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from helpers import networks
from helpers.runs import assert_same_state, is_clock, same_theta, tiny
from helpers.synthetic import (
    NUM_TASKS,
    OBSERVATION_SIZE,
    finite_difference_gradient,
    from_vector,
    make_episodes,
    make_meta_batch,
    make_theta,
    policy_gradient_loss,
    to_vector,
)
from helpers.synthetic import make_policy as make_mlp
from torch import Tensor
from torch.func import functional_call

import maml_rl
from maml_rl.cli import main
from maml_rl.errors import UserError
from maml_rl.learners.maml.adapt import adapt
from maml_rl.learners.maml.objective import MetaBatch, MetaObjective
from maml_rl.learners.maml.outer import OUTER
from maml_rl.policies.action_head import ActionHead
from maml_rl.policies.mlp import MLPPolicy, make_policy
from maml_rl.policies.network_policy import NetworkPolicy
from maml_rl.policies.parameters import make_stack, parameters
from maml_rl.settings.learners import InnerConfig, ProMPConfig, TRPOConfig
from maml_rl.settings.policy import PolicyConfig
from maml_rl.training.compose import open_training

VECTORS = spaces.Box(-1.0, 1.0, (OBSERVATION_SIZE,))
IMAGES = spaces.Box(0, 255, (5, 7, 2), np.uint8)
ACTIONS = spaces.Box(-1.0, 1.0, (2,))
T, N = 3, 5


def make(name: str, observations: spaces.Box = VECTORS, seed: int = 0, **settings: Any) -> Any:
    config = PolicyConfig(network=f"helpers.networks:{name}", **settings)
    return make_policy(config, observations, ACTIONS, seed)


def convolutional(space: spaces.Space = ACTIONS) -> NetworkPolicy:
    """A policy for images in float64."""
    torch.manual_seed(0)
    head = ActionHead.of(space)
    network = networks.Convolutional(IMAGES, head.size)
    return NetworkPolicy(network.double(), IMAGES.shape, head, 0.7)


def raising(observations: Tensor) -> Tensor:
    raise KeyError("late")


def as_network(policy: MLPPolicy) -> NetworkPolicy:
    """An MLP of one hidden layer, written as a network."""
    network = networks.Perceptron(VECTORS, policy.action_head.size)
    return NetworkPolicy(network.double(), policy.observation_shape, policy.action_head, 1.0)


def renamed(theta: dict[str, Tensor]) -> dict[str, Tensor]:
    """Parameters of the MLP, with the names and shapes of the network's."""
    names = ("network.hidden", "network.last")
    values = {f"{name}.weight": theta[f"weight_{i}"].mT for i, name in enumerate(names)}
    values |= {f"{name}.bias": theta[f"bias_{i}"] for i, name in enumerate(names)}
    values |= {"log_std": theta["log_std"]} if "log_std" in theta else {}
    like = as_network(make_mlp("log_std" not in theta))
    return {name: values[name].contiguous() for name, _ in like.named_parameters()}


class TestDistribution:
    @pytest.mark.parametrize(
        "space", [ACTIONS, spaces.Discrete(3), spaces.MultiDiscrete([2, 3])], ids=str
    )
    def test_is_each_tasks_own(self, space: spaces.Space) -> None:
        policy = convolutional(space)
        stack = make_stack(parameters(policy), T)
        stack = {name: value + 0.1 * torch.randn_like(value) for name, value in stack.items()}
        observations = 255 * torch.rand(T, N, *IMAGES.shape, dtype=torch.float64)
        batch = policy.distribution(stack, observations)
        for i in range(T):
            theta = {
                name.removeprefix("network."): value[i]
                for name, value in stack.items()
                if name != "log_std"
            }
            outputs = functional_call(policy.network, theta, (observations[i],))
            log_std = stack["log_std"][i : i + 1, None] if "log_std" in stack else None
            expected = policy.action_head.distribution(outputs[None], log_std)
            assert type(batch) is type(expected)
            for ours, theirs in zip(batch, expected, strict=True):
                torch.testing.assert_close(ours[i], theirs[0], rtol=1e-10, atol=1e-12)

    def test_the_standard_deviation_has_a_floor(self) -> None:
        policy = convolutional()
        stack = make_stack(parameters(policy), T)
        stack["log_std"] = stack["log_std"] - 50
        observations = torch.rand(T, N, *IMAGES.shape, dtype=torch.float64)
        assert policy.distribution(stack, observations).log_std.exp().min() > 0.9e-6

    def test_head_is_the_last_layer_and_the_standard_deviation(self) -> None:
        assert convolutional().head_names == ["network.head.weight", "network.head.bias", "log_std"]
        discrete = convolutional(spaces.Discrete(3))
        assert discrete.head_names == ["network.head.weight", "network.head.bias"]


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_a_parametrised_head_is_whole() -> None:
    names = make("Normed").head_names
    assert sorted(names) == [
        "log_std",
        "network.head.bias",
        "network.head.parametrizations.weight.original0",
        "network.head.parametrizations.weight.original1",
    ]


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize(
    ("settings", "is_refused"),
    [
        ({}, True),
        ({"inner": {"first_order": True}}, True),
        ({"outer": "promp"}, True),
        ({"outer": "promp", "inner": {"first_order": True}}, False),
        ({"outer": "reptile"}, False),
        ({"outer": "ppo", "learner": "joint"}, False),
    ],
)
def test_a_second_derivative_is_asked_for_only_where_it_is_needed(
    settings: dict[str, Any], is_refused: bool, tmp_path: Path
) -> None:
    network = {"policy": {"network": "helpers.networks:Attention"}}
    config = tiny(tmp_path, **network, **settings)
    refused = pytest.raises(
        UserError, match="second-order MAML and TRPO need its second derivative"
    )
    with refused if is_refused else contextlib.nullcontext(), open_training(config):
        pass


class TestAsTheBuiltInNetwork:
    """An MLP written as a network gives the results of the built-in one, to rounding."""

    def objectives(self, discrete: bool) -> tuple[MetaObjective, MetaObjective, Any]:
        mlp = make_mlp(discrete)
        theta, inner = make_theta(mlp), InnerConfig(num_steps=2, step_size=0.3)
        batch = make_meta_batch(mlp, theta, inner)
        stacks = tuple(renamed(dict(stack)) for stack in batch.stacks)
        ours = MetaObjective(as_network(mlp), batch._replace(stacks=stacks), inner, 2)
        return MetaObjective(mlp, batch, inner, 2), ours, theta

    @pytest.mark.parametrize("discrete", [False, True])
    # Further iterations of conjugate gradient would amplify rounding errors.
    @pytest.mark.parametrize(
        "config", [TRPOConfig(cg_iterations=5), ProMPConfig()], ids=lambda c: c.name
    )
    def test_outer_steps(self, config: TRPOConfig | ProMPConfig, discrete: bool) -> None:
        mlp, ours, theta = self.objectives(discrete)
        outer = OUTER[config.name]
        state = outer.initial_state(theta, config)
        expected, _, expected_metrics = outer.step(theta, state, mlp, config)
        actual, _, metrics = outer.step(renamed(theta), state, ours, config)
        assert not torch.allclose(expected["weight_0"], theta["weight_0"], rtol=1e-6)
        for name, value in renamed(expected).items():
            torch.testing.assert_close(actual[name], value, rtol=1e-7, atol=1e-9)
        for name in (name for name in metrics if not is_clock(name)):
            number = expected_metrics[name]
            assert metrics[name] == pytest.approx(number, rel=1e-5, abs=1e-9), name


@pytest.mark.thorough
@pytest.mark.parametrize("space", [ACTIONS, spaces.Discrete(3)], ids=str)
def test_the_meta_gradient_is_that_of_finite_differences(space: spaces.Space) -> None:
    """Second order, through an inner step, for a network of images."""
    policy = convolutional(space)
    theta, inner = make_theta(policy), InnerConfig(num_steps=1, step_size=0.1)
    stack = make_stack(theta, NUM_TASKS)
    support = make_episodes(policy, stack, seed=1)
    loss = policy_gradient_loss(policy, "log_prob")
    adapted = adapt(stack, [support], loss, step_size=0.1, first_order=True)
    query = make_episodes(policy, adapted, seed=2)
    objective = MetaObjective(policy, MetaBatch((support,), query, (stack, adapted)), inner, 2)
    _, gradient = objective.surrogate_and_gradient(theta)
    expected = finite_difference_gradient(
        lambda v: objective.value(from_vector(v, theta))[0], to_vector(theta)
    )
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-8)
    first_order = dataclasses.replace(objective, inner=dataclasses.replace(inner, first_order=True))
    assert not torch.allclose(first_order.surrogate_and_gradient(theta)[1], expected, rtol=1e-3)


class TestMakePolicy:
    @pytest.mark.parametrize("name", ["Perceptron", "Lazy"])
    def test_initial_weights_depend_on_the_seed_alone(self, name: str) -> None:
        torch.manual_seed(1)
        before = torch.get_rng_state()
        policy = make(name, init_std=0.5)
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(2)
        again, other = make(name, init_std=0.5), make(name, seed=1)
        for key, value in parameters(policy).items():
            assert torch.equal(value, parameters(again)[key])
        key = "network.hidden.weight"
        assert not torch.equal(parameters(policy)[key], parameters(other)[key])
        torch.testing.assert_close(parameters(policy)["log_std"].exp(), torch.full((2,), 0.5))

    def test_the_network_gets_the_space_and_the_number_of_outputs(self) -> None:
        policy = make("Convolutional", IMAGES)
        assert policy.observation_shape == (5, 7, 2)
        assert policy.network.head.out_features == 2

    @pytest.mark.parametrize(
        ("name", "problem"),
        [
            ("NotAModule", "must make a torch.nn.Module, got NotAModule"),
            ("RaisesInConstructor", "constructor raised .* not today"),
            ("RaisesInForward", r"raised for observations \(3, 3\) float32: .*no idea"),
            ("TooManyOutputs", r"must return \(3, 2\) torch.float32, got \(3, 4\)"),
            ("DoublePrecision", r"got \(3, 2\) torch.float64"),
            ("ReturnsTuple", "got tuple"),
            ("NotFinite", "its outputs are not finite"),
            ("InPlace", "changes the observations"),
            ("NoParameters", "has no parameters"),
            ("Frozen", "hidden.weight does not require gradients"),
            ("Double", "hidden.weight must be float32, got torch.float64"),
            ("Keeps", "keeps a tensor of its last call"),
            ("Unused", "do not depend on its parameter extra.weight"),
            ("BatchNorm", "buffer extra.running_mean changes with every call"),
            ("Dropout", "returns random outputs"),
            ("Mixing", "depends on the others in the batch"),
            ("Branches", "vmap cannot apply it to several tasks"),
            ("Perceptro", "Did you mean 'helpers.networks:Perceptron'"),
        ],
    )
    def test_what_cannot_be_used_is_refused(self, name: str, problem: str) -> None:
        with pytest.raises(
            UserError, match=rf"policy\.network.*helpers\.networks:{name}.*{problem}"
        ):
            make(name)

    def test_an_error_in_training_names_the_network(self) -> None:
        policy = make("Perceptron")
        policy.network.forward = raising
        observations = torch.zeros(1, 2, *policy.observation_shape)
        with pytest.raises(
            UserError, match=r"helpers\.networks:Perceptron raised KeyError: 'late'"
        ):
            policy.distribution(make_stack(parameters(policy), 1), observations)

    def test_a_name_of_another_form_is_refused(self) -> None:
        with pytest.raises(UserError, match=r"policy\.network 'networks' must have the form"):
            make_policy(PolicyConfig(network="networks"), VECTORS, ACTIONS, 0)


class TestSettings:
    def test_a_context_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"context_size must be 0 if policy\.network is set"):
            PolicyConfig(network="helpers.networks:Perceptron", context_size=3)

    def test_cavia_is_refused_in_one_line(self, capsys: pytest.CaptureFixture[str]) -> None:
        arguments = ["--policy.network", "helpers.networks:Perceptron", "--inner.adapts", "context"]
        assert main(["train", "--env", "PointNavigation", *arguments]) == 2
        error = capsys.readouterr().err
        assert "inner.adapts must not be context if policy.network is set" in error
        assert "Traceback" not in error

    def test_from_sb3_determines_the_network(self) -> None:
        sb3 = pytest.importorskip("stable_baselines3")
        model = sb3.PPO("MlpPolicy", gym.make("Pendulum-v1"), device="cpu")
        with pytest.raises(UserError, match=r"leave out policy\.network"):
            maml_rl.from_sb3(
                model, "Pendulum-v1", policy={"network": "helpers.networks:Perceptron"}
            )


def run_on_images(output: Path, name: str = "Convolutional", **settings: Any) -> Path:
    policy = {"network": f"helpers.networks:{name}"} | settings.pop("policy", {})
    config = tiny(output, **{"env": {"name": "Lights-v0"}, "horizon": 4} | settings, policy=policy)
    return maml_rl.train(config)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_on_images(
        tmp_path_factory.mktemp("images") / "run",
        num_iterations=2,
        policy={"normalize_observations": True},
    )


@pytest.mark.parametrize("outer", ["trpo", "promp", "reptile"])
def test_a_parameter_without_axes_learns(tmp_path: Path, outer: str) -> None:
    surrogate = {"promp": {"surrogate": "likelihood_ratio"}}.get(outer, {})
    policy = {"network": "helpers.networks:Scaled"}
    config = tiny(tmp_path / "run", policy=policy, outer=outer, inner=surrogate)
    with open_training(config) as training:
        before, after = training.agent.state, training.iterate().state
    name = "network.scale"
    assert after.tensors["theta"][name].shape == ()
    assert after.tensors["theta"][name] != before.tensors["theta"][name]


def images(number: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (number, 16, 16, 3), np.uint8)


@pytest.mark.slow
class TestRun:
    def test_predict_takes_raw_images(self, run: Path) -> None:
        agent = maml_rl.load(run)
        assert agent.observation_space.shape == (16, 16, 3)
        actions, _ = agent.predict(images(5), deterministic=True)
        assert actions.shape == (5, 2)
        (action, _) = agent.predict(images(5)[3], deterministic=True)
        np.testing.assert_allclose(action, actions[3], rtol=1e-4, atol=1e-6)
        with pytest.raises(UserError, match=r"expected observations of shape \(16, 16, 3\)"):
            agent.predict(images(5).reshape(5, -1))

    def test_adapts_in_an_environment_and_to_a_log(self, run: Path) -> None:
        agent = maml_rl.load(run)
        env = gym.make("Lights-v0")
        adapted = agent.adapt(env, task={"sign": -1.0}, num_steps=1)
        before, _ = agent.predict(images(1), deterministic=True)
        after, _ = adapted.predict(images(1), deterministic=True)
        assert not np.array_equal(before, after)
        actions, _ = agent.predict(images(8))
        log = {
            "observations": images(8),
            "actions": actions,
            "rewards": np.linspace(0, 1, 8),
            "truncated": [False, True, False, False, False, True, False, True],
        }
        logged = agent.adapt(episodes=log).predict(images(1), deterministic=True)[0]
        assert not np.array_equal(before, logged)

    def test_a_saved_agent_is_the_same(self, run: Path, tmp_path: Path) -> None:
        adapted = maml_rl.load(run).adapt(task={"sign": 1.0}, num_steps=1)
        loaded = maml_rl.load(adapted.save(tmp_path / "saved"))
        expected, _ = adapted.predict(images(3), deterministic=True)
        assert np.array_equal(loaded.predict(images(3), deterministic=True)[0], expected)

    def test_init_from(self, run: Path, tmp_path: Path) -> None:
        policy = {"normalize_observations": True}
        started = run_on_images(
            tmp_path / "run", num_iterations=1, seed=5, init_from=str(run), policy=policy
        )
        fresh = run_on_images(tmp_path / "fresh", num_iterations=1, seed=5, policy=policy)
        source = maml_rl.load(run).belief["network.head.weight"]
        distances = [
            float((maml_rl.load(path).belief["network.head.weight"] - source).norm())
            for path in (started, fresh)
        ]
        assert distances[0] < 0.5 * distances[1]
        with pytest.raises(
            UserError,
            match=r"the theta in .* does not fit the settings",
        ):
            run_on_images(
                tmp_path / "other",
                "Perceptron",
                env={"name": "PointNavigation"},
                init_from=str(run),
                policy=policy,
            )

    def test_to_sb3_is_refused(self, run: Path) -> None:
        with pytest.raises(UserError, match=r"policy\.network is set.*Stable-Baselines3"):
            maml_rl.load(run).to_sb3()

    @pytest.mark.parametrize("ending", [".ts", ".pt2", ".onnx"])
    def test_exported_files_give_the_agents_actions(
        self, run: Path, ending: str, tmp_path: Path
    ) -> None:
        agent = maml_rl.load(run)
        if ending == ".onnx":
            pytest.importorskip("onnxscript")
            runtime = pytest.importorskip("onnxruntime")
        path = agent.export(tmp_path / f"policy{ending}")
        for number in (1, 5):
            observations = images(number).astype(np.float32)
            expected, _ = agent.predict(observations, deterministic=True)
            if ending == ".onnx":
                session = runtime.InferenceSession(path)
                (actions,) = session.run(None, {"observation": observations})
            else:
                is_script = ending == ".ts"
                module: Any = (
                    torch.jit.load(path) if is_script else torch.export.load(path).module()
                )
                actions = module(torch.from_numpy(observations)).detach().numpy()
            np.testing.assert_allclose(actions, expected, rtol=1e-4, atol=1e-5)

    def test_the_module_has_the_distribution_of_predict(self, run: Path) -> None:
        agent = maml_rl.load(run)
        observation = images(1).astype(np.float32)
        mean, std = agent.module(with_distribution=True)(torch.from_numpy(observation))
        noise = np.random.default_rng(3).standard_normal((1, 2), np.float32)
        actions, _ = agent.predict(observation, rng=np.random.default_rng(3))
        expected = mean.detach().numpy() + noise * std.detach().numpy()
        np.testing.assert_allclose(actions, expected.clip(-1, 1), rtol=1e-4, atol=1e-5)


@pytest.mark.thorough
@pytest.mark.parametrize("outer", ["trpo", "promp"])
def test_a_resumed_run_is_the_same_as_an_uninterrupted_one(outer: str, tmp_path: Path) -> None:
    settings = {"outer": {"name": outer}}
    whole = run_on_images(tmp_path / "whole", num_iterations=3, **settings)
    part = run_on_images(tmp_path / "part", num_iterations=1, **settings)
    assert not same_theta(whole, part)
    maml_rl.resume(part, num_iterations=3)
    assert_same_state(whole, part)


@pytest.mark.slow
def test_the_log_says_that_the_baseline_uses_time_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="maml_rl")
    run_on_images(tmp_path / "large", num_iterations=1)
    line = "notice: the value baseline uses time only: observations have 768 entries, more than 500"
    assert caplog.messages.count(line) == 1
    caplog.clear()
    run_on_images(tmp_path / "small", num_iterations=1, env={"name": "Lights-v0", "size": 8})
    assert not any("time only" in message for message in caplog.messages)


@pytest.mark.slow
def test_with_the_task_the_network_sees_a_vector(tmp_path: Path) -> None:
    env = {"name": "Lights-v0", "size": 4, "observe_task": True}
    run = run_on_images(tmp_path / "run", "Perceptron", num_iterations=1, env=env)
    assert maml_rl.load(run).observation_space.shape == (4 * 4 * 3 + 1,)


@pytest.mark.thorough
def test_worker_processes_return_images(tmp_path: Path) -> None:
    env = {"name": "helpers.networks:Lights-v0", "size": 8}
    runs = [
        run_on_images(tmp_path / kind, num_iterations=1, env={**env, "vectorization": kind})
        for kind in ("sync", "async")
    ]
    assert same_theta(*runs)
