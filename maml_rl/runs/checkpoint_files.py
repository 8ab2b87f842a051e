"""One checkpoint: tensors in safetensors, the rest in JSON, SHA-256 sums of both; no pickle."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from maml_rl.errors import UserError
from maml_rl.system.untrusted_files import check_regular, read_json, read_text

FORMAT_VERSION = 2
"""Format 1 had no SHA256SUMS; it can still be read."""
_TENSORS, _VALUES, _SUMS = "tensors.safetensors", "values.json", "SHA256SUMS"
BEST = "best"
"""Name among the values of the best iteration."""
IS_FINAL = "is_final"
"""Name among the values of whether the run had ended."""
NUM_ADAPTATION_STEPS = "num_adaptation_steps"
"""Name among the values of the number of updates of a saved agent."""
HISTORY = "history"
"""Name in a checkpoint, and of the folder of a run, of the entries of its history."""
RESERVED_VALUES = {BEST, IS_FINAL, HISTORY, "run", "format_version", NUM_ADAPTATION_STEPS}
"""Names among the values that counters must not have."""
LARGEST_COUNTER = 1 << 53
"""The largest integer up to which a float, and so a log, represents every integer."""


class DamagedCheckpoint(UserError):
    """A checkpoint was changed or cannot be read; the previous one may be sound."""

    def __init__(self, path: Path, reason: object) -> None:
        super().__init__(f"checkpoint {path} is damaged: {reason}")
        self.path = path
        self._arguments = (path, str(reason))

    def __reduce__(self) -> tuple[Any, ...]:
        """Let a pool of processes pass it on."""
        return DamagedCheckpoint, self._arguments


class Checkpoint(NamedTuple):
    """A training state on disk."""

    path: Path
    """Its folder."""
    tensors: dict[str, dict[str, Tensor]]
    """Groups of tensors by name: ``theta``, ``outer``, ``normalizer``."""
    values: dict[str, Any]
    """Counters and other values that JSON can hold."""

    def counter(self, name: str) -> int:
        """Return a non-negative integer.

        Raises:
            DamagedCheckpoint: if it is missing or something else.
        """
        value = self.values.get(name)
        if (
            not isinstance(value, int)
            or isinstance(value, bool)
            or not 0 <= value <= LARGEST_COUNTER
        ):
            expected = f"an integer from 0 to {LARGEST_COUNTER}"
            raise DamagedCheckpoint(self.path, f"{name} must be {expected}, got {value!r:.100}")
        return value

    def best(self) -> Best | None:
        """Return the best iteration so far, or ``None`` if none has been evaluated.

        Raises:
            DamagedCheckpoint: if the entry is something else.
        """
        if BEST not in self.values:
            return None
        match self.values[BEST]:
            case {"iteration": int(iteration), "return": int() | float() as value}:
                return Best(iteration, value)
        raise DamagedCheckpoint(
            self.path, f"{BEST} must have iteration and return, got {self.values[BEST]!r:.100}"
        )

    @property
    def is_final(self) -> bool:
        """Whether the run had ended when it was written.

        True if it does not say it, as a saved agent, or a checkpoint of earlier versions, which
        chose nothing after training.
        """
        return bool(self.values.get(IS_FINAL, True))

    def history(self) -> dict[str, str]:
        """Return the SHA-256 sums of the entries of the history by name, oldest first.

        Raises:
            DamagedCheckpoint: if they are something else.
        """
        sums = self.values.get(HISTORY, {})
        if sums == {}:
            return {}
        iteration = self.counter("iteration")
        is_valid = isinstance(sums, dict) and all(isinstance(s, str) for s in sums.values())
        if not is_valid or list(sums) != entry_names(len(sums), iteration):
            raise DamagedCheckpoint(
                self.path,
                f"{HISTORY} must have the sums of consecutive iterations up to {iteration}, got "
                f"{sums!r:.100}",
            )
        return dict(sums)

    def check_run(self, run: Mapping[str, str]) -> None:
        """Refuse the checkpoint of another run.

        Args:
            run: values that must equal those in the checkpoint, if it has them.

        Raises:
            UserError: if one differs.
        """
        written = self.values.get("run", {})
        for name, value in run.items():
            if isinstance(written, dict) and written.get(name, value) != value:
                raise UserError(
                    f"checkpoint {self.path} is of another run: its {name} is {written[name]}, "
                    f"this one's {value}"
                )


def entry_names(number: int, iteration: int) -> list[str]:
    """Return the names of the last entries of a history.

    Args:
        number: how many.
        iteration: number of finished iterations.
    """
    return [f"{i:06d}" for i in range(iteration - number + 1, iteration + 1) if i > 0]


class Best(NamedTuple):
    """The iteration with the highest return among the evaluations in training so far."""

    iteration: int
    """Its number, the name of a checkpoint."""
    value: float
    """Mean return on fresh tasks after the last adaptation step."""


def files_of(
    tensors: Mapping[str, Mapping[str, Tensor]], values: Mapping[str, Any]
) -> dict[str, bytes]:
    """Return the contents of a checkpoint's files by name."""
    # Tensors, named group/name
    flat = {f"{group}/{name}": t for group, part in tensors.items() for name, t in part.items()}
    # Values, and the sums of both files
    text = (
        json.dumps({"format_version": FORMAT_VERSION, **values}, indent=2, allow_nan=False) + "\n"
    )
    files = {_TENSORS: tensor_bytes(flat), _VALUES: text.encode()}
    sums = "".join(
        f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in files.items()
    )
    return {**files, _SUMS: sums.encode()}


