"""Make MAML from the settings of a run."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces

from maml_rl.learners.maml.learner import MAML
from maml_rl.policies.mlp import make_policy
from maml_rl.policies.network_policy import NetworkPolicy, check_second_derivative
from maml_rl.settings.config import Config
from maml_rl.settings.learners import JointConfig, ReptileConfig, TRPOConfig
from maml_rl.system.thread_pool import tasks_per_block


def maml(
    config: Config,
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    device: torch.device,
) -> MAML:
    """Make ``maml`` or ``joint``; see :func:`maml_rl.learners.make.make_learner`.

    Joint training is MAML without an inner step in training: the outer step improves the return of
    theta itself, on all tasks.
    """
    num_training_steps = 0 if isinstance(config.learner, JointConfig) else config.inner.num_steps
    policy = make_policy(config.policy, observation_space, action_space, config.seed)
    is_second_order = num_training_steps > 0 and not config.inner.first_order
    is_second_order &= not isinstance(config.outer, ReptileConfig)  # it computes no outer gradient
    has_products = isinstance(config.outer, TRPOConfig)
    if isinstance(policy, NetworkPolicy) and (is_second_order or has_products):
        check_second_derivative(config.policy, policy)
    return MAML(
        policy=policy.to(device),
        inner=config.inner,
        outer=config.outer,
        baseline=config.baseline,
        normalizes=config.policy.normalize_observations,
        num_adaptation_steps=config.inner.num_steps,
        num_training_stages=num_training_steps + 1,
        max_failed_share=config.max_failed_share,
        tasks_per_block=config.tasks_per_block or tasks_per_block(device),
        seed=config.seed,
    )
