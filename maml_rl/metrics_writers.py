"""Writers for Stable-Baselines3's Logger that go on where a checkpoint left off.

Its own writers truncate progress.csv and repeat TensorBoard steps when a run is resumed. These append, after cutting
back whatever was written beyond the checkpoint.
"""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any, NamedTuple

from stable_baselines3.common.logger import KVWriter, Logger
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter

from maml_rl.errors import UserError

STEP = "time/iteration"


class AnimatedImage(NamedTuple):
    """A GIF among the metrics: TensorBoard shows it, progress.csv leaves it out."""

    gif: bytes
    height: int
    width: int


class AppendingCSVWriter(KVWriter):
    """progress.csv: one row per meta-iteration, a column per metric; new metrics add columns.

    Args:
        path: the file.
        last_step: rows of later steps are cut off.
    """

    def __init__(self, path: Path, last_step: int) -> None:
        self._path = path
        self._rows: list[dict[str, Any]] = []
        self._columns = [STEP]
        if path.exists():
            try:
                with path.open(newline="") as file:
                    reader = csv.DictReader(file)
                    self._columns = list(reader.fieldnames or [STEP])
                    self._rows = [row for row in reader if _is_step(row, last_step)]
            except (OSError, UnicodeDecodeError, csv.Error) as error:
                raise UserError(f"{path} cannot be read: {error}") from error
        self._rewrite()

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Append a row."""
        numbers = {key: value for key, value in key_values.items() if not isinstance(value, AnimatedImage)}
        row = {STEP: step, **numbers}
        self._rows.append(row)
        new = [key for key in row if key not in self._columns]
        if new:
            self._columns += sorted(new)
            self._rewrite()
        else:
            with self._path.open("a", newline="") as file:
                csv.DictWriter(file, self._columns).writerow(row)

    def _rewrite(self) -> None:
        temporary = self._path.with_suffix(".tmp")
        with temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(self._rows)
        os.replace(temporary, self._path)

    def close(self) -> None:
        """Every row is on disk already."""


def _is_step(row: dict[str, Any], last_step: int) -> bool:
    """Whether a row read from disk is whole and not beyond ``last_step``."""
    step = row.get(STEP) or ""
    return step.isdigit() and int(step) <= last_step and None not in row and None not in row.values()


class TensorBoardWriter(KVWriter):
    """TensorBoard scalars and animated images. Events beyond ``last_step`` are cut from the files that are there.

    Args:
        folder: of the event files.
        last_step: the step of the checkpoint that the run goes on from; 0 for none.
    """

    def __init__(self, folder: Path, last_step: int) -> None:
        for path in sorted(folder.glob("events.out.tfevents.*")):
            _cut_events(path, last_step)
        self._writer = SummaryWriter(str(folder))

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Write every metric at ``step``."""
        for key, value in key_values.items():
            if isinstance(value, AnimatedImage):
                image = Summary.Image(
                    height=value.height, width=value.width, colorspace=3, encoded_image_string=value.gif
                )
                summary = Summary(value=[Summary.Value(tag=key, image=image)])
                self._writer._get_file_writer().add_summary(summary, step)
            elif "tensorboard" not in (key_excluded.get(key) or ()):
                self._writer.add_scalar(key, value, step)
        self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()


def _cut_events(path: Path, last_step: int) -> None:
    """Rewrite an event file without events beyond ``last_step`` and without a half-written end."""
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    kept = [raw for raw in RawEventFileLoader(str(path)).Load() if Event.FromString(raw).step <= last_step]
    temporary = path.parent / f".{path.name}.tmp"
    with temporary.open("wb") as file:
        writer = RecordWriter(file)
        for raw in kept:
            writer.write(raw)
        writer.flush()
    os.replace(temporary, path)


def make_logger(folder: Path, last_step: int) -> Logger:
    """Stable-Baselines3's Logger, writing progress.csv and TensorBoard events into a run folder."""
    return Logger(
        str(folder),
        [AppendingCSVWriter(folder / "progress.csv", last_step), TensorBoardWriter(folder, last_step)],
    )
