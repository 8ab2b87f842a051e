"""Paths and words as users give them."""

from __future__ import annotations

from pathlib import Path

from maml_rl.errors import UserError


def check_text(word: str) -> None:
    """Refuse bytes that are no text here: Python keeps them, but cannot print, write or draw them.

    Raises:
        UserError: the word is not UTF-8, or the locale does not have its letters.
    """
    try:
        word.encode()
    except UnicodeEncodeError as error:
        advice = "give another name, or use a UTF-8 locale"
        raise UserError(f"{word!a} is not UTF-8: {advice}") from error


def user_path(path: str | Path) -> Path:
    """A path of a setting, a flag or a function, with ``~`` as the home folder.

    Raises:
        UserError: there is no such home folder, or the name is not UTF-8, which safetensors cannot
            read.
    """
    check_text(str(path))
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"path {path} has no home folder: {error}") from error
