"""Read progress.csv, which ``progress_log`` writes."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

import numpy as np

from maml_rl.errors import UserError
from maml_rl.system.untrusted_files import LONGEST_TABLE, read_text

ITERATION, STEPS, SECONDS = "time/iteration", "time/num_env_steps", "time/meta_iteration_s"
"""Columns that every row has a value of."""


def read_progress(folder: Path) -> dict[str, np.ndarray]:
    """Read the columns of progress.csv, (N,) each.

    Raises:
        UserError: if it does not exist, or is empty or damaged.
    """
    # Read rows.
    path = folder / "progress.csv"
    if not path.is_file():
        if os.path.lexists(path):
            raise UserError(f"{path} is not a regular file")
        raise UserError(f"{folder} has no progress.csv: it has not finished an iteration yet")
    try:
        rows = list(csv.reader(io.StringIO(read_text(path, LONGEST_TABLE), newline="")))
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if len(rows) < 2:
        raise UserError(f"{path} has no rows: the run has not finished an iteration yet")
    # Convert to columns.
    header = rows[0]
    for line, row in enumerate(rows[1:], 2):
        if len(row) != len(header):
            raise UserError(
                f"{path} is damaged: line {line} has {len(row)} values for {len(header)} columns"
            )
    try:
        table = np.array([[float(cell or "nan") for cell in row] for row in rows[1:]])
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from error
    columns = dict(zip(header, table.T, strict=True))
    # Check counters.
    for name in (ITERATION, STEPS, SECONDS):
        if name not in columns or not np.isfinite(columns[name]).all():
            raise UserError(f"{path} is damaged: {name} must be finite in every row")
    if not (np.diff(columns[ITERATION]) > 0).all():
        raise UserError(f"{path} is damaged: {ITERATION} must increase from row to row")
    return columns
