"""docs/results.md and README.md have the numbers of the pretrained policies' evaluations."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

import maml_rl

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("zoo", ROOT / "benchmarks" / "zoo.py")
assert spec is not None
assert spec.loader is not None
zoo = importlib.util.module_from_spec(spec)
spec.loader.exec_module(zoo)


def test_the_document_has_the_table_of_the_evaluations() -> None:
    assert zoo.table() in (ROOT / "docs" / "results.md").read_text()


@pytest.mark.parametrize("name", maml_rl.pretrained_names())
def test_the_readme_has_the_row_of_each_pretrained_policy(name: str) -> None:
    """The first columns: before, and after 1, 2 and 3 steps."""
    columns = " | ".join(zoo.row(name)[:5])
    assert f"| {columns} |" in (ROOT / "README.md").read_text().replace("**", "")
