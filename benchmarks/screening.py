"""Train named variants of settings with several seeds, and tabulate their evaluations.

    python benchmarks/screening.py benchmarks/screening/half_cheetah_vel.yaml --jobs 2

The file has ``base`` (settings of all runs), ``variants`` (names, each with other settings),
``seeds`` and ``evaluation`` (flags of ``maml_rl.evaluate``). Each run trains on one core, in
OUTPUT/NAME/seed-S with its log next to it; all are evaluated on the same fresh tasks. The same
command resumes unfinished runs; finished ones are only evaluated again. Prints the return after
each adaptation step, and writes it to OUTPUT/table.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from maml_rl.analysis.learning_curves import read_runs
from maml_rl.cli import path_argument, positive
from maml_rl.errors import UserError
from maml_rl.evaluate import make_parser
from maml_rl.runs.run_folder import run_config
from maml_rl.runs.seeds import checked_seeds
from maml_rl.settings.config import Config, to_mapping
from maml_rl.settings.parser import load_config
from maml_rl.settings.sources import checked_mapping, expanded, merged
from maml_rl.system.atomic_files import write_whole
from maml_rl.system.safe_yaml import read_yaml, to_yaml

_DEFAULTS = {"torch_threads": 1, "logging": {"final_evaluation": False, "final_video": False}}


def read_variants(file: Path, output: Path) -> tuple[dict[Path, Config], list[str]]:
    """Return the configuration of each run folder, and evaluation flags.

    Raises:
        UserError: if the file is invalid, or a run in ``output`` has other settings.
    """
    values = _with_keys(read_yaml(file), ("base", "variants", "seeds", "evaluation"), str(file))
    base = merged(_DEFAULTS, expanded(checked_mapping(values["base"], f"base in {file}")))
    variants = checked_mapping(values["variants"], f"variants in {file}")
    seeds = checked_seeds(values["seeds"], f"seeds in {file}")
    evaluation = _with_keys(values["evaluation"], ("seed", "num_steps"), f"evaluation in {file}")
    flags = [f"--{key}={value}" for key, value in evaluation.items()]
    make_parser().parse_args(["RUN", *flags])  # checks their values
    if not variants:
        raise UserError(f"variants in {file} must have at least one name, got none")
    configs = {}
    for name, changes in variants.items():
        if not re.fullmatch(r"\w[\w .-]*", name):  # it names a folder
            raise UserError(f"variants in {file}: a name must be a file name, got {name!r:.100}")
        settings = merged(base, expanded(checked_mapping(changes, f"{name} in {file}")))
        for seed in seeds:
            folder = output / name / f"seed-{seed}"
            try:
                config = load_config(**settings | {"seed": seed, "output": None})
            except UserError as error:
                raise UserError(f"{name} in {file}: {error}") from error
            is_started = (folder / "config.yaml").is_file()
            if is_started and replace(run_config(folder), output=None) != config:
                raise UserError(f"the run in {folder} has other settings: choose another --output")
            configs[folder] = config
    return configs, flags


def _with_keys(value: object, keys: tuple[str, ...], what: str) -> dict[str, object]:
    values = checked_mapping(value, what)
    if values.keys() != set(keys):
        raise UserError(f"{what} must have {', '.join(keys)}, got {', '.join(values) or 'none'}")
    return values


def train_and_evaluate(run: Path, config: Config, flags: list[str]) -> list[str]:
    """Train or resume a run, and evaluate it; return its cells of the table."""
    results = run / "evaluation/results.json"  # written after the last iteration
    arguments = ["--resume", str(run)]
    if not (run / "config.yaml").is_file():
        run.parent.mkdir(parents=True, exist_ok=True)
        write_whole(run.parent / f"{run.name}.yaml", to_yaml(to_mapping(config)))
        arguments = ["--config", f"{run}.yaml", "--output", str(run)]
    if not results.is_file():
        _execute("train", arguments, run)
    _execute("evaluate", [str(run), *flags], run)
    (result,) = json.loads(results.read_text())["results"]
    columns = read_runs([run])[0].columns
    num_steps = f"{columns['time/num_env_steps'][-1] / 1e6:.2f} M"
    hours = f"{columns['time/meta_iteration_s'].sum() / 3600:.2f}"
    returns = [f"{value:.1f}" for value in result["return"]]
    return [run.parent.name, str(config.seed), *returns, num_steps, hours]


def _execute(command: str, arguments: list[str], run: Path) -> None:
    log = run.parent / f"{run.name}.log"
    typed = [sys.executable, "-m", f"maml_rl.{command}", *arguments]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("a") as file:
        done = subprocess.run(typed, env=env, stdout=file, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise UserError(f"{command} ended with exit status {done.returncode}: see {log}")


def _use_one_core(count: itertools.count[int]) -> None:
    """Bind this thread, and the processes that it starts, to the next core, with low priority."""
    if sys.platform == "linux":  # elsewhere, threads cannot be bound
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[next(count) % len(cores)]})
        os.nice(10)


def main(argv: list[str] | None = None) -> int:
    """Train, evaluate and print; the exit status is 1 if a run fails."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("file", type=path_argument, metavar="FILE.yaml")
    parser.add_argument("--jobs", type=positive, default=1, help="runs in parallel (default: 1)")
    parser.add_argument("--output", type=path_argument, default=Path("runs/screening"))
    args = parser.parse_args(argv)
    try:
        configs, flags = read_variants(args.file, args.output)
    except UserError as error:
        parser.error(str(error))
    executor = ThreadPoolExecutor(args.jobs, "", _use_one_core, (itertools.count(),))
    runs = [executor.submit(train_and_evaluate, *item, flags) for item in configs.items()]
    try:
        failed = [run for run in runs if isinstance(run.exception(), UserError)]
    except KeyboardInterrupt:  # the processes receive Ctrl-C too, save and end
        executor.shutdown(cancel_futures=True)
        parser.exit(130, "interrupted: the same command resumes\n")
    for run in failed:
        print(f"error: {run.exception()}", file=sys.stderr)
    rows = [run.result() for run in runs if run not in failed]
    steps = map(str, range(max(map(len, rows), default=4) - 4))
    head = ["variant", "seed", *steps, "control steps", "hours"]
    table = "".join(f"| {' | '.join(row)} |\n" for row in [head, ["---"] * len(head), *rows])
    write_whole(args.output / "table.md", table)
    print(table, end="")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