def tensor_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Return the content of a safetensors file."""
    # Copies, because the format refuses tensors that share memory
    return safetensors_bytes(
        {
            name: value.cpu().clone(memory_format=torch.contiguous_format)
            for name, value in tensors.items()
        }
    )


def load_checkpoint(path: Path, device: torch.device) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        DamagedCheckpoint: if it differs from what was written, cannot be read, or is something
            else: a dangling link, a file, an empty folder.
        UserError: if it has a newer format.
    """
    try:
        values = _verified_values(path)
        version = values["format_version"]
        # Read the tensors of a known format
        if version <= FORMAT_VERSION:
            check_regular(path / _TENSORS)
            tensors = _grouped(load_file(path / _TENSORS, device=str(device)))
            return Checkpoint(path, tensors, values)
    except (OSError, ValueError, SafetensorError) as error:
        raise DamagedCheckpoint(path, error) from error
    raise UserError(
        f"checkpoint {path} has format {version}; this version reads formats up to {FORMAT_VERSION}"
    )


def load_values(path: Path) -> Checkpoint:
    """Read the counters and other values of a checkpoint, and leave out its tensors.

    Raises:
        DamagedCheckpoint: as :func:`load_checkpoint`.
    """
    try:
        return Checkpoint(path, {}, _verified_values(path))
    except (OSError, ValueError) as error:
        raise DamagedCheckpoint(path, error) from error


def _verified_values(path: Path) -> dict[str, Any]:
    """Check the sums of a checkpoint's files, and return its values.

    Raises:
        ValueError: if it is damaged.
        OSError: if it cannot be read.
    """
    # Check the sums
    has_sums = (path / _SUMS).exists()
    if has_sums:
        _verify(path)
    # Read the values and the format
    values = read_json(path / _VALUES, parse_constant=_not_finite, parse_float=_finite)
    if not isinstance(values, dict):
        raise ValueError(f"{_VALUES} does not hold a mapping")
    version = values.get("format_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ValueError(f"format version {version!r}")
    if 1 < version <= FORMAT_VERSION and not has_sums:
        raise ValueError(f"{_SUMS} is missing")
    return values


def _grouped(flat: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    tensors: dict[str, dict[str, Tensor]] = {}
    for key, tensor in flat.items():
        group, _, name = key.partition("/")
        # A copy is aligned in memory, as a tensor of the file is not: some sums depend on that in
        # their last bit, and a resumed run would differ from an uninterrupted one.
        tensors.setdefault(group, {})[name] = tensor.clone()
    return tensors


def _verify(path: Path) -> None:
    """Raise ``ValueError`` if a file does not match its SHA-256 sum."""
    sums = {}
    for line in read_text(path / _SUMS).splitlines():
        digest, _, name = line.partition("  ")
        sums[name] = digest
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
