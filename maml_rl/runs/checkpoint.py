"""Checkpoints: tensors in safetensors, the rest in JSON, SHA-256 sums of both; no pickle.

A checkpoint is the folder ``NNNNNN``. It is ``.NNNNNN.tmp`` while it is written, ``.NNNNNN.old``
while it is removed, and ``NNNNNN.damaged`` once it was found damaged. See docs/reliability.md.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from maml_rl.errors import UserError
from maml_rl.system.atomic_files import sync, write_synced
from maml_rl.system.untrusted_files import check_regular, read_json, read_text

FORMAT_VERSION = 2
"""Format 1 had no SHA256SUMS; it can still be read."""
_TENSORS, _VALUES, _SUMS = "tensors.safetensors", "values.json", "SHA256SUMS"
_LARGEST_COUNTER = 1 << 53
"""The largest integer up to which a float, and so a log, represents every integer."""


class DamagedCheckpoint(UserError):
    """A checkpoint differs from what was written; the previous one may be sound."""

    def __init__(self, path: Path, reason: object) -> None:
        super().__init__(f"checkpoint {path} is damaged: {reason}")
        self.path = path


class Checkpoint(NamedTuple):
    """A training state on disk."""

    tensors: dict[str, dict[str, Tensor]]
    """Groups of tensors by name: ``theta``, ``outer``, ``normalizer``."""
    values: dict[str, Any]
    """Counters and other values that JSON can hold."""

    def counter(self, name: str, path: Path) -> int:
        """Return a non-negative integer.

        Raises:
            UserError: if it is missing or something else; the message names ``path``.
        """
        value = self.values.get(name)
        if (
            not isinstance(value, int)
            or isinstance(value, bool)
            or not 0 <= value <= _LARGEST_COUNTER
        ):
            raise DamagedCheckpoint(path, f"{name} must be an integer, got {value!r:.100}")
        return value

    def check_run(self, run: Mapping[str, str], path: Path) -> None:
        """Refuse the checkpoint of another run.

        Args:
            run: values that must equal those in the checkpoint, if it has them.
            path: the checkpoint's.

        Raises:
            UserError: if one differs.
        """
        written = self.values.get("run", {})
        for name, value in run.items():
            if isinstance(written, dict) and written.get(name, value) != value:
                raise UserError(
                    f"checkpoint {path} is of another run: its {name} is {written[name]}, this "
                    f"one's {value}"
                )


class Found(NamedTuple):
    """The newest sound checkpoint."""

    path: Path
    checkpoint: Checkpoint
    damaged: tuple[DamagedCheckpoint, ...]
    """The newer ones."""


def save_checkpoint(
    folder: Path,
    iteration: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    values: Mapping[str, Any],
    keep: int = 0,
) -> Path:
    """Write ``folder/NNNNNN`` atomically: under a temporary name, synced, then renamed.

    Args:
        folder: folder of the run's checkpoints.
        iteration: number of finished meta-iterations, the checkpoint's name.
        tensors: groups of tensors by name.
        values: values that JSON can hold, all numbers finite.
        keep: how many of the newest checkpoints to keep; older ones are removed once this one is
            on the disk. 0 keeps all.

    Raises:
        OSError: if it cannot be written; existing checkpoints are then unchanged.
    """
    if not folder.is_dir():
        folder.mkdir(parents=True)
        sync(folder.parent)
    target, temporary = folder / f"{iteration:06d}", folder / f".{iteration:06d}.tmp"
    _delete(temporary)
    try:
        temporary.mkdir()
        for name, content in _files(tensors, values).items():
            write_synced(temporary / name, content)
        sync(temporary)
        if os.path.lexists(target):
            _retire(target)
        os.rename(temporary, target)
    except OSError:
        _delete(temporary)  # free the space on a full disk
        raise
    sync(folder)
    for old in _newest_first(folder)[keep:] if keep else []:
        _retire(old)
    return target


def _files(
    tensors: Mapping[str, Mapping[str, Tensor]], values: Mapping[str, Any]
) -> dict[str, bytes]:
    flat = {
        f"{group}/{name}": t.contiguous().cpu()
        for group, part in tensors.items()
        for name, t in part.items()
    }
    text = (
        json.dumps({"format_version": FORMAT_VERSION, **values}, indent=2, allow_nan=False) + "\n"
    )
    files = {_TENSORS: safetensors_bytes(flat), _VALUES: text.encode()}
    sums = "".join(
        f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in files.items()
    )
    return {**files, _SUMS: sums.encode()}


def _retire(path: Path) -> None:
    """Remove a checkpoint under another name, so that none is half-removed after a kill."""
    old = path.with_name(f".{path.name}.old")
    _delete(old)
    os.rename(path, old)
    _delete(old)


def _delete(path: Path) -> None:
    """Delete a folder, file or link; the target of a link stays."""
    # Ignore errors, as for a file that is read over NFS: it does not have a checkpoint's name, and
    # is deleted next time.
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    elif os.path.lexists(path):
        with contextlib.suppress(OSError):
            path.unlink()


def remove_leftovers(folder: Path) -> None:
    """Delete what a killed process was writing or removing. The caller must hold the lock."""
    for pattern in (".*.tmp", ".*.old"):
        for path in folder.glob(pattern):
            _delete(path)


def set_aside(path: Path) -> Path:
    """Rename a damaged checkpoint, so that it is no longer read, and return its new path."""
    aside = path.with_name(f"{path.name}.damaged")
    _delete(aside)
    os.rename(path, aside)
    sync(path.parent)
    return aside


def _newest_first(folder: Path) -> list[Path]:
    """Return all paths with a checkpoint's name, sound or not; none if there is no folder.

    Raises:
        UserError: if it is a dangling link, is not a folder, or may not be read.
    """
    if not os.path.lexists(folder):
        return []
    try:
        names = [name for name in os.listdir(folder) if name.isdecimal()]
    except OSError as error:  # if taken for empty, the run would be trained from scratch
        raise UserError(f"checkpoints {folder} cannot be read: {error}") from error
    return [folder / name for name in sorted(names, key=int, reverse=True)]


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the checkpoint of the highest iteration, sound or not, or ``None``."""
    return next(iter(_newest_first(folder)), None)


