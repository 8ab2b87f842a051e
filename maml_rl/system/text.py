"""Text for users: counts with their nouns, durations, and aligned tables."""

from __future__ import annotations

from collections.abc import Sequence


def counted(count: int, noun: str) -> str:
    """Return a count with its noun: ``1 task``, ``3 tasks``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def duration_text(duration_s: float) -> str:
    """Return a duration in two units at most: ``50 s``, ``40 min``, ``2 h 5 min``, ``3 d 4 h``."""
    if duration_s < 90:
        return f"{duration_s:.0f} s"
    minutes = round(duration_s / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(round(hours + minutes / 60), 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def text_table(rows: Sequence[Sequence[str]], num_left_aligned: int = 0) -> list[str]:
    """Format rows as lines of text with aligned columns, two spaces apart.

    Args:
        rows: cells, the same number in each row; the header is the first row.
        num_left_aligned: number of columns that are aligned left; the others are aligned right.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if i < num_left_aligned else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines
