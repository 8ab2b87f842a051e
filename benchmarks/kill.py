"""Kill training repeatedly, and compare its result with that of an uninterrupted run.

    python benchmarks/kill.py --kills 100                 real processes, SIGKILL at any moment
    python benchmarks/kill.py --kills 100 --learner rl2   the same, with another learner
    python benchmarks/kill.py --faults                    every file operation, in this process

Prints the number of kills or faults; the exit status is 1 if a run differs.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

from file_faults import Killed, differences, faults_of, faulty, go_on, toy_iteration

from maml_rl.learners.maml.learner import MAML
from maml_rl.settings.parser import load_config

_NOTHING_AT_THE_END = {"final_evaluation": False, "final_video": False}
_RUN = [
    *("--env=PointNavigation", "--meta_batch_size=3", "--num_episodes=2", "--horizon=5"),
    *("--device=cpu", "--torch_threads=1", "--policy.hidden_sizes=[8]", "--num_iterations=400"),
    "--logging.checkpoint_every=2",
    *(f"--logging.{name}=false" for name in _NOTHING_AT_THE_END),
]
_TRIALS = ["--learner.num_minibatches=1", "--learner.num_epochs=1"]
_OF_LEARNERS = {
    "maml": [],
    "rl2": [*_TRIALS, "--learner.hidden_size=8"],
    "pearl": [
        *("--learner.num_training_tasks=3", "--learner.num_updates=2", "--learner.latent_size=2"),
        *("--learner.tasks_per_update=2", "--learner.batch_size=8", "--learner.context_size=8"),
        *("--learner.hidden_sizes=[8]", "--learner.encoder_hidden_sizes=[8]"),
    ],
    "rma": [*_TRIALS, "--learner.hidden_size=8", "--learner.teacher_iterations=200"],
    "sysid": [*_TRIALS, "--learner.window=4", "--learner.teacher_iterations=200"],
}
"""Flags with which iterations take little time."""


def main() -> int:
    """Run the selected tests."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=0, help="real processes to kill")
    parser.add_argument(
        "--learner", choices=_OF_LEARNERS, default="maml", help="of --kills (default: maml)"
    )
    parser.add_argument("--faults", action="store_true", help="kill at every file operation")
    parser.add_argument(
        "--storms", type=int, default=20, help="with --faults: runs with 20 random faults each"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        different = _faults(Path(folder), args.storms, args.seed) if args.faults else 0
        if args.kills:
            flags = [*_RUN, f"--learner={args.learner}", *_OF_LEARNERS[args.learner]]
            different += _kills(Path(folder), flags, args.kills, args.seed)
    return int(different > 0)


def _faults(folder: Path, num_storms: int, seed: int) -> int:
    """Kill a run at every file operation, and resume it; return how many runs differ."""
    rng = random.Random(seed)
    injected = 0
    different = 0
    sizes = {
        "num_iterations": 5,
        "meta_batch_size": 1,
        "num_episodes": 1,
        "horizon": 2,
        "device": "cpu",
    }
    logging = {"checkpoint_every": 2, "keep_checkpoints": 2, **_NOTHING_AT_THE_END}

    def config(name: str):
        output = str(folder / name)
        settings = {"env": "PointNavigation", "policy": {"hidden_sizes": [4]}, "outer": "adam"}
        return load_config(**settings, logging=logging, output=output, **sizes)

    with mock.patch.object(MAML, "iteration", toy_iteration):
        # reference run, and the faults to inject
        with faulty() as operations:
            go_on(config("uninterrupted"))
        run = config("run")
        cases = [[fault] for fault in faults_of(operations)]
        cases += [
            [rng.choice(faults_of(operations[:30])) for _ in range(20)] for _ in range(num_storms)
        ]
        # inject, resume, compare
        for case in cases:
            for fault in case:
                with contextlib.suppress(Killed), faulty(fault):
                    go_on(run)
                    continue  # the run ended before the fault
                injected += 1
            go_on(run)
            differing = differences(folder / "run", folder / "uninterrupted")
            if differing:
                different += 1
                print(f"after {case}: {', '.join(differing)}")
            shutil.rmtree(folder / "run")
    print(
        f"{injected} faults injected at {len(operations)} file operations, {len(cases)} runs, "
        f"{different} differ"
    )
    return different


def _kills(folder: Path, flags: list[str], num_kills: int, seed: int) -> int:
    """Kill training processes at random times, and resume them; return how many runs differ."""
    rng = random.Random(seed)
    killed = 0
    different = 0
    command = [sys.executable, "-m", "maml_rl.train"]
    # time of the start-up and of all iterations; the second run is the reference
    start = time.perf_counter()
    subprocess.run(
        [*command, *flags, "--max_env_steps=1", "--output", str(folder / "one")],
        check=True,
        capture_output=True,
    )
    started_s = time.perf_counter() - start
    subprocess.run(
        [*command, *flags, "--output", str(folder / "whole")], check=True, capture_output=True
    )
    iterating_s = time.perf_counter() - start - 2 * started_s
    for number in itertools.count():
        # start or resume, and kill, until the run ends
        run = folder / str(number)
        while killed < num_kills:
            new = not (run / "config.yaml").exists()
            arguments = [*flags, "--output", str(run)] if new else ["--resume", str(run)]
            process = subprocess.Popen(
                [*command, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
            try:
                # at about the first iteration or later: about ten kills per run
                process.communicate(timeout=0.8 * started_s + rng.uniform(0.0, 0.2) * iterating_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                killed += 1
                print(f"killed {killed} of {num_kills}", flush=True)
                continue
            if process.returncode:
                print(f"exit status {process.returncode} of {arguments}")
                return different + 1
            break
        # finish, and compare with the reference
        arguments = (
            ["--resume", str(run)]
            if (run / "config.yaml").exists()
            else [*flags, "--output", str(run)]
        )
        subprocess.run([*command, *arguments], check=True, capture_output=True)
        differing = differences(run, folder / "whole")
        print(f"run {number} ended", flush=True)
        if differing:
            different += 1
            print(f"run {number}: {', '.join(differing)}")
        if killed >= num_kills:
            print(f"{killed} processes killed over {number + 1} runs, of which {different} differ")
            return different
    raise AssertionError("the count never ends")


if __name__ == "__main__":
    sys.exit(main())