def load_newest(folder: Path, device: torch.device) -> Found | None:
    """Read the newest sound checkpoint; ``None`` if there is no checkpoint at all.

    Raises:
        UserError: if all are damaged (the message names each), one newer than all sound ones has
            a newer format, or the folder cannot be read.
    """
    damaged: list[DamagedCheckpoint] = []
    paths, is_complete = _newest_first(folder), False
    while not is_complete:
        damaged, is_complete = [], True
        for path in paths:
            try:
                return Found(path, load_checkpoint(path, device), tuple(damaged))
            except DamagedCheckpoint as error:
                damaged.append(error)
                is_complete &= os.path.lexists(path)
        # A missing one was removed by a running training, which has written a newer one: list
        # again, until the list stays the same.
        previous_paths, paths = paths, _newest_first(folder)
        is_complete |= paths == previous_paths
    if damaged:
        raise UserError(
            f"no sound checkpoint is left in {folder}: "
            + "; ".join(str(error) for error in damaged)
        )
    return None


def load_checkpoint(path: Path, device: torch.device) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        DamagedCheckpoint: if it differs from what was written, may not be read, or is something
            else: a dangling link, a file, an empty folder.
        UserError: if it has a newer format.
    """
    try:
        has_sums = (path / _SUMS).exists()
        if has_sums:
            _verify(path)
        values = read_json(path / _VALUES, parse_constant=_not_finite, parse_float=_finite)
        if not isinstance(values, dict):
            raise ValueError(f"{_VALUES} does not hold a mapping")
        version = values.get("format_version")
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise ValueError(f"format version {version!r}")
        if version <= FORMAT_VERSION:
            if version > 1 and not has_sums:
                raise ValueError(f"{_SUMS} is missing")
            check_regular(path / _TENSORS)
            return Checkpoint(_grouped(load_file(path / _TENSORS, device=str(device))), values)
    except (OSError, ValueError, SafetensorError) as error:
        raise DamagedCheckpoint(path, error) from error
    raise UserError(
        f"checkpoint {path} has format {version}; this version reads formats up to {FORMAT_VERSION}"
    )


def _grouped(flat: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    tensors: dict[str, dict[str, Tensor]] = {}
    for key, tensor in flat.items():
        group, _, name = key.partition("/")
        tensors.setdefault(group, {})[name] = tensor
    return tensors


def _verify(path: Path) -> None:
    lines = (line.partition("  ") for line in read_text(path / _SUMS).splitlines())
    sums = {name: digest for digest, _, name in lines}
    for name in (_TENSORS, _VALUES):
        check_regular(path / name)
        with (path / name).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if sums.get(name) != digest:
            raise ValueError(f"{name} does not match {_SUMS}")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        _not_finite(text)
    return number


def _not_finite(text: str) -> NoReturn:
    raise ValueError(f"{_VALUES} holds {text}, which is not finite")
