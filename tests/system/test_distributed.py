"""Several processes that share a meta-batch: results do not depend on their number."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.commands import run_ranks
from safetensors.torch import load_file

from maml_rl.cli import main
from maml_rl.errors import UserError
from maml_rl.system.distributed import Ranks, joined

SETTINGS = {
    "env": "PointNavigation",
    "meta_batch_size": 16,
    "num_episodes": 2,
    "horizon": 5,
    "num_iterations": 5,
    "device": "cpu",
    "policy.hidden_sizes": [8],
    "policy.normalize_observations": True,
    "inner.exploration_credit": 0.1,
    "logging.evaluate_every": 2,
    "logging.checkpoint_every": 1,
    "logging.final_evaluation": False,
    "logging.final_video": False,
}
FAILING = '''
import gymnasium as gym
import maml_envs
import numpy as np


class Failing(gym.Wrapper):
    """The point, with a reward of NaN for one task in sixteen."""

    def __init__(self, **kwargs):
        super().__init__(gym.make("maml_rl/PointNavigation-v0", **kwargs))

    def sample_tasks(self, num_tasks):
        self.unwrapped.np_random = self.np_random
        tasks = self.unwrapped.sample_tasks(num_tasks)
        return [{**task, "number": float(i)} for i, task in enumerate(tasks)]

    def set_task(self, task):
        self.number = task["number"]
        self.unwrapped.set_task({name: value for name, value in task.items() if name != "number"})

    def step(self, action):
        observation, reward, *rest = super().step(action)
        return observation, np.nan if self.number == 6 else reward, *rest


gym.register("Failing-v0", Failing, max_episode_steps=5)
'''


def flags(**changes: Any) -> list[str]:
    return [f"--{name}={value}" for name, value in {**SETTINGS, **changes}.items()]


def launch(num_ranks: int, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return run_ranks(num_ranks, "maml_rl.train", *arguments, folder=folder)


def torchrun(num_ranks: int, *arguments: str, max_restarts: int = 0) -> list[str]:
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={num_ranks}",
    ]
    return [*launcher, f"--max-restarts={max_restarts}", "-m", "maml_rl.train", *arguments]


def rows_of(run: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((run / "progress.csv").read_text().splitlines()))


def assert_same(run: Path, other: Path) -> None:
    """Parameters to 1e-5, normaliser and metrics to rounding; times and bytes aside."""
    tensors, others = (
        load_file(folder / "checkpoints" / "000005" / "tensors.safetensors")
        for folder in (run, other)
    )
    assert tensors.keys() == others.keys()
    for name, value in tensors.items():
        torch.testing.assert_close(value, others[name], rtol=1e-5, atol=1e-7)
    rows, other_rows = rows_of(run), rows_of(other)
    assert len(rows) == len(other_rows) == 5
    for row, other_row in zip(rows, other_rows, strict=True):
        names = {name for name in row if not name.startswith("time/")}
        assert names == {name for name in other_row if not name.startswith("time/")}
        for name in names - {"outer/gradient_norm"}:
            assert (row[name] == "") == (other_row[name] == "")
            if row[name]:
                assert float(row[name]) == pytest.approx(
                    float(other_row[name]), rel=1e-4, abs=1e-6
                ), name
        assert row["time/num_env_steps"] == other_row["time/num_env_steps"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process."""
    run = tmp_path_factory.mktemp("alone") / "run"
    assert main(["train", *flags(), f"--output={run}"]) == 0
    return run


