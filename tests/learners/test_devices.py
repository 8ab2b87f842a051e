"""On every available device, results equal those in float64 on the CPU up to float32 rounding."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.synthetic import make_meta_batch, make_policy, make_theta

import maml_rl
from maml_rl.analysis.evaluation import evaluate
from maml_rl.learners.base import LearnerState
from maml_rl.learners.maml.objective import MetaBatch, MetaObjective
from maml_rl.learners.maml.outer import OUTER
from maml_rl.learners.maml.outer.trpo import fisher_vector_product
from maml_rl.learners.trials import sample_tasks
from maml_rl.policies.parameters import Params
from maml_rl.sampling.device_rollout import DeviceRollout
from maml_rl.sampling.episodes import Episodes
from maml_rl.settings.learners import InnerConfig
from maml_rl.settings.parser import load_config
from maml_rl.system.random_streams import Phase, RandomStreams
from maml_rl.training.compose import open_training

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
on_every_device = pytest.mark.parametrize("device", DEVICES)
on_a_gpu = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="compares a GPU with the CPU, so it needs one"
)
SIZES: dict[str, Any] = {
    "env": "PointNavigation",
    "meta_batch_size": 6,
    "num_episodes": 4,
    "horizon": 8,
    "num_iterations": 2,
    "policy": {"hidden_sizes": [16], "normalize_observations": True},
    "logging": {"final_evaluation": False, "final_video": False},
}


def moved(value: Any, device: str) -> Any:
    """Episodes, batches and parameters as float32 on a device."""
    if isinstance(value, torch.Tensor):
        return value.to(device, torch.float32 if value.is_floating_point() else value.dtype)
    if isinstance(value, Episodes):
        return Episodes(
            **{f.name: moved(getattr(value, f.name), device) for f in dataclasses.fields(value)}
        )
    if isinstance(value, MetaBatch):
        return MetaBatch(*(moved(part, device) for part in value if part is not None))
    if isinstance(value, dict):
        return {name: moved(part, device) for name, part in value.items()}
    return tuple(moved(part, device) for part in value)


def assert_close(ours: torch.Tensor, exact: torch.Tensor) -> None:
    assert (ours.cpu().double() - exact).norm() <= 1e-4 * exact.norm()


@on_every_device
@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("nonlinearity", ["tanh", "silu"])
def test_gradient_product_and_values(device: str, discrete: bool, nonlinearity: str) -> None:
    inner = InnerConfig(num_steps=2, step_size=0.2)
    policy = make_policy(discrete, nonlinearity=nonlinearity)
    theta = make_theta(policy)
    batch = make_meta_batch(policy, theta, inner)
    exact = MetaObjective(policy, batch, inner, 2)
    objective = MetaObjective(policy.to(device, torch.float32), moved(batch, device), inner, 2)
    theta_here = moved(theta, device)
    value, gradient = exact.surrogate_and_gradient(theta)
    ours, our_gradient = objective.surrogate_and_gradient(theta_here)
    assert our_gradient.device.type == device
    assert ours == pytest.approx(value, abs=1e-5)
    assert_close(our_gradient, gradient)
    product = fisher_vector_product(exact, theta)(gradient)
    assert_close(fisher_vector_product(objective, theta_here)(gradient.to(device)), product)
    assert objective.value(theta_here) == pytest.approx(exact.value(theta), abs=1e-5)


RL2 = {"name": "rl2", "num_minibatches": 2}
PEARL = {"name": "pearl", "num_training_tasks": 8, "num_updates": 5}
TEACHER = {"num_minibatches": 2, "teacher_iterations": 1}
LEARNERS: dict[str, dict[str, Any]] = {
    **{f"maml_{outer}": {"outer": outer} for outer in OUTER},
    "maml_latent": {"policy": {"hidden_sizes": [16], "latent_size": 2}},
    "maml_learned_advantage": {"inner": {"advantage": "learned"}},
    "rl2": {"num_episodes": 1, "learner": RL2},
    "rl2_lstm": {"num_episodes": 1, "learner": {**RL2, "cell": "lstm", "asymmetric_critic": True}},
    "pearl": {"num_episodes": 1, "learner": PEARL},
    "pearl_gru": {"num_episodes": 1, "learner": {**PEARL, "encoder": "gru"}},
    "rl2_hypernetwork": {"num_episodes": 1, "learner": {**RL2, "hypernetwork": True}},
    "rma": {"num_episodes": 1, "learner": {**TEACHER, "name": "rma"}},
    "sysid": {"num_episodes": 1, "learner": {**TEACHER, "name": "sysid"}},
}


def flat(theta: Params) -> torch.Tensor:
    """All parameters as one vector, in float64 on the CPU."""
    return torch.cat([value.flatten().cpu().double() for value in theta.values()])


def learned(state: LearnerState) -> Params:
    """The parameters, and those of a student."""
    return {**state.tensors["theta"], **state.tensors.get("student", {})}


@pytest.mark.slow
@on_a_gpu
@pytest.mark.parametrize("settings", LEARNERS.values(), ids=list(LEARNERS))
def test_iterations(settings: dict[str, Any]) -> None:
    """Two iterations change the parameters as on the CPU.

    Element by element, the change may differ: Adam's steps have the size of the step size also
    where the gradient is a rounding error.
    """
    changes = []
    for name in ("cpu", "cuda"):
        with open_training(load_config(**{**SIZES, **settings}, device=name)) as training:
            before = flat(learned(training.agent.state))
            for _ in range(2):
                state, metrics, failures = training.iterate()
                training = training.continued(state)
            assert not failures
            assert np.isfinite(list(metrics.values())).all()
            theta = learned(state)
            assert {value.device.type for value in theta.values()} == {name}
            changes.append(flat(theta) - before)
    # On a GPU, 3 % with conjugate gradient and a learned advantage, 0.2 % at most otherwise.
    assert (changes[1] - changes[0]).norm() <= 0.05 * changes[0].norm()


@on_a_gpu
def test_collection_is_that_of_the_cpu() -> None:
    collected = []
    for name in ("cpu", "cuda"):
        with open_training(load_config(**SIZES, device=name)) as training:
            agent, collector, _ = training
            streams = RandomStreams(0, Phase.TRAINING)
            collector.set_tasks(sample_tasks(collector, streams))
            noise = collector.noise(agent.learner.draw_noise, streams, 0)
            actor = agent.learner.actor(agent.state, agent.learner.prior(agent.state, 6), noise)
            collected.append(collector.collect(actor, streams, 0))
    assert collected[1].rewards.device.type == "cuda"
    for field in ("observations", "actions", "rewards", "mask", "log_probs"):
        torch.testing.assert_close(
            getattr(collected[1], field).cpu(), getattr(collected[0], field), rtol=1e-4, atol=1e-4
        )


ON_GPU = {**LEARNERS, "robot": {"env": "HalfCheetahDir"}}


@on_every_device
def test_simulations_on_a_device_are_those_on_the_cpu(device: str) -> None:
    """With the most probable actions: on a GPU, noise has other values."""
    collected = []
    for engine, name in (("mujoco", "cpu"), ("warp", device)):
        with open_training(load_config(**SIZES, device=name, engine=engine)) as training:
            agent, collector, _ = training
            streams = RandomStreams(0, Phase.TRAINING)
            collector.set_tasks(sample_tasks(collector, streams))
            actor = agent.learner.actor(agent.state, agent.learner.prior(agent.state, 6), None)
            collected.append(collector.collect(actor, streams, 0))
    assert collected[1].rewards.device.type == device
    for field in ("observations", "actions", "rewards", "mask", "log_probs"):
        torch.testing.assert_close(
            getattr(collected[1], field).cpu(), getattr(collected[0], field), rtol=1e-4, atol=1e-4
        )


@pytest.mark.slow
@pytest.mark.skipif(
    not torch.cuda.is_available(),
    reason="needs a GPU; test_device_rollout.py checks the same on the device meta",
)
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")  # is a prototype, torch says
@pytest.mark.parametrize("settings", ON_GPU.values(), ids=list(ON_GPU))
def test_no_control_step_waits_for_the_gpu(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    if "env" in settings:
        pytest.importorskip("mujoco_warp")
    play = DeviceRollout.play

    def play_without_waiting(self: DeviceRollout, *arguments: Any) -> Any:
        try:
            torch.cuda.set_sync_debug_mode("error")
            return play(self, *arguments)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(DeviceRollout, "play", play_without_waiting)
    with open_training(load_config(**{**SIZES, **settings}, device="cuda", engine="warp")) as run:
        _, metrics, failures = run.iterate()
    assert not failures
    assert np.isfinite(list(metrics.values())).all()


@pytest.mark.slow
@on_every_device
def test_a_run_moves_between_devices(device: str, tmp_path: Path) -> None:
    run = maml_rl.train(load_config(**SIZES, device=device, output=str(tmp_path / "run")))
    here, there = maml_rl.load(run, device=device), maml_rl.load(run, device="cpu")
    assert here.device.type == device
    observation = np.array([0.1, -0.2], np.float32)
    action, _ = here.predict(observation, deterministic=True)
    np.testing.assert_allclose(
        action, there.predict(observation, deterministic=True)[0], rtol=1e-4, atol=1e-6
    )
    returns = [
        evaluate(agent, num_tasks=3, num_episodes=4, num_steps=1).mean for agent in (here, there)
    ]
    np.testing.assert_allclose(*returns, rtol=1e-2)
    adapted = here.adapt(task={"goal_x": 0.3, "goal_y": 0.2})
    reloaded = maml_rl.load(adapted.save(tmp_path / "adapted"), device="cpu")
    for name, value in adapted.belief.items():
        torch.testing.assert_close(reloaded.belief[name], value.cpu(), rtol=0, atol=0)
