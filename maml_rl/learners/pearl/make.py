"""Make PEARL from the settings of a run."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces

from maml_rl.errors import UserError
from maml_rl.learners.pearl.context_encoder import GRUEncoder, ProductEncoder
from maml_rl.learners.pearl.learner import PEARL
from maml_rl.learners.pearl.networks import Networks
from maml_rl.policies.action_head import ActionHead
from maml_rl.policies.action_map import has_two_bounds
from maml_rl.policies.mlp import vector_size
from maml_rl.settings.config import Config
from maml_rl.settings.families import only_goals_vary
from maml_rl.settings.learners.pearl import PEARLConfig
from maml_rl.system.thread_pool import tasks_per_block


def pearl(
    config: Config,
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    device: torch.device,
) -> PEARL:
    """Make the learner ``pearl``; see :func:`maml_rl.learners.make.make_learner`."""
    settings = config.learner
    assert isinstance(settings, PEARLConfig), "the settings choose the learner"
    observation_size = vector_size(observation_space, f"the learner {settings.name}")
    head = ActionHead.of(action_space)
    if not isinstance(action_space, spaces.Box) or not has_two_bounds(action_space).all():
        raise UserError(
            f"action space {action_space} is not supported by the learner pearl: expected a Box of "
            "floating-point numbers with finite bounds"
        )
    reads_next = settings.next_observation_in_context
    if reads_next is None:
        reads_next = not only_goals_vary(config.env)
    make_encoder = GRUEncoder if settings.encoder == "gru" else ProductEncoder
    return PEARL(
        networks=Networks(
            observation_size=observation_size,
            action_size=head.size,
            latent_size=settings.latent_size,
            hidden_sizes=tuple(settings.hidden_sizes),
        ),
        encoder=make_encoder(
            transition_size=observation_size * (2 if reads_next else 1) + head.size + 1,
            latent_size=settings.latent_size,
            hidden_sizes=tuple(settings.encoder_hidden_sizes),
        ),
        config=settings,
        reads_next_observation=reads_next,
        normalizes=config.policy.normalize_observations,
        action_scale=config.policy.action_scale,
        num_adaptation_steps=max(1, settings.num_stages - 1),
        num_training_stages=settings.num_stages,
        max_failed_share=config.max_failed_share,
        device=device,
        seed=config.seed,
        tasks_per_block=config.tasks_per_block or tasks_per_block(device),
    )
