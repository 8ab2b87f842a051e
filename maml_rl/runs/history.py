"""The history of a learner on disk: one file per entry, which is written once.

Entry i of a history is what iteration i collected. ``RUN/history/NNNNNN.safetensors`` is written
before the first checkpoint that needs it; a checkpoint lists the SHA-256 sums of all that it needs.
So a checkpoint costs as much as its newest entries, however long the history is.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from torch import Tensor

from maml_rl.errors import UserError
from maml_rl.runs.checkpoint import newest_first
from maml_rl.runs.checkpoint_files import (
    HISTORY,
    Checkpoint,
    DamagedCheckpoint,
    entry_names,
    load_values,
    tensor_bytes,
)
from maml_rl.system.atomic_files import sync, write_whole
from maml_rl.system.text import counted
from maml_rl.system.untrusted_files import check_regular

MOST_ENTRIES = 10_000
"""Largest number of entries of a history: the sums of more are too long for values.json."""
LARGEST_ENTRY = 1 << 30
"""Largest size of the file of an entry, in bytes."""


def write_history(
    run: Path, entries: Sequence[Mapping[str, Tensor]], iteration: int
) -> dict[str, dict[str, str]]:
    """Write the entries that are not on disk yet.

    Args:
        run: the run folder.
        entries: of consecutive iterations, up to ``iteration``.
        iteration: number of finished iterations.

    Returns:
        What the checkpoint must say about the history: the sum of each entry; empty without
        entries.

    Raises:
        UserError: if there are too many entries, or one is too large.
        OSError: if one cannot be written.
    """
    if not entries:
        return {}
    if len(entries) > MOST_ENTRIES:
        raise UserError(f"a history must have at most {MOST_ENTRIES} entries, got {len(entries)}")
    folder = run / HISTORY
    if not folder.is_dir():
        folder.mkdir(parents=True)
        sync(run)
    written = _newest_sums(run)
    sums = {}
    for name, entry in zip(entry_names(len(entries), iteration), entries, strict=True):
        path = history_file(run, name)
        if name in written and path.is_file():
            sums[name] = written[name]
            continue
        content = tensor_bytes(entry)
        if len(content) > LARGEST_ENTRY:
            raise UserError(
                f"an entry of a history must have at most {LARGEST_ENTRY} bytes, that of "
                f"iteration {int(name)} has {len(content)}"
            )
        write_whole(path, content)
        sums[name] = hashlib.sha256(content).hexdigest()
    return {HISTORY: sums}


def _newest_sums(run: Path) -> dict[str, str]:
    """Return the sums in the newest checkpoint that can be read, if there is one."""
    for path in newest_first(run / "checkpoints"):
        try:
            return load_values(path).history()
        except DamagedCheckpoint:
            continue
    return {}


def remove_unneeded(run: Path) -> None:
    """Delete the entries that no checkpoint needs; none while a checkpoint cannot be read.

    Args:
        run: the run folder.

    Raises:
        OSError: if one cannot be deleted.
    """
    if not (run / HISTORY).is_dir():
        return
    needed: set[str] = set()
    for path in newest_first(run / "checkpoints"):
        try:
            needed |= load_values(path).history().keys()
        except DamagedCheckpoint:
            return
    for file in sorted((run / HISTORY).iterdir()):
        if re.fullmatch(r"\d{6,}\.safetensors", file.name) and file.stem not in needed:
            file.unlink()


def read_history(
    run: Path, checkpoint: Checkpoint, device: torch.device
) -> dict[str, dict[str, Tensor]]:
    """Read the entries that a checkpoint needs, by the number of their iteration.

    Args:
        run: the run folder.
        checkpoint: one of its checkpoints.
        device: device of the tensors.

    Raises:
        DamagedCheckpoint: if its list of entries is not one.
        UserError: if an entry is missing, or is not the one that was written.
    """
    sums = checkpoint.history()
    if sums and not os.path.isdir(run / HISTORY):
        raise UserError(
            f"{run} cannot be resumed: it has no folder {HISTORY}, of which checkpoint "
            f"{checkpoint.path.name} needs {counted(len(sums), 'file')}"
        )
    entries = {}
    for name, digest in sums.items():
        file = history_file(run, name)
        try:
            entry = from_bytes(_verified(file, digest))
        except (OSError, ValueError, SafetensorError) as error:
            raise UserError(
                f"checkpoint {checkpoint.path} cannot be resumed: {file} cannot be read: {error}"
            ) from error
        # Copies are aligned in memory, as in a run that was not interrupted.
        entries[name] = {key: value.to(device).clone() for key, value in entry.items()}
    return entries


def history_file(run: Path, name: str) -> Path:
    """Return the file of an entry."""
    return run / HISTORY / f"{name}.safetensors"


def _verified(file: Path, digest: str) -> bytes:
    """Read a file whose content has a certain SHA-256 sum.

    Raises:
        ValueError: if it is something else.
        OSError: if it cannot be read.
    """
    if check_regular(file) > LARGEST_ENTRY:
        raise ValueError(f"it is larger than {LARGEST_ENTRY} bytes")
    content = file.read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
        raise ValueError("it does not match the sum in the checkpoint")
    return content
