"""progress.csv and TensorBoard continue from a checkpoint: no step twice, none missing."""

from __future__ import annotations

import csv
import os
import time
from pathlib import Path

import pytest
from helpers.runs import scalars, tensorboard_series
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.record_writer import RecordWriter

from maml_rl.errors import UserError
from maml_rl.runs.progress_log import (
    AnimatedImage,
    AppendingCSV,
    EventFile,
    ProgressLog,
)
from maml_rl.runs.progress_table import ITERATION


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "progress.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def event_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("events.out.tfevents.*"))


def log(
    folder: Path, last_step: int, steps: range, tag: str = "train/x", sign: float = 1.0
) -> None:
    progress = ProgressLog(folder, last_step, {"seed": 1})
    for step in steps:
        progress.write(step, {tag: sign * step}, {})


def test_rows_and_scalars_are_written(tmp_path):
    log(tmp_path, 0, range(1, 4))
    assert [(row[ITERATION], row["train/x"]) for row in rows(tmp_path)] == [
        ("1", "1.0"),
        ("2", "2.0"),
        ("3", "3.0"),
    ]
    assert scalars(tmp_path) == {"train/x": [(1, 1.0), (2, 2.0), (3, 3.0)]}


def test_a_row_is_on_disk_at_once(tmp_path):
    table = AppendingCSV(tmp_path / "progress.csv", 0)
    table.append(1, [{"train/x": 1.0}])
    assert [row[ITERATION] for row in rows(tmp_path)] == ["1"]


def test_a_scalar_is_on_disk_at_once(tmp_path):
    events = EventFile(tmp_path, 0)
    events.write(1, {"train/x": 2.0})
    assert scalars(tmp_path) == {"train/x": [(1, 2.0)]}


@pytest.mark.parametrize("last_step", [0, 2, 5, 9])
def test_what_lies_beyond_the_checkpoint_is_cut(tmp_path, last_step):
    log(tmp_path, 0, range(1, 6))
    log(tmp_path, last_step, range(last_step + 1, 8), sign=-1.0)
    expected = [(step, float(step)) for step in range(1, min(last_step, 5) + 1)]
    expected += [(step, -float(step)) for step in range(last_step + 1, 8)]
    assert [(int(row[ITERATION]), float(row["train/x"])) for row in rows(tmp_path)] == expected
    assert scalars(tmp_path) == {"train/x": expected}


def test_animated_images_go_to_tensorboard_alone_and_are_cut_too(tmp_path):
    for last_step, steps, gif in ((0, (2, 4), b"GIF89a old"), (3, (4, 5), b"GIF89a new")):
        progress = ProgressLog(tmp_path, last_step, {"seed": 1})
        image = AnimatedImage(gif, 30, 40)
        for step in steps:
            progress.write(step, {"train/x": 1.0}, {"videos/adaptation": image})
    images = tensorboard_series(tmp_path)["videos/adaptation"]
    assert [(step, list(image)) for step, image in images] == [
        (2, [b"40", b"30", b"GIF89a old"]),
        (4, [b"40", b"30", b"GIF89a new"]),
        (5, [b"40", b"30", b"GIF89a new"]),
    ]
    assert [set(row) for row in rows(tmp_path)] == [{ITERATION, "train/x"}] * 3


def test_interrupted_twice_nothing_is_repeated(tmp_path):
    log(tmp_path, 0, range(1, 4))
    log(tmp_path, 2, range(3, 7))
    log(tmp_path, 4, range(5, 8))
    assert [row[ITERATION] for row in rows(tmp_path)] == [str(step) for step in range(1, 8)]
    assert scalars(tmp_path) == {"train/x": [(step, float(step)) for step in range(1, 8)]}