@pytest.mark.slow
@pytest.mark.parametrize("num_ranks", [pytest.param(2, marks=pytest.mark.thorough), 4])
def test_the_number_of_processes_changes_nothing(
    num_ranks: int, alone: Path, tmp_path: Path
) -> None:
    done = launch(num_ranks, *flags(), "--output=run", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("meta-iterations, each of") == 1  # one process speaks
    assert_same(tmp_path / "run", alone)
    assert all(float(row["time/exchanged_bytes"]) > 0 for row in rows_of(tmp_path / "run"))


@pytest.mark.thorough
def test_torchrun_changes_nothing(alone: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        torchrun(2, *flags(), "--output=run"),
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("meta-iterations, each of") == 1
    assert_same(tmp_path / "run", alone)


TWO_RUNS = f"""
import os, time
import maml_rl
from maml_rl.training import start
seen = start.remembered_run_folder
def late(*arguments):  # process 1 looks at the store long after process 0
    time.sleep(2 * int(os.environ["RANK"]))
    return seen(*arguments)
start.remembered_run_folder = late
names = [name for name in ("env", "meta_batch_size", "num_episodes", "horizon", "device")]
settings = {{name: {SETTINGS!r}[name] for name in names}}
off = {{"final_evaluation": False, "final_video": False}}
for output in ("first", "second"):
    config = maml_rl.load_config(**settings, num_iterations=1, output=output, logging=off)
    print("trained", maml_rl.train(config).name)
"""


@pytest.mark.thorough
def test_a_program_trains_two_runs_and_a_late_process_takes_none_for_a_restart(
    tmp_path: Path,
) -> None:
    (tmp_path / "two.py").write_text(TWO_RUNS)
    launcher = torchrun(2)[: -len(["-m", "maml_rl.train"])]
    done = subprocess.run(
        [*launcher, "two.py"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "trained first" in done.stdout
    assert "trained second" in done.stdout
    for name in ("first", "second"):
        assert len(rows_of(tmp_path / name)) == 1


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is 2 without RANK, MASTER_ADDR, MASTER_PORT"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "WORLD_SIZE is 2 without MASTER_ADDR, MASTER_PORT"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE must be a number of processes, got 'two'"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE must be a number of processes, got '0'"),
    ],
)
def test_variables_of_another_launcher_are_refused(
    variables: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message), joined(torch.device("cpu")):
        pass


def test_an_empty_number_of_processes_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "")
    with joined(torch.device("cpu")) as ranks:
        assert (ranks.rank, ranks.number) == (0, 1)


@pytest.mark.slow
def test_the_number_of_processes_changes_nothing_for_a_recurrent_learner(tmp_path: Path) -> None:
    """Minibatches of trials of both processes, and statistics of their targets."""
    recurrent = {
        "learner": "rl2",
        "learner.hidden_size": 8,
        "learner.num_minibatches": 2,
        "learner.asymmetric_critic": True,
    }
    arguments = [flag for flag in flags(**recurrent) if not flag.startswith("--inner")]
    assert main(["train", *arguments, f"--output={tmp_path / 'alone'}"]) == 0
    done = launch(2, *arguments, "--output=shared", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path / "shared", tmp_path / "alone")


@pytest.mark.thorough
def test_the_number_of_processes_changes_nothing_for_a_teacher_and_a_student(
    tmp_path: Path,
) -> None:
    """Statistics of all tasks in both processes, and minibatches of trials in both phases."""
    both_phases = {
        "learner": "rma",
        "learner.teacher_iterations": 3,
        "learner.hidden_size": 8,
        "learner.num_minibatches": 2,
    }
    arguments = [flag for flag in flags(**both_phases) if not flag.startswith("--inner")]
    assert main(["train", *arguments, f"--output={tmp_path / 'alone'}"]) == 0
    done = launch(2, *arguments, "--output=shared", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path / "shared", tmp_path / "alone")


@pytest.mark.slow
@pytest.mark.parametrize("num_training_tasks", [pytest.param(2, marks=pytest.mark.thorough), 20])
def test_the_number_of_processes_changes_nothing_for_a_replay(
    tmp_path: Path, num_training_tasks: int
) -> None:
    """Both processes have all episodes, and compute their blocks of an update's tasks.

    With 2 tasks, both processes play the same ones.
    """
    off_policy = {
        "learner": "pearl",
        "learner.hidden_sizes": [8],
        "learner.encoder_hidden_sizes": [8],
        "learner.num_training_tasks": num_training_tasks,
        "learner.num_updates": 5,
        "learner.batch_size": 16,
    }
    arguments = [flag for flag in flags(**off_policy) if not flag.startswith("--inner")]
    assert main(["train", *arguments, f"--output={tmp_path / 'alone'}"]) == 0
    done = launch(2, *arguments, "--output=shared", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path / "shared", tmp_path / "alone")


@pytest.mark.thorough
def test_a_process_that_dies_is_started_again_in_the_same_run(tmp_path: Path) -> None:
    """It is the one that leads; the run folder's name is the default one, which holds the time."""
    arguments = torchrun(2, *flags(num_iterations=25), max_restarts=1)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(arguments, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("runs/*/*/checkpoints/0000[0-9][1-9]")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(_child_of_rank_0(process.pid), signal.SIGKILL)
        assert process.wait(timeout=300) == 0
    finally:
        process.terminate()  # it ends its processes
        process.wait()
    (run,) = tmp_path.glob("runs/*/*")
    assert [int(row["time/iteration"]) for row in rows_of(run)] == list(range(1, 26))
    assert (run / "checkpoints" / "000025").is_dir()


def _child_of_rank_0(launcher: int) -> int:
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == launcher and b"\0RANK=0\0" in b"\0" + (path / "environ").read_bytes():
                return int(path.name)
        except (OSError, ValueError):
            continue  # it has ended
    raise AssertionError("the launcher has no such process")


@pytest.mark.slow
def test_a_run_resumes_with_another_number_of_processes(alone: Path, tmp_path: Path) -> None:
    done = launch(2, *flags(num_iterations=2), "--output=run", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    done = launch(4, "--resume=run", "--num_iterations=5", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path / "run", alone)


@pytest.mark.slow
def test_failures_are_reported_as_by_one_process(tmp_path: Path) -> None:
    (tmp_path / "failing.py").write_text(FAILING)
    # One task of all fails: a larger share of those of its process than is allowed.
    changes = {"num_iterations": 2, "max_failed_share": 0.1, "logging.evaluate_every": 1}
    other = flags(env="failing:Failing-v0", **changes)
    failures = []
    for num_ranks in (1, 2):
        done = launch(num_ranks, *other, f"--output={num_ranks}", folder=tmp_path)
        assert done.returncode == 0, done.stderr
        failures.append((tmp_path / str(num_ranks) / "failures.csv").read_text())
    assert "no valid episode is left" in failures[0]
    assert failures[0] == failures[1]


@pytest.mark.slow
def test_too_few_tasks_are_refused(tmp_path: Path) -> None:
    done = launch(2, *flags(meta_batch_size=4), "--output=run", folder=tmp_path)
    assert done.returncode != 0
    assert "meta_batch_size 4 makes too few blocks of 4 tasks (1) for 2 processes" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_shares_are_whole_blocks() -> None:
    for num_tasks, number in ((40, 2), (40, 3), (13, 4), (4, 1)):
        shares = [Ranks(rank, number).share(num_tasks) for rank in range(number)]
        assert [start for start, _ in shares] + [num_tasks] == [0] + [stop for _, stop in shares]
        assert all(start % 4 == 0 for start, _ in shares)
        sizes = [np.ceil((stop - start) / 4) for start, stop in shares]
        assert max(sizes) - min(sizes) <= 1
    with pytest.raises(UserError, match="at least 20 tasks"):
        Ranks(0, 5).share(16)
