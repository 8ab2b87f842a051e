"""Policies shipped with the package: finished runs, named after their task family."""

from __future__ import annotations

import os
from pathlib import Path

from maml_rl.errors import UserError, did_you_mean
from maml_rl.system.untrusted_files import user_path

_FOLDER = Path(__file__).parents[1] / "pretrained"


def pretrained_names() -> list[str]:
    """Return the names that :func:`maml_rl.load`, ``evaluate`` and ``record`` accept as a run."""
    return sorted(path.name for path in _FOLDER.iterdir() if (path / "config.yaml").is_file())


def pretrained_folder(name: str) -> Path:
    """Return the folder of a pretrained policy."""
    return _FOLDER / name


def find_run(run: str | Path) -> Path:
    """Return the folder of a run, or of the pretrained policy of that name.

    Raises:
        UserError: if neither exists.
    """
    folder = user_path(run)
    names = pretrained_names()
    if os.path.isdir(folder):
        return folder
    if str(folder) in names:
        return pretrained_folder(str(folder))
    if folder.name != str(folder):
        raise UserError(f"there is no run folder {folder}{_seen_from(folder)}")
    hint = did_you_mean(str(folder), names)
    raise UserError(
        f"there is no run folder {folder}, and no pretrained policy of that name.{hint} Pretrained "
        f"policies are {', '.join(names)}"
    )


def _seen_from(folder: Path) -> str:
    """Say in which folder a relative path was looked up."""
    return "" if folder.is_absolute() else f" in {Path.cwd()}"


def is_pretrained(run: Path) -> bool:
    """Whether a run folder is that of a pretrained policy."""
    return run.parent == _FOLDER


def output_folder(run: Path) -> Path:
    """Return the folder for results of a run: its own, or runs/NAME for a pretrained policy."""
    folder = run.resolve()
    return Path("runs") / folder.name if folder.parent == _FOLDER.resolve() else run


def run_name(run: Path) -> str:
    """Return the name of a run for a report: that of a pretrained policy, or the path.

    A path below the current directory is made relative.
    """
    here = Path.cwd()
    if is_pretrained(run):
        return run.name
    return str(run.relative_to(here)) if run.is_relative_to(here) else str(run)