def test_a_new_metric_adds_a_column(tmp_path):
    log(tmp_path, 0, range(1, 3))
    log(tmp_path, 2, range(3, 4), tag="evaluation/y")
    log(tmp_path, 3, range(4, 5))
    assert [(row["train/x"], row["evaluation/y"]) for row in rows(tmp_path)] == [
        ("1.0", ""),
        ("2.0", ""),
        ("", "3.0"),
        ("4.0", ""),
    ]


def test_every_half_written_row_is_survived(tmp_path):
    log(tmp_path, 0, range(1, 4))
    path = tmp_path / "progress.csv"
    whole = path.read_bytes()
    start_of_last = whole.rstrip().rindex(b"\n") + 1
    for size in range(start_of_last, len(whole)):
        path.write_bytes(whole[:size])
        log(tmp_path, 2, range(3, 4))
        assert path.read_bytes() == whole, f"cut at byte {size}"


def test_every_half_written_event_is_survived(tmp_path):
    log(tmp_path, 0, range(1, 4))
    (path,) = event_files(tmp_path)
    whole = path.read_bytes()
    for size in range(len(whole) - 40, len(whole)):  # a record is longer than that
        for file in event_files(tmp_path):
            file.unlink()
        path.write_bytes(whole[:size])
        log(tmp_path, 2, range(3, 4))
        assert scalars(tmp_path) == {"train/x": [(1, 1.0), (2, 2.0), (3, 3.0)]}, (
            f"cut at byte {size}"
        )


@pytest.mark.parametrize("tail", [b"\x00" * 512, b"garbage" * 20])
def test_a_garbled_end_of_events_is_survived(tmp_path, tail):
    log(tmp_path, 0, range(1, 3))
    (path,) = event_files(tmp_path)
    path.write_bytes(path.read_bytes() + tail)
    log(tmp_path, 2, range(3, 4))
    assert scalars(tmp_path) == {"train/x": [(1, 1.0), (2, 2.0), (3, 3.0)]}


@pytest.mark.parametrize("name", ["progress.csv", "events"])
def test_an_empty_file_is_survived(tmp_path, name):
    log(tmp_path, 0, range(1, 3))
    path = event_files(tmp_path)[0] if name == "events" else tmp_path / name
    path.write_bytes(b"")
    log(tmp_path, 2, range(3, 4))
    assert rows(tmp_path)[-1] == {ITERATION: "3", "train/x": "3.0"}
    assert scalars(tmp_path)["train/x"][-1] == (3, 3.0)


@pytest.mark.skipif(os.name == "nt", reason="POSIX links")
def test_a_table_on_a_disk_that_is_not_mounted_is_not_begun_again(tmp_path):
    path = tmp_path / "progress.csv"
    path.symlink_to(tmp_path / "unmounted" / "progress.csv")
    with pytest.raises(UserError, match=r"progress\.csv cannot be read"):
        AppendingCSV(path, 3)
    assert path.is_symlink()


@pytest.mark.parametrize("clock_s", [0.0, -100.0])
def test_each_step_is_shown_once_after_resumes_within_a_second_or_with_a_clock_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock_s: float
) -> None:
    for i in range(12):
        monkeypatch.setattr(time, "time", lambda now=1e9 + i * clock_s: now)
        log(tmp_path, i, range(i + 1, i + 4))
    assert scalars(tmp_path) == {"train/x": [(step, float(step)) for step in range(1, 15)]}


def test_events_without_a_start_are_discarded_too(tmp_path: Path) -> None:
    """Runs of earlier versions have no START event, and TensorBoard ignores the first one."""
    log(tmp_path, 0, range(1, 6))
    (path,) = event_files(tmp_path)
    kept = [
        raw
        for raw in RawEventFileLoader(str(path)).Load()
        if not Event.FromString(raw).HasField("session_log")
    ]
    with path.open("wb") as file:
        for raw in kept:
            RecordWriter(file).write(raw)
    log(tmp_path, 3, range(4, 8), sign=-1.0)
    expected = [(step, step if step < 4 else -step) for step in range(1, 8)]
    assert scalars(tmp_path) == {"train/x": expected}
