"""Compare an iteration with the learner on the CPU and on the GPU; physics is on the CPU.

For each learner and several sizes, prints the seconds of an iteration and of its parts, and the
CPU / GPU ratio. The exit status is 1 if a return, or the gradient of MAML's first iteration,
differs by more than 1 %.

    python benchmarks/device.py
    python benchmarks/device.py --learners pearl rma
    python benchmarks/device.py --devices cpu cpu --env PointNavigation      a dry run without a GPU
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

import numpy as np

from maml_rl.cli import positive
from maml_rl.settings.parser import load_config
from maml_rl.training.compose import open_training

# Only MAML has a gradient here: the updates of an iteration of the others follow from one another.
_COMPARED = (
    "train/return_after_0_steps",
    "train/return_after_1_steps",
    "outer/surrogate_before",
    "outer/gradient_norm",
)


def maml(
    num_tasks: int, num_episodes: int, horizon: int, hidden_sizes: tuple[int, ...]
) -> tuple[str, dict[str, Any]]:
    """Return a name and settings of MAML with one inner step of a size."""
    network = " x ".join(map(str, hidden_sizes))
    return f"maml, {num_tasks} x {num_episodes} x {horizon}, {network}", {
        "meta_batch_size": num_tasks,
        "num_episodes": num_episodes,
        "horizon": horizon,
        "inner": {"num_steps": 1},
        "policy": {"hidden_sizes": list(hidden_sizes)},
    }


def rl2(num_tasks: int, **learner: Any) -> tuple[str, dict[str, Any]]:
    """Return a name and settings of RL² with trials of 2 x 100 steps and 4 epochs."""
    network = ", ".join(str(value) for value in learner.values())
    return f"rl2, {num_tasks} x 2 x 100, {network}", {
        "meta_batch_size": num_tasks,
        "num_episodes": 1,
        "horizon": 100,
        # All epochs, however far the policy moves.
        "learner": {"name": "rl2", "num_epochs": 4, "target_kl": 1e6, **learner},
    }


def pearl(num_updates: int, tasks_per_update: int, width: int) -> tuple[str, dict[str, Any]]:
    """Return a name and settings of PEARL with two hidden layers per network."""
    return f"pearl, {num_updates} updates of {tasks_per_update} tasks, {width} x {width}", {
        # Enough that their mean return hardly depends on rounding, which impacts amplify.
        "meta_batch_size": 200,
        "num_episodes": 1,
        "horizon": 100,
        "learner": {
            "name": "pearl",
            "num_training_tasks": 200,
            "num_updates": num_updates,
            "tasks_per_update": tasks_per_update,
            "hidden_sizes": [width, width],
        },
    }


def teacher_student(name: str, *, is_student: bool) -> tuple[str, dict[str, Any]]:
    """Return a name and settings of iterations of a teacher, or of its student."""
    return f"{name}, 200 x 2 x 100, {'student' if is_student else 'teacher'}", {
        "meta_batch_size": 200,
        "num_episodes": 2,
        "horizon": 100,
        # The first iteration is a warm-up.
        "learner": {"name": name, "teacher_iterations": 1 if is_student else 1000},
    }


_SIZES = (
    maml(40, 20, 100, (64, 64)),
    maml(40, 20, 200, (100, 100)),
    maml(160, 20, 100, (64, 64)),
    maml(40, 20, 100, (256, 256)),
    rl2(200, cell="gru", hidden_size=128),
    rl2(200, cell="lstm", hidden_size=128),
    rl2(200, cell="gru", hidden_size=128, hypernetwork=True),
    rl2(800, cell="gru", hidden_size=256),
    pearl(100, tasks_per_update=8, width=256),
    pearl(100, tasks_per_update=16, width=256),
    teacher_student("rma", is_student=False),
    teacher_student("rma", is_student=True),
    teacher_student("sysid", is_student=True),
)


def learner_name(settings: dict[str, Any]) -> str:
    """Return the name of the learner of some settings."""
    return str(settings.get("learner", {"name": "maml"})["name"])


_LEARNERS = tuple(dict.fromkeys(learner_name(settings) for _, settings in _SIZES))


def measure(
    device: str, rounds: int, settings: dict[str, Any]
) -> tuple[float, dict[str, float], dict[str, float]]:
    """Return median seconds of an iteration and of its parts, and the first one's metrics."""
    seconds, rows = [], []
    with open_training(load_config(**settings, device=device)) as training:
        first = training.iterate().metrics  # warm-up
        for _ in range(rounds):
            start = time.perf_counter()
            rows.append(training.iterate().metrics)
            seconds.append(time.perf_counter() - start)
    parts = [name for name in first if name.startswith("time/") and name.endswith("_s")]
    medians = {name: float(np.median([row[name] for row in rows])) for name in parts}
    return float(np.median(seconds)), medians, first


def main() -> int:
    """Measure, compare and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--env", default="HalfCheetahVel")
    parser.add_argument("--devices", nargs=2, default=("cpu", "cuda"), metavar="DEVICE")
    parser.add_argument("--learners", nargs="+", default=_LEARNERS, choices=_LEARNERS)
    parser.add_argument("--rounds", type=positive, default=3)
    args = parser.parse_args()
    num_different = 0
    for name, settings in _SIZES:
        if learner_name(settings) not in args.learners:
            continue
        print(f"{args.env}, {name}")
        results = [
            measure(device, args.rounds, settings | {"env": args.env}) for device in args.devices
        ]
        # seconds
        for device, (seconds, medians, _) in zip(args.devices, results, strict=True):
            parts = ", ".join(
                f"{part.removeprefix('time/').removesuffix('_s')} {value:.3f}"
                for part, value in medians.items()
            )
            print(f"  {device:<5} {seconds:7.3f} s: {parts}")
        # ratio, and metrics that differ
        (cpu_s, _, cpu_metrics), (gpu_s, _, gpu_metrics) = results
        different = [
            f"{name} ({cpu_metrics[name]:.4g}, {gpu_metrics[name]:.4g})"
            for name in _COMPARED
            if name in cpu_metrics
            and not np.isclose(gpu_metrics[name], cpu_metrics[name], rtol=1e-2, atol=1e-4)
        ]
        num_different += len(different)
        verdict = f"differs in {', '.join(different)}" if different else "same metrics"
        print(f"  ratio {cpu_s / gpu_s:7.3f}    {verdict}", flush=True)
    return int(num_different > 0)


if __name__ == "__main__":
    sys.exit(main())
