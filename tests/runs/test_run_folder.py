"""A run folder: where it is, what describes it, and that one process at a time writes to it."""

from __future__ import annotations

import errno
import importlib.metadata
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import maml_rl
from maml_rl.errors import UserError
from maml_rl.runs.run_folder import (
    create_run_folder,
    locked,
    new_default_folder,
    new_run,
    read_config,
    read_yaml,
)
from maml_rl.settings.config import to_mapping


@pytest.mark.parametrize("name", ["PointNavigation", "Pendulum-v1", "my_package:envs/Reach-v0"])
def test_the_default_folder_names_environment_and_seed(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = new_default_folder(name, 7)
    assert folder.parts[0] == "runs"
    assert len(folder.parts) == 3
    assert ":" not in str(folder)
    assert folder.name.endswith("-7")


def test_a_new_folder_describes_the_run(tmp_path):
    config = to_mapping(maml_rl.load_config(env="PointNavigation", seed=3))
    folder = tmp_path / "a" / "b"
    create_run_folder(folder, config)
    assert yaml.safe_load((folder / "config.yaml").read_text()) == config
    assert read_config(folder) == config
    versions = json.loads((folder / "versions.json").read_text())
    assert versions["torch"] == importlib.metadata.version("torch")
    assert {"python", "maml-rl", "gymnasium", "mujoco", "numpy"} <= {
        key for key, value in versions.items() if value
    }


def test_an_empty_folder_is_taken(tmp_path):
    create_run_folder(tmp_path, {"seed": 1})
    assert read_config(tmp_path) == {"seed": 1}


@pytest.mark.parametrize("present", ["file in it", "hidden file in it", "file"])
def test_a_folder_that_holds_something_is_refused_untouched(tmp_path, present):
    folder = tmp_path / "run"
    kept = (
        folder
        if present == "file"
        else folder / (".hidden" if "hidden" in present else "thesis.txt")
    )
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("precious")
    message = "is not a folder" if present == "file" else "is not empty"
    with pytest.raises(UserError, match=message):
        create_run_folder(folder, {"seed": 1})
    assert kept.read_text() == "precious"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [kept]


def test_the_runs_below_a_folder_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for run in ("runs/adapted", "runs/HalfCheetahVel/20261128-101500-0", "runs/a/b/too_deep"):
        Path(run).mkdir(parents=True)
        (Path(run) / "config.yaml").touch()
    with pytest.raises(UserError) as refused:
        read_config(Path("runs"))
    assert str(refused.value) == (
        "runs is not a run folder: it has no config.yaml, but these runs are in it: "
        "runs/HalfCheetahVel/20261128-101500-0, runs/adapted"
    )


def test_a_folder_below_a_file_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        create_run_folder(tmp_path / "file" / "run", {})


def test_a_folder_without_configuration_is_no_run(tmp_path):
    with pytest.raises(UserError, match=r"config\.yaml"):
        read_config(tmp_path)


def test_an_empty_configuration_is_no_run(tmp_path):
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(UserError, match=r"config\.yaml"):
        read_config(tmp_path)


@pytest.mark.parametrize(
    "text", ["- 1\n- 2\n", "text", "3", "a: [1", "a: b: c", "\t", "!!python/object:os.system {}"]
)
def test_a_file_that_holds_no_mapping_is_refused(tmp_path, text):
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"settings\.yaml"):
        read_yaml(path)


def test_a_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_bytes(b"\xff\xfe\x00seed")
    with pytest.raises(UserError, match=r"settings\.yaml"):
        read_yaml(path)


def test_an_empty_file_sets_nothing(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("# nothing\n")
    assert read_yaml(path) == {}


def test_the_lock_is_held_and_released(tmp_path):
    with locked(tmp_path), pytest.raises(UserError, match="another process"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_a_new_run_is_locked_before_its_first_file(tmp_path):
    with new_run(tmp_path / "run", {"seed": 1}):
        assert read_config(tmp_path / "run") == {"seed": 1}
        with pytest.raises(UserError, match="another process"), locked(tmp_path / "run"):
            pass
    # by another process, which has not written anything yet
    (tmp_path / "other").mkdir()
    with (
        locked(tmp_path / "other"),
        pytest.raises(UserError, match="another process"),
        new_run(tmp_path / "other", {"seed": 1}),
    ):
        pass
    assert [path.name for path in (tmp_path / "other").iterdir()] == [".lock"]


@pytest.mark.slow
def test_a_lock_dies_with_its_process(tmp_path):
    script = (
        "import os, sys; from pathlib import Path; from maml_rl.runs.run_folder import locked\n"
        "with locked(Path(sys.argv[1])):\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="another process"), locked(tmp_path):
            pass
        process.kill()
        process.wait()
    assert (Path(tmp_path) / ".lock").exists()
    with locked(tmp_path):
        pass


def raising(name: str) -> Callable[..., None]:
    """A system call that fails."""
    number = getattr(errno, name)

    def call(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    return call


@pytest.mark.parametrize("name", ["ENOSYS", "ENOTSUP", "EOPNOTSUPP", "ENOLCK"])
def test_a_file_system_without_locks_is_warned_of_and_used(tmp_path, monkeypatch, name):
    monkeypatch.setattr(pytest.importorskip("fcntl"), "flock", raising(name))
    with pytest.warns(UserWarning, match="has no locks") as warned, locked(tmp_path):
        pass
    assert "\n" not in str(warned[0].message)


def test_another_failure_to_lock_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(pytest.importorskip("fcntl"), "flock", raising("EIO"))
    with pytest.raises(UserError, match="cannot be locked"), locked(tmp_path):
        pass


@pytest.mark.skipif(os.name == "nt", reason="Windows syncs no folders")
@pytest.mark.parametrize("name", ["EINVAL", "ENOTSUP", "EOPNOTSUPP", "ENOSYS"])
def test_a_file_system_that_cannot_sync_folders_is_warned_of_and_used(tmp_path, monkeypatch, name):
    original = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raising(name)()
        original(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.warns(UserWarning, match="cannot sync") as warned:
        create_run_folder(tmp_path / "run", {"seed": 1})
    assert "\n" not in str(warned[0].message)
    assert read_config(tmp_path / "run") == {"seed": 1}


def test_another_failure_to_sync_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", raising("EIO"))
    with pytest.raises(UserError, match="cannot be written"):
        create_run_folder(tmp_path / "run", {"seed": 1})
