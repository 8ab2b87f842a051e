"""Read untrusted files safely.

Only regular files are read, with a limit on their size. Nothing is unpickled, and sizes are checked
before memory is allocated.
"""

from __future__ import annotations

import json
import math
import os
import stat
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np

from maml_rl.errors import UserError

LONGEST_TEXT = 1 << 20
"""Limit in bytes for files of settings or values; usual ones are about a thousand times smaller."""
LONGEST_TABLE = 1 << 28
"""Limit in bytes for files of results."""
LARGEST_NPZ = 1 << 30
"""Limit in bytes for an .npz file, compressed and uncompressed."""

_NPY_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_NPZ_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    SyntaxError,
    EOFError,
    RuntimeError,
    OverflowError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
)
"""What zipfile and NumPy raise for damaged files."""


def check_regular(path: Path) -> int:
    """Check that ``path`` is a regular file. Reading a pipe or a device may never end.

    Returns:
        Its size in bytes.

    Raises:
        OSError: if the file does not exist.
        ValueError: if it is a folder, a pipe or a device.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path.name} is not a regular file")
    return status.st_size


def read_text(path: Path, max_bytes: int = LONGEST_TEXT) -> str:
    """Read a UTF-8 file.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is not a regular file, is longer than ``max_bytes`` or is not UTF-8.
    """
    check_regular(path)
    with path.open("rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ValueError(f"{path.name} is longer than {max_bytes} bytes")
    return content.decode()


def read_json(path: Path, max_bytes: int = LONGEST_TEXT, **hooks: Any) -> Any:
    """Read a JSON file.

    Args:
        path: the file.
        max_bytes: limit on its size.
        hooks: passed to :func:`json.loads`.

    Raises:
        OSError, ValueError: as :func:`read_text`, or if it is not JSON.
    """
    try:
        return json.loads(read_text(path, max_bytes), **hooks)
    except RecursionError as error:
        raise ValueError(f"{path.name} is nested too deeply") from error


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of a file written by ``np.savez`` or ``np.savez_compressed``, by name.

    Raises:
        UserError: if it cannot be read, is not an .npz file, contains anything but numbers or is
            larger than :data:`LARGEST_NPZ`.
    """
    try:
        if check_regular(path) > LARGEST_NPZ:
            raise ValueError(f"it is larger than {LARGEST_NPZ} bytes")
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if sum(member.file_size for member in members) > LARGEST_NPZ:
                raise ValueError(f"its arrays are larger than {LARGEST_NPZ} bytes")
            return {
                member.filename.removesuffix(".npy"): _read_npy(archive, member)
                for member in members
            }
    except _NPZ_ERRORS as error:
        raise UserError(f"{path} cannot be read as .npz: {error}") from error


def _read_npy(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    if member.compress_type not in _COMPRESSIONS:  # others can expand a byte to gigabytes
        raise ValueError(f"{member.filename} is compressed by method {member.compress_type}")
    with archive.open(member) as stream:
        shape, is_fortran, dtype = _read_npy_header(stream)
        if dtype.kind not in "biuf":
            raise ValueError(f"{member.filename} holds {dtype}, expected numbers")
        content = stream.read(member.file_size)
    if math.prod(shape) * dtype.itemsize != len(content):
        raise ValueError(
            f"the header of {member.filename} declares {shape} {dtype}, but the data are "
            f"{len(content)} bytes"
        )
    # bytearray, so that the array is writable
    return np.frombuffer(bytearray(content), dtype).reshape(shape, order="F" if is_fortran else "C")


def _read_npy_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(stream)
    if version not in _NPY_HEADERS:
        raise ValueError(
            f"it has version {version} of the .npy format, expected one of {list(_NPY_HEADERS)}"
        )
    return _NPY_HEADERS[version](stream)


def check_text(word: str) -> None:
    """Refuse a text with undecodable bytes, which Python cannot print or write.

    Raises:
        UserError: if the bytes of the text are not UTF-8, or not in the encoding of the locale.
    """
    try:
        word.encode()
    except UnicodeEncodeError as error:
        advice = "use another name, or a UTF-8 locale"
        raise UserError(f"{word!a} is not UTF-8: {advice}") from error


def user_path(path: str | Path) -> Path:
    """Return a path from a setting, flag or argument, with ``~`` expanded.

    Raises:
        UserError: if it is not a path, or empty, the home folder is not found, or the path is not
            UTF-8, which safetensors cannot open.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise UserError(f"expected a path, got {path!r:.100}")
    if path == "":
        raise UserError("expected a path, got an empty text")
    check_text(str(path))
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"path {path}: home folder not found ({error})") from error
