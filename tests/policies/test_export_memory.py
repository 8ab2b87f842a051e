"""Exported policies with a memory act as ``Agent.predict`` does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from maml_rl.agents.agent import Agent
from maml_rl.errors import UserError
from maml_rl.learners.make import make_learner
from maml_rl.policies.normalizer import ObservationNormalizer
from maml_rl.settings.config import Config
from maml_rl.settings.env import EnvConfig
from maml_rl.settings.learners import RL2Config, RMAConfig, SysIDConfig
from maml_rl.settings.policy import PolicyConfig

Step = Callable[..., list[np.ndarray]]
"""Maps observation, reward, ended, episode_start and memory to action and memory."""

LEARNERS = {
    "gru": RL2Config(hidden_size=6),
    "lstm": RL2Config(hidden_size=6, cell="lstm"),
    "hypernetwork": RL2Config(
        hidden_size=6, hypernetwork=True, hypernetwork_value=True, latent_size=3
    ),
    "rma": RMAConfig(hidden_size=6, latent_size=3),
    "sysid": SysIDConfig(window=3, estimator_hidden_sizes=(5,)),
}
ACTIONS = {
    "box": spaces.Box(np.float32([-1, 0]), np.float32([1, 4])),
    "discrete": spaces.Discrete(3),
}
OBSERVATIONS = spaces.Box(-np.inf, np.inf, (2, 2), np.float32)
EPISODE, NUM_TRIALS = 4, 3


def make_agent(learner: str, actions: str) -> Agent:
    """Return an agent with random weights that remembers something, which starts its trials."""
    policy = PolicyConfig(hidden_sizes=(5,), normalize_observations=True)
    env = EnvConfig(name="PointNavigation")  # its tasks are what a teacher observes
    config = Config(env=env, policy=policy, learner=LEARNERS[learner], device="cpu")
    space = ACTIONS[actions]
    made = make_learner(config, OBSERVATIONS, space, torch.device("cpu"))
    initial = made.initial_state()
    rng = np.random.default_rng(0)

    def drawn(tensors: Any) -> dict[str, torch.Tensor]:
        # With small biases, actions depend on what is observed and remembered.
        return {
            name: torch.from_numpy(
                rng.normal(scale=0.2 if "bias" in name else 1.5, size=value.shape)
            )
            for name, value in tensors.items()
        }

    def floats(tensors: Any) -> dict[str, torch.Tensor]:
        return {name: value.float() for name, value in drawn(tensors).items()}

    mean = torch.tensor([3.0, -20.0, 0.0, 1.0], dtype=torch.float64)
    squares = 10 * torch.tensor([4.0, 0.01, 0.0, 900.0], dtype=torch.float64)
    count = torch.tensor(10.0, dtype=torch.float64)
    tensors = {
        **initial.tensors,
        **{
            name: floats(initial.tensors[name])
            for name in ("theta", "student")
            if name in initial.tensors
        },
        "normalizer": ObservationNormalizer(count, mean, squares)._asdict(),
    }
    state = initial._replace(tensors=tensors)
    belief = floats(made.prior(state, 1))
    return Agent(made, state, belief, OBSERVATIONS, space, config, num_adaptation_steps=1)


def assert_same_trials(step: Step, agent: Agent) -> None:
    """Play two episodes of three trials; one of them begins again in the second episode."""
    rng = np.random.default_rng(1)
    scale = ObservationNormalizer(**agent.state.tensors["normalizer"])
    reward, ended = np.zeros(NUM_TRIALS, np.float32), np.zeros(NUM_TRIALS, bool)
    start = np.ones(NUM_TRIALS, bool)
    # What the memory is does not matter at the start.
    memory = np.full((NUM_TRIALS, len(agent.module().initial_memory)), 9.0, np.float32)
    state = None
    played = []
    for t in range(2 * EPISODE):
        normal = rng.normal(size=(NUM_TRIALS, 4))
        observation = (normal * scale.std.numpy() + scale.mean.numpy()).astype(np.float32)
        observation = observation.reshape(NUM_TRIALS, 2, 2)
        action, memory = step(observation, reward, ended, start, memory)
        expected, state = agent.predict(
            observation, state, start, deterministic=True, reward=reward, ended=ended
        )
        np.testing.assert_allclose(action, expected, rtol=1e-3, atol=1e-4, err_msg=f"step {t}")
        # The memory is that of the policy, and the action.
        remembered = np.concatenate([state[0], state[1][:, :-2]], axis=1)
        np.testing.assert_allclose(memory, remembered, rtol=1e-3, atol=1e-4, err_msg=f"step {t}")
        played.append(expected)
        reward = rng.normal(size=NUM_TRIALS).astype(np.float32)
        ended = np.full(NUM_TRIALS, t == EPISODE - 1)
        start = np.array([False, False, t == EPISODE])
    assert np.ptp(played, axis=0).any()  # the same action all the time would show nothing


def of_module(module: Any) -> Step:
    def step(*inputs: np.ndarray) -> list[np.ndarray]:
        with torch.no_grad():
            return [output.numpy() for output in module(*map(torch.from_numpy, inputs))]

    return step


@pytest.mark.parametrize("actions", ACTIONS)
@pytest.mark.parametrize("learner", LEARNERS)
def test_the_module_remembers_as_the_agent(learner: str, actions: str) -> None:
    agent = make_agent(learner, actions)
    assert_same_trials(of_module(agent.module()), agent)


@pytest.mark.thorough
@pytest.mark.parametrize("ending", [".ts", ".pt2", ".onnx"])
@pytest.mark.parametrize(
    ("learner", "actions"),
    [
        ("gru", "box"),
        ("lstm", "discrete"),
        ("hypernetwork", "box"),
        ("gru", "discrete"),
        ("rma", "discrete"),
        ("sysid", "box"),
    ],
)
def test_files_remember_as_the_agent(
    learner: str, actions: str, ending: str, tmp_path: Path
) -> None:
    agent = make_agent(learner, actions)
    if ending == ".onnx":
        pytest.importorskip("onnxscript")
    path = agent.export(tmp_path / f"policy{ending}")
    if ending == ".onnx":
        session = pytest.importorskip("onnxruntime").InferenceSession(path)
        names = [given.name for given in session.get_inputs()]
        assert names == ["observation", "reward", "ended", "episode_start", "memory"]
        assert [output.name for output in session.get_outputs()] == ["action", "next_memory"]
        size = len(agent.module().initial_memory)
        assert session.get_inputs()[-1].shape[1] == size  # so a user knows it
        assert_same_trials(
            lambda *inputs: session.run(None, dict(zip(names, inputs, strict=True))), agent
        )
        return
    loaded: Any = torch.jit.load(path) if ending == ".ts" else torch.export.load(path).module()
    torch.testing.assert_close(loaded.initial_memory, agent.module().initial_memory)
    assert_same_trials(of_module(loaded), agent)


def test_what_needs_a_policy_without_a_memory_is_refused(tmp_path: Path) -> None:
    agent = make_agent("gru", "box")
    with pytest.raises(UserError, match="with_distribution must be False for a policy with a mem"):
        agent.export(tmp_path / "policy.ts", with_distribution=True)
    with pytest.raises(UserError, match="RL2 is not a multilayer perceptron: it cannot be conv"):
        agent.to_sb3()
    assert not list(tmp_path.iterdir())
