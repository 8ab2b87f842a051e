"""The folder of a run's checkpoints: write them, choose among them, and remove old ones.

A checkpoint is the folder ``NNNNNN``. It is ``.NNNNNN.tmp`` while it is written,
``.NNNNNN.replaced`` while another takes its place, ``.NNNNNN.old`` while it is removed, and
``NNNNNN.damaged`` after it is found damaged. See docs/reliability.md.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from maml_rl.errors import UserError
from maml_rl.runs.checkpoint_files import (
    BEST,
    Best,
    Checkpoint,
    DamagedCheckpoint,
    files_of,
    load_checkpoint,
)
from maml_rl.system.atomic_files import sync, write_synced


class NewestCheckpoint(NamedTuple):
    """The newest sound checkpoint."""

    checkpoint: Checkpoint
    damaged: tuple[DamagedCheckpoint, ...]
    """Damaged checkpoints newer than it."""


def save_checkpoint(
    folder: Path,
    iteration: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    values: Mapping[str, Any],
    keep: int = 0,
    best: Best | None = None,
) -> Path:
    """Write ``folder/NNNNNN`` atomically: under a temporary name, synced, then renamed.

    Args:
        folder: folder of the run's checkpoints.
        iteration: number of finished meta-iterations, the checkpoint's name.
        tensors: groups of tensors by name.
        values: values that JSON can hold, all numbers finite.
        keep: how many of the newest checkpoints to keep; older ones are removed once this one is
            on the disk. 0 keeps all.
        best: the best iteration so far, which is written too; its checkpoint is never removed.

    Raises:
        OSError: if it cannot be written; existing checkpoints are then unchanged.
    """
    if not folder.is_dir():
        folder.mkdir(parents=True)
        sync(folder.parent)
    if best is not None:
        values = {**values, BEST: {"iteration": best.iteration, "return": best.value}}
    target = folder / f"{iteration:06d}"
    temporary = folder / f".{iteration:06d}.tmp"
    _delete(temporary)
    # Write under the temporary name, then rename
    try:
        temporary.mkdir()
        for name, content in files_of(tensors, values).items():
            write_synced(temporary / name, content)
        sync(temporary)
        if os.path.lexists(target):
            replaced = folder / f".{target.name}.replaced"
            _delete(replaced)
            os.rename(target, replaced)
        os.rename(temporary, target)
    except OSError:
        _delete(temporary)  # free the space on a full disk
        _settle_replaced(folder)
        raise
    sync(folder)
    _settle_replaced(folder)
    # Remove old checkpoints
    for old in newest_first(folder)[keep:] if keep else []:
        if best is None or int(old.name) != best.iteration:
            _retire(old)
    return target


def _settle_replaced(folder: Path) -> None:
    """Delete checkpoints that were replaced; put back those whose place is still empty."""
    for path in folder.glob(".*.replaced"):
        target = path.with_name(path.name.removeprefix(".").removesuffix(".replaced"))
        if os.path.lexists(target):
            _delete(path)
        else:
            os.rename(path, target)


def _retire(path: Path) -> None:
    """Remove a checkpoint under another name, so that a kill leaves none half-removed."""
    old = path.with_name(f".{path.name}.old")
    _delete(old)
    os.rename(path, old)
    _delete(old)


def _delete(path: Path) -> None:
    """Delete a folder, file or link; the target of a link stays."""
    # Ignore errors, as for a file in use over NFS: no path here has a checkpoint's name, and the
    # next call deletes what is left.
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    elif os.path.lexists(path):
        with contextlib.suppress(OSError):
            path.unlink()


def remove_leftovers(folder: Path) -> None:
    """Delete what a killed process was writing or removing; the caller must hold the run's lock.

    A checkpoint that it was replacing is put back.
    """
    _settle_replaced(folder)
    for pattern in (".*.tmp", ".*.old"):
        for path in folder.glob(pattern):
            _delete(path)


def quarantine(path: Path) -> Path:
    """Rename a damaged checkpoint, so that it is no longer read, and return its new path."""
    renamed = path.with_name(f"{path.name}.damaged")
    _delete(renamed)
    os.rename(path, renamed)
    sync(path.parent)
    return renamed


def newest_first(folder: Path) -> list[Path]:
    """Return all paths with a checkpoint's name, damaged or not; none if there is no folder.

    Raises:
        UserError: if ``folder`` is a dangling link or not a folder, or cannot be read.
    """
    if not os.path.lexists(folder):
        return []
    try:
        names = [name for name in os.listdir(folder) if name.isdecimal()]
    except OSError as error:  # not empty: the run would be trained from scratch
        raise UserError(f"checkpoints {folder} cannot be read: {error}") from error
    return [folder / name for name in sorted(names, key=int, reverse=True)]


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the checkpoint of the highest iteration, damaged or not, or ``None``."""
    return next(iter(newest_first(folder)), None)


def load_iteration(
    folder: Path, iteration: int | Literal["best"], device: torch.device
) -> Checkpoint:
    """Read the checkpoint of an iteration.

    Args:
        folder: folder of the run's checkpoints.
        iteration: number of finished meta-iterations, or the best of the evaluations in training.
        device: device of the tensors.

    Raises:
        UserError: if ``iteration`` is invalid, or there is no such checkpoint; the message lists
            those that exist.
        DamagedCheckpoint: if it is damaged.
    """
    number = iteration
    if iteration == "best":
        newest = load_newest(folder, device)
        best = None if newest is None else newest.checkpoint.best()
        if best is None:
            raise UserError(
                "no best iteration is recorded: set logging.keep_best and logging.evaluate_every, "
                f"and train at least until the first evaluation; {_existing(folder)}"
            )
        number = best.iteration
    if not isinstance(number, (int, np.integer)) or isinstance(number, bool):
        raise UserError(f"an iteration must be an integer, or best; got {iteration!r:.100}")
    paths = [path for path in newest_first(folder) if int(path.name) == number]
    if not paths:
        what = f"the best iteration, {number}," if iteration == "best" else f"iteration {number}"
        raise UserError(f"there is no checkpoint of {what}: {_existing(folder)}")
    return load_checkpoint(paths[0], device)


def _existing(folder: Path) -> str:
    """Describe which checkpoints there are, for messages."""
    numbers = ", ".join(str(int(path.name)) for path in reversed(newest_first(folder)))
    return f"{folder} has checkpoints of iterations {numbers}" if numbers else f"{folder} has none"


def load_newest(folder: Path, device: torch.device) -> NewestCheckpoint | None:
    """Read the newest sound checkpoint; ``None`` if there is no checkpoint at all.

    Raises:
        UserError: if all are damaged (the message names each), if one newer than all sound ones
            has an unsupported format, or if the folder cannot be read.
    """
    paths = newest_first(folder)
    while True:
        # Try from the newest to the oldest
        damaged: list[DamagedCheckpoint] = []
        any_removed = False
        for path in paths:
            try:
                return NewestCheckpoint(load_checkpoint(path, device), tuple(damaged))
            except DamagedCheckpoint as error:
                damaged.append(error)
                any_removed |= not os.path.lexists(path)
        # A training process removes a checkpoint after it has written a newer one: list again
        current_paths = newest_first(folder)
        if not any_removed or current_paths == paths:
            break
        paths = current_paths
    if damaged:
        raise UserError(
            f"no sound checkpoint is left in {folder}: "
            + "; ".join(str(error) for error in damaged)
        )
    return None
