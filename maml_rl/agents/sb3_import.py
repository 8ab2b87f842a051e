"""A Stable-Baselines3 model as a policy."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from maml_rl.agents.agent import MetaPolicy, make_policy
from maml_rl.agents.sb3_models import network_of
from maml_rl.errors import UserError
from maml_rl.learners.maml.inner_step import initial_theta
from maml_rl.policies.normalizer import ObservationNormalizer
from maml_rl.policies.plain_network import unfolded
from maml_rl.sampling.environments import as_task_vector_env
from maml_rl.settings.parser import load_config
from maml_rl.settings.sources import merged
from maml_rl.system.torch_runtime import standard_torch


@standard_torch()
def from_sb3(model: Any, env: str | Mapping[str, Any], **settings: Any) -> MetaPolicy:
    """The actor of a Stable-Baselines3 model as a policy, with the same distribution of actions.

    ``policy.save(folder)`` makes it a run, which ``--init_from folder`` starts from. It lives on
    the CPU.

    Args:
        model: PPO or A2C with an ``MlpPolicy``: no VecNormalize, no state-dependent exploration.
        env: the environment to meta-train on, with the spaces that the model was trained on: what
            ``--env`` takes, or a mapping with ``name`` and settings of the family.
        settings: of the run, as :func:`maml_rl.load_config` takes them; the others are those of the
            preset. Hidden sizes and nonlinearity are the model's.

    Raises:
        UserError: the model does not fit, and why; or as :func:`maml_rl.load_config`.
    """
    network = network_of(model)
    given = settings.get("policy", {})
    own = {
        "hidden_sizes": [len(bias) for _, bias in network.layers[:-1]],
        "nonlinearity": network.nonlinearity,
    }
    if isinstance(given, Mapping) and given.keys() & own:
        raise UserError(f"policy.{sorted(given.keys() & own)[0]} is the model's: leave it out")
    config = load_config(env=env, **merged(settings, {"policy": own}))
    with as_task_vector_env(None, config.env, 1, config.horizon) as envs:
        spaces = envs.single_observation_space, envs.single_action_space
    module = make_policy(config.policy, *spaces, config.seed)
    normalizer = None
    if config.policy.normalize_observations:
        normalizer = ObservationNormalizer.empty(module.observation_size, torch.device("cpu"))
    policy = MetaPolicy(module, initial_theta(module, config.inner), normalizer, *spaces, config)
    policy.check_plain_actions()
    policy.check_spaces(
        model.observation_space, model.action_space, "the model", f"environment {config.env.name!r}"
    )
    return dataclasses.replace(
        policy, theta={**policy.theta, **unfolded(network, module, policy.action_map)}
    )
