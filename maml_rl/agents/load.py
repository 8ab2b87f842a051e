"""Load the agent of a run."""

from __future__ import annotations

import dataclasses
import os
import warnings
from pathlib import Path
from typing import Literal

import torch

from maml_rl.agents.agent import Agent
from maml_rl.agents.learner_checkpoint import check_actions, restored
from maml_rl.errors import MamlRLWarning, UserError
from maml_rl.learners.make import make_learner
from maml_rl.runs.checkpoint import load_iteration, load_newest
from maml_rl.runs.checkpoint_files import Checkpoint
from maml_rl.runs.pretrained import find_run
from maml_rl.runs.run_folder import run_config
from maml_rl.sampling.environments import as_task_vector_env
from maml_rl.settings.config import Config, origin
from maml_rl.system.torch_runtime import resolve_device, standard_torch
from maml_rl.system.untrusted_files import user_path


def load(
    run: str | Path,
    device: str | torch.device = "cpu",
    iteration: int | Literal["best"] | None = None,
) -> Agent:
    """Load the agent of a run, or a pretrained one of the package.

    Args:
        run: the run folder, or a name from :func:`maml_rl.pretrained_names`. A folder of that name
            takes precedence.
        device: device of the agent: cpu, cuda, cuda:1, ..., or auto.
        iteration: number of meta-iterations after which a checkpoint was written; or ``"best"``,
            the one with the highest return in the evaluations in training, in a run with
            ``logging.keep_best``. Default is the newest checkpoint.

    Raises:
        UserError: if there is no such run, it has no such checkpoint, or the checkpoint does not
            fit the run's configuration.
    """
    if not isinstance(run, (str, os.PathLike)):
        raise UserError(
            f"a run must be a folder, or a name from maml_rl.pretrained_names(); got {run!r:.100}"
        )
    return load_run(user_path(run), resolve_device(str(device)), iteration)


@standard_torch()
def load_run(
    run: Path, device: torch.device, iteration: int | Literal["best"] | None = None
) -> Agent:
    """Do what :func:`load` does, with a torch device.

    Args:
        run: run folder, or name of a pretrained policy.
        device: of all tensors.
        iteration: of the checkpoint, or ``"best"``; ``None`` for the newest one that can be read.

    Raises:
        UserError: if there is no such run or checkpoint, or it cannot be used.
    """
    folder = find_run(run)
    config = run_config(folder)
    if iteration is None:
        return _load_agent(_newest(folder, device), config, device)
    checkpoint = load_iteration(folder / "checkpoints", iteration, device)
    agent = _load_agent(checkpoint, config, device)
    return dataclasses.replace(agent, is_best=iteration == "best")


def _newest(run: Path, device: torch.device) -> Checkpoint:
    """Read a run's newest sound checkpoint; warn about damaged newer ones."""
    newest = load_newest(run / "checkpoints", device)
    if newest is None:
        raise UserError(f"{run} has no checkpoint yet")
    for error in newest.damaged:
        name = newest.checkpoint.path.name
        warnings.warn(f"{error}; {name} is used", MamlRLWarning, stacklevel=2)
    return newest.checkpoint


def _load_agent(checkpoint: Checkpoint, config: Config, device: torch.device) -> Agent:
    """Make the agent in a checkpoint."""
    checkpoint.check_run(origin(config))
    # Checkpoints do not contain the spaces: take them from the environment.
    with as_task_vector_env(None, config.env, 1, config.horizon) as env:
        observation_space = env.single_observation_space
        action_space = env.single_action_space
    check_actions(checkpoint, action_space)
    learner = make_learner(config, observation_space, action_space, device)
    state, belief, num_adaptation_steps = restored(checkpoint, learner)
    return Agent(
        learner=learner,
        state=state,
        belief=belief,
        observation_space=observation_space,
        action_space=action_space,
        config=config,
        num_adaptation_steps=num_adaptation_steps,
        is_final=checkpoint.is_final,
    )
