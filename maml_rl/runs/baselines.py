"""The folders of a run's baselines."""

from __future__ import annotations

from pathlib import Path

from maml_rl.runs.pretrained import output_folder

POLICIES = ("random", "pretrained", "oracle")
"""The baselines whose folders are run folders."""


def baseline_folder(run: Path, name: str) -> Path:
    """Return RUN/baselines/NAME; for a pretrained policy, RUN is runs/POLICY."""
    return output_folder(run) / "baselines" / name
