"""Folders of several seeds: runs in seed-0, seed-1, ..., and seeds.yaml with what they share."""

from __future__ import annotations

import os
import shlex
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from maml_rl.errors import MamlRLWarning, UserError
from maml_rl.settings.config import Config, to_mapping
from maml_rl.settings.parser import resolve
from maml_rl.settings.sources import migrated
from maml_rl.system.atomic_files import write_whole
from maml_rl.system.safe_yaml import plain_values, read_yaml, to_yaml

_FILE = "seeds.yaml"
_TEMPORARY_FILE = ".seeds.yaml.tmp"
_OF_RUNS = ("seed", "output")
"""Settings that the runs do not share."""


def seed_run(folder: Path, seed: int) -> Path:
    """Return the run folder of a seed in a folder of several seeds."""
    return folder / f"seed-{seed}"


@dataclass(frozen=True)
class SeedFolder:
    """A folder of runs that differ only in the seed.

    Args:
        path: the folder.
        config: settings that the runs share; seed and output are at their defaults.
        seeds: seeds of the runs that are finished, in training or still to be started.
    """

    path: Path
    config: Config
    seeds: tuple[int, ...]

    def run(self, seed: int) -> Path:
        """Return the run folder of a seed."""
        return seed_run(self.path, seed)

    @property
    def started(self) -> list[Path]:
        """Folders of the runs that have been started."""
        return [run for run in map(self.run, self.seeds) if os.path.isfile(run / "config.yaml")]

    def write(self) -> None:
        """Write seeds.yaml, atomically; make the folder if it does not exist."""
        values = to_mapping(self.config)
        shared = {name: value for name, value in values.items() if name not in _OF_RUNS}
        self.path.mkdir(parents=True, exist_ok=True)
        write_whole(self.path / _FILE, to_yaml({"seeds": list(self.seeds), "config": shared}))

    def remove(self) -> None:
        """Remove seeds.yaml and the folder, unless a run that could not be started left files."""
        if os.path.isdir(self.path) and {path.name for path in self.path.iterdir()} <= {_FILE}:
            (self.path / _FILE).unlink(missing_ok=True)
            self.path.rmdir()


def is_seed_folder(folder: Path) -> bool:
    """Whether a folder is one of several seeds."""
    return os.path.isfile(folder / _FILE)  # False for a name that is too long; Path.is_file raises


def runs_of(folder: Path) -> list[Path]:
    """Return the started runs in a folder of several seeds; for any other folder, itself.

    Warns about seeds whose runs have not been started.

    Raises:
        UserError: if no run has been started, or seeds.yaml cannot be read.
    """
    if not is_seed_folder(folder):
        return [folder]
    listed = read_seed_folder(folder)
    runs = listed.started
    if not runs:
        raise UserError(f"no run in {folder} has been started")
    missing = [str(seed) for seed in listed.seeds if listed.run(seed) not in runs]
    if missing:
        warnings.warn(
            f"{folder} also lists seeds whose runs have not been started: {', '.join(missing)}",
            MamlRLWarning,
            stacklevel=2,
        )
    return runs


def read_seed_folder(folder: Path) -> SeedFolder:
    """Read seeds.yaml.

    Raises:
        UserError: if it cannot be read, or its content is invalid.
    """
    source = folder / _FILE
    values = read_yaml(source)
    seeds, config = values.get("seeds"), values.get("config")
    if not (isinstance(seeds, list) and isinstance(config, dict)):
        raise UserError(f"{source} must hold a list seeds and a mapping config")
    checked = checked_seeds(seeds, f"seeds in {source}")
    return SeedFolder(folder, resolve(migrated(config, str(source)), [], str(source)), checked)


def with_seeds(folder: Path, config: Config, seeds: Sequence[int]) -> SeedFolder:
    """Return a new folder of several seeds, or an existing one with seeds added.

    Args:
        folder: the folder.
        config: settings that the runs share, with seed and output at their defaults.
        seeds: checked seeds.

    Raises:
        UserError: if the folder holds something else, or runs with other settings.
    """
    if not is_seed_folder(folder):
        if os.path.lexists(folder) and not _is_empty(folder):
            what = "exists and is not empty" if folder.is_dir() else "is not a folder"
            raise UserError(f"output {folder} {what}: choose another")
        return SeedFolder(folder, config, tuple(seeds))
    existing = read_seed_folder(folder)
    if existing.started and existing.config != config:
        old, new = to_mapping(existing.config), to_mapping(config)
        names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
        raise UserError(
            f"the runs in {folder} have other settings of {', '.join(names)}: choose another "
            f"output, or resume them as they are with --resume {shlex.quote(str(folder))}"
        )
    return SeedFolder(folder, config, tuple(dict.fromkeys([*existing.seeds, *seeds])))


def _is_empty(folder: Path) -> bool:
    """Whether a folder has no file but that of a process killed while it wrote seeds.yaml."""
    return folder.is_dir() and all(path.name == _TEMPORARY_FILE for path in folder.iterdir())


def checked_seeds(seeds: object, what: str) -> tuple[int, ...]:
    """Return seeds, which must be a list of integers in the range of the setting, all different.

    Args:
        seeds: the seeds; may be a NumPy array.
        what: what they are, for the message.

    Raises:
        UserError: if they are not.
    """
    expected = Config.RANGES["seed"]
    values = plain_values(seeds)
    if isinstance(values, list):
        valid = tuple(seed for seed in values if expected.accepts(seed))
        if valid and len(set(valid)) == len(values):
            return valid
    raise UserError(f"{what} must be different integers, each {expected}, got {seeds!r:.100}")
