"""Time and memory of a meta-iteration against tasks, episodes, horizon, inner steps and width.

Each point is measured in a new process: after one warm-up iteration, a second-order MAML-TRPO
iteration, and then a replay of its physics (the floor). Times are relative to the middle point: 40
tasks x 20 episodes x 100 steps, one inner step, 64 x 64. For a linear cost, the columns time and
size are equal.

    python benchmarks/cost_curves.py --plot docs/images/cost_curves.png
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from floor import Recorder, peak_memory_gib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from maml_rl.analysis.figures import COLORS, encoded
from maml_rl.settings.parser import load_config
from maml_rl.system.atomic_files import write_whole
from maml_rl.training.compose import open_training

MIDDLE = {"tasks": 40, "episodes": 20, "horizon": 100, "inner steps": 1, "width": 64}
CURVES = {
    "tasks": (10, 20, 40, 80, 160, 320),
    "episodes": (5, 10, 20, 40, 80),
    "horizon": (25, 50, 100, 200, 400),
    "inner steps": (1, 2, 3, 4, 5),
    "width": (16, 32, 64, 128, 256),
}


def size(name: str, value: int) -> float:
    """Return size / middle; for inner steps, the ratio of the numbers of collections."""
    if name == "inner steps":
        return (value + 1) / (MIDDLE[name] + 1)
    return value / MIDDLE[name]


class Cost(NamedTuple):
    """Cost of one point."""

    seconds: float
    """Seconds of the meta-iteration."""
    floor_s: float
    """Seconds of its physics alone."""
    memory_gib: float
    """Peak memory of the process."""


def cost(sizes: dict[str, int], env: str) -> Cost:
    """Measure the second meta-iteration of a run, then replay its physics."""
    config = load_config(
        env=env,
        meta_batch_size=sizes["tasks"],
        num_episodes=sizes["episodes"],
        horizon=sizes["horizon"],
        inner={"num_steps": sizes["inner steps"]},
        policy={"hidden_sizes": [sizes["width"]] * 2},
        device="cpu",
    )
    with open_training(config) as training:
        training = training.continued(training.iterate().state)
        recorder = Recorder(training.collector.env)
        start = time.perf_counter()
        training.iterate()
        seconds = time.perf_counter() - start
        memory_gib = peak_memory_gib()  # before the replay
        return Cost(seconds=seconds, floor_s=recorder.replay_s(), memory_gib=memory_gib)


def cost_in_a_process(sizes: dict[str, int], env: str) -> Cost:
    """Call :func:`cost` in a new process, so that the peak memory is that of this point."""
    command = [sys.executable, __file__, "--env", env, "--point", json.dumps(sizes)]
    return Cost(*json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))


def main() -> None:
    """Measure, print and plot."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--env", default="HalfCheetahVel")
    parser.add_argument("--curves", nargs="+", choices=list(CURVES), default=list(CURVES))
    parser.add_argument("--plot", type=Path, help="PNG file to write")
    parser.add_argument("--point", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.point is not None:
        print(json.dumps(cost(args.point, args.env)))
        return
    measured: dict[str, dict[int, Cost]] = {}
    for name in args.curves:
        print(f"| {name} | size | time | floor / iteration | peak memory (GiB) |")
        print("| --- | --- | --- | --- | --- |")
        # measure the middle again for every curve, because the machine's speed drifts
        middle = cost_in_a_process(MIDDLE, args.env)
        measured[name] = {}
        for value in CURVES[name]:
            point = middle
            if value != MIDDLE[name]:
                point = cost_in_a_process({**MIDDLE, name: value}, args.env)
            measured[name][value] = point
            ratio = point.seconds / middle.seconds
            share = point.floor_s / point.seconds
            print(
                f"| {value} | {size(name, value):.2f} | {ratio:.2f} | {share:.2f} | "
                f"{point.memory_gib:.2f} |",
                flush=True,
            )
    if args.plot is not None:
        write_whole(args.plot, encoded(cost_figure(measured), "png"))


def cost_figure(measured: dict[str, dict[int, Cost]]) -> Figure:
    """Plot relative time above and memory below, one column for each curve."""
    figure = Figure(figsize=(2.6 * len(measured), 5), layout="constrained")
    FigureCanvasAgg(figure)
    rows: Any = figure.subplots(2, len(measured), squeeze=False)
    for column, (name, points) in enumerate(measured.items()):
        top, bottom = rows[:, column]
        values = list(points)
        middle = points[MIDDLE[name]].seconds
        # time
        sizes = [size(name, value) for value in values]
        top.loglog(values, sizes, color="0.6", linestyle="--", label="linear")
        times = [point.seconds / middle for point in points.values()]
        top.loglog(values, times, color=COLORS[0], marker="o", label="iteration")
        floors = [point.floor_s / middle for point in points.values()]
        top.loglog(values, floors, color=COLORS[1], marker="o", label="physics alone")
        top.set_xticks(values, [str(value) for value in values])
        top.set_yticks([0.25, 0.5, 1, 2, 4, 8], ["1/4", "1/2", "1", "2", "4", "8"])
        top.set_ylim(0.12, 10)
        top.minorticks_off()
        # memory
        memory_gib = [point.memory_gib for point in points.values()]
        bottom.plot(values, memory_gib, color=COLORS[0], marker="o")
        bottom.set_ylim(bottom=0)
        bottom.set_xlabel(name)
        for axes in (top, bottom):
            axes.grid(alpha=0.3)
    rows[0, 0].set_ylabel("time / time of the middle")
    rows[1, 0].set_ylabel("peak memory (GiB)")
    rows[0, 0].legend(fontsize=8)
    return figure


if __name__ == "__main__":
    main()
