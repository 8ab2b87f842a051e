"""The command ``doctor``."""

from __future__ import annotations

import importlib.metadata
import sys

import pytest

from maml_rl import doctor
from maml_rl.cli import main


@pytest.fixture
def healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks in other processes find no problem."""
    monkeypatch.setattr(doctor, "_problem", lambda code, **variables: None)


def with_versions(monkeypatch: pytest.MonkeyPatch, **versions: str | None) -> None:
    """Installed versions of some packages; ``None`` for one that is missing."""
    installed = importlib.metadata.version

    def version(name: str) -> str:
        value = versions.get(name, installed(name))
        if value is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return value

    monkeypatch.setattr(importlib.metadata, "version", version)


@pytest.mark.thorough
def test_this_installation_is_healthy(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    words = [line.split() for line in lines]
    assert ["ok", "mujoco", importlib.metadata.version("mujoco")] in words
    assert any(line[:3] == ["ok", "one", "iteration"] for line in words)
    assert any(line[2:5] == ["renders", "a", "frame"] for line in words)
    assert lines[-1] == "training works"


@pytest.mark.usefixtures("healthy")
class TestPackages:
    def test_a_missing_one_stops_training(self, capsys, monkeypatch):
        with_versions(monkeypatch, scipy=None)
        assert main(["doctor"]) == 1
        out = capsys.readouterr().out
        assert "FAIL  scipy                 not installed\n" in out
        assert "-> pip install 'scipy>=1.15'" in out
        assert out.endswith("training does not work\n")

    def test_one_that_is_too_old_stops_training(self, capsys, monkeypatch):
        with_versions(monkeypatch, torch="2.7.1+cpu")
        assert main(["doctor"]) == 1
        assert "2.7.1+cpu; at least 2.8 is needed" in capsys.readouterr().out

    def test_one_of_an_extra_is_optional(self, capsys, monkeypatch):
        with_versions(monkeypatch, onnx=None)
        assert main(["doctor"]) == 0
        assert (
            "note  onnx                  not installed; only for export" in capsys.readouterr().out
        )

    @pytest.mark.parametrize("version", ["2.8", "2.8.0", "2.8.0+cu128", "2.10", "3.0rc1"])
    def test_versions_are_compared_as_numbers(self, version, capsys, monkeypatch):
        with_versions(monkeypatch, torch=version)
        assert main(["doctor"]) == 0


@pytest.mark.parametrize("package", ["mujoco", "torch", "av"])
def test_it_runs_without_a_package(package, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, package, None)  # importing it fails
    monkeypatch.setattr(doctor, "_problem", lambda code, **variables: "ModuleNotFoundError")
    assert main(["doctor"]) == 1
    assert capsys.readouterr().out.endswith("training does not work\n")


def test_rendering_needs_one_backend(capsys, monkeypatch):
    def problem(code: str, **variables: str) -> str | None:
        return None if variables.get("MUJOCO_GL") in (None, "osmesa") else "no display"

    monkeypatch.setattr(doctor, "_problem", problem)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "ok    osmesa                renders a frame" in out
    assert "note  egl                   does not render; one is enough" in out
    # The chosen one does not render.
    monkeypatch.setenv("MUJOCO_GL", "egl")
    assert main(["doctor"]) == 0
    assert "-> unset it, or set MUJOCO_GL=osmesa" in capsys.readouterr().out
    # None renders; training works.
    monkeypatch.setattr(
        doctor, "_problem", lambda code, **variables: "no display" if variables else None
    )
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "note  egl                   no display" in out
    assert "--logging.final_video false" in out


def test_a_failed_iteration_is_reported(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "_TRAIN", "raise ValueError('no physics')")
    monkeypatch.setattr(doctor, "BACKENDS", ())
    assert main(["doctor"]) == 1
    assert "FAIL  one iteration         ValueError: no physics" in capsys.readouterr().out


@pytest.mark.slow
def test_a_check_that_crashes_or_hangs_is_a_problem(monkeypatch):
    assert doctor._problem("import os; os.abort()") == "exit status -6"
    monkeypatch.setattr(doctor, "_LONGEST_S", 1)
    assert doctor._problem("import time; time.sleep(60)") == "no answer within 1 s"


def test_it_takes_no_arguments(capsys):
    assert main(["doctor", "HalfCheetahVel"]) == 2
    assert "unrecognized arguments: HalfCheetahVel" in capsys.readouterr().err
