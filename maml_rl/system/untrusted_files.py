"""Files from anywhere, read without trusting what they claim to be: regular ones only, and no more than a bound."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

LONGEST_TEXT = 1 << 20
"""Bytes that a file of settings or values may have: a thousand times what it does have."""
LONGEST_TABLE = 1 << 28
"""Bytes that a file of results may have."""


def check_regular(path: Path) -> int:
    """The size of a file in bytes. A pipe would block, and a device never end.

    Raises:
        OSError: there is none.
        ValueError: it is a folder, a pipe or a device.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path.name} is no regular file")
    return status.st_size


def read_text(path: Path, longest: int = LONGEST_TEXT) -> str:
    """The text of a file in UTF-8.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no regular file, longer than ``longest`` bytes, or no UTF-8.
    """
    check_regular(path)
    with path.open("rb") as file:
        content = file.read(longest + 1)
    if len(content) > longest:
        raise ValueError(f"{path.name} is longer than {longest} bytes")
    return content.decode()


def read_json(path: Path, longest: int = LONGEST_TEXT, **hooks: Any) -> Any:
    """What a JSON file holds.

    Args:
        path: of the file.
        longest: bytes that it may have.
        hooks: of :func:`json.loads`.

    Raises:
        OSError, ValueError: as :func:`read_text`, or it is no JSON.
    """
    try:
        return json.loads(read_text(path, longest), **hooks)
    except RecursionError as error:
        raise ValueError(f"{path.name} is nested too deeply") from error
