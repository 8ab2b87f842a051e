"""Runs close what they open, also where they fail."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from helpers.runs import MODULE, tiny
from helpers.scripts import load_script

from maml_rl.errors import UserError
from maml_rl.training.start import train

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc")


leaks = load_script("benchmarks/leaks.py")


@pytest.mark.thorough
@pytest.mark.parametrize("family", ["PointNavigation", "HalfCheetahVel"])
def test_runs_close_what_they_open(tmp_path, family):
    """Compare files, threads and processes after the first run and after four more."""

    def run(name: str) -> None:
        logging = {"evaluate_every": 1, "video_every": 1}
        train(
            tiny(
                tmp_path / name, env={"name": family}, num_iterations=1, horizon=2, logging=logging
            )
        )

    run("first")
    before = leaks.Usage.now()
    for i in range(4):
        run(str(i))
    assert leaks.Usage.now()[1:] == before[1:]


@pytest.mark.thorough
@pytest.mark.parametrize("vectorization", ["sync", pytest.param("async", marks=pytest.mark.slow)])
@pytest.mark.parametrize("fails_in", ["reset", "step"])
def test_a_run_that_fails_leaves_nothing_open(tmp_path, monkeypatch, vectorization, fails_in):
    head = {"reset": "        super().reset(seed=seed)\n", "step": "        self.x = np.clip"}[
        fails_in
    ]
    name = f"broken_{fails_in}_{vectorization}"
    broken = MODULE.replace("Line-v0", f"{name}-v0").replace(
        head, f"        raise ZeroDivisionError('broken')\n{head}"
    )
    assert broken.count("ZeroDivisionError") == 1
    (tmp_path / f"{name}.py").write_text(broken)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    env = {"name": f"{name}:{name}-v0", "vectorization": vectorization}

    def fail(output: str) -> None:
        with pytest.raises(UserError, match="broken"):
            train(tiny(tmp_path / output, env=env))

    num_children = leaks.Usage.now().children  # a server that forks commands for tests, if any
    fail("first")
    before = leaks.Usage.now()
    for i in range(3):
        fail(str(i))
    after = leaks.Usage.now()
    assert after[1:] == before[1:]
    assert after.children == num_children


def _samples(memory: list[float], threads: list[float]) -> np.ndarray:
    rows = [(mb, 5.0, count, 0.0) for mb, count in zip(memory, threads, strict=True)]
    return np.array(rows, dtype=[(what, float) for what in leaks.Usage._fields])


def test_the_benchmark_distinguishes_growth_from_a_start():
    steady, start, line = (
        [8.0] * 100,
        [float(min(i, 40)) for i in range(100)],
        [float(i) for i in range(100)],
    )
    assert leaks.grows(_samples(start, steady)) == []
    assert leaks.grows(_samples(line, start)) == ["memory_mb"]
    assert leaks.grows(_samples(steady, line)) == ["threads"]
    assert leaks.growth(_samples(line, steady))["memory_mb"] == (50.0, 40.0)


def test_what_is_left_open_is_counted(tmp_path):
    before = leaks.Usage.now()
    with (tmp_path / "file").open("w"):
        assert leaks.Usage.now().open_files == before.open_files + 1
