"""Errors and warnings for users, and suggestions for misspelt names."""

from __future__ import annotations

import contextlib
import difflib
import functools
import re
import sys
import traceback
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

_LIBRARIES = frozenset({"gymnasium", "maml_envs", "maml_rl", "mujoco", "numpy", "torch"})
"""Packages whose frames an error of the user's passes through."""


class UserError(ValueError):
    """Invalid input of the user. The command line prints its message without a traceback.

    Args:
        message: becomes one line: a NumPy array in it has several. Gymnasium passes an error of a
            worker process in place of its message.
    """

    def __init__(self, message: str | UserError = "") -> None:
        lines = str(message).splitlines()
        super().__init__(" ".join(line.strip() for line in lines) if lines[1:] else str(message))


class MamlRLWarning(UserWarning):
    """A problem that does not stop the program. The command line prints only its message."""


def one_line(text: str) -> str:
    """Replace line breaks and other white space by single spaces."""
    return " ".join(text.split())


def in_one_line(error: BaseException) -> str:
    """Format an error of third-party code in one line: type, message, file and line.

    File and line are the last ones outside of the standard library and of packages such as torch.
    If there are none, they are those that raised.
    """
    message = one_line(str(error))
    frames = list(traceback.walk_tb(error.__traceback__))
    frames = [place for place in frames if not _is_of_library(place[0])] or frames[-1:]
    where = f" ({frames[-1][0].f_code.co_filename}, line {frames[-1][1]})" if frames else ""
    return type(error).__name__ + (f": {message}" if message else "") + where


def _is_of_library(frame: types.FrameType) -> bool:
    package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
    return package in _LIBRARIES or package in sys.stdlib_module_names


@contextlib.contextmanager
def errors_named(what: str, *passing: type[Exception]) -> Iterator[None]:
    """Turn what the user's code raises into a ``UserError`` of one line.

    Args:
        what: the beginning of the message; the error, its file and its line follow.
        passing: errors that are raised as they are; ``UserError`` and ``MemoryError`` always are.
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        if isinstance(error, (UserError, MemoryError, *passing)):
            raise
        raise UserError(f"{what} {in_one_line(error)}") from error


@contextlib.contextmanager
def value_errors_refused() -> Iterator[None]:
    """Turn a ``ValueError``, of a setting or a task, into a ``UserError`` with the same message."""
    try:
        yield
    except ValueError as error:
        raise UserError(str(error)) from error


def name_errors(
    cls: type, methods: Iterable[str], passing: type[Exception] = FloatingPointError
) -> None:
    """Turn what methods of a user's class raise into a ``UserError`` that names the method.

    Classes of this package are left as they are.

    Args:
        cls: its methods are replaced.
        methods: names; those that ``cls`` does not define itself are skipped.
        passing: errors that are raised as they are.
    """
    if is_of_package(cls):
        return
    for name in methods:
        if callable(vars(cls).get(name)):
            title = f"{name} of {cls.__module__}:{cls.__name__}"
            setattr(cls, name, naming_errors(vars(cls)[name], title, passing))


def is_of_package(cls: type) -> bool:
    """Whether a class is one of this package, and not the user's."""
    return cls.__module__.partition(".")[0] == __name__.partition(".")[0]


def naming_errors(
    method: Callable[..., Any], title: str, passing: type[Exception] = FloatingPointError
) -> Callable[..., Any]:
    """Return a method of the user's whose errors are a ``UserError`` that names it.

    Args:
        method: the method.
        title: how it is named.
        passing: errors that are raised as they are.
    """

    @functools.wraps(method)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with errors_named(f"{title} raised", passing):
            return method(*args, **kwargs)

    return wrapper


_GENERIC = frozenset(
    re.findall(
        r"\w+",
        "at by for is of per to env every final init last max min new num number share size sizes "
        "step steps task tasks total train training",
    )
)
"""Words that unrelated names share."""


def did_you_mean(name: str, valid: Iterable[str], quotes: str = "") -> str:
    """Return `` Did you mean ...?`` with the closest valid name, or nothing if none is close.

    Two names are close if one of these holds:

    - nearly all letters agree;
    - both are single words, and most letters agree or one is a prefix of the other;
    - their words are similar, in order: ``num_iter`` and ``num_iterations``;
    - most letters agree, and they share a word that is not generic: ``hidden_layers`` and
      ``hidden_sizes``.

    If no dotted name (``inner.num_steps``) is close, only the last parts are compared.
    """
    choices = list(valid)
    closest = closest_name(name, choices)
    # Compare the last parts of dotted names.
    if closest is None and any("." in choice for choice in choices):
        by_last = {choice.rpartition(".")[2].lstrip("-"): choice for choice in reversed(choices)}
        closest = by_last.get(closest_name(name.rpartition(".")[2], by_last) or "")
    return f" Did you mean {quotes}{closest}{quotes}?" if closest is not None else ""


def closest_name(name: str, valid: Iterable[str]) -> str | None:
    """Return the closest valid name, or ``None`` if none is close; see :func:`did_you_mean`."""
    # Leading dashes are not compared: --lr should not suggest --help.
    bare = {choice.lstrip("-"): choice for choice in valid}
    name = name.lstrip("-")
    like = [choice for choice in bare if _is_like(name, choice)]
    close = difflib.get_close_matches(name, like, n=1, cutoff=0)
    return bare[close[0]] if close else None


def _is_like(name: str, other: str) -> bool:
    """Whether two names are close; see :func:`did_you_mean`."""
    words, others = _words(name), _words(other)
    if len(words) == len(others) == 1:
        return _ratio(name, other) > 0.66 or _begins(name, other)
    if _ratio(name, other) >= 0.9:
        return True
    pairs = zip(words, others, strict=False)
    if len(words) == len(others) and all(_ratio(*pair) >= 0.75 or _begins(*pair) for pair in pairs):
        return True
    # Only in the last parts: a shared group (inner.) does not make two settings similar.
    shared = {*_words(name.rpartition(".")[2])} & {*_words(other.rpartition(".")[2])}
    return _ratio(name, other) >= 0.6 and not shared <= _GENERIC


def _words(name: str) -> list[str]:
    return re.findall(r"[^\W_]+", name.lower())


def _ratio(word: str, other: str) -> float:
    return difflib.SequenceMatcher(None, word, other).ratio()


def _begins(word: str, other: str) -> bool:
    """Whether one word is a prefix of the other."""
    return min(len(word), len(other)) >= 3 and (word.startswith(other) or other.startswith(word))
