"""Damaged and hostile files: loaders raise only UserError, execute nothing, allocate little."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import struct
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from helpers.scripts import load_script
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import maml_rl
from maml_rl.cli import main
from maml_rl.errors import UserError
from maml_rl.runs.checkpoint_files import load_checkpoint
from maml_rl.runs.progress_log import AppendingCSV
from maml_rl.runs.run_folder import locked, run_config
from maml_rl.settings.parser import parse_training_arguments
from maml_rl.system import untrusted_files
from maml_rl.system.atomic_files import write_whole
from maml_rl.system.safe_yaml import read_yaml

CPU = torch.device("cpu")
SMALL = 64 << 20  # bytes, beyond what a loader needs for the small files here


fuzz_loaders = load_script("benchmarks/fuzz_loaders.py")
SLOW = {"config.yaml of a run", "--config"}
NAMES = (
    "tensors.safetensors",
    "values.json",
    "tensors.safetensors, format 1",
    "values.json, format 1",
    "SHA256SUMS",
    "config.yaml of a run",
    "--config",
    "progress.csv, resumed",
    "progress.csv, drawn",
    "episodes.npz",
    "results.json of PPO",
    "unfinished/*.json",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fuzzing")


@pytest.fixture(scope="module")
def loaders(folder) -> dict:
    return fuzz_loaders.make_loaders(folder)


@pytest.fixture
def run(loaders, folder) -> Iterator[Path]:
    """A small run; config.yaml is put back."""
    config = (folder / "run" / "config.yaml").read_bytes()
    yield folder / "run"
    (folder / "run" / "config.yaml").write_bytes(config)


@pytest.fixture
def allocated() -> Iterator[None]:
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < SMALL


def test_every_loader_is_fuzzed(loaders):
    assert set(NAMES) == set(loaders)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_only_user_error_comes_out(name, loaders, folder):
    loader, findings = loaders[name], fuzz_loaders.Findings()
    before = sorted(folder.iterdir())

    @settings(
        max_examples=20 if name in SLOW else 60,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(
        st.binary(max_size=200)
        | st.integers(0, 2**32).map(lambda n: fuzz_loaders.damaged(loader.sound, random.Random(n)))
    )
    def fuzz(content: bytes) -> None:
        findings.feed(name, loader, content)
        assert not findings.errors

    loader.load(loader.sound)
    fuzz()
    loader.load(loader.sound)
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize("name", NAMES)
def test_a_pickle_under_any_name_is_refused(name, loaders, tmp_path):
    marker = tmp_path / "executed"
    if name == "progress.csv, resumed":  # no row of it is one
        loaders[name].load(b"no rows")
    else:
        with pytest.raises(UserError):
            loaders[name].load(fuzz_loaders.hostile_pickle(marker))
    assert not marker.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", ["evaluate", "record", "baselines", "plot", "train --resume", "train --init_from"]
)
@pytest.mark.parametrize("name", ["config.yaml", "tensors.safetensors", "values.json"])
def test_every_command_refuses_a_hostile_run(command, name, run, tmp_path, monkeypatch, capsys):
    hostile, marker = shutil.copytree(run, tmp_path / "hostile"), tmp_path / "executed"
    for path in hostile.rglob(name):
        path.write_bytes(fuzz_loaders.hostile_pickle(marker))
        if path.parent.parent.name == "checkpoints":
            fuzz_loaders.reseal(path.parent)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    status = main([*command.split(" "), "hostile"])
    if (command, name) != (
        "plot",
        name,
    ) or name == "config.yaml":  # a plot reads progress.csv and settings only
        assert status == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
        assert sorted(tmp_path.rglob("*")) == before
    assert not marker.exists()


def npz(path: Path, header: str, content: bytes = b"", name: str = "observations.npy") -> Path:
    text = header.encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content)
    return path


def test_an_object_array_is_not_unpickled(tmp_path):
    marker = tmp_path / "executed"
    np.savez(tmp_path / "log.npz", observations=np.array([fuzz_loaders._Touch(marker)], object))
    with pytest.raises(UserError, match="holds object, expected numbers"):
        maml_rl.EpisodeLog.load(tmp_path / "log.npz")
    assert not marker.exists()


@pytest.mark.parametrize("header", ["{'descr': '<f8', 'shape': (2,), ", "{'descr': ('", "(((("])
def test_an_npz_with_a_header_that_ends_too_soon_is_refused(header, tmp_path):
    with pytest.raises(UserError, match=r"log\.npz"):
        maml_rl.EpisodeLog.load(npz(tmp_path / "log.npz", header))


@pytest.mark.usefixtures("allocated")
def test_sizes_in_an_npz_are_checked_before_anything_is_allocated(tmp_path, monkeypatch):
    announced = npz(
        tmp_path / "a.npz", "{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776,)}"
    )
    with pytest.raises(UserError, match="declares"):
        maml_rl.EpisodeLog.load(announced)
    bomb = tmp_path / "bomb.npz"
    with (
        zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("observations.npy", "w") as member,
    ):
        for _ in range(100):
            member.write(bytes(1 << 20))
    assert bomb.stat().st_size < 2 << 20
    monkeypatch.setattr(untrusted_files, "LARGEST_NPZ", 99 << 20)
    with pytest.raises(UserError, match="larger than"):
        maml_rl.EpisodeLog.load(bomb)


def test_a_log_comes_back_from_its_file(tmp_path):
    arrays = {
        "observations": np.ones((3, 2)),
        "actions": np.zeros((3, 2), np.float32),
        "rewards": np.arange(3),
    }
    np.savez_compressed(tmp_path / "log.npz", **arrays, episode_ends=np.array([False, True, True]))
    log = maml_rl.EpisodeLog.load(tmp_path / "log.npz")
    assert all(np.array_equal(getattr(log, name), array) for name, array in arrays.items())


@pytest.mark.usefixtures("allocated")
def test_a_header_that_announces_terabytes_is_refused(loaders):
    header = {"theta/weight_0": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}
    text = json.dumps(header).encode()
    for content in (struct.pack("<Q", len(text)) + text, struct.pack("<Q", 1 << 62) + text):
        with pytest.raises(UserError, match="damaged"):
            loaders["tensors.safetensors"].load(content)


@pytest.mark.slow
@pytest.mark.usefixtures("allocated")
def test_a_policy_too_large_to_make_is_refused(run):
    values = yaml.safe_load((run / "config.yaml").read_text())
    for wrong in (
        {"hidden_sizes": [60000, 60000]},
        {"hidden_sizes": [1 << 40]},
        {"context_size": 1 << 40},
    ):
        values["policy"] |= wrong
        (run / "config.yaml").write_text(yaml.safe_dump(values))
        with pytest.raises(UserError, match=r"policy\."):
            maml_rl.load(run)


@pytest.mark.slow
def test_yaml_that_is_deeper_than_python_goes_is_refused(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("a: " + "[" * 1500)
    with pytest.raises(UserError, match="YAML"):
        read_yaml(path)


@pytest.mark.slow
@pytest.mark.usefixtures("allocated")
@pytest.mark.parametrize(
    ("text", "why"),
    [
        (
            "a0: &a0 [x]\n"
            + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)),
            "more than",
        ),
        (
            "a0: &a0 {x: 1}\n"
            + "".join(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n" for i in range(1, 40)),
            "more than",
        ),
        ("a0: &a0 []\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 400)), "deep"),
        ("a: &a [*a]", "contains it"),
        ("a: !!python/object/apply:os.system ['true']", "YAML"),
        ("a: !!int ''", "match its tag"),
        ("seed: " + "1" + ":1" * 100_000, "longer than"),
        ("a: 2001-01-01", "timestamp"),
        ("1: 2", "not text"),
        ("inner: {num_steps: 1}\nouter: {}\ninner: {step_size: 0.2}", "the key 'inner' twice"),
        ("a" * (1 << 21), "longer than"),
    ],
)
def test_yaml_that_is_more_than_settings_is_refused(text, why, tmp_path):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(UserError, match=why) as error:
        read_yaml(tmp_path / "a.yaml")
    assert "\n" not in str(error.value)


def test_paths_of_any_kind_are_refused_with_user_error(tmp_path):
    for name in ("x" * 5000, "a\0b", str(tmp_path), ""):
        with pytest.raises(UserError):
            parse_training_arguments(["--config", name])
        if name not in ("", str(tmp_path)):
            with pytest.raises(UserError):
                maml_rl.load(name)
            with pytest.raises(UserError):
                run_config(Path(name))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_pipes_and_devices_are_not_waited_for(tmp_path, loaders, folder):
    for name in ("tensors.safetensors", "values.json"):
        copy = tmp_path / name.partition(".")[0]
        copy.mkdir()
        for path in (folder / "format_1").iterdir():
            (copy / path.name).write_bytes(path.read_bytes())
        (copy / name).unlink()
        os.mkfifo(copy / name)
        with pytest.raises(UserError, match="not a regular file"):
            load_checkpoint(copy, CPU)
        (copy / name).unlink()
        (copy / name).symlink_to("/dev/zero")
        with pytest.raises(UserError, match="not a regular file"):
            load_checkpoint(copy, CPU)
    os.mkfifo(tmp_path / "progress.csv")
    with pytest.raises(UserError, match="not a regular file"):
        AppendingCSV(tmp_path / "progress.csv", 1)


def test_links_in_a_run_folder_are_not_written_through(tmp_path):
    outside, folder = tmp_path / "outside", tmp_path / "run"
    folder.mkdir()
    outside.write_text("precious")
    for name in (".lock", ".config.yaml.tmp", "config.yaml", "progress.csv"):
        (folder / name).symlink_to(outside)
    with pytest.raises(UserError, match="cannot be locked"), locked(folder):
        pass
    write_whole(folder / "config.yaml", "mine")
    AppendingCSV(folder / "progress.csv", 1).append(1, [{"a": 1}])
    assert outside.read_text() == "precious"
    assert (folder / "config.yaml").read_text() == "mine"


def test_output_in_a_runs_configuration_leads_nowhere(run, tmp_path):
    values = yaml.safe_load((run / "config.yaml").read_text())
    outside = tmp_path / "outside"
    for output in (str(outside), os.path.relpath(outside, run)):
        (run / "config.yaml").write_text(
            yaml.safe_dump({**values, "output": output, "num_iterations": 2})
        )
        assert maml_rl.load(run).config.output == output
        assert maml_rl.resume(run) == run
    assert list(tmp_path.iterdir()) == []


def test_a_module_that_exits_is_reported(tmp_path, monkeypatch):
    (tmp_path / "a_module_that_exits.py").write_text("raise SystemExit(3)")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="cannot be imported"):
        maml_rl.load_config(env="a_module_that_exits:X-v0")


def test_an_environment_whose_module_exits_is_reported(tmp_path, monkeypatch):
    (tmp_path / "a_module_that_exits.py").write_text("raise SystemExit(3)")
    monkeypatch.syspath_prepend(tmp_path)
    spec = dataclasses.replace(
        gym.spec("Pendulum-v1"), id="Exits-v0", entry_point="a_module_that_exits:X"
    )
    monkeypatch.setitem(gym.registry, "Exits-v0", spec)
    with pytest.raises(UserError, match=r"'Exits-v0' cannot be made: .* cannot be imported"):
        maml_rl.load_config(env={"name": "Exits-v0", "g": 9.0})


def test_a_number_that_no_float_can_hold_is_refused():
    with pytest.raises(UserError, match=r"policy\.action_scale"):
        maml_rl.load_config(policy={"action_scale": 10**400})
    with pytest.raises(UserError, match="too large"):
        maml_rl.load_config(inner={"test_step_sizes": [10**400]})
    with pytest.raises(UserError, match=r"policy\.init_std"):
        parse_training_arguments(["--policy.init_std", "9" * 400])


def test_a_state_of_the_outer_step_that_does_not_fit_is_refused(run, folder, loaders):
    content = loaders["tensors.safetensors"].sound
    tensors = dict(safetensors.torch.load(content))
    for name, value in (
        ("outer/exp_avg", torch.zeros(3)),
        ("outer/step", torch.tensor(float("nan"))),
    ):
        changed = safetensors.torch.save({**tensors, name: value})
        with pytest.raises(UserError, match="outer step's state"):
            loaders["tensors.safetensors"].load(changed)
    theta = next(name for name in tensors if name.startswith("theta/"))
    changed = safetensors.torch.save({**tensors, theta: tensors[theta] * float("nan")})
    with pytest.raises(UserError, match="not finite"):
        loaders["tensors.safetensors"].load(changed)
