"""The one error that users see."""

from __future__ import annotations

import difflib
import re
import traceback
from collections.abc import Iterable


class UserError(ValueError):
    """Something that the user gave cannot be used. The command line prints its text without a traceback."""


class MamlRLWarning(UserWarning):
    """Something went wrong that does not change what is computed. The command line prints its text alone."""


def in_one_line(error: BaseException) -> str:
    """An error of code that is not ours: its type, its message, and the file and line that raised it."""
    message = " ".join(str(error).split())
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return type(error).__name__ + (f": {message}" if message else "") + where


_GENERIC = {
    *(
        "at",
        "by",
        "for",
        "is",
        "of",
        "per",
        "to",
        "env",
        "every",
        "final",
        "init",
        "last",
        "max",
        "min",
        "new",
    ),
    *(
        "num",
        "number",
        "share",
        "size",
        "sizes",
        "step",
        "steps",
        "task",
        "tasks",
        "total",
        "train",
        "training",
    ),
}
"""Words that names share without meaning the same."""


def did_you_mean(name: str, valid: Iterable[str], quotes: str = "") -> str:
    """`` Did you mean ...?`` with the valid name that is closest, or nothing where none is close.

    A name is close where nearly all letters agree; where its words are like the other's, in order
    (``num_iter`` and ``num_iterations``); or where most letters agree and a word that is not
    generic (``hidden_layers`` and ``hidden_sizes``).
    """
    bare = {
        choice.lstrip("-"): choice for choice in valid
    }  # dashes are no likeness: --lr is not meant to be --help
    name = name.lstrip("-")
    like = [choice for choice in bare if _is_like(name, choice)]
    close = difflib.get_close_matches(name, like, n=1, cutoff=0)
    return f" Did you mean {quotes}{bare[close[0]]}{quotes}?" if close else ""


def _is_like(name: str, other: str) -> bool:
    words, others = _words(name), _words(other)
    if len(words) == len(others) == 1:
        return _ratio(name, other) > 0.66 or _begins(name, other)
    if _ratio(name, other) >= 0.9:
        return True
    if len(words) == len(others) and all(
        _ratio(*pair) >= 0.75 or _begins(*pair) for pair in zip(words, others, strict=True)
    ):
        return True
    shared = {*_words(name.rpartition(".")[2])} & {
        *_words(other.rpartition(".")[2])
    }  # a group's name does not count
    return _ratio(name, other) >= 0.6 and not shared <= _GENERIC


def _words(name: str) -> list[str]:
    return re.findall(r"[^\W_]+", name.lower())


def _ratio(word: str, other: str) -> float:
    return difflib.SequenceMatcher(None, word, other).ratio()


def _begins(word: str, other: str) -> bool:
    """Whether one is the beginning of the other."""
    return min(len(word), len(other)) >= 3 and (word.startswith(other) or other.startswith(word))
