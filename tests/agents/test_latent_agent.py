"""Agents whose policy has a latent variable: memory of predict, export, logs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.runs import tiny

import maml_rl
from maml_rl.agents.agent import Agent
from maml_rl.errors import UserError
from maml_rl.policies.latent import LATENT_LOG_STD, LATENT_MEAN
from maml_rl.training.compose import open_training

OBSERVATIONS = np.random.default_rng(3).normal(size=(5, 2)).astype(np.float32)
POLICY = {"hidden_sizes": [8], "latent_size": 2}


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    """An agent with z ~ N((1, -2), 0.5²) on which its actions depend strongly."""
    with open_training(tiny(tmp_path / "run", policy=POLICY)) as training:
        state = training.agent.state
        theta = state.tensors["theta"] | {
            LATENT_MEAN: torch.tensor([1.0, -2.0]),
            LATENT_LOG_STD: torch.full((2,), 0.5).log(),
        }
        yield training.agent.with_state(state._replace(tensors={**state.tensors, "theta": theta}))


def test_z_stays_the_same_until_an_episode_starts(agent: Agent) -> None:
    rng = np.random.default_rng(0)
    _, first = agent.predict(OBSERVATIONS, rng=rng)
    (latents,) = first
    assert latents.shape == (5, 2)
    assert len(np.unique(latents, axis=0)) == 5
    _, same = agent.predict(OBSERVATIONS, first, rng=rng)
    np.testing.assert_array_equal(same[0], latents)
    starts = np.array([True, False, False, True, False])
    _, later = agent.predict(OBSERVATIONS, same, starts, rng=rng)
    np.testing.assert_array_equal(later[0][~starts], latents[~starts])
    assert (later[0][starts] != latents[starts]).all()


def test_z_has_the_distribution_of_the_belief(agent: Agent) -> None:
    many = np.zeros((20_000, 2), np.float32)
    _, (latents,) = agent.predict(many, rng=np.random.default_rng(0))
    np.testing.assert_allclose(latents.mean(0), [1, -2], atol=0.02)
    np.testing.assert_allclose(latents.std(0), 0.5, rtol=0.03)


def test_actions_depend_on_the_z_that_is_remembered(agent: Agent) -> None:
    at_mean, (mean,) = agent.predict(OBSERVATIONS, deterministic=True)
    np.testing.assert_allclose(mean, np.tile([1.0, -2.0], (5, 1)))
    _, memory = agent.predict(OBSERVATIONS, rng=np.random.default_rng(0))
    at_sample, after = agent.predict(OBSERVATIONS, memory, deterministic=True)
    assert (at_sample != at_mean).any(1).all()
    np.testing.assert_array_equal(after[0], memory[0])
    again, _ = agent.predict(OBSERVATIONS, memory, deterministic=True)
    np.testing.assert_array_equal(again, at_sample)


@pytest.mark.parametrize("number", [1, 4])
def test_a_memory_of_other_environments_is_refused(agent: Agent, number: int) -> None:
    _, memory = agent.predict(OBSERVATIONS[:number])
    with pytest.raises(UserError, match="state must be None"):
        agent.predict(OBSERVATIONS, memory)


def test_a_memory_of_another_latent_size_is_refused(agent: Agent) -> None:
    _, (latents,) = agent.predict(OBSERVATIONS)
    with pytest.raises(UserError, match=r"\(N, 2\), got \(5, 1\)"):
        agent.predict(OBSERVATIONS, (latents[:, :1],))


def test_export_is_the_policy_at_the_mean_of_z(agent: Agent, tmp_path: Path) -> None:
    expected, _ = agent.predict(OBSERVATIONS, deterministic=True)
    actions = agent.module()(torch.from_numpy(OBSERVATIONS)).detach().numpy()
    np.testing.assert_allclose(actions, expected, rtol=1e-4, atol=1e-5)
    loaded = torch.jit.load(str(agent.export(tmp_path / "policy.ts")))
    np.testing.assert_allclose(loaded(torch.from_numpy(OBSERVATIONS)), expected, atol=1e-5)


@pytest.mark.slow
def test_stable_baselines3_gets_the_policy_at_the_mean_of_z(agent: Agent) -> None:
    expected, _ = agent.predict(OBSERVATIONS, deterministic=True)
    model = agent.to_sb3(n_steps=8, batch_size=8)
    np.testing.assert_allclose(
        model.predict(OBSERVATIONS, deterministic=True)[0], expected, rtol=1e-4, atol=1e-5
    )
    # And back: z then has no effect at first.
    back = maml_rl.from_sb3(model, "PointNavigation", policy={"latent_size": 2})
    _, memory = back.predict(OBSERVATIONS, rng=np.random.default_rng(0))
    actions, _ = back.predict(OBSERVATIONS, memory, deterministic=True)
    np.testing.assert_allclose(actions, expected, rtol=1e-4, atol=1e-5)


def test_logged_episodes_are_refused(agent: Agent) -> None:
    log = {
        "observations": OBSERVATIONS,
        "actions": np.zeros((5, 2)),
        "rewards": np.zeros(5),
        "truncated": np.arange(5) == 4,
    }
    with pytest.raises(UserError, match=r"policy\.latent_size 2.*Adapt in an environment"):
        agent.adapt(episodes=log)
