"""The tutorials: notebooks that are executed, and committed with small outputs."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path

import nbformat
import pytest
from helpers.documents import with_small_sizes

ROOT = Path(__file__).resolve().parents[2]
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.ipynb"))
SPEC = importlib.util.spec_from_file_location("tutorials", ROOT / "docs" / "site" / "tutorials.py")
assert SPEC is not None
assert SPEC.loader is not None
site_tutorials = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(site_tutorials)

each_tutorial = pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)


def cells_of(path: Path, cell_type: str) -> list[nbformat.NotebookNode]:
    notebook = nbformat.read(path, as_version=4)
    return [cell for cell in notebook.cells if cell.cell_type == cell_type]


def kinds_of_outputs(notebook: nbformat.NotebookNode) -> list[set[str]]:
    """Return for each cell with code what it shows: text or a figure."""
    return [
        {kind for output in cell.outputs for kind in output.get("data", {"text": ""})}
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


def test_there_are_six() -> None:
    assert len(TUTORIALS) == 6


@pytest.mark.thorough
@each_tutorial
def test_it_runs_in_a_new_kernel_and_shows_what_is_committed(path: Path, tmp_path: Path) -> None:
    """With smaller numbers; the committed outputs are those of a full execution."""
    shorter = tmp_path / path.name
    shorter.write_text(with_small_sizes(path.read_text()))
    notebook = site_tutorials.executed(shorter, tmp_path)
    assert kinds_of_outputs(notebook) == kinds_of_outputs(nbformat.read(path, as_version=4))


@each_tutorial
def test_it_is_committed_with_small_outputs(path: Path) -> None:
    assert path.stat().st_size < 300_000
    assert any(cell.outputs for cell in cells_of(path, "code"))
    text = path.read_text()
    assert '"output_type": "error"' not in text
    assert '"name": "stderr"' not in text


@each_tutorial
def test_the_first_cell_installs_the_package(path: Path) -> None:
    first = cells_of(path, "code")[0].source
    extra = "tuning" if "import optuna" in path.read_text() else ""
    wheel = f'"{{wheel}}[{extra}]"' if extra else "{wheel}"
    assert f"%pip install --quiet {wheel}\n" in f"{first}\n"
    assert 'if importlib.util.find_spec("maml_rl") is None:' in first
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert not extra or extra in project["optional-dependencies"]


@each_tutorial
def test_links_lead_to_files(path: Path) -> None:
    text = "".join(cell.source for cell in cells_of(path, "markdown"))
    targets = re.findall(r"\]\((?!https)([^)#]+)", text)
    assert targets
    assert all((path.parent / target).exists() for target in targets)


@each_tutorial
def test_lines_have_at_most_100_columns(path: Path) -> None:
    for cell in nbformat.read(path, as_version=4).cells:
        assert max(map(len, cell.source.splitlines())) <= 100
