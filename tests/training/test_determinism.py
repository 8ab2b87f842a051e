"""The same seed gives the same bits, for any simulator threads and in any process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from helpers.drawn import drawn_task
from helpers.runs import assert_equal_runs, tiny

import maml_rl
from maml_rl.cli import main
from maml_rl.learners.maml.learner import MAML
from maml_rl.training.start import resume, train

FLAGS = [
    "--env=HalfCheetahVel",
    "--meta_batch_size=3",
    "--num_episodes=2",
    "--horizon=5",
    "--policy.hidden_sizes=[8]",
]
FLAGS += [
    "--num_iterations=2",
    "--device=cpu",
    "--logging.final_evaluation=false",
    "--logging.final_video=false",
]


@pytest.fixture
def learner_threads(monkeypatch) -> list[int]:
    """Torch's threads at the start of every meta-iteration."""
    seen: list[int] = []
    original = MAML.iteration

    def iteration(self, *args):
        seen.append(torch.get_num_threads())
        return original(self, *args)

    monkeypatch.setattr(MAML, "iteration", iteration)
    return seen


@pytest.mark.thorough
@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the number of CPUs cannot be set")
@pytest.mark.parametrize("family", ["HalfCheetahVel", "AntVel"])
def test_simulator_threads_do_not_change_a_run(tmp_path, monkeypatch, family):
    for num_threads in (1, 2):
        monkeypatch.setattr("os.sched_getaffinity", lambda pid, n=num_threads: set(range(n)))
        config = tiny(tmp_path / str(num_threads), env={"name": family}, num_iterations=2)
        train(config)
    assert_equal_runs(tmp_path / "1", tmp_path / "2")


@pytest.mark.slow
def test_torch_threads_are_those_of_the_configuration(tmp_path, learner_threads):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        run = train(tiny(tmp_path / "run", num_iterations=2, torch_threads=2))
        assert learner_threads == [2, 2]
        resume(run, 3)
        assert learner_threads == [2, 2, 2]
        assert torch.get_num_threads() == 1
        train(tiny(tmp_path / "default", num_iterations=1))
        assert learner_threads[3:] == [1]
    finally:
        torch.set_num_threads(before)


def test_a_trained_agent_is_evaluated_and_adapted_with_the_threads_of_its_run(
    tmp_path, monkeypatch
):
    agent = maml_rl.load(train(tiny(tmp_path / "run", num_iterations=1, torch_threads=2)))
    before, seen = torch.get_num_threads(), []
    try:
        torch.set_num_threads(1)
        with monkeypatch.context() as patched:
            for module in ("analysis.evaluation", "agents.agent"):
                original = getattr(sys.modules[f"maml_rl.{module}"], "play_trials")  # noqa: B009
                patched.setattr(
                    f"maml_rl.{module}.play_trials",
                    lambda *args, original=original, **kwargs: (
                        seen.append(torch.get_num_threads()) or original(*args, **kwargs)
                    ),
                )
            maml_rl.evaluate(agent, num_tasks=2, num_episodes=2)
            agent.adapt(task=drawn_task(agent), num_episodes=2)
        assert seen == [2, 2]
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.thorough
def test_processes_that_differ_in_threads_and_hash_seed_train_alike(tmp_path):
    for name in ("1", "2"):
        variables = {"OMP_NUM_THREADS": name, "PYTHONHASHSEED": name}
        command = [
            sys.executable,
            "-m",
            "maml_rl.train",
            *FLAGS,
            "--torch_threads=1",
            "--output",
            str(tmp_path / name),
        ]
        done = subprocess.run(
            command, env=os.environ | variables, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert yaml.safe_load((tmp_path / name / "config.yaml").read_text())["torch_threads"] == 1
    assert_equal_runs(tmp_path / "1", tmp_path / "2")


@pytest.mark.parametrize("given", ["0", "-1", "two"])
def test_an_invalid_number_of_threads_is_one_line(tmp_path: Path, capsys, given):
    assert (
        main(["train", *FLAGS, f"--torch_threads={given}", "--output", str(tmp_path / "run")]) == 2
    )
    err = capsys.readouterr().err.strip()
    assert "torch_threads" in err
    assert given in err
    assert "\n" not in err
    assert not (tmp_path / "run").exists()
