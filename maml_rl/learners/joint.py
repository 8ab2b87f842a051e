"""One policy for all tasks, trained without adaptation, and fine-tuned to a task afterwards."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from gymnasium import spaces

from maml_rl.learners.maml.learner import MAML
from maml_rl.learners.maml.make import maml
from maml_rl.settings.config import Config


def joint(
    config: Config,
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    device: torch.device,
) -> MAML:
    """Make the learner ``joint``: MAML without an inner step in training.

    The outer step then improves the return of theta itself, on all tasks. With the task in the
    observation (``env.observe_task``) this trains an oracle, with varied dynamics it is domain
    randomisation.
    """
    learner = maml(config, observation_space, action_space, device)
    return dataclasses.replace(learner, num_training_stages=1)
