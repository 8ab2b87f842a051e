"""Check and expand paths that come from the user."""

from __future__ import annotations

from pathlib import Path

from maml_rl.errors import UserError


def check_text(word: str) -> None:
    """Refuse text that Python cannot print, write or draw: undecodable bytes.

    Raises:
        UserError: if the text is not UTF-8, or not representable in the locale.
    """
    try:
        word.encode()
    except UnicodeEncodeError as error:
        advice = "use another name, or a UTF-8 locale"
        raise UserError(f"{word!a} is not UTF-8: {advice}") from error


def user_path(path: str | Path) -> Path:
    """Return a path from a setting, flag or argument, with ``~`` expanded.

    Raises:
        UserError: if there is no such home folder, or the path is not UTF-8, which safetensors
            cannot read.
    """
    check_text(str(path))
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"path {path} has no home folder: {error}") from error
