"""The one error that users see."""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterable


class UserError(ValueError):
    """Something that the user gave cannot be used. The command line prints its text without a traceback."""


def in_one_line(error: BaseException) -> str:
    """An error of code that is not ours: its type, its message, and the file and line that raised it."""
    message = " ".join(str(error).split())
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return type(error).__name__ + (f": {message}" if message else "") + where


def did_you_mean(name: str, valid: Iterable[str], quotes: str = "") -> str:
    """`` Did you mean ...?`` with the valid name that is closest, or nothing where none is close."""
    bare = {choice.lstrip("-"): choice for choice in valid}  # dashes are no likeness: --lr is not meant to be --help
    close = difflib.get_close_matches(name.lstrip("-"), list(bare), n=1)
    return f" Did you mean {quotes}{bare[close[0]]}{quotes}?" if close else ""
