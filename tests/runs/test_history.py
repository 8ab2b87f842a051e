"""Files of a history: written once, kept while a checkpoint needs them, read with care."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from maml_rl.errors import UserError
from maml_rl.runs import history as history_module
from maml_rl.runs.checkpoint import save_checkpoint
from maml_rl.runs.checkpoint_files import (
    Best,
    Checkpoint,
    DamagedCheckpoint,
    entry_names,
    load_checkpoint,
)
from maml_rl.runs.history import (
    LARGEST_ENTRY,
    MOST_ENTRIES,
    read_history,
    remove_unneeded,
    write_history,
)
from maml_rl.system.untrusted_files import LONGEST_TEXT

CPU = torch.device("cpu")


def entries(*iterations: int) -> list[dict[str, Tensor]]:
    """Entries with the number of the iteration that made them."""
    return [{"rewards": torch.full((2, 3), float(i)), "i": torch.tensor([i])} for i in iterations]


def save(run: Path, *iterations: int, keep: int = 0, best: Best | None = None) -> Path:
    """Write a checkpoint with the history of these iterations, as a training run does."""
    last = iterations[-1]
    values = {"iteration": last, **write_history(run, entries(*iterations), last)}
    path = save_checkpoint(run / "checkpoints", last, {}, values, keep, best)
    if keep:
        remove_unneeded(run)
    return path


def read(path: Path) -> list[dict[str, Tensor]]:
    return list(read_history(path.parents[1], load_checkpoint(path, CPU), CPU).values())


def names(run: Path) -> list[int]:
    return sorted(
        int(path.name.removesuffix(".safetensors")) for path in (run / "history").iterdir()
    )


def entry_path(run: Path, iteration: int) -> Path:
    return run / "history" / f"{iteration:06d}.safetensors"


def test_a_history_is_read_as_it_was_written(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    entry = {
        "transposed": whole.T,
        "shared": whole,
        "flags": torch.tensor([True, False]),
        "integers": torch.tensor([1, 2], dtype=torch.int32),
        "double": torch.ones(5, dtype=torch.float64),
        "empty": torch.zeros(0, 3),
    }
    values = {"iteration": 7, **write_history(tmp_path, [*entries(6), entry], 7)}
    path = save_checkpoint(tmp_path / "checkpoints", 7, {}, values)
    assert names(tmp_path) == [6, 7]
    first, second = read(path)
    assert first["i"].item() == 6
    assert second.keys() == entry.keys()
    for name, value in entry.items():
        assert second[name].dtype == value.dtype
        assert torch.equal(second[name], value)
        assert second[name].data_ptr() % 64 == 0  # as a tensor that torch made


def test_an_empty_history_writes_and_lists_nothing(tmp_path: Path) -> None:
    assert write_history(tmp_path, (), 3) == {}
    remove_unneeded(tmp_path)
    assert list(tmp_path.iterdir()) == []
    path = save_checkpoint(tmp_path / "checkpoints", 3, {}, {"iteration": 3})
    assert "history" not in json.loads((path / "values.json").read_text())
    assert read(path) == []


def test_an_entry_is_written_once(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    before = {i: entry_path(tmp_path, i).stat() for i in (1, 2)}
    path = save(tmp_path, 1, 2, 3)
    for i, status in before.items():
        after = entry_path(tmp_path, i).stat()
        assert (after.st_ino, after.st_mtime_ns) == (status.st_ino, status.st_mtime_ns)
    assert [int(entry["i"]) for entry in read(path)] == [1, 2, 3]
    assert list(tmp_path.rglob("*.tmp")) == []


@pytest.mark.parametrize("damage", ["values.json", "SHA256SUMS"])
def test_the_sums_of_a_damaged_checkpoint_are_not_copied(tmp_path: Path, damage: str) -> None:
    save(tmp_path, 1)
    newest = save(tmp_path, 1, 2)
    content = (newest / damage).read_text()
    digest = json.loads((newest / "values.json").read_text())["history"]["000002"]
    damaged, replacement = digest, "0" * 64
    if damage == "SHA256SUMS":
        damaged, replacement = content[-80:-20], ""
    (newest / damage).write_text(content.replace(damaged, replacement))
    path = save(tmp_path, 1, 2, 3)
    assert [int(entry["i"]) for entry in read(path)] == [1, 2, 3]


def test_an_entry_that_is_gone_is_written_again(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    shutil.rmtree(tmp_path / "history")
    path = save(tmp_path, 1, 2, 3)
    assert [int(entry["i"]) for entry in read(path)] == [1, 2, 3]


def test_an_entry_of_which_no_checkpoint_knows_is_replaced(tmp_path: Path) -> None:
    """A killed process wrote it before its checkpoint."""
    save(tmp_path, 1, 2)
    write_history(tmp_path, entries(1, 2, 99), 3)
    path = save(tmp_path, 1, 2, 3)
    assert [int(entry["i"]) for entry in read(path)] == [1, 2, 3]


def test_entries_stay_while_a_checkpoint_needs_them(tmp_path: Path) -> None:
    best = Best(3, 0.0)
    for last in range(2, 13):
        save(tmp_path, last - 1, last, keep=2, best=best if last >= 3 else None)
        for checkpoint in (tmp_path / "checkpoints").iterdir():
            number = int(checkpoint.name)
            assert [int(entry["i"]) for entry in read(checkpoint)] == [number - 1, number]
    # Checkpoints 3, 11 and 12
    assert names(tmp_path) == [2, 3, 10, 11, 12]


def test_nothing_is_deleted_while_a_checkpoint_cannot_be_read(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    damaged = save(tmp_path, 3, 4)
    (damaged / "values.json").write_text("{}")
    save(tmp_path, 5, 6, keep=2)
    assert names(tmp_path) == [1, 2, 3, 4, 5, 6]
    save(tmp_path, 7, 8, keep=2)
    assert names(tmp_path) == [5, 6, 7, 8]


def test_files_that_are_not_entries_are_not_deleted(tmp_path: Path) -> None:
    save(tmp_path, 1)
    for name in ("notes.txt", "mine.safetensors"):
        (tmp_path / "history" / name).write_text("")
    save(tmp_path, 2, keep=1)
    stems = {path.name for path in (tmp_path / "history").iterdir()}
    assert stems == {"notes.txt", "mine.safetensors", "000002.safetensors"}


def test_every_flipped_bit_of_an_entry_is_found(tmp_path: Path) -> None:
    path = save(tmp_path, 1, 2)
    entry = entry_path(tmp_path, 2)
    content = entry.read_bytes()
    for bit in range(0, 8 * len(content), 3):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        entry.write_bytes(changed)
        with pytest.raises(UserError, match=r"000002\.safetensors cannot be read.*does not match"):
            read(path)
    entry.write_bytes(content)
    assert len(read(path)) == 2


def oversized(entry: Path) -> None:
    os.truncate(entry, LARGEST_ENTRY + 1)  # a hole: it takes no room on the disk


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (Path.unlink, "No such file"),
    "truncated": (lambda entry: os.truncate(entry, 9), "does not match the sum"),
    "emptied": (lambda entry: entry.write_bytes(b""), "does not match the sum"),
    "oversized": (oversized, f"is larger than {LARGEST_ENTRY} bytes"),
    "folder": (lambda entry: (entry.unlink(), entry.mkdir()), "is not a regular file"),
    "pipe": (lambda entry: (entry.unlink(), os.mkfifo(entry)), "is not a regular file"),
    "loop": (lambda entry: (entry.unlink(), entry.symlink_to(entry)), "symbolic links"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_a_bad_entry_is_refused(tmp_path: Path, damage: Any, message: str) -> None:
    path = save(tmp_path, 1, 2, 3)
    damage(entry_path(tmp_path, 2))
    with pytest.raises(UserError, match=message) as caught:
        read(path)
    assert str(entry_path(tmp_path, 2)) in str(caught.value)
    assert "checkpoint " + str(path) in str(caught.value)
    assert not isinstance(caught.value, DamagedCheckpoint)


class Bomb:
    def __reduce__(self) -> Any:
        return os.mkdir, ("exploded",)


def test_a_pickle_with_the_right_sum_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(history_module, "tensor_bytes", lambda entry: pickle.dumps(Bomb()))
    path = save(tmp_path, 1)
    with pytest.raises(UserError, match=r"000001\.safetensors cannot be read"):
        read(path)
    assert not (tmp_path / "exploded").exists()


def test_a_run_without_its_history_cannot_be_resumed(tmp_path: Path) -> None:
    path = save(tmp_path, 1, 2)
    shutil.rmtree(tmp_path / "history")
    message = "cannot be resumed: it has no folder history, of which checkpoint 000002 needs 2"
    with pytest.raises(UserError, match=message):
        read(path)


@pytest.mark.parametrize(
    "listed",
    [
        None,
        3,
        ["a", "b"],
        {"000001": "a", "000003": "b"},
        {"000003": "a", "000002": "b"},
        {"000003": "a", "000004": "b"},
        {"000001": "a", "000002": "b"},
        {"../secret": "a"},
        {"000003": 5},
        {"000000": "a", "000001": "b", "000002": "c", "000003": "d"},
    ],
)
def test_a_list_that_is_not_one_is_refused(tmp_path: Path, listed: Any) -> None:
    (tmp_path / "history").mkdir()
    checkpoint = Checkpoint(
        tmp_path / "checkpoints" / "000003", {}, {"iteration": 3, "history": listed}
    )
    with pytest.raises(DamagedCheckpoint, match="consecutive iterations up to 3, got"):
        read_history(tmp_path, checkpoint, CPU)


def test_what_could_not_be_read_is_not_written(tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(UserError, match=f"at most {MOST_ENTRIES} entries, got {MOST_ENTRIES + 1}"):
        write_history(tmp_path, [{}] * (MOST_ENTRIES + 1), MOST_ENTRIES + 1)
    monkeypatch.setattr(history_module, "LARGEST_ENTRY", 100)
    with pytest.raises(UserError, match="at most 100 bytes, that of iteration 4 has"):
        write_history(tmp_path, entries(4), 4)
    assert not entry_path(tmp_path, 4).exists()


def test_a_checkpoint_that_lists_the_longest_history_can_be_read(tmp_path: Path) -> None:
    sums = dict.fromkeys(entry_names(MOST_ENTRIES, 10**9), "0" * 64)
    values = {"iteration": 10**9, "history": sums}
    path = save_checkpoint(tmp_path / "checkpoints", 10**9, {}, values)
    assert (path / "values.json").stat().st_size < 0.9 * LONGEST_TEXT
    assert load_checkpoint(path, CPU).history() == sums
