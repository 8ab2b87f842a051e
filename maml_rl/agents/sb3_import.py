"""Convert Stable-Baselines3 models to agents."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from gymnasium import spaces

from maml_rl.agents.agent import Agent
from maml_rl.agents.sb3_models import network_of
from maml_rl.errors import UserError
from maml_rl.learners.make import make_learner
from maml_rl.learners.maml.learner import MAML
from maml_rl.policies.mlp import MLPPolicy
from maml_rl.policies.plain_network import check_plain_actions, unfolded
from maml_rl.sampling.environments import as_task_vector_env
from maml_rl.settings.parser import load_config
from maml_rl.system.torch_runtime import standard_torch


@standard_torch()
def from_sb3(model: Any, env: str | Mapping[str, Any], **settings: Any) -> Agent:
    """Return an agent with the action distribution of a Stable-Baselines3 model's actor.

    ``agent.save(folder)`` writes a run folder; ``--init_from folder`` starts training from it.

    Args:
        model: PPO or A2C with an ``MlpPolicy``, without VecNormalize and without state-dependent
            exploration.
        env: the environment to meta-train on, which must have the model's spaces: a name, as for
            ``--env``, or a mapping with ``name`` and settings of the family.
        settings: settings of the run, as for :func:`maml_rl.load_config`, without hidden sizes,
            nonlinearity and network, which the model determines.

    Returns:
        The agent, on the CPU.

    Raises:
        UserError: if the model cannot be converted or does not fit the environment, or a setting is
            invalid.
    """
    network = network_of(model)
    # The model determines the architecture, the settings everything else.
    architecture: dict[str, Any] = {
        "hidden_sizes": [len(bias) for _, bias in network.layers[:-1]],
        "nonlinearity": network.nonlinearity,
        "network": None,
    }
    policy = settings.pop("policy", {})
    if isinstance(policy, Mapping):  # load_config refuses others
        refused = sorted(policy.keys() & architecture.keys())
        if refused:
            raise UserError(f"leave out policy.{refused[0]}: the model determines it")
        policy = {**policy, **architecture}
    config = load_config(env=env, **settings, policy=policy)
    with as_task_vector_env(None, config.env, 1, config.horizon) as envs:
        observation_space = envs.single_observation_space
        action_space = envs.single_action_space
    # An agent with initial parameters, to check the spaces.
    learner = make_learner(config, observation_space, action_space, torch.device("cpu"))
    if not isinstance(learner, MAML):
        raise UserError(
            f"a policy can become the start of the learners maml and joint, not of "
            f"{config.learner.name}"
        )
    state = learner.initial_state()
    agent = Agent(
        learner=learner,
        state=state,
        belief=learner.prior(state, 1),
        observation_space=observation_space,
        action_space=action_space,
        config=config,
    )
    check_plain_actions(action_space)
    flat = dataclasses.replace(agent, observation_space=spaces.flatten_space(observation_space))
    flat.check_spaces(
        model.observation_space, model.action_space, "the model", f"environment {config.env.name!r}"
    )
    # Replace the parameters of the layers and the standard deviation by the model's.
    assert isinstance(learner.policy, MLPPolicy), "the settings above are those of an MLP"
    actor = learner.policy.parameters_of(unfolded(network, agent.action_map))
    theta = {**state.tensors["theta"], **actor}
    state = state._replace(tensors={**state.tensors, "theta": theta})
    learner.check(state, Path("the model"))
    return agent.with_state(state)
