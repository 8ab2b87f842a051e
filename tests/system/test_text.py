"""Counts with their nouns, and aligned tables."""

from __future__ import annotations

import pytest

from maml_rl.system.text import counted, text_table


@pytest.mark.parametrize(
    ("count", "expected"), [(0, "0 tasks"), (1, "1 task"), (2, "2 tasks"), (-1, "-1 tasks")]
)
def test_a_noun_is_singular_for_one_only(count: int, expected: str) -> None:
    assert counted(count, "task") == expected


def test_columns_are_aligned() -> None:
    rows = [["", "return"], ["ours", "1.0"], ["a", "-12345.0"]]
    assert text_table(rows) == ["        return", "ours       1.0", "   a  -12345.0"]
    assert text_table(rows, num_left_aligned=1) == [
        "        return",
        "ours       1.0",
        "a     -12345.0",
    ]


def test_lines_have_no_trailing_spaces() -> None:
    assert text_table([["a", "long"], ["b", ""]], num_left_aligned=2) == ["a  long", "b"]


def test_rows_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        text_table([["a", "b"], ["c"]])
