"""Check and measure what needs a GPU, in at most eight minutes.

    python benchmarks/check_gpu.py
    python benchmarks/check_gpu.py --parts sampling training
    python benchmarks/check_gpu.py --device cpu --quick              tiny sizes, a dry run

Parts:

- tests: results of learners equal those on the CPU; MuJoCo Warp's physics equals that of C.
- sampling: control steps per second of HalfCheetahDir on MuJoCo in C and on MuJoCo Warp, alone and
  with a policy of 64 x 64 units.
- training: HalfCheetahDir with 400 tasks and ``--engine warp`` for the rest of the time, at most
  five minutes; its return in training and, on fresh tasks, in MuJoCo in C; the shares of physics,
  policy and learner.

Prints a Markdown table for docs/benchmarks.md. The exit status is 1 if a part fails or is not
finished in its time.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import maml_envs
import mujoco
import numpy as np
import torch
import yaml

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("tests", "sampling", "training")
FAMILY = "HalfCheetahDir"

# Compiling the kernels of all robots would take longer than the rest.
_LEARNER_TESTS = ("tests/learners/test_devices.py", "tests/learners/test_maml.py")
_ENGINE_TESTS = ("tests/envs/test_warp_engine.py", "-k", "HalfCheetahDir or masked or non_finite")
_QUICK_TESTS = ("tests/envs/test_warp_engine.py", "-k", "engine_of_a_robot")

_ENGINE_TESTS_LIMIT_S = 150.0  # most of it is compiling
_LEARNER_TESTS_LIMIT_S = 90.0
_TRAINING_LIMIT_S = 300.0
_EVALUATION_LIMIT_S = 60.0
_RESERVE_S = 30.0  # start and end of a training run

_FAILURES = ("exit status", "not finished")

Rows = list[tuple[str, str]]
"""What was measured, and the result."""


def device_name(device: str) -> str:
    """The name of the GPU, or the number of CPU cores."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{num_cores()} CPU cores ({platform.machine()})"


def num_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))


def run(command: list[str], limit_s: float) -> str:
    """Run a command; return ``ok``, or how it failed."""
    print("$", " ".join(command), flush=True)
    try:
        status = subprocess.run(command, cwd=ROOT, timeout=limit_s, check=False).returncode
    except subprocess.TimeoutExpired:
        return f"not finished in {limit_s:.0f} s"
    return "ok" if status == 0 else f"exit status {status}"


def check(is_quick: bool) -> Rows:
    """Run the tests; they use the GPU if there is one."""
    pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    tests = _QUICK_TESTS if is_quick else _ENGINE_TESTS
    rows = [("tests of physics on a device", run([*pytest, *tests], _ENGINE_TESTS_LIMIT_S))]
    if not is_quick:
        outcome = run([*pytest, *_LEARNER_TESTS], _LEARNER_TESTS_LIMIT_S)
        rows.append(("tests of learners on every device", outcome))
    return rows


def steps_per_second(
    step: Callable[[], object], num_sims: int, device: str, num_steps: int
) -> float:
    """Control steps of all simulations per second."""

    def finish() -> None:
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)

    step()  # warm-up
    finish()
    start = time.perf_counter()
    for _ in range(num_steps):
        step()
    finish()
    return num_sims * num_steps / (time.perf_counter() - start)


def c_speed(num_sims: int, num_steps: int) -> float:
    """Control steps per second of MuJoCo in C, with random actions."""
    family = maml_envs.FAMILIES[FAMILY]()
    engine = family.robot.batch_engine(num_sims, num_cores(), ())
    engine.reset(np.arange(num_sims), initial_states(family, num_sims))
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (num_sims, *family.robot.action_space.shape))
    return steps_per_second(lambda: engine.step(None, actions), num_sims, "cpu", num_steps)


def initial_states(family: Any, num_sims: int) -> dict[str, np.ndarray]:
    """Initial states (num_sims, ...) by name."""
    rng = np.random.default_rng(0)
    states = [family.initial_state(rng) for _ in range(num_sims)]
    return {name: np.stack([state[name] for state in states]) for name in states[0]}


def warp_speeds(num_sims: int, num_steps: int, device: str) -> tuple[float, float]:
    """Control steps per second of MuJoCo Warp, with random actions and with a policy's."""
    family = maml_envs.FAMILIES[FAMILY]()
    engine = family.robot.device_engine(num_sims, torch.device(device), ())
    initial = {
        name: torch.as_tensor(values, dtype=torch.float32, device=device)
        for name, values in initial_states(family, num_sims).items()
    }
    everything = torch.ones(num_sims, dtype=torch.bool, device=device)
    num_actions = family.robot.action_space.shape[0]
    actions = torch.rand(num_sims, num_actions, device=device) * 2 - 1
    policy = torch.nn.Sequential(
        torch.nn.Linear(family.observation(torch, engine.state).shape[1], 64),
        torch.nn.Tanh(),
        torch.nn.Linear(64, 64),
        torch.nn.Tanh(),
        torch.nn.Linear(64, num_actions),
    ).to(device)

    def step_with_policy() -> None:
        mean = policy(family.observation(torch, engine.state))
        engine.step((mean + 0.5 * torch.randn_like(mean)).clamp(-1, 1))

    speeds = []
    with torch.no_grad():
        for step in (lambda: engine.step(actions), step_with_policy):
            engine.reset(everything, initial)
            speeds.append(steps_per_second(step, num_sims, device, num_steps))
    if bool(engine.failure.any()):
        raise RuntimeError(f"simulations failed: {torch.unique(engine.failure).tolist()}")
    engine.close()
    return speeds[0], speeds[1]


