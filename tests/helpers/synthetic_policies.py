"""Agents with policies of every kind and random weights, created without training."""

from __future__ import annotations

import numpy as np
import torch
from gymnasium import spaces

from maml_rl.agents.agent import Agent
from maml_rl.learners.make import make_learner
from maml_rl.policies.normalizer import ObservationNormalizer
from maml_rl.settings.config import Config
from maml_rl.settings.env import EnvConfig
from maml_rl.settings.learners import InnerConfig
from maml_rl.settings.policy import PolicyConfig

SETTINGS: dict[str, PolicyConfig] = {
    "plain": PolicyConfig(hidden_sizes=(8, 6), action_scale=0.2),
    "normalized": PolicyConfig(hidden_sizes=(8,), nonlinearity="relu", normalize_observations=True),
    "context": PolicyConfig(
        hidden_sizes=(8,), nonlinearity="elu", context_size=3, normalize_observations=True
    ),
    "linear": PolicyConfig(hidden_sizes=(), init_std=0.5),
    "discrete": PolicyConfig(hidden_sizes=(8,), nonlinearity="silu"),
    "unbounded": PolicyConfig(hidden_sizes=(8,), action_scale=0.2),
}
KINDS = list(SETTINGS)
OBSERVATIONS = spaces.Box(-np.inf, np.inf, (4,), np.float64)
_ACTIONS: dict[str, spaces.Space] = {
    "discrete": spaces.Discrete(3),
    "unbounded": spaces.Box(-np.inf, np.inf, (2,), np.float32),
}


def make_agent(kind: str, env: str = "PointNavigation") -> Agent:
    """Return an agent for observations (4,) and two actions or three choices.

    One of the two actions has asymmetric bounds. A policy with a context has adapted it.
    """
    settings = SETTINGS[kind]
    rng = np.random.default_rng(0)
    bounded = spaces.Box(np.float32([-1, 0]), np.float32([1, 4]))
    actions = _ACTIONS.get(kind, bounded)
    inner = InnerConfig(adapts="context" if settings.context_size else "all")
    config = Config(env=EnvConfig(name=env), policy=settings, inner=inner, device="cpu")
    learner = make_learner(config, OBSERVATIONS, actions, torch.device("cpu"))
    # The state: random parameters, and statistics of observations.
    initial = learner.initial_state()
    theta = {
        name: torch.from_numpy(rng.normal(scale=0.5, size=value.shape)).float()
        for name, value in initial.tensors["theta"].items()
    }
    tensors = {**initial.tensors, "theta": theta}
    if settings.normalize_observations:
        tensors["normalizer"] = ObservationNormalizer(
            torch.tensor(10.0, dtype=torch.float64),
            torch.tensor([3.0, -20.0, 0.0, 1.0], dtype=torch.float64),
            10 * torch.tensor([4.0, 0.01, 0.0, 900.0], dtype=torch.float64),
        )._asdict()
    state = initial._replace(tensors=tensors)
    # The belief: the parameters, and a random context.
    belief = dict(learner.prior(state, 1))
    if settings.context_size:
        belief["context"] = torch.from_numpy(rng.normal(size=(1, settings.context_size))).float()
    return Agent(
        learner=learner,
        state=state,
        belief=belief,
        observation_space=OBSERVATIONS,
        action_space=actions,
        config=config,
        num_adaptation_steps=1 if settings.context_size else 0,
    )


def observations_of(agent: Agent) -> np.ndarray:
    """Return typical observations of the agent, (5, 4) float32."""
    observations = np.random.default_rng(1).normal(size=(5, 4))
    normalizer = agent.state.normalizer
    if normalizer is not None:
        observations = observations * normalizer.std.numpy() + normalizer.mean.numpy()
    return observations.astype(np.float32)
