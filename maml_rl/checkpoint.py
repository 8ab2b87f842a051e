"""Checkpoints: tensors in safetensors, everything else in JSON. Nothing that is loaded is unpickled."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from maml_rl.errors import UserError

FORMAT_VERSION = 1
_TENSORS, _VALUES = "tensors.safetensors", "values.json"


class Checkpoint(NamedTuple):
    """A training state on disk."""

    tensors: dict[str, dict[str, Tensor]]
    """Groups of tensors by name: ``theta``, ``outer``, ``normalizer``."""
    values: dict[str, Any]
    """Counters and the like."""

    def counter(self, name: str, path: Path) -> int:
        """A whole number of at least 0.

        Raises:
            UserError: it is missing or something else; ``path`` is named.
        """
        value = self.values.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise UserError(f"checkpoint {path} is damaged: {name} must be a whole number, got {value!r}")
        return value


def save_checkpoint(
    folder: Path, iteration: int, tensors: Mapping[str, Mapping[str, Tensor]], values: Mapping[str, Any]
) -> Path:
    """Write ``folder/NNNNNN`` so that it is there whole or not at all: a temporary name, synced, then renamed.

    Args:
        folder: the run's checkpoints.
        iteration: finished meta-iterations, the checkpoint's name.
        tensors: groups of tensors by name.
        values: whatever JSON can hold.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target, temporary = folder / f"{iteration:06d}", folder / f".{iteration:06d}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    flat = {f"{group}/{name}": t.contiguous().cpu() for group, part in tensors.items() for name, t in part.items()}
    save_file(flat, temporary / _TENSORS)
    (temporary / _VALUES).write_text(json.dumps({"format_version": FORMAT_VERSION, **values}, indent=2) + "\n")
    for path in (temporary / _TENSORS, temporary / _VALUES, temporary):
        _sync(path)
    if target.exists():  # of a run that went on from an earlier checkpoint
        shutil.rmtree(target)
    os.rename(temporary, target)
    _sync(folder)
    return target


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def latest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of the highest iteration, or ``None``."""
    found = [path for path in folder.glob("*") if path.name.isdecimal()]
    return max(found, key=lambda path: int(path.name), default=None)


def load_checkpoint(path: Path, device: torch.device) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        UserError: it is none, damaged, or of a newer format.
    """
    try:
        values = json.loads((path / _VALUES).read_text())
        flat = load_file(path / _TENSORS, device=str(device))
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        raise UserError(f"{path} is not a checkpoint of maml-rl: {error}") from error
    version = values.get("format_version") if isinstance(values, dict) else None
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise UserError(f"checkpoint {path} has format {version!r}; this version reads formats up to {FORMAT_VERSION}")
    tensors: dict[str, dict[str, Tensor]] = {}
    for key, tensor in flat.items():
        group, _, name = key.partition("/")
        tensors.setdefault(group, {})[name] = tensor
    return Checkpoint(tensors, values)
