"""Checkpoints: what is written comes back, whole or not at all, and nothing that is read is executed."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from maml_rl import checkpoint as checkpoint_module
from maml_rl.checkpoint import FORMAT_VERSION, latest_checkpoint, load_checkpoint, save_checkpoint
from maml_rl.errors import UserError

CPU = torch.device("cpu")
TENSORS = {
    "theta": {"weight": torch.arange(6.0).reshape(2, 3), "log_std": torch.tensor([0.1, -0.2])},
    "normalizer": {"num_states": torch.tensor(7.0, dtype=torch.float64)},
    "outer": {},
}
VALUES = {"iteration": 3, "num_env_steps": 12345, "nested": {"name": [1, "two", None]}}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


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


def test_strided_and_empty_tensors_come_back(tmp_path):
    tensors = {"theta": {"transposed": torch.arange(6.0).reshape(2, 3).T, "empty": torch.zeros(0, 4)}}
    loaded = load_checkpoint(save_checkpoint(tmp_path, 0, tensors, {}), CPU)
    for name, value in tensors["theta"].items():
        assert torch.equal(loaded.tensors["theta"][name], value)


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


@pytest.mark.parametrize("failing", ["save_file", "rename", "fsync"])
def test_a_failed_write_leaves_older_checkpoints_and_no_new_one(tmp_path, monkeypatch, failing):
    save_checkpoint(tmp_path, 1, TENSORS, VALUES)
    before = contents(tmp_path)

    def fail(*args, **kwargs):
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        if failing == "save_file":
            patched.setattr(checkpoint_module, "save_file", fail)
        else:
            patched.setattr(os, failing, fail)
        with pytest.raises(OSError, match="no space"):
            save_checkpoint(tmp_path, 2, TENSORS, VALUES)
    assert not (tmp_path / "000002").exists()
    assert before.items() <= contents(tmp_path).items()
    assert latest_checkpoint(tmp_path) == tmp_path / "000001"

    save_checkpoint(tmp_path, 2, TENSORS, {"iteration": 2})  # what the failure left behind does not stand in the way
    assert load_checkpoint(tmp_path / "000002", CPU).values["iteration"] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000001", "000002"]


def test_a_checkpoint_of_the_same_number_is_replaced(tmp_path):
    save_checkpoint(tmp_path, 1, TENSORS, VALUES)
    save_checkpoint(tmp_path, 1, {"theta": {"weight": torch.ones(2)}}, {"iteration": 1})
    loaded = load_checkpoint(tmp_path / "000001", CPU)
    assert list(loaded.tensors["theta"]) == ["weight"]
    assert torch.equal(loaded.tensors["theta"]["weight"], torch.ones(2))


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
        file.write_bytes({"empty": b"", "half": whole[: len(whole) // 2], "garbage": b"\xff\x00" * 40}[damage])
    with pytest.raises(UserError, match="000003"):
        load_checkpoint(path, CPU)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="000007"):
        load_checkpoint(tmp_path / "000007", CPU)


@pytest.mark.parametrize("version", [FORMAT_VERSION + 1, None, "1"])
def test_another_format_is_refused(tmp_path, version):
    path = save_checkpoint(tmp_path, 3, TENSORS, VALUES)
    (path / "values.json").write_text(json.dumps({**VALUES, "format_version": version}))
    with pytest.raises(UserError, match="format"):
        load_checkpoint(path, CPU)


@pytest.mark.parametrize("text", ["[]", "3", '"text"'])
def test_values_that_are_no_mapping_are_refused(tmp_path, text):
    path = save_checkpoint(tmp_path, 3, TENSORS, VALUES)
    (path / "values.json").write_text(text)
    with pytest.raises(UserError):
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
    with pytest.raises(UserError):
        load_checkpoint(path, CPU)
    assert not fuse.exists()
    shutil.rmtree(path)
