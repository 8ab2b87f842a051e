"""Files that outlast a kill or a power cut: whole or not at all, and on the disk when a call returns."""

from __future__ import annotations

import contextlib
import errno
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

from maml_rl.errors import MamlRLWarning, UserError

UNSUPPORTED = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
"""Errors that say that a file system cannot do something at all."""
_BINARY = getattr(os, "O_BINARY", 0)  # Windows would translate line ends


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(
        missing_ok=True
    )  # a link that leads elsewhere, in a folder that came from elsewhere
    try:
        write_synced(temporary, content.encode() if isinstance(content, str) else content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def write_synced(path: Path, content: bytes) -> None:
    """Write a file, and wait until it is on the disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _BINARY, 0o666)
    try:
        _write_all(descriptor, content)
        _fsync(descriptor)
    finally:
        os.close(descriptor)


def append(path: Path, content: bytes) -> None:
    """Add to the end of a file. Whoever reads it sees the bytes at once; :func:`sync` brings them to the disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | _BINARY, 0o666)
    try:
        _write_all(descriptor, content)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:  # on a nearly full disk a part may be written before the error comes
        rest = rest[os.write(descriptor, rest) :]


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    if os.name == "nt":  # which syncs neither folders nor files opened for reading
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        _fsync(descriptor)
    finally:
        os.close(descriptor)


def _fsync(descriptor: int) -> None:
    """Sync what is open; where the file system cannot, warn once."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in {*UNSUPPORTED, errno.EINVAL}:
            raise
        warnings.warn(
            f"the file system cannot sync files or folders ({error.strerror}): after a power cut "
            "the newest files may be missing",
            MamlRLWarning,
            stacklevel=3,
        )


@contextlib.contextmanager
def unwritable_refused(path: Path, advice: str = "") -> Iterator[None]:
    """Turn a failure to write into one line.

    Args:
        path: what is written, for the message.
        advice: what to do about it, for its end.

    Raises:
        UserError: in place of an ``OSError``.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error}{advice}") from error
