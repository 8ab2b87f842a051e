"""progress.csv and TensorBoard events, which continue when a run is resumed.

A resume removes the rows of progress.csv later than the checkpoint, and makes TensorBoard discard
later events. A call passes its data to the operating system before it returns;
:func:`sync_metrics` waits until the data are on the disk.
"""

from __future__ import annotations

import csv
import io
import os
import re
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.plugins.text.metadata import create_summary_metadata
from tensorboard.summary.writer.record_writer import RecordWriter
from tensorboard.util.tensor_util import make_tensor_proto

from maml_rl.errors import UserError
from maml_rl.runs.progress_table import ITERATION
from maml_rl.system.atomic_files import append, sync, write_whole
from maml_rl.system.safe_yaml import to_yaml
from maml_rl.system.untrusted_files import check_regular

_EVENTS = "events.out.tfevents"
_MAX_STEP_DIGITS = 20
"""Python refuses to parse integers of thousands of digits."""


class AnimatedImage(NamedTuple):
    """A GIF among the metrics: shown in TensorBoard, not written to progress.csv."""

    gif: bytes
    height: int
    width: int


class AppendingCSV:
    """A CSV file of rows that belong to meta-iterations; new columns are added when needed.

    Args:
        path: the file.
        last_step: rows of later meta-iterations are removed.
        columns: initial columns besides the meta-iteration.
    """

    def __init__(self, path: Path, last_step: int, columns: Sequence[str] = ()) -> None:
        self._path = path
        self._columns = [ITERATION, *columns]
        self._write(self._read(last_step))

    def append(self, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows of meta-iteration ``step``."""
        new_rows: list[dict[str, Any]] = [{ITERATION: step, **row} for row in rows]
        new_columns = {key for row in new_rows for key in row} - set(self._columns)
        if new_columns:  # rewrite the file with the longer header
            old_rows = self._read(step)
            self._columns += sorted(new_columns)
            self._write([*old_rows, *new_rows])
        elif new_rows:
            append(self._path, self._lines(new_rows))

    def _read(self, last_step: int) -> list[dict[str, Any]]:
        """Return the rows on disk up to ``last_step``, and adopt the columns of the file."""
        columns, rows = read_rows(self._path, last_step)
        self._columns = columns or self._columns
        return rows

    def _write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        header = dict(zip(self._columns, self._columns, strict=True))
        write_whole(self._path, self._lines([header, *rows]))

    def _lines(self, rows: Iterable[Mapping[str, Any]]) -> bytes:
        text = io.StringIO(newline="")
        csv.DictWriter(text, self._columns).writerows(rows)
        return text.getvalue().encode()


def read_rows(path: Path, last_step: int) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the columns and the complete rows of a file that :class:`AppendingCSV` writes.

    Args:
        path: the file; if it does not exist, there are no columns and no rows.
        last_step: rows of later meta-iterations are left out.

    Raises:
        UserError: if it cannot be read.
    """
    # lexists: a dangling link, as to a disk that is not mounted, is refused below
    if not os.path.lexists(path):
        return [], []
    try:
        check_regular(path)
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            columns = list(reader.fieldnames or [])
            return columns, [row for row in reader if _is_step(row, last_step)]
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(
            f"{path} cannot be read: {error}; delete it to continue without its rows"
        ) from error


def _is_step(row: dict[str, Any], last_step: int) -> bool:
    """Return whether a row is complete and not beyond ``last_step``."""
    step = row.get(ITERATION) or ""
    is_number = step.isdecimal() and len(step) < _MAX_STEP_DIGITS
    return is_number and int(step) <= last_step and None not in row and None not in row.values()


class EventFile:
    """Write TensorBoard scalars and animated images, each step as one record.

    The event files of earlier processes stay unchanged. Like ``SummaryWriter(purge_step=...)``, a
    ``SessionLog.START`` event makes TensorBoard discard their events beyond ``last_step``.
    SummaryWriter itself is not used: it writes in a background thread, which would report a full
    disk late and elsewhere.

    Args:
        folder: folder of the event files.
        last_step: step of the checkpoint that the run resumes from; 0 for a new run.
    """

    def __init__(self, folder: Path, last_step: int) -> None:
        self._path = _new_event_file(folder)
        self._append(Event(file_version="brain.Event:2"))
        # Write it twice: TensorBoard ignores the first START of a run, and runs of earlier versions
        # have none.
        for _ in range(2):
            restart = SessionLog(status=SessionLog.START)
            self._append(Event(step=last_step + 1, session_log=restart))

    def write_settings(self, settings: Mapping[str, Any], step: int) -> None:
        """Write the settings of the run at ``step``, as text and as hyperparameters.

        Args:
            settings: nested, of plain values. TensorBoard keeps the hyperparameters of the first
                call for a run.
            step: the first step that this process logs, so that a resume discards them with it.
        """
        summary = hparams_pb(dict(_hyperparameters(settings)))
        text = f"```yaml\n{to_yaml(dict(settings))}```"
        summary.value.add(
            tag="config",
            metadata=create_summary_metadata("config", "config.yaml of the run"),
            tensor=make_tensor_proto([text]),
        )
        self._append(Event(step=step, summary=summary))

    def write(self, step: int, metrics: Mapping[str, float | AnimatedImage]) -> None:
        """Write metrics, by tag, at ``step``."""
        summary = Summary()
        for tag, value in metrics.items():
            if isinstance(value, AnimatedImage):
                image = Summary.Image(
                    height=value.height,
                    width=value.width,
                    colorspace=3,
                    encoded_image_string=value.gif,
                )
                summary.value.add(tag=tag, image=image)
            else:
                summary.value.add(tag=tag, simple_value=float(value))
        self._append(Event(step=step, summary=summary))

    def _append(self, event: Event) -> None:
        event.wall_time = time.time()
        record = io.BytesIO()
        RecordWriter(record).write(event.SerializeToString())
        append(self._path, record.getvalue())


def _hyperparameters(
    settings: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, bool | float | str]]:
    """Yield dotted names and values of nested settings; lists are text, null is left out."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _hyperparameters(value, f"{prefix}{name}.")
        elif value is not None:
            is_simple = isinstance(value, (bool, int, float, str))
            yield f"{prefix}{name}", value if is_simple else str(value)


def _event_files(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{_EVENTS}.*"))


def _new_event_file(folder: Path) -> Path:
    """Return a path whose name sorts after all event files: TensorBoard reads them in this order.

    The name starts with the time in seconds, or with the latest time in a name plus 1 if that is
    later, as after a process on a machine whose clock is ahead.
    """
    pattern = re.compile(rf"{re.escape(_EVENTS)}\.(\d{{10}})\.")
    matches = [pattern.match(path.name) for path in _event_files(folder)]
    used = [int(match[1]) for match in matches if match]
    second = max([int(time.time()), *(last + 1 for last in used)])
    return folder / f"{_EVENTS}.{second:010d}.{socket.gethostname()}.{os.getpid()}"


def sync_metrics(folder: Path) -> None:
    """Wait until all logs are on the disk."""
    for path in [folder / "progress.csv", folder / "failures.csv", *_event_files(folder)]:
        if path.exists():
            sync(path)
    sync(folder)


def log_final(folder: Path, step: int, values: Mapping[str, float | AnimatedImage]) -> None:
    """Write results of the final agent to TensorBoard, after the last iteration.

    Args:
        folder: the run folder.
        step: iterations finished.
        values: numbers and images by tag.
    """
    EventFile(folder, last_step=step).write(step, values)


class ProgressLog:
    """Writes the metrics of meta-iterations to progress.csv and as TensorBoard events.

    Args:
        folder: the run folder.
        last_step: step of the checkpoint that the run resumes from; 0 for a new run.
        settings: of the run, nested, for TensorBoard.
    """

    def __init__(self, folder: Path, last_step: int, settings: Mapping[str, Any]) -> None:
        self._table = AppendingCSV(folder / "progress.csv", last_step)
        self._events = EventFile(folder, last_step)
        self._events.write_settings(settings, last_step + 1)

    def write(
        self, step: int, metrics: Mapping[str, float], images: Mapping[str, AnimatedImage]
    ) -> None:
        """Write the metrics of a meta-iteration, and images for TensorBoard, by tag."""
        self._table.append(step, [metrics])
        self._events.write(step, {**metrics, **images})
