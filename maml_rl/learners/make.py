"""Make the learner of a run."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces

from maml_rl.errors import UserError, in_one_line
from maml_rl.learners.base import Learner
from maml_rl.learners.checks import check_start
from maml_rl.settings.config import Config
from maml_rl.settings.env import load_object


def make_learner(
    config: Config,
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    device: torch.device,
) -> Learner:
    """Make the learner that the settings describe.

    Args:
        config: settings of the run.
        observation_space: of one environment: a Box.
        action_space: of one environment.
        device: of all tensors.

    Raises:
        UserError: if a space is not supported, or a learner of the user's cannot be made.
    """
    is_own = config.learner.is_own
    name = config.learner.name if is_own else config.learner.IMPLEMENTATION
    make = load_object(name, "learner")
    try:
        learner = make(config, observation_space, action_space, device)
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        if not is_own or isinstance(error, UserError):
            raise
        raise UserError(f"learner {name!r} cannot be made ({in_one_line(error)})") from error
    if not isinstance(learner, Learner):
        raise UserError(
            f"learner.name {config.learner.name} must make a maml_rl.learners.base.Learner, got "
            f"{type(learner).__name__}"
        )
    if is_own:
        check_start(learner, name)
    return learner
