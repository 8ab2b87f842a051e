"""Learning curves of runs of one family: return before and after adaptation, one line per run.

python benchmarks/learning_curve.py runs/a runs/b --output curve.png
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from maml_rl.config_files import run_config


def read(run: Path) -> dict[str, np.ndarray]:
    """The columns of a run's progress.csv."""
    with (run / "progress.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([float(row[name] or "nan") for row in rows]) for name in rows[0]}


def main() -> None:
    """Draw the curves, and print the return after adaptation at some iterations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for run in args.runs:
        config, columns = run_config(run), read(run)
        steps = columns["time/num_env_steps"] / 1e6
        last = config.inner.num_steps
        (line,) = axes.plot(steps, columns[f"train/return_after_{last}_steps"], label=f"seed {config.seed}, adapted")
        before = columns["train/return_after_0_steps"]
        axes.plot(steps, before, color=line.get_color(), linestyle="--", label=f"seed {config.seed}, before")
        marks = [i for i in (30, 100, 200, 300) if i <= len(steps)]
        returns = ", ".join(f"{i}: {columns[f'train/return_after_{last}_steps'][i - 1]:.1f}" for i in marks)
        hours = columns["time/meta_iteration_s"].sum() / 3600
        print(f"{run}: return after adaptation at iteration {returns}; {steps[-1]:.1f} M steps, {hours:.2f} h")
    axes.set(xlabel="environment steps (millions)", ylabel="return", title=run_config(args.runs[0]).env.name)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.output, dpi=130)


if __name__ == "__main__":
    main()
