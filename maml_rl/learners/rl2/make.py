"""Make RL² from the settings of a run."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces

from maml_rl.learners.recurrent.trial_gradient import trials_per_block
from maml_rl.learners.rl2.learner import RL2
from maml_rl.policies.action_head import ActionHead
from maml_rl.policies.mlp import vector_size
from maml_rl.policies.recurrent.memoryless import MemorylessPolicy
from maml_rl.policies.recurrent.network import RecurrentPolicy
from maml_rl.sampling.environments import as_task_vector_env
from maml_rl.sampling.task_in_observation import TaskEncoder
from maml_rl.settings.config import Config
from maml_rl.settings.learners.rl2 import RL2Config


def rl2(
    config: Config,
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    device: torch.device,
) -> RL2:
    """Make the learner ``rl2``; see :func:`maml_rl.learners.make.make_learner`."""
    settings = config.learner
    assert isinstance(settings, RL2Config), "the settings choose the learner"
    observation_size = vector_size(observation_space, f"the learner {settings.name}")
    task_encoder = None
    if settings.asymmetric_critic:
        with as_task_vector_env(None, config.env, 1, config.horizon) as env:
            task_encoder = TaskEncoder(env, config.env.name, "learner.asymmetric_critic")
    generates = {"policy": settings.hypernetwork, "value": settings.hypernetwork_value}
    architecture = RecurrentPolicy if settings.memory else MemorylessPolicy
    policy = architecture(
        observation_size=observation_size,
        action_head=ActionHead.of(action_space),
        cell=settings.cell,
        hidden_size=settings.hidden_size,
        hidden_sizes=config.policy.hidden_sizes,
        nonlinearity=config.policy.nonlinearity,
        init_std=config.policy.init_std,
        generated=tuple(name for name, is_generated in generates.items() if is_generated),
        latent_size=settings.latent_size,
        task_size=0 if task_encoder is None else task_encoder.size,
    )
    return RL2(
        policy=policy,
        config=settings,
        normalizes=config.policy.normalize_observations,
        num_adaptation_steps=settings.num_episodes - 1,
        num_training_stages=settings.num_episodes,
        max_failed_share=config.max_failed_share,
        device=device,
        seed=config.seed,
        trials_per_block=config.tasks_per_block or trials_per_block(device),
        task_encoder=task_encoder,
    )
