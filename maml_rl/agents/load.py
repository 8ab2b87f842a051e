"""Load the policy of a run."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from maml_rl.agents.agent import MetaPolicy, load_policy
from maml_rl.errors import UserError
from maml_rl.runs.pretrained import find_run
from maml_rl.runs.run_folder import run_config
from maml_rl.system.torch_runtime import resolve_device, standard_torch


def load(run: str | Path, device: str = "cpu") -> MetaPolicy:
    """The policy of a run's last checkpoint, or one of those that come with the package.

    Args:
        run: the run folder, or a name of :func:`maml_rl.pretrained_names`. A folder of that name
            wins.
        device: where the policy shall live: cpu, cuda, cuda:1, ..., or auto.

    Raises:
        UserError: no such run, no checkpoint, or one that does not fit.
    """
    if not isinstance(run, (str, os.PathLike)):
        raise UserError(
            f"a run is given by its folder, or by a name of maml_rl.pretrained_names(); got "
            f"{run!r:.100}"
        )
    return load_run(Path(run), resolve_device(device))


@standard_torch()
def load_run(run: Path, device: torch.device) -> MetaPolicy:
    """As :func:`load`, with a torch device."""
    folder = find_run(run)
    return load_policy(folder, run_config(folder), device)