def sample(device: str, is_quick: bool) -> Rows:
    """Measure control steps per second."""
    rows = []
    for num_sims in (8,) if is_quick else (800, 8_000, 32_000):
        num_steps = 2 if is_quick else 50
        in_c = c_speed(num_sims, num_steps)
        alone, with_policy = warp_speeds(num_sims, num_steps, device)
        result = (
            f"C {in_c:,.0f}, Warp {alone:,.0f} ({1e3 * num_sims / alone:.2f} ms a step), "
            f"Warp with a policy {with_policy:,.0f}"
        )
        rows.append((f"control steps per second, {num_sims:,} simulations", result))
        print(rows[-1], flush=True)
    return rows


def train(device: str, is_quick: bool, limit_s: float) -> Rows:
    """Train for ``limit_s``, and read the progress log."""
    if limit_s < 2 * _RESERVE_S:
        return [("training", "not finished: no time left")]
    sizes = {"meta_batch_size": 400, "num_iterations": 100_000}
    if is_quick:
        sizes = {"meta_batch_size": 4, "num_episodes": 2, "horizon": 5, "num_iterations": 2}
    flags = [f"--{name}={value}" for name, value in sizes.items()]
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "run"
        command = [sys.executable, "-m", "maml_rl.train", "--env", FAMILY, "--engine", "warp"]
        command += ["--device", device, "--output", str(output), *flags]
        command += ["--max_hours", f"{(limit_s - _RESERVE_S) / 3600:.5f}"]
        command += ["--logging.final_evaluation", "false", "--logging.final_video", "false"]
        command += ["--inner.choose_test_step_sizes", "false"]
        outcome = run(command, limit_s + _RESERVE_S)
        if outcome != "ok":
            return [("training", outcome)]
        with open(output / "progress.csv") as file:
            log = list(csv.DictReader(file))
        settings = yaml.safe_load((output / "config.yaml").read_text())
        final = evaluation_row(output, is_quick)
    num_sims = settings["meta_batch_size"] * settings["num_episodes"]
    alone, _ = warp_speeds(num_sims, 2 if is_quick else 50, device)
    return [*training_rows(log, num_sims, alone), final]


def evaluation_row(run_folder: Path, is_quick: bool) -> tuple[str, str]:
    """The return of a trained policy on fresh tasks, in MuJoCo in C."""
    sizes = {"seed": 1000, "num_tasks": 2 if is_quick else 40, "num_steps": 1}
    command = [sys.executable, "-m", "maml_rl.evaluate", str(run_folder)]
    command += [f"--{name}={value}" for name, value in sizes.items()]
    outcome = run(command, _EVALUATION_LIMIT_S)
    name = "training: final policy in MuJoCo in C"
    if outcome != "ok":
        return name, outcome
    with open(run_folder / "evaluation" / "results.csv") as file:
        rows = list(csv.DictReader(file))
    means = [
        np.mean([float(row["return"]) for row in rows if int(row["step"]) == step])
        for step in range(2)
    ]
    return name, f"return_after_0_steps {means[0]:.1f}, return_after_1_steps {means[1]:.1f}"


def training_rows(log: list[dict[str, str]], num_sims: int, alone: float) -> Rows:
    """Return, seconds per iteration, and shares, from a progress log.

    Args:
        log: rows of the progress log.
        num_sims: simulations of the run.
        alone: control steps per second of the physics alone.
    """
    # the first iteration compiles kernels
    steady = log[1:] if len(log) > 1 else log
    iteration_s = float(np.median([float(row["time/meta_iteration_s"]) for row in steady]))
    collection_s = float(np.median([float(row["time/collection_s"]) for row in steady]))
    num_steps = float(log[-1]["time/num_env_steps"]) / len(log)
    shares = {
        "physics": num_steps / alone / iteration_s,
        "policy and rest of the collection": (collection_s - num_steps / alone) / iteration_s,
        "learner": 1 - collection_s / iteration_s,
    }
    returns = {
        name.removeprefix("train/"): float(value)
        for name, value in log[-1].items()
        if name.startswith("train/return_after_")
    }
    return [
        ("training: simulations, iterations", f"{num_sims:,}, {len(log)}"),
        ("training: last iteration", ", ".join(f"{k} {v:.1f}" for k, v in returns.items())),
        ("training: seconds per iteration", f"{iteration_s:.3f}"),
        ("training: control steps per second", f"{num_steps / iteration_s:,.0f}"),
        ("training: shares", ", ".join(f"{k} {100 * v:.0f} %" for k, v in shares.items())),
    ]


def main() -> int:
    """Run the parts and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--minutes", type=float, default=8.0)
    args = parser.parse_args()
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("no GPU that torch can use; --device cpu --quick is a dry run")
    end = time.monotonic() + 60 * args.minutes
    rows: Rows = []
    if "tests" in args.parts:
        rows += check(args.quick)
    if "sampling" in args.parts:
        rows += sample(args.device, args.quick)
    if "training" in args.parts:
        left_s = end - time.monotonic() - _EVALUATION_LIMIT_S - 2 * _RESERVE_S
        limit_s = min(_TRAINING_LIMIT_S, left_s)
        rows += train(args.device, args.quick, limit_s)
    print(table(rows, args.device))
    return int(any(result.startswith(_FAILURES) for _, result in rows))


def table(rows: Rows, device: str) -> str:
    """A Markdown table of the results, with device, versions and date."""
    versions = f"torch {torch.__version__}, MuJoCo {mujoco.__version__}"
    cores = "" if device == "cpu" else f" and {num_cores()} CPU cores"
    lines = [f"{date.today()}, {device_name(device)}{cores}, {versions}:", ""]
    lines += ["| what | result |", "| --- | --- |"]
    return "\n".join([*lines, *(f"| {what} | {result} |" for what, result in rows)])


if __name__ == "__main__":
    sys.exit(main())
