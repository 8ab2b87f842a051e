"""Print the table of families in docs/results.md, from the evaluations of the pretrained policies.

    python benchmarks/zoo.py

tests/documents/test_results_document.py checks that the document has this table.
"""

from __future__ import annotations

import csv
import json
from typing import Any

import maml_rl
from maml_rl.runs.pretrained import pretrained_folder

STEPS = (0, 1, 2, 3, 5)
"""Adaptation steps in the table."""
_HEAD = (
    "family",
    "before",
    *(f"{k} step{'s' if k > 1 else ''}" for k in STEPS[1:]),
    "random",
    "oracle",
    "seeds",
    "M steps",
    "hours",
)


def row(name: str) -> list[str]:
    """Return the row of a family.

    Args:
        name: of a pretrained policy.
    """
    folder = pretrained_folder(name)
    text = (folder / "evaluation" / "results.json").read_text()
    methods = {method["policy"]: method for method in json.loads(text)["results"]}
    trained = methods["meta-trained"]
    with (folder / "progress.csv").open() as file:
        rows = list(csv.DictReader(file))
    num_steps = float(rows[-1]["time/num_env_steps"])
    seconds = sum(float(line["time/meta_iteration_s"]) for line in rows)
    return [
        name,
        *(_number(trained, k) for k in STEPS),
        _number(methods.get("random"), 0),
        _number(methods.get("oracle"), 0),
        str(len(trained["training_seeds"])),
        f"{num_steps / 1e6:.1f}",
        f"{seconds / 3600:.2f}",
    ]


def _number(method: dict[str, Any] | None, step: int) -> str:
    """Return the mean return of a method after a step, or a dash."""
    if method is None or step >= len(method["return"]):
        return "–"
    value = method["return"][step]
    return (f"{value:.1f}" if abs(value) < 100 else f"{value:.0f}").replace("-", "−")


def table() -> str:
    """Return the table as Markdown, families in alphabetical order."""
    lines = [_HEAD, ["---"] * len(_HEAD), *map(row, maml_rl.pretrained_names())]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    print(table())
