"""Checkpoints: atomic, read back as written, and nothing in them is executed."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from helpers.runs import reseal

from maml_rl.errors import UserError
from maml_rl.runs import checkpoint as checkpoint_module
from maml_rl.runs import checkpoint_files
from maml_rl.runs.checkpoint import (
    latest_checkpoint,
    load_newest,
    quarantine,
    remove_leftovers,
    save_checkpoint,
)
from maml_rl.runs.checkpoint_files import FORMAT_VERSION, DamagedCheckpoint, load_checkpoint

CPU = torch.device("cpu")
TENSORS = {
    "theta": {"weight": torch.arange(6.0).reshape(2, 3), "log_std": torch.tensor([0.1, -0.2])},
    "normalizer": {"num_states": torch.tensor(7.0, dtype=torch.float64)},
    "outer": {},
}
VALUES = {"iteration": 3, "num_env_steps": 12345, "nested": {"name": [1, "two", None]}}


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_tensors_and_values_come_back(tmp_path):
    path = save_checkpoint(tmp_path, 3, TENSORS, VALUES)
    assert path == tmp_path / "000003"
    loaded = load_checkpoint(path, CPU)
    for group in ("theta", "normalizer"):
        assert loaded.tensors[group].keys() == TENSORS[group].keys()
        for name, value in TENSORS[group].items():
            assert loaded.tensors[group][name].dtype == value.dtype
            assert torch.equal(loaded.tensors[group][name], value)
    assert VALUES.items() <= loaded.values.items()
    assert not loaded.tensors.get("outer")


def test_loaded_tensors_are_aligned_as_new_ones(tmp_path):
    """Otherwise the last bits of sums, as in matrix products, differ after a resume."""
    tensors = {"theta": {f"value_{i}": torch.ones(2 * i + 1) for i in range(8)}}
    loaded = load_checkpoint(save_checkpoint(tmp_path, 0, tensors, {}), CPU)
    assert [value.data_ptr() % 64 for value in loaded.tensors["theta"].values()] == [0] * 8


def test_strided_and_empty_tensors_come_back(tmp_path):
    tensors = {
        "theta": {"transposed": torch.arange(6.0).reshape(2, 3).T, "empty": torch.zeros(0, 4)}
    }
    loaded = load_checkpoint(save_checkpoint(tmp_path, 0, tensors, {}), CPU)
    for name, value in tensors["theta"].items():
        assert torch.equal(loaded.tensors["theta"][name], value)


def test_tensors_that_share_memory_come_back(tmp_path):
    """As the meta-parameters and the belief of an agent may."""
    weight = torch.arange(6.0).reshape(2, 3)
    tensors = {"theta": {"weight": weight}, "belief": {"weight": weight[None], "row": weight[1]}}
    loaded = load_checkpoint(save_checkpoint(tmp_path, 0, tensors, {}), CPU)
    for group, part in tensors.items():
        for name, value in part.items():
            assert torch.equal(loaded.tensors[group][name], value)


def test_latest_is_the_highest_number(tmp_path):
    assert latest_checkpoint(tmp_path) is None
    assert latest_checkpoint(tmp_path / "missing") is None
    for iteration in (10, 2, 9):
        save_checkpoint(tmp_path, iteration, TENSORS, VALUES)
    (tmp_path / ".000099.tmp").mkdir()
    (tmp_path / "notes").mkdir()
    assert latest_checkpoint(tmp_path) == tmp_path / "000010"


def test_latest_beyond_six_digits(tmp_path):
    for iteration in (999_999, 1_000_000):
        save_checkpoint(tmp_path, iteration, TENSORS, VALUES)
    latest = latest_checkpoint(tmp_path)
    assert latest is not None
    assert int(latest.name) == 1_000_000


@pytest.mark.parametrize("failing", ["safetensors_bytes", "rename", "fsync", "write", "mkdir"])
def test_a_failed_write_leaves_older_checkpoints_and_no_new_one(tmp_path, monkeypatch, failing):
    save_checkpoint(tmp_path, 1, TENSORS, VALUES)
    before = contents(tmp_path)

    def fail(*args, **kwargs):
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        if failing == "safetensors_bytes":
            patched.setattr(checkpoint_files, failing, fail)
        else:
            patched.setattr(os, failing, fail)
        with pytest.raises(OSError, match="no space"):
            save_checkpoint(tmp_path, 2, TENSORS, VALUES)
    assert not (tmp_path / "000002").exists()
    assert before.items() <= contents(tmp_path).items()
    assert latest_checkpoint(tmp_path) == tmp_path / "000001"

    save_checkpoint(
        tmp_path, 2, TENSORS, {"iteration": 2}
    )  # what the failure left behind does not stand in the way
    assert load_checkpoint(tmp_path / "000002", CPU).values["iteration"] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000001", "000002"]


def test_a_checkpoint_of_the_same_number_is_replaced(tmp_path):
    save_checkpoint(tmp_path, 1, TENSORS, VALUES)
    save_checkpoint(tmp_path, 1, {"theta": {"weight": torch.ones(2)}}, {"iteration": 1})
    loaded = load_checkpoint(tmp_path / "000001", CPU)
    assert list(loaded.tensors["theta"]) == ["weight"]
    assert torch.equal(loaded.tensors["theta"]["weight"], torch.ones(2))
    assert [path.name for path in tmp_path.iterdir()] == ["000001"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_interrupted_replacement_keeps_the_checkpoint(tmp_path, monkeypatch, error):
    save_checkpoint(tmp_path, 1, TENSORS, VALUES)
    before = contents(tmp_path)
    rename = os.rename

    def fail(source, target):
        if source.name.endswith(".tmp"):
            raise error
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(error):
        save_checkpoint(tmp_path, 1, TENSORS, {"iteration": 1})
    if error is KeyboardInterrupt:  # as a kill: nothing is tidied
        assert latest_checkpoint(tmp_path) is None
        remove_leftovers(tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["tensors.safetensors", "values.json"])
@pytest.mark.parametrize("damage", ["missing", "empty", "half", "garbage", "folder"])
def test_damaged_files_are_refused(tmp_path, name, damage):
    path = save_checkpoint(tmp_path, 3, TENSORS, VALUES)
    file = path / name
    whole = file.read_bytes()
    file.unlink()
    if damage == "folder":
        file.mkdir()
    elif damage != "missing":
        file.write_bytes(
            {"empty": b"", "half": whole[: len(whole) // 2], "garbage": b"\xff\x00" * 40}[damage]
        )
    with pytest.raises(UserError, match="000003"):
        load_checkpoint(path, CPU)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="000007"):
        load_checkpoint(tmp_path / "000007", CPU)


@pytest.mark.parametrize("version", [FORMAT_VERSION + 1, None, "1"])
def test_another_format_is_refused(tmp_path, version):
    path = save_checkpoint(tmp_path, 3, TENSORS, VALUES)
    (path / "values.json").write_text(json.dumps({**VALUES, "format_version": version}))
    reseal(path)
    with pytest.raises(UserError, match="format") as refused:
        load_checkpoint(path, CPU)
    assert isinstance(refused.value, DamagedCheckpoint) == (version != FORMAT_VERSION + 1)


@pytest.mark.parametrize("text", ["[]", "3", '"text"'])
def test_values_that_are_no_mapping_are_refused(tmp_path, text):
    path = save_checkpoint(tmp_path, 3, TENSORS, VALUES)
    (path / "values.json").write_text(text)
    reseal(path)
    with pytest.raises(UserError, match="values"):
        load_checkpoint(path, CPU)


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("writer", ["pickle", "torch"])
def test_a_pickle_under_the_name_of_a_checkpoint_is_refused_and_not_run(tmp_path, writer):
    path = save_checkpoint(tmp_path / "checkpoints", 3, TENSORS, VALUES)
    fuse = tmp_path / "exploded"
    if writer == "pickle":
        (path / "tensors.safetensors").write_bytes(pickle.dumps(Bomb(fuse)))
    else:
        torch.save(Bomb(fuse), path / "tensors.safetensors")
    reseal(path)
    with pytest.raises(UserError, match="deserializing"):
        load_checkpoint(path, CPU)
    assert not fuse.exists()
    shutil.rmtree(path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tensors.safetensors", "values.json", "SHA256SUMS"])
def test_every_flipped_bit_is_noticed(tmp_path, name):
    path = save_checkpoint(tmp_path, 3, TENSORS, VALUES)
    whole = (path / name).read_bytes()
    for bit in range(0, 8 * len(whole), 3):
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        (path / name).write_bytes(content)
        try:
            loaded = load_checkpoint(path, CPU)
        except DamagedCheckpoint:
            continue
        assert name == "SHA256SUMS", (
            f"bit {bit}"
        )  # in the blank before a name, say, where it says nothing
        assert loaded.values["iteration"] == 3


@pytest.mark.parametrize("header", ["length", "shape", "offsets"])
def test_a_header_that_claims_more_than_there_is_is_refused(tmp_path, header):
    """Also where nothing else tells: the sums agree. Nothing of that size could be allocated."""
    path = save_checkpoint(tmp_path, 3, {"theta": {"a": torch.zeros(2)}}, VALUES)
    size, end = 1 << 50, (1 << 52 if header == "offsets" else 8)
    shape = [size] if header in ("shape", "offsets") else [2]
    text = json.dumps(
        {"theta/a": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}
    ).encode()
    length = size if header == "length" else len(text)
    (path / "tensors.safetensors").write_bytes(length.to_bytes(8, "little") + text + bytes(8))
    reseal(path)
    with pytest.raises(DamagedCheckpoint, match="000003"):
        load_checkpoint(path, CPU)


@pytest.mark.parametrize(
    "text",
    ['{"x": NaN}', '{"x": -Infinity}', '{"x": 1e999}', '{"x": ' + "9" * 5000 + "}", "[" * 99999],
)
def test_values_that_json_or_python_cannot_mean_are_refused(tmp_path, text):
    path = save_checkpoint(tmp_path, 3, TENSORS, VALUES)
    (path / "values.json").write_text(text)
    reseal(path)
    with pytest.raises(DamagedCheckpoint):
        load_checkpoint(path, CPU)
    with pytest.raises(ValueError, match="Out of range"):
        save_checkpoint(tmp_path, 4, TENSORS, {"x": float("nan")})


def test_values_of_absurd_size_are_refused_unread(tmp_path):
    path = save_checkpoint(tmp_path, 3, TENSORS, VALUES)
    with (path / "values.json").open("r+b") as file:
        file.truncate(1 << 33)  # eight gigabytes that take no room
    (path / "SHA256SUMS").unlink()
    with pytest.raises(DamagedCheckpoint, match="longer than"):
        load_checkpoint(path, CPU)


def test_the_newest_are_kept(tmp_path):
    for iteration in range(1, 6):
        save_checkpoint(tmp_path, iteration, TENSORS, VALUES, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000004", "000005"]


def test_format_1_still_loads(tmp_path):
    path = save_checkpoint(tmp_path, 3, TENSORS, VALUES)
    (path / "SHA256SUMS").unlink()
    with pytest.raises(DamagedCheckpoint, match="SHA256SUMS is missing"):
        load_checkpoint(path, CPU)
    (path / "values.json").write_text(json.dumps({**VALUES, "format_version": 1}))
    assert torch.equal(
        load_checkpoint(path, CPU).tensors["theta"]["weight"], TENSORS["theta"]["weight"]
    )


def test_a_newer_format_is_not_passed_over(tmp_path):
    save_checkpoint(tmp_path, 3, TENSORS, VALUES)
    path = save_checkpoint(tmp_path, 4, TENSORS, VALUES)
    (path / "values.json").write_text(json.dumps({**VALUES, "format_version": FORMAT_VERSION + 1}))
    reseal(path)
    with pytest.raises(UserError, match="000004 has format 3"):
        load_newest(tmp_path, CPU)


def make_odd(path: Path, kind: str) -> None:
    """Put something else where a checkpoint is expected."""
    if kind == "dangling link":
        path.symlink_to(path.with_name("unmounted"))
    elif kind == "link loop":
        path.symlink_to(path)
    elif kind == "file":
        path.write_text("")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "files that are fifos":
        path.mkdir()
        for name in ("tensors.safetensors", "values.json", "SHA256SUMS"):
            os.mkfifo(path / name)
    else:
        path.mkdir()
    if kind == "files that are dangling links":
        for name in ("tensors.safetensors", "values.json", "SHA256SUMS"):
            (path / name).symlink_to(path / "unmounted")


ODD_KINDS = [
    "dangling link",
    "link loop",
    "file",
    "fifo",
    "empty folder",
    "files that are fifos",
    "files that are dangling links",
]


@pytest.mark.skipif(os.name == "nt", reason="POSIX links and pipes")
@pytest.mark.parametrize("name", ["000005", "9" * 200])
@pytest.mark.parametrize("kind", ODD_KINDS)
def test_an_odd_entry_is_named_and_the_sound_one_before_is_used(tmp_path, kind, name):
    sound = save_checkpoint(tmp_path, 4, TENSORS, VALUES)
    odd = tmp_path / name
    make_odd(odd, kind)
    newest = load_newest(tmp_path, CPU)
    assert newest is not None
    assert newest.checkpoint.path == sound
    assert [error.path for error in newest.damaged] == [odd]
    assert "\n" not in str(newest.damaged[0])
    # Twice: the second one replaces what the first one left.
    for _ in range(2):
        aside = quarantine(odd)
        assert os.path.lexists(aside)
        assert not os.path.lexists(odd)
        make_odd(odd, kind)


@pytest.mark.skipif(os.name == "nt", reason="POSIX links and pipes")
@pytest.mark.parametrize("kind", ODD_KINDS)
def test_odd_entries_alone_are_each_named(tmp_path, kind):
    for name in ("000004", "000005"):
        make_odd(tmp_path / name, kind)
    with pytest.raises(UserError, match=r"no sound checkpoint.*000005.*000004"):
        load_newest(tmp_path, CPU)


@pytest.mark.skipif(os.name == "nt", reason="POSIX links and pipes")
@pytest.mark.parametrize("kind", ODD_KINDS)
@pytest.mark.parametrize("name", ["000005", ".000005.tmp", ".000005.old"])
def test_odd_entries_are_replaced_by_what_is_written(tmp_path, kind, name):
    make_odd(tmp_path / name, kind)
    path = save_checkpoint(tmp_path, 5, TENSORS, VALUES, keep=2)
    weight = load_checkpoint(path, CPU).tensors["theta"]["weight"]
    assert torch.equal(weight, TENSORS["theta"]["weight"])
    remove_leftovers(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["000005"]


def test_an_unreadable_checkpoint_is_named_and_the_one_before_is_used(tmp_path, monkeypatch):
    sound = save_checkpoint(tmp_path, 4, TENSORS, VALUES)
    unreadable = save_checkpoint(tmp_path, 5, TENSORS, VALUES)
    original = checkpoint_files.read_text

    def read_text(path: Path) -> str:
        if path.parent == unreadable:  # permissions do not bind every user that tests
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return original(path)

    monkeypatch.setattr(checkpoint_files, "read_text", read_text)
    newest = load_newest(tmp_path, CPU)
    assert newest is not None
    assert newest.checkpoint.path == sound
    assert "Permission denied" in str(newest.damaged[0])


@pytest.mark.skipif(os.name == "nt", reason="POSIX links")
@pytest.mark.parametrize("kind", ["dangling link", "link loop", "file", "unreadable"])
def test_an_unreadable_folder_of_checkpoints_is_not_an_empty_one(tmp_path, monkeypatch, kind):
    """Taken for a run without checkpoints, it would be trained again from scratch."""
    folder = tmp_path / "checkpoints"
    if kind == "unreadable":
        save_checkpoint(folder, 4, TENSORS, VALUES)

        def refuse(*arguments, **options):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))

        monkeypatch.setattr(os, "listdir", refuse)
        monkeypatch.setattr(os, "scandir", refuse)
    else:
        make_odd(folder, kind)
    for read in (lambda: load_newest(folder, CPU), lambda: latest_checkpoint(folder)):
        with pytest.raises(UserError, match="checkpoints cannot be read"):
            read()
    assert load_newest(tmp_path / "none", CPU) is None


def test_a_checkpoint_that_is_removed_while_it_is_read_is_passed_over(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, 4, TENSORS, VALUES)
    original = checkpoint_module.load_checkpoint

    def load(path: Path, device: torch.device):
        if path.name == "000004":
            shutil.rmtree(path)
            save_checkpoint(tmp_path, 5, TENSORS, VALUES)
        return original(path, device)

    monkeypatch.setattr(checkpoint_module, "load_checkpoint", load)
    newest = load_newest(tmp_path, CPU)
    assert newest is not None
    assert newest.checkpoint.path.name == "000005"
    assert newest.damaged == ()
