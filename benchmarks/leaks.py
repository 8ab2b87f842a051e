"""Check that memory, open files, threads and child processes level off in long runs.

    python benchmarks/leaks.py --iterations 2000

The cases run one after the other in one process: long runs of MAML on PointNavigation and on
HalfCheetahVel, many short runs of both in turn, and long runs of RL² and of PEARL. All evaluate,
record and write checkpoints repeatedly. Prints the growth over the first and the second half of
each case, between medians over a tenth of the samples. The exit status is 1 if a quantity grows
over the second half, memory by more than 1 %.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from maml_rl.analysis.figures import COLORS, encoded
from maml_rl.settings.config import Config
from maml_rl.settings.parser import load_config
from maml_rl.system.atomic_files import write_whole
from maml_rl.training.callbacks import Callback, RunInProgress
from maml_rl.training.start import train

MEMORY_MAY_GROW_BY = 0.01
"""Largest relative growth of memory over the second half."""
_POINT: dict[str, Any] = {"env": "PointNavigation"}
_CHEETAH: dict[str, Any] = {"env": "HalfCheetahVel"}
_RL2 = {"name": "rl2", "num_minibatches": 1, "hidden_size": 8}
_PEARL = {
    "name": "pearl",
    "num_training_tasks": 3,
    "num_updates": 2,
    "latent_size": 2,
    "tasks_per_update": 2,
    "batch_size": 8,
    "context_size": 8,
    "hidden_sizes": [8],
    "encoder_hidden_sizes": [8],
}
_ITERATIONS_PER_SHORT_RUN = 20
CASES: Mapping[str, list[dict[str, Any]]] = {
    "PointNavigation": [_POINT],
    "HalfCheetahVel": [_CHEETAH],
    f"both, runs of {_ITERATIONS_PER_SHORT_RUN}": [_POINT, _CHEETAH],
    "PointNavigation, RL2": [{**_POINT, "learner": _RL2}],
    "PointNavigation, PEARL": [{**_POINT, "learner": _PEARL}],
}
"""Settings of the runs of each case: of one long run, or of short ones in turn."""


class Usage(NamedTuple):
    """Resources of this process."""

    memory_mb: float
    """Resident memory."""
    open_files: int
    threads: int
    """Threads of Python, torch and the simulator."""
    children: int
    """Running child processes."""

    @classmethod
    def now(cls) -> Usage:
        """Read the current usage from Linux's /proc."""
        status = dict(
            line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines()
        )
        children = 0
        for thread in Path("/proc/self/task").iterdir():
            with contextlib.suppress(FileNotFoundError):  # the thread has just ended
                children += len((thread / "children").read_text().split())
        num_files = len(list(Path("/proc/self/fd").iterdir()))
        return cls(int(status["VmRSS"].split()[0]) / 1024, num_files, _num_threads(), children)


def _num_threads() -> int:
    """Return the smallest of five counts, because /proc briefly lists threads that have ended."""
    counts = []
    for _ in range(5):
        counts.append(len(list(Path("/proc/self/task").iterdir())))
        time.sleep(0.002)
    return min(counts)


def main() -> int:
    """Run the cases, and check that usage levels off."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--iterations", type=int, default=2000, help="meta-iterations of each case")
    parser.add_argument("--plot", type=Path, help="PNG file to write")
    args = parser.parse_args()
    if args.iterations < 100:
        parser.error(f"--iterations must be at least 100 to detect a trend, got {args.iterations}")
    cases = {}
    for name, settings in CASES.items():
        cases[name] = sampled(settings, args.iterations)
        print(f"{name}:", flush=True)
        for what, (first, second) in growth(cases[name]).items():
            print(
                f"  {what:<12} {cases[name][-1][what]:8.1f}  grew by {first:.1f}, then by "
                f"{second:.1f}",
                flush=True,
            )
    if args.plot is not None:
        write_whole(args.plot, encoded(leaks_figure(cases), "png"))
    growing = {name: what for name, samples in cases.items() if (what := grows(samples))}
    for name, what in growing.items():
        print(f"{name}: {', '.join(what)} did not level off")
    return int(bool(growing))


class _Sampler(Callback):
    """Keeps :class:`Usage` after each iteration."""

    def __init__(self) -> None:
        self.samples: list[Usage] = []

    def on_iteration(self, run: RunInProgress, metrics: dict[str, float]) -> None:
        self.samples.append(Usage.now())


def sampled(settings: list[dict[str, Any]], num_iterations: int) -> np.ndarray:
    """Run a case, and return :class:`Usage` after each iteration as an array of records."""
    sampler = _Sampler()
    length = num_iterations if len(settings) == 1 else _ITERATIONS_PER_SHORT_RUN
    with tempfile.TemporaryDirectory() as folder:
        for i in range(num_iterations // length):
            run = config(settings[i % len(settings)], Path(folder) / str(i), length)
            train(run, [sampler])
    return np.array(sampler.samples, dtype=[(what, float) for what in Usage._fields])


def growth(samples: np.ndarray) -> dict[str, tuple[float, float]]:
    """Return the growth of each quantity over each half, between medians over tenths."""
    tenth = len(samples) // 10
    half = len(samples) // 2
    result = {}
    for what in Usage._fields:
        start, middle, end = (np.median(samples[what][i:][:tenth]) for i in (0, half, -tenth))
        result[what] = (float(middle - start), float(end - middle))
    return result


def grows(samples: np.ndarray) -> list[str]:
    """Return the quantities that did not level off."""
    allowed = {"memory_mb": MEMORY_MAY_GROW_BY * float(samples["memory_mb"][-1])}
    return [what for what, (_, second) in growth(samples).items() if second > allowed.get(what, 0)]


def config(settings: dict[str, Any], output: Path, num_iterations: int) -> Config:
    """Return a configuration: tiny iterations, an evaluation every 2nd and a video every 10th."""
    sizes = {
        "num_iterations": num_iterations,
        "meta_batch_size": 2,
        "num_episodes": 2,
        "horizon": 2,
        "device": "cpu",
        "policy": {"hidden_sizes": [8]},
        "logging": {"checkpoint_every": 2, "evaluate_every": 2, "video_every": 10},
    }
    return load_config(**settings, **sizes, output=str(output))


def leaks_figure(cases: dict[str, np.ndarray]) -> Figure:
    """Plot every quantity against meta-iterations, one line for each case."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    labels = ("resident memory (MB)", "open files", "threads", "child processes")
    for axes, what, label in zip(
        figure.subplots(2, 2, sharex=True).flat, Usage._fields, labels, strict=True
    ):
        for i, (name, samples) in enumerate(cases.items()):
            axes.plot(
                samples[what], color=COLORS[i], linestyle=("-", "--", ":", "-.", "-")[i], label=name
            )
        axes.set_ylabel(label)
        axes.set_ylim(0, 1.15 * max(1.0, *(samples[what].max() for samples in cases.values())))
        axes.grid(alpha=0.3)
    for axes in figure.axes[2:]:
        axes.set_xlabel("meta-iteration")
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9
    )
    return figure


if __name__ == "__main__":
    sys.exit(main())
