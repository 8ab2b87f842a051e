"""Import the package before torch: torch reads on import how its idle threads wait."""

import gc
import os
from pathlib import Path

import pytest
from matplotlib.figure import Figure

import maml_rl  # noqa: F401
from maml_rl.analysis.figures import encoded


def pytest_collection_finish() -> None:
    """Exempt what imports and collection created from garbage collection: it is large and stays."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _only_svg(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the PNG and PDF files of reports empty, unless a test is marked ``figures``.

    Drawing them takes most of the time of a small evaluation.
    """
    if request.node.get_closest_marker("figures") is None:
        monkeypatch.setattr("maml_rl.analysis.report.files.encoded", _svg_or_nothing)


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait until files are on the disk: tests kill processes, never the machine."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of a test."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _svg_or_nothing(figure: Figure, kind: str) -> bytes:
    return encoded(figure, kind) if kind == "svg" else b""
