"""The one error that users see."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something that the user gave cannot be used. The command line prints its text without a traceback."""


def did_you_mean(name: str, valid: Iterable[str], quotes: str = "") -> str:
    """`` Did you mean ...?`` with the valid name that is closest, or nothing where none is close."""
    close = difflib.get_close_matches(name, list(valid), n=1)
    return f" Did you mean {quotes}{close[0]}{quotes}?" if close else ""
