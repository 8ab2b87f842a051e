"""Write files that survive a kill or a power cut: complete or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

from maml_rl.errors import MamlRLWarning, UserError

UNSUPPORTED = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
"""Errors of a file system that does not implement an operation."""
_BINARY = getattr(os, "O_BINARY", 0)  # or Windows would translate line endings


@contextlib.contextmanager
def atomic_replace(path: Path, temporary: Path) -> Iterator[None]:
    """Replace ``path`` with the file ``temporary``, which is written inside the context.

    The file is synced before it is renamed. If the context raises, ``path`` is unchanged and
    ``temporary`` is deleted; only a killed process leaves it behind.

    Args:
        path: the file to write.
        temporary: a path in the same folder. A file or link there is deleted first.
    """
    try:
        temporary.unlink(missing_ok=True)
        yield
        sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file atomically."""
    temporary = path.with_name(f".{path.name}.tmp")
    with atomic_replace(path, temporary), _opened(temporary, os.O_TRUNC) as descriptor:
        _write_all(descriptor, content.encode() if isinstance(content, str) else content)


def write_synced(path: Path, content: bytes) -> None:
    """Write a file and wait until it is on the disk."""
    with _opened(path, os.O_TRUNC) as descriptor:
        _write_all(descriptor, content)
        _fsync(descriptor)


def append(path: Path, content: bytes) -> None:
    """Append to a file. Readers see it at once; :func:`sync` waits until it is on the disk."""
    with _opened(path, os.O_APPEND) as descriptor:
        _write_all(descriptor, content)


@contextlib.contextmanager
def _opened(path: Path, flag: int) -> Iterator[int]:
    """Open a file for writing, create it if it does not exist, and yield its descriptor."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | flag | _BINARY, 0o666)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:  # a nearly full disk may accept a part before the error
        rest = rest[os.write(descriptor, rest) :]


def sync(path: Path) -> None:
    """Wait until the content of a file, or the names in a folder, are on the disk."""
    flags = os.O_RDONLY
    if os.name == "nt":  # Windows syncs only files that are open for writing
        if path.is_dir():
            return
        flags = os.O_RDWR
    descriptor = os.open(path, flags)
    try:
        _fsync(descriptor)
    finally:
        os.close(descriptor)


def _fsync(descriptor: int) -> None:
    """Sync an open file or folder; warn if the file system does not support it."""
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
    """Convert an ``OSError`` into a one-line ``UserError``.

    Args:
        path: what is written, for the message.
        advice: what to do about it, appended to the message.

    Raises:
        UserError: instead of an ``OSError``.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error}{advice}") from error
