"""The one error that users see."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something that the user gave cannot be used. The command line prints its text without a traceback."""


def did_you_mean(name: str, valid: Iterable[str], quotes: str = "") -> str:
    """`` Did you mean ...?`` with the valid name that is closest, or nothing where none is close."""
    bare = {choice.lstrip("-"): choice for choice in valid}  # dashes are no likeness: --lr is not meant to be --help
    close = difflib.get_close_matches(name.lstrip("-"), list(bare), n=1)
    return f" Did you mean {quotes}{bare[close[0]]}{quotes}?" if close else ""
