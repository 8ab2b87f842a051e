"""Run folders: creation, lock, configuration and versions."""

from __future__ import annotations

import contextlib
import errno
import importlib.metadata
import itertools
import json
import os
import platform
import shlex
import subprocess
import warnings
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from maml_rl.errors import MamlRLWarning, UserError
from maml_rl.settings.config import Config
from maml_rl.settings.parser import resolve
from maml_rl.settings.sources import migrated
from maml_rl.system.atomic_files import UNSUPPORTED, write_whole
from maml_rl.system.safe_yaml import read_yaml, to_yaml
from maml_rl.system.untrusted_files import user_path

_UNFINISHED = {".lock", "versions.json", ".versions.json.tmp", ".config.yaml.tmp"}
"""Files of a process that was killed while it created a run folder; config.yaml is written last."""
_PACKAGES = ("maml-rl", "torch", "gymnasium", "mujoco", "numpy", "stable-baselines3", "tensorboard")


def new_default_folder(env_name: str, seed: int | None = None) -> Path:
    """Create runs/FAMILY/date-time-seed, with a number appended if that exists.

    Without a seed, as for the folder of several seeds, the name is date-time.

    Raises:
        UserError: if it cannot be created.
    """
    name = env_name.replace("/", "-").replace(":", "-")
    suffix = "" if seed is None else f"-{seed}"
    first = Path("runs") / name / f"{datetime.now():%Y%m%d-%H%M%S}{suffix}"
    for folder in itertools.chain([first], (Path(f"{first}-{i}") for i in itertools.count(2))):
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            if isinstance(error, FileExistsError) and folder.is_dir():
                continue
            raise UserError(f"output {folder} cannot be made: {error}") from error
        return folder
    raise AssertionError("the count never ends")


def create_run_folder(folder: Path, config: Mapping[str, Any]) -> None:
    """Create the folder with ``config.yaml`` and ``versions.json``.

    Raises:
        UserError: if it exists and is not empty, or cannot be written.
    """
    _make_folder(folder)
    try:
        write_whole(folder / "versions.json", json.dumps(versions(), indent=2) + "\n")
        write_config(folder, config)
    except (OSError, ValueError) as error:
        raise UserError(f"output {folder} cannot be written: {error}") from error


@contextlib.contextmanager
def new_run(folder: Path, config: Mapping[str, Any]) -> Iterator[None]:
    """Create a run folder that is locked for this process from before its first file.

    Raises:
        UserError: as :func:`create_run_folder` and :func:`locked`.
    """
    _make_folder(folder)
    with locked(folder):
        create_run_folder(folder, config)  # refuses a run that another process has finished
        yield


def _make_folder(folder: Path) -> None:
    """Make a folder that does not exist; refuse one that has files."""
    refuse_occupied(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise UserError(f"output {folder} cannot be written: {error}") from error


def refuse_occupied(folder: Path, *, resumable: bool = False) -> None:
    """Check that a folder of a new run does not exist or is empty.

    Args:
        folder: of the run.
        resumable: whether the message names the flag that resumes a run in the folder.

    Raises:
        UserError: if it has files, or cannot be read.
    """
    try:
        occupied = folder.exists() and not _is_unfinished(folder)
    except (OSError, ValueError) as error:
        raise UserError(f"output {folder} cannot be written: {error}") from error
    if occupied:
        is_run = resumable and (folder / "progress.csv").is_file()
        resume = f"--resume {shlex.quote(str(folder))}"
        advice = f", or resume the run in it with {resume}" if is_run else ""
        what = "exists and is not empty" if folder.is_dir() else "is not a folder"
        raise UserError(f"output {folder} {what}: choose another{advice}")


def _is_unfinished(folder: Path) -> bool:
    """Whether a folder is empty or its creation was interrupted."""
    return folder.is_dir() and all(path.name in _UNFINISHED for path in folder.iterdir())


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write the resolved configuration to ``config.yaml``, atomically."""
    write_whole(folder / "config.yaml", to_yaml(dict(config)))


def read_config(folder: Path) -> dict[str, Any]:
    """Read the resolved configuration of a run.

    Raises:
        UserError: if the folder is not a run, or its configuration cannot be read.
    """
    path = folder / "config.yaml"
    if not os.path.isfile(path):
        levels = ("*/config.yaml", "*/*/config.yaml")
        runs = sorted(str(file.parent) for level in levels for file in folder.glob(level))
        more = ", ..." if len(runs) > 5 else ""
        hint = f", but these runs are in it: {', '.join(runs[:5])}{more}" if runs else ""
        raise UserError(f"{folder} is not a run folder: it has no config.yaml{hint}")
    config = read_yaml(path)
    if not config:
        raise UserError(f"{path} is empty")
    return config


def versions() -> dict[str, str | None]:
    """Return :func:`package_versions`, and the source commit in a checkout."""
    result = package_versions()
    source = Path(__file__).resolve().parents[2]
    if (source / ".git").exists():
        command = ["git", "-C", str(source), "rev-parse", "HEAD"]
        with contextlib.suppress(OSError):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            result["commit"] = done.stdout.strip() or None
    return result


def package_versions() -> dict[str, str | None]:
    """Return the versions of Python and of packages that affect results."""
    result: dict[str, str | None] = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            result[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            result[package] = None
    return result


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock the run folder for this process. The kernel releases the lock when the process ends.

    If the file system does not support locks, warn and continue without.

    Raises:
        UserError: if another process holds the lock, or the folder cannot be written.
    """
    try:
        import fcntl
    except ImportError:  # Windows has no flock: a second process is not detected there
        yield
        return
    with contextlib.ExitStack() as opened:
        try:
            # no links: a downloaded run folder could have one that leads out of it
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
            descriptor = os.open(folder / ".lock", flags, 0o666)
            opened.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"another process is training in {folder}") from error
        except OSError as error:
            if error.errno not in {*UNSUPPORTED, errno.ENOLCK}:
                raise UserError(f"{folder} cannot be locked for training: {error}") from error
            warnings.warn(
                f"the file system of {folder} has no locks ({error.strerror}): a second training "
                "in this folder would not be noticed",
                MamlRLWarning,
                stacklevel=4,  # the code that enters the context
            )
        yield


def run_config(run: Path) -> Config:
    """Return the configuration of a run.

    Raises:
        UserError: if there is no such run, or its configuration is invalid.
    """
    run = user_path(run)
    if not os.path.isdir(run):
        raise UserError(f"there is no run folder {run}")
    source = str(run / "config.yaml")
    return resolve(migrated(read_config(run), source), [], source)
