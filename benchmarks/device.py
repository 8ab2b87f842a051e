"""Compare a meta-iteration with the learner on the CPU and on the GPU; physics is on the CPU.

For several sizes, prints the seconds of an iteration and of its parts, and the CPU / GPU ratio. The
exit status is 1 if a return or the meta-gradient of the first iteration differs by more than 1 %.

    python benchmarks/device.py
    python benchmarks/device.py --devices cpu cpu --env PointNavigation      a dry run without a GPU
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import numpy as np

from maml_rl.settings.parser import load_config
from maml_rl.training.compose import open_training

_SIZES = (
    (40, 20, 100, (64, 64)),
    (40, 20, 200, (100, 100)),
    (160, 20, 100, (64, 64)),
    (40, 20, 100, (256, 256)),
)
_PARTS = ("collection", "advantages", "adaptation", "outer_step")
_COMPARED = (
    "train/return_after_0_steps",
    "train/return_after_1_steps",
    "outer/surrogate_before",
    "outer/gradient_norm",
)


def measure(
    device: str, rounds: int, settings: dict[str, Any]
) -> tuple[np.ndarray, dict[str, float]]:
    """Return the median seconds of each part, and the metrics of the first iteration."""
    with open_training(load_config(**settings, device=device)) as training:
        first = training.iterate().metrics  # warm-up
        seconds = []
        for _ in range(rounds):
            metrics = training.iterate().metrics
            seconds.append([metrics[f"time/{part}_s"] for part in _PARTS])
    return np.median(seconds, axis=0), first


def main() -> int:
    """Measure, compare and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--env", default="HalfCheetahVel")
    parser.add_argument("--devices", nargs=2, default=("cpu", "cuda"), metavar="DEVICE")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    num_different = 0
    print(args.env)
    columns = f"{'device':>6} {'total':>7}  {'  '.join(_PARTS)}"
    print(f"{'tasks x episodes x steps, network':<34} {columns}")
    for num_tasks, num_episodes, horizon, hidden_sizes in _SIZES:
        # measure
        name = f"{num_tasks} x {num_episodes} x {horizon}, {' x '.join(map(str, hidden_sizes))}"
        sizes = {"meta_batch_size": num_tasks, "num_episodes": num_episodes, "horizon": horizon}
        settings = {"env": args.env, **sizes, "policy": {"hidden_sizes": list(hidden_sizes)}}
        results = [measure(device, args.rounds, settings) for device in args.devices]
        # seconds
        for device, (seconds, _) in zip(args.devices, results, strict=True):
            parts = "  ".join(
                f"{value:{len(part)}.3f}" for part, value in zip(_PARTS, seconds, strict=True)
            )
            print(f"{name:<34} {device:>6} {seconds.sum():7.3f}  {parts}")
        # ratio, and metrics that differ
        (cpu_s, cpu_metrics), (gpu_s, gpu_metrics) = results
        different = [
            name
            for name in _COMPARED
            if not np.isclose(gpu_metrics[name], cpu_metrics[name], rtol=1e-2, atol=1e-4)
        ]
        num_different += len(different)
        verdict = f"differs in {', '.join(different)}" if different else "same metrics"
        print(f"{'':<34} {'ratio':>6} {cpu_s.sum() / gpu_s.sum():7.3f}  {verdict}", flush=True)
    return int(num_different > 0)


if __name__ == "__main__":
    sys.exit(main())
