"""docs/results.md and README.md have the numbers of the pretrained policies' evaluations."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("zoo", ROOT / "benchmarks" / "zoo.py")
assert spec is not None
assert spec.loader is not None
zoo = importlib.util.module_from_spec(spec)
spec.loader.exec_module(zoo)


def test_the_document_has_the_tables_of_the_evaluations() -> None:
    document = (ROOT / "docs" / "results.md").read_text()
    assert zoo.table() in document
    assert zoo.episode_table("rl2") in document
    assert zoo.episode_table("pearl") in document


def test_the_readme_has_the_row_of_each_pretrained_policy_of_maml() -> None:
    """The first columns: before, and after 1, 2 and 3 steps."""
    readme = (ROOT / "README.md").read_text().replace("**", "")
    rows = [f"| {' | '.join(zoo.row(name)[:5])} |" for name in zoo.names_of("maml")]
    assert len(rows) >= 18
    assert [row for row in rows if row not in readme] == []
