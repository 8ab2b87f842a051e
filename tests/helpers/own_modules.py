"""Run in this process what documents run in a folder with a module of the reader's own."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
import maml_envs
import pytest


@contextlib.contextmanager
def working_folder(folder: Path) -> Iterator[None]:
    """Work in a folder whose modules can be imported, as in ``python -m``.

    At the end, these modules and the families that they registered are forgotten.
    """
    families = set(maml_envs.FAMILIES)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        try:
            yield
        finally:
            for file in folder.glob("*.py"):
                sys.modules.pop(file.stem, None)
            for name in maml_envs.FAMILIES.keys() - families:
                del maml_envs.FAMILIES[name], gym.registry[maml_envs.env_id(name)]
