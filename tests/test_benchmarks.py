"""The benchmarks run, in a small size; a wrong argument is one line."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from helpers.scripts import ROOT

pytestmark = pytest.mark.thorough  # each starts a process

SMALL = {
    "sampling": "--num_tasks 2 --num_episodes 2 --horizon 4 --rounds 1",
    "meta_iteration": "--num_tasks 2 --num_episodes 2 --horizon 4 --rounds 1 --hidden_sizes 4",
    "rl2_iteration": "--num_tasks 8 --horizon 4 --rounds 1 --hidden_size 4 --num_epochs 1",
    "pearl_updates": "--rounds 1 --updates 1 --hidden_sizes 8 --batch_size 4 --context_size 4",
    "vec_env": "--num_envs 2 --num_steps 3 --horizon 5 --rounds 1",
    "learners": "--num_tasks 8 --rounds 1",
    "rendering": "--env AntDir",
}
"""Flags by the name of the benchmark."""


def run(name: str, *flags: str) -> subprocess.CompletedProcess[str]:
    """Run a benchmark as a user does."""
    command = [sys.executable, f"benchmarks/{name}.py", *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", SMALL)
def test_a_small_measurement(name: str) -> None:
    result = run(name, *SMALL[name].split())
    assert result.returncode == 0, result.stderr
    numbers = [float(text) for text in re.findall(r"\d+\.\d+", result.stdout)]
    assert numbers
    assert all(number >= 0 for number in numbers)


def test_a_point_of_the_cost_curves() -> None:
    point = {"tasks": 2, "episodes": 2, "horizon": 4, "inner steps": 1, "width": 4}
    result = run("cost_curves", "--point", json.dumps(point))
    assert result.returncode == 0, result.stderr
    assert all(number > 0 for number in json.loads(result.stdout))


@pytest.mark.parametrize("name", SMALL)
def test_an_unknown_family_is_one_line(name: str) -> None:
    result = run(name, "--env", "HalfCheetaVel")
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    assert "HalfCheetahVel" in result.stderr
