"""The examples of benchmark suites that are not dependencies: the extra ``suites``."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from helpers.scripts import load_script

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs" / "benchmark_suites.md").read_text()
# Each with the package that it needs, the environment that it registers, the value of its tasks,
# and a number of iterations after which adaptation helps.
EXAMPLES = {
    "metaworld_ml1": ("metaworld", "ML1-v0", "goal_index", 3),
    "point_maze": ("gymnasium_robotics", "MazeGoal-v0", "goal_cell", 6),
    "dm_control_motor": ("shimmy", "Motor-v0", "gear", 6),
}


def _needs(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f'{package} is not installed: pip install -c constraints.txt -e ".[suites]"')


def _run(*arguments: str) -> str:
    """Run Python in examples/ and return what it prints."""
    run = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT / "examples",
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def _returns(table: str) -> list[float]:
    """Return the mean returns after 0, 1, ... steps of a printed table."""
    rows = re.findall(r"^ +(\d+) +\d+ +(-?[\d.]+) ", table, re.MULTILINE)
    assert [int(step) for step, _ in rows] == list(range(len(rows)))
    return [float(value) for _, value in rows]


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_adaptation_helps(name: str, tmp_path: Path) -> None:
    package, _, _, num_iterations = EXAMPLES[name]
    _needs(package)
    output = str(tmp_path / "run")
    _run(*_train_command(name), "--num_iterations", str(num_iterations), "--output", output)
    returns = _returns(_run(*_evaluate_command(name, output)))
    assert len(returns) == 4
    assert returns[3] > returns[0]


def _train_command(name: str) -> list[str]:
    """The flags of the document, without final evaluation and video."""
    _, env, _, _ = EXAMPLES[name]
    sizes = ["--meta_batch_size=6", "--num_episodes=10", "--policy.action_scale=1"]
    quiet = ["--logging.final_evaluation=false", "--logging.final_video=false"]
    return ["-m", "maml_rl.train", "--env", f"{name}:{env}", *sizes, *quiet]


def _evaluate_command(name: str, run: str) -> list[str]:
    split = ["--env.split", "test"] if name == "metaworld_ml1" else []
    return ["-m", "maml_rl.evaluate", run, "--num_tasks=10", "--num_episodes=10", *split]


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_commands_use_the_module(name: str, tmp_path: Path) -> None:
    package, _, task, _ = EXAMPLES[name]
    _needs(package)
    sizes = ["--num_iterations=1", "--meta_batch_size=2", "--num_episodes=2", "--horizon=4"]
    output = str(tmp_path / "run")
    _run(*_train_command(name), *sizes, "--output", output)
    _run(*_evaluate_command(name, output), "--num_tasks=2", "--num_episodes=2")
    results = json.loads((tmp_path / "run" / "evaluation" / "results.json").read_text())
    assert results["env_settings"] == ({"split": "test"} if name == "metaworld_ml1" else {})
    (result,) = results["results"]
    assert [set(entry["task"]) for entry in result["tasks"]] == [{task}] * 2
    assert np.isfinite(result["return"]).all()


@pytest.fixture
def ml1() -> ModuleType:
    _needs("metaworld")
    return load_script("examples/metaworld_ml1.py")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_hand_follows_the_scripted_policy_of_metaworld(ml1: ModuleType) -> None:
    from metaworld.policies import SawyerReachV3Policy

    env = ml1.ML1(split="test")
    for index in (0, 7):
        env.set_task({"goal_index": index})
        observation, _ = env.reset(seed=0)
        info: dict[str, object] = {}
        for _ in range(100):
            # The scripted policy reads the goal, which the policies of maml_rl do not observe.
            assert not observation[-3:].any()
            full = np.concatenate([observation[:-3], env.unwrapped._target_pos])
            observation, _, _, _, info = env.step(SawyerReachV3Policy().get_action(full))
        assert info["is_success"]
    env.close()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_goals_of_the_splits_differ_and_seeds_choose_tasks(ml1: ModuleType) -> None:
    train, test = ml1.ML1(), ml1.ML1(split="test")
    for env in (train, test):
        env.reset(seed=3)
    assert not np.allclose(train.unwrapped._target_pos, test.unwrapped._target_pos)
    drawn = train.sample_tasks(5)
    assert drawn == test.sample_tasks(5)
    assert drawn != train.sample_tasks(5)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_document_has_every_example(name: str) -> None:
    assert f"examples/{name}.py" in DOCUMENT
    assert f"{name}:{EXAMPLES[name][1]}" in DOCUMENT
