"""Whatever kills a run, it resumes, and ends bit for bit as without the kill."""

from __future__ import annotations

import dataclasses
import errno
import gc
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import commands
from helpers.runs import MODULE, assert_equal_runs, full_disk, tiny
from helpers.scripts import load_script

import maml_rl
from maml_rl.cli import main
from maml_rl.errors import UserError
from maml_rl.learners.maml.learner import MAML
from maml_rl.runs.checkpoint import latest_checkpoint
from maml_rl.settings.config import Config
from maml_rl.training.start import resume, train

SMALLEST: dict[str, Any] = {
    "num_iterations": 5,
    "meta_batch_size": 1,
    "num_episodes": 1,
    "horizon": 2,
}


file_faults = load_script("benchmarks/file_faults.py")


def smallest(output: Path, **settings: Any) -> Config:
    """Five iterations with checkpoints of the second, fourth and fifth, two of which stay."""
    values = SMALLEST | {"outer": "adam"} | settings  # an outer step with a state
    return tiny(output, **values, logging={"checkpoint_every": 2, "keep_checkpoints": 2})


@pytest.fixture
def toy(monkeypatch) -> None:
    """Replace meta-iterations by ones that take no time."""
    monkeypatch.setattr(MAML, "iteration", file_faults.toy_iteration)


@pytest.fixture
def reference(toy, tmp_path) -> tuple[Path, list[str]]:
    """An uninterrupted run, and its file operations."""
    with file_faults.faulty() as operations:
        train(smallest(tmp_path / "reference"))
    return tmp_path / "reference", operations


def cut_short(config: Config, fault: Any) -> None:
    with pytest.raises(file_faults.Killed), file_faults.faulty(fault):
        file_faults.go_on(config)


@pytest.mark.slow
def test_killed_at_any_file_operation_a_run_resumes(reference, tmp_path):
    """Every eleventh way to be killed; benchmarks/kill.py takes them all."""
    whole, operations = reference
    assert {"rename", "replace", "fsync", "rmdir"} <= set(operations)
    config = smallest(tmp_path / "run")
    for fault in file_faults.faults_of(operations)[::11]:
        cut_short(config, fault)
        file_faults.go_on(config)
        assert not file_faults.differences(tmp_path / "run", whole), (fault, operations[fault.at])
        shutil.rmtree(tmp_path / "run")


@pytest.mark.thorough
def test_killed_again_while_it_resumes_a_run_resumes(reference, tmp_path):
    """With a half-written checkpoint, rows beyond the last one, and a damaged one."""
    whole, operations = reference
    config = smallest(tmp_path / "start")
    last_rename = max(i for i, name in enumerate(operations[:-6]) if name == "rename")
    cut_short(config, file_faults.Fault(last_rename, "before"))
    start = tmp_path / "start"
    assert list(start.glob("checkpoints/.*.tmp"))
    flip(start / "checkpoints" / "000004" / "tensors.safetensors")
    shutil.copytree(start, tmp_path / "counted")
    with file_faults.faulty() as operations:
        file_faults.go_on(dataclasses.replace(config, output=str(tmp_path / "counted")))
    config = dataclasses.replace(config, output=str(tmp_path / "run"))
    assert not file_faults.differences(tmp_path / "counted", whole)
    for fault in file_faults.faults_of(operations)[::9]:
        run = shutil.copytree(start, tmp_path / "run")
        cut_short(config, fault)
        file_faults.go_on(config)
        assert not file_faults.differences(run, whole), (fault, operations[fault.at])
        shutil.rmtree(run)


