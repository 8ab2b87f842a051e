"""Writers for Stable-Baselines3's Logger that go on where a checkpoint left off.

Its own writers truncate progress.csv and repeat TensorBoard steps when a run is resumed. These
append, after cutting back whatever was written beyond the checkpoint. What a call has written is
with the operating system when it returns, and on the disk after :func:`sync_metrics`.
"""

from __future__ import annotations

import csv
import io
import itertools
import os
import socket
import struct
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError
from stable_baselines3.common.logger import KVWriter, Logger
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter, masked_crc32c

from maml_rl.errors import UserError
from maml_rl.system.atomic_files import append, sync, write_whole
from maml_rl.system.untrusted_files import check_regular

STEP = "time/iteration"
_EVENTS = "events.out.tfevents"
_HEADER = struct.Struct(
    "<QI"
)  # of a TensorBoard record: its length in bytes, and the checksum of that
_MOST_DIGITS = 20
"""Of an iteration; Python refuses to read thousands of them."""


class AnimatedImage(NamedTuple):
    """A GIF among the metrics: TensorBoard shows it, progress.csv leaves it out."""

    gif: bytes
    height: int
    width: int


class AppendingCSV:
    """A CSV file of which every row belongs to a meta-iteration; new columns are added as they come.

    Args:
        path: the file.
        last_step: rows of later meta-iterations are cut off.
        columns: that it has from the start, beside that of the meta-iteration.
    """

    def __init__(self, path: Path, last_step: int, columns: Sequence[str] = ()) -> None:
        self._path = path
        self._columns = [STEP, *columns]
        self._write(self._read(last_step))

    def append(self, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows of meta-iteration ``step``."""
        added: list[dict[str, Any]] = [{STEP: step, **row} for row in rows]
        new = {key for row in added for key in row if key not in self._columns}
        if new:
            there = self._read(step)
            self._columns += sorted(new)
            self._write([*there, *added])
        elif added:
            append(self._path, self._lines(added))

    def _read(self, last_step: int) -> list[dict[str, Any]]:
        """The rows on disk up to ``last_step``; their columns come first from now on."""
        if not os.path.lexists(self._path):  # a link to a disk that is not mounted is refused below
            return []
        try:
            check_regular(self._path)
            with self._path.open(newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                self._columns = list(reader.fieldnames or self._columns)
                return [row for row in reader if _is_step(row, last_step)]
        except (OSError, ValueError, csv.Error) as error:
            raise UserError(
                f"{self._path} cannot be read: {error}; delete it to continue without its rows"
            ) from error

    def _write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        header = dict(zip(self._columns, self._columns, strict=True))
        write_whole(self._path, self._lines([header, *rows]))

    def _lines(self, rows: Iterable[Mapping[str, Any]]) -> bytes:
        text = io.StringIO(newline="")
        csv.DictWriter(text, self._columns).writerows(rows)
        return text.getvalue().encode()


class AppendingCSVWriter(KVWriter):
    """progress.csv: one row per meta-iteration, a column per metric.

    Args:
        path: the file.
        last_step: rows of later steps are cut off.
    """

    def __init__(self, path: Path, last_step: int) -> None:
        self._file = AppendingCSV(path, last_step)

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0
    ) -> None:
        """Append a row."""
        row = {
            key: value for key, value in key_values.items() if not isinstance(value, AnimatedImage)
        }
        self._file.append(step, [row])

    def close(self) -> None:
        """Every row is on disk already."""


def _is_step(row: dict[str, Any], last_step: int) -> bool:
    """Whether a row read from disk is whole and not beyond ``last_step``."""
    step = row.get(STEP) or ""
    is_number = step.isdecimal() and len(step) < _MOST_DIGITS
    return is_number and int(step) <= last_step and None not in row and None not in row.values()


class TensorBoardWriter(KVWriter):
    """TensorBoard scalars and animated images. Events beyond ``last_step`` are cut from the files that are there.

    A step is one record, written at once: TensorBoard's own writer has a thread and a buffer, so
    that a full disk shows late and elsewhere.

    Args:
        folder: of the event files.
        last_step: the step of the checkpoint that the run goes on from; 0 for none.
    """

    def __init__(self, folder: Path, last_step: int) -> None:
        for path in _event_files(folder):
            _cut_events(path, last_step)
        self._path = _new_event_file(folder)
        self._append(Event(file_version="brain.Event:2"))

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0
    ) -> None:
        """Write every metric at ``step``."""
        summary = Summary()
        for key, value in key_values.items():
            if isinstance(value, AnimatedImage):
                image = Summary.Image(
                    height=value.height,
                    width=value.width,
                    colorspace=3,
                    encoded_image_string=value.gif,
                )
                summary.value.add(tag=key, image=image)
            elif "tensorboard" not in (key_excluded.get(key) or ()):
                summary.value.add(tag=key, simple_value=float(value))
        self._append(Event(step=step, summary=summary))

    def _append(self, event: Event) -> None:
        event.wall_time = time.time()
        append(self._path, _records([event.SerializeToString()]))

    def close(self) -> None:
        """Every event is on disk already."""


def _event_files(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{_EVENTS}.*"))


def _new_event_file(folder: Path) -> Path:
    """An empty file under a name that none had: TensorBoard reads them in the order of their names."""
    stem = f"{_EVENTS}.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
    for path in (folder / f"{stem}.{i}" for i in itertools.count()):
        try:
            path.touch(exist_ok=False)
        except FileExistsError:
            continue
        return path
    raise AssertionError("the count never ends")


def _records(events: Iterable[bytes]) -> bytes:
    """Events as they stand in a file."""
    content = io.BytesIO()
    writer = RecordWriter(content)
    for event in events:
        writer.write(event)
    return content.getvalue()


def _cut_events(path: Path, last_step: int) -> None:
    """Rewrite an event file without events beyond ``last_step`` and without a half-written end, if it has any.

    Raises:
        UserError: it cannot be read, or holds something else than events.
    """
    try:
        size = check_regular(path)
        kept = _records(
            raw for raw in _whole_records(path, size) if Event.FromString(raw).step <= last_step
        )
    except (OSError, ValueError, DecodeError) as error:
        raise UserError(
            f"{path} cannot be read: {error}; delete it to continue without its events"
        ) from error
    if len(kept) != size:
        write_whole(path, kept)


def _whole_records(path: Path, size: int) -> Iterator[bytes]:
    """The records of a file up to the first that is not whole; none is longer than what is left of the file."""
    with path.open("rb") as file:
        while len(header := file.read(_HEADER.size)) == _HEADER.size:
            length, checksum = _HEADER.unpack(header)
            if checksum != masked_crc32c(header[:8]) or length > size - file.tell():
                return
            record, footer = file.read(length), file.read(4)
            if footer != struct.pack("<I", masked_crc32c(record)):
                return
            yield record


def sync_metrics(folder: Path) -> None:
    """Wait until all that was written is on the disk."""
    for path in [folder / "progress.csv", folder / "failures.csv", *_event_files(folder)]:
        if path.exists():
            sync(path)
    sync(folder)


def make_logger(folder: Path, last_step: int) -> Logger:
    """Stable-Baselines3's Logger, writing progress.csv and TensorBoard events into a run folder."""
    return Logger(
        str(folder),
        [
            AppendingCSVWriter(folder / "progress.csv", last_step),
            TensorBoardWriter(folder, last_step),
        ],
    )
