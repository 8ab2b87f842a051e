"""NumPy's .npz files from anywhere: numbers only, and sizes are checked before anything is allocated."""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from maml_rl.errors import UserError
from maml_rl.system.untrusted_files import check_regular

MOST_BYTES = 1 << 30
"""That the arrays of a file may have."""
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file that ``np.savez`` or ``np.savez_compressed`` wrote, by name.

    Raises:
        UserError: it cannot be read, is no such file, holds anything but numbers (nothing is
            unpickled), or more than :data:`MOST_BYTES`.
    """
    try:
        if check_regular(path) > MOST_BYTES:
            raise ValueError(f"it is larger than {MOST_BYTES} bytes")
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if sum(member.file_size for member in members) > MOST_BYTES:
                raise ValueError(f"its arrays are larger than {MOST_BYTES} bytes")
            return {
                member.filename.removesuffix(".npy"): _array(archive, member) for member in members
            }
    except (
        OSError,
        ValueError,
        TypeError,
        SyntaxError,
        EOFError,
        RuntimeError,
        OverflowError,
    ) as error:
        raise UserError(f"{path} cannot be read as .npz: {error}") from error
    except (zipfile.BadZipFile, zlib.error, struct.error) as error:
        raise UserError(f"{path} cannot be read as .npz: {error}") from error


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    if member.compress_type not in _METHODS:  # others may ask for gigabytes to decompress a byte
        raise ValueError(f"{member.filename} is compressed by method {member.compress_type}")
    with archive.open(member) as stream:
        shape, is_fortran, dtype = _header(stream)
        if dtype.kind not in "biuf":
            raise ValueError(f"{member.filename} holds {dtype}, expected numbers")
        content = stream.read(member.file_size)
    if math.prod(shape) * dtype.itemsize != len(content):
        raise ValueError(
            f"{member.filename} announces {shape} {dtype}, and holds {len(content)} bytes"
        )
    return np.frombuffer(bytearray(content), dtype).reshape(shape, order="F" if is_fortran else "C")


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(stream)
    if version not in _HEADERS:
        raise ValueError(
            f"it has version {version} of the format, expected one of {list(_HEADERS)}"
        )
    return _HEADERS[version](stream)
