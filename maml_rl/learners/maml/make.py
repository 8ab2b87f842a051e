"""Make MAML from the settings of a run."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces

from maml_rl.learners.maml.learner import MAML
from maml_rl.policies.mlp import make_policy
from maml_rl.settings.config import Config
from maml_rl.system.thread_pool import tasks_per_block


def maml(
    config: Config,
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    device: torch.device,
) -> MAML:
    """Make the learner ``maml``; see :func:`maml_rl.learners.make.make_learner`."""
    policy = make_policy(config.policy, observation_space, action_space, config.seed)
    return MAML(
        policy=policy.to(device),
        inner=config.inner,
        outer=config.outer,
        baseline=config.baseline,
        normalizes=config.policy.normalize_observations,
        num_adaptation_steps=config.inner.num_steps,
        num_training_stages=config.inner.num_steps + 1,
        max_failed_share=config.max_failed_share,
        tasks_per_block=config.tasks_per_block or tasks_per_block(device),
        seed=config.seed,
    )