def flip(path: Path, position: int = -3, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage", ["flipped", "truncated", "emptied", "sums gone", "values gone", "no folder"]
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(reference, caplog, damage):
    run, _ = reference
    shutil.copytree(run, run.with_name("whole"))
    newest = run / "checkpoints" / "000005"
    tensors = newest / "tensors.safetensors"
    if damage == "flipped":
        flip(tensors)
    elif damage in ("truncated", "emptied"):
        tensors.write_bytes(tensors.read_bytes()[:-9] if damage == "truncated" else b"")
    elif damage == "no folder":
        shutil.rmtree(newest)
        newest.write_text("")
    else:
        (newest / ("SHA256SUMS" if damage == "sums gone" else "values.json")).unlink()
    with pytest.warns(UserWarning, match="000005 is damaged.*000004 is used"):
        maml_rl.load(run)
    assert newest.exists()  # reading changes nothing
    caplog.set_level("INFO", "maml_rl")
    resume(run)
    assert "000005 is damaged" in caplog.messages[0]
    assert "resuming" in caplog.messages[1]
    assert "after iteration 4" in caplog.messages[1]
    assert not file_faults.differences(run, run.with_name("whole"))
    assert (run / "checkpoints" / "000005.damaged").exists()
    resume(run)
    assert "are finished" in caplog.messages[-1]


@pytest.mark.skipif(os.name == "nt", reason="POSIX links")
def test_links_that_lead_nowhere_are_named_and_the_run_resumes(reference, capsys):
    run, _ = reference
    shutil.copytree(run, run.with_name("whole"))
    checkpoints = run / "checkpoints"
    shutil.rmtree(checkpoints / "000005")
    (checkpoints / "000005").symlink_to(run / "unmounted")
    (checkpoints / "000006").symlink_to("000006")
    with pytest.warns(UserWarning, match=r"0000\d\d is damaged.*000004 is used"):
        maml_rl.load(run)
    assert main(["train", "--resume", str(run)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert "000006" in said[0]
    assert "000005" in said[1]
    assert (checkpoints / "000005.damaged").is_symlink()
    assert not file_faults.differences(run, run.with_name("whole"))


@pytest.mark.slow
def test_a_command_warns_in_one_line(reference, tmp_path):
    """As a user sees it: without file, line and source."""
    run, _ = reference
    flip(run / "checkpoints" / "000005" / "values.json")
    flags = ["--num_tasks", "1", "--num_episodes", "1", "--num_steps", "1", "--device", "cpu"]
    flags += ["--output", str(tmp_path / "evaluation")]
    finished = commands.run("maml_rl.evaluate", str(run), *flags)
    assert finished.returncode == 0
    (line,) = [line for line in finished.stderr.splitlines() if "warn" in line.lower()]
    assert line.startswith("warning: checkpoint ")
    assert line.endswith("000004 is used")


def test_where_no_checkpoint_is_sound_each_is_named(reference):
    run, _ = reference
    for path in (run / "checkpoints").iterdir():
        flip(path / "values.json")
    before = sorted((run / "checkpoints").iterdir())
    for read in (maml_rl.load, resume):
        with pytest.raises(
            UserError, match=r"no sound checkpoint.*000005.*values\.json.*000004.*values\.json"
        ):
            read(run)
    assert sorted((run / "checkpoints").iterdir()) == before


@pytest.mark.parametrize("other", [{"env": {"name": "HalfCheetahVel"}}, {"outer": {"name": "ppo"}}])
def test_the_checkpoint_of_another_run_is_refused(reference, tmp_path, other):
    """Its parameters may well fit: two families on one body, two outer steps."""
    run, _ = reference
    config = smallest(tmp_path / "other", **other)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(MAML, "iteration", file_faults.toy_iteration)
        train(config)
    shutil.copytree(tmp_path / "other" / "checkpoints" / "000005", run / "checkpoints" / "000009")
    with pytest.raises(UserError, match=r"000009 is of another run: its .* is .*, this one's "):
        resume(run)
    assert (run / "checkpoints" / "000009").exists()


@pytest.mark.slow
def test_a_killed_extension_does_not_keep_the_results_of_the_shorter_run(
    toy, tmp_path, monkeypatch
):
    config = tiny(tmp_path / "run", **SMALLEST, outer="adam", logging={"final_evaluation": True})
    run = train(config)
    old = (run / "evaluation" / "results.json").read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(
            "maml_rl.training.finish.evaluate",
            lambda *args, **kwargs: (_ for _ in ()).throw(SystemExit),
        )
        with pytest.raises(SystemExit):
            resume(run, 7)
    resume(run)
    assert (run / "evaluation" / "results.json").read_bytes() != old
    assert (run / "evaluation" / "report.html").exists()


def test_a_video_that_cannot_be_logged_is_an_error_of_the_disk_and_not_of_the_video(
    tmp_path, monkeypatch, caplog
):
    caplog.set_level("INFO", logger="maml_rl")
    monkeypatch.setattr("maml_rl.training.finish.log_final", full_disk)
    video = {"final_evaluation": False, "final_video": True}
    with pytest.raises(UserError, match="No space left"):
        train(tiny(tmp_path / "run", **SMALLEST, outer="adam", logging=video))
    assert (tmp_path / "run" / "videos" / "final.mp4").exists()
    assert "no video" not in caplog.text


@pytest.mark.thorough
def test_on_a_full_disk_training_stops_and_resumes_when_there_is_room(reference, tmp_path):
    whole, _ = reference
    config = smallest(tmp_path / "run")
    stopped = 0
    for after in itertools.count(1, 7):
        with file_faults.full_disk(after) as failed:
            said = ""
            try:
                file_faults.go_on(config)
            except UserError as error:
                said = str(error)
        if not failed:
            break
        assert os.strerror(errno.ENOSPC) in said
        assert "\n" not in said
        stopped += 1
        assert not list((tmp_path / "run").glob("checkpoints/.*"))
        assert latest_checkpoint(tmp_path / "run" / "checkpoints") is None or maml_rl.load(
            tmp_path / "run"
        )
        file_faults.go_on(config)
        assert not file_faults.differences(tmp_path / "run", whole), after
        shutil.rmtree(tmp_path / "run")
    assert stopped > 5


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 256 KiB, if this user may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("may not mount a file system")
    yield disk
    gc.collect()  # an error's traceback may hold a file open
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="tmpfs")
@pytest.mark.parametrize("problem", ["full", "read-only"])
def test_a_real_disk_that_cannot_be_written(toy, small_disk, tmp_path, capsys, problem):
    run = small_disk / "run"
    whole = train(smallest(tmp_path / "whole", num_iterations=9))
    train(smallest(run))
    ballast = small_disk / "ballast"
    if problem == "full":
        with pytest.raises(OSError, match="No space"):
            ballast.write_bytes(bytes(1 << 19))
    else:
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    kept = latest_checkpoint(run / "checkpoints")
    assert main(["train", "--resume", str(run), "--num_iterations", "9"]) == 2
    assert kept == latest_checkpoint(run / "checkpoints")
    err = capsys.readouterr().err
    assert "error: " in err.splitlines()[-1]
    assert ("No space left" if problem == "full" else "Read-only") in err.splitlines()[-1]
    assert "Traceback" not in err
    maml_rl.load(run)
    if problem == "full":
        ballast.unlink()
    else:
        subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    resume(run, 9)
    assert not file_faults.differences(run, whole)


@pytest.mark.slow
def test_an_environment_that_raises_leaves_the_last_iteration(tmp_path, monkeypatch, caplog):
    fuse = tmp_path / "fuse"
    module = MODULE.replace("Line-v0", "Fused-v0").replace(
        "        self.x = np.clip", f"        if __import__('os').path.exists({str(fuse)!r}):\n"
        "            raise ZeroDivisionError('the motor is off')\n        self.x = np.clip",
    )  # fmt: skip
    (tmp_path / "my_fused.py").write_text(module)
    monkeypatch.syspath_prepend(tmp_path)
    whole = train(tiny(tmp_path / "whole", env="my_fused:Fused-v0"))
    original = MAML.iteration

    def iteration(self, state, *args):
        if state.counters["iteration"] == 3:
            fuse.touch()
        return original(self, state, *args)

    caplog.set_level("INFO", "maml_rl")
    with monkeypatch.context() as patched:
        patched.setattr(MAML, "iteration", iteration)
        with pytest.raises((ZeroDivisionError, UserError), match="the motor is off"):
            train(tiny(tmp_path / "run", env="my_fused:Fused-v0"))
    assert "iteration 3 is saved" in caplog.messages[-1]
    assert f"--resume {tmp_path / 'run'}" in caplog.messages[-1]
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["000003"]
    fuse.unlink()
    resume(tmp_path / "run")
    assert_equal_runs(tmp_path / "run", whole)


FLAGS = [
    "--env=PointNavigation",
    "--meta_batch_size=3",
    "--num_episodes=2",
    "--horizon=5",
    "--policy.hidden_sizes=[8]",
]
FLAGS += ["--device=cpu", "--logging.final_evaluation=false", "--logging.final_video=false"]


def started(run: Path, *more: str) -> commands.Command:
    """A training process, once it has written a few rows."""
    process = commands.Command("maml_rl.train", *more)
    path = run / "progress.csv"
    num_rows = 4 + (path.read_bytes().count(b"\n") if path.exists() else 0)
    deadline = time.monotonic() + 120
    while not path.exists() or path.read_bytes().count(b"\n") < num_rows:
        assert time.monotonic() < deadline, "no progress within two minutes"
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    return process


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_real_process_killed_and_terminated(tmp_path, capsys):
    """A running run can be read, but not written by a second process; after a signal it resumes."""
    run = tmp_path / "run"
    new = [*FLAGS, "--num_iterations=100000", "--logging.checkpoint_every=2", "--output", str(run)]
    last = 0
    for number, arguments in ((signal.SIGKILL, new), (signal.SIGTERM, None), (signal.SIGHUP, None)):
        process = started(run, *(arguments or ["--resume", str(run)]))
        if number is signal.SIGKILL:
            assert main(["train", "--resume", str(run)]) == 2
            assert "another process is training" in capsys.readouterr().err
            while latest_checkpoint(run / "checkpoints") is None:
                time.sleep(0.01)
            assert maml_rl.load(run).config.num_iterations == 100000
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
        newest = latest_checkpoint(run / "checkpoints")
        assert newest is not None
        assert int(newest.name) > last
        last = int(newest.name)
        if number is signal.SIGKILL:
            assert process.returncode == -signal.SIGKILL
        else:
            assert process.returncode == 128 + number, err
            assert "Traceback" not in err
            assert out.splitlines()[-1] == (
                f"stopped after iteration {last}. Resume with: python -m maml_rl.train --resume "
                f"{run}"
            )
    resume(run, last + 1)
    whole = train(tiny(tmp_path / "whole", num_iterations=last + 1))
    assert_equal_runs(run, whole)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_that_comes_while_an_object_is_deleted_is_not_lost(tmp_path, monkeypatch):
    """Python prints what is raised there, and continues."""

    class Deleted:
        def __del__(self):
            signal.raise_signal(signal.SIGTERM)

    def progress(metrics):
        Deleted()
        return ""

    monkeypatch.setattr("maml_rl.training.training_run.progress_text", progress)
    with pytest.raises(maml_rl.Interrupted, match="after iteration 1"):
        train(smallest(tmp_path / "run"))


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="POSIX signals")
def test_a_signal_that_is_ignored_stays_ignored(toy, tmp_path, monkeypatch):
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        monkeypatch.setattr(
            "maml_rl.training.training_run.progress_text",
            lambda metrics: signal.raise_signal(signal.SIGHUP) or "",
        )
        run = train(smallest(tmp_path / "run"))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (
        json.loads((run / "checkpoints" / "000005" / "values.json").read_text())["iteration"] == 5
    )
