"""The examples in a shortened form."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import gymnasium as gym
import numpy as np
import pytest
import torch
from helpers.scripts import load_script

from maml_rl.policies.parameters import make_stack
from maml_rl.system.torch_runtime import torch_threads

load_script("examples/lstm_learners.py")  # which the next ones import by this name
load_script("examples/digit_tasks.py")


@pytest.fixture(scope="module")
def sine() -> ModuleType:
    return load_script("examples/sine_regression.py")


@pytest.fixture(scope="module")
def digits() -> ModuleType:
    return load_script("examples/digits.py")


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("|")]


@pytest.mark.slow
def test_sine_regression_prints_a_row_for_each_method(
    sine: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    sine.main(["--num_iterations=1", "--num_test_tasks=2"])
    rows = {cells[0]: cells[2:6] for cells in map(_cells, capsys.readouterr().out.splitlines()[1:])}
    assert set(sine.METHODS) < set(rows)
    assert all("±" in cell for name in sine.METHODS for cell in rows[name][:2])


@pytest.mark.thorough
def test_sine_regression(sine: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def errors(name: str, num_iterations: int) -> list[float]:
        settings = sine.Settings(
            num_iterations=num_iterations, num_test_tasks=200, learning_rate=0.01, num_shots=10
        )
        cells = _cells(sine.table_row(name, settings))[2:6]
        return [float(cell.partition("±")[0]) for cell in cells if cell != "–"]

    with torch_threads(1):
        maml = errors("MAML", 800)
        pretrained = errors("Pretrained on all tasks", 600)
        recurrent = errors("Recurrent learner", 200)
        # A smaller network and more tasks per iteration, because its LSTM reads every coordinate.
        monkeypatch.setattr(sine, "HIDDEN_SIZE", 10)
        method = sine.METHODS["LSTM meta-learner"]._replace(num_tasks=8)
        monkeypatch.setitem(sine.METHODS, "LSTM meta-learner", method)
        lstm = errors("LSTM meta-learner", 300)
    assert maml[3] < 0.6 * maml[0]
    # Better than what can be predicted without points of the task.
    assert lstm[2] < 0.75 * pretrained[0]
    assert recurrent[1] < 0.2 * recurrent[0]
    assert maml[3] < 0.75 * pretrained[3]


def _tasks(digits: ModuleType, seed: int = 0, num_tasks: int = 5) -> object:
    return digits.draw_tasks(
        np.random.default_rng(seed),
        digits.load_images(),
        digits=(0, 1, 2, 3),
        num_tasks=num_tasks,
        num_ways=3,
        num_shots=2,
        num_queries=10,
        num_orientations=1,
    )


def test_tasks_hold_only_the_digits_asked_for_and_no_image_twice(digits: ModuleType) -> None:
    tasks = _tasks(digits, num_tasks=50)
    assert set(tasks.digits.ravel()) == {0, 1, 2, 3}
    assert all(len(set(row)) == 3 for row in tasks.digits)
    assert tasks.support.pixels.shape == (50, 6, 64)
    assert tasks.query.pixels.shape == (50, 30, 64)
    for i in range(50):
        images = torch.cat([tasks.support.pixels[i], tasks.query.pixels[i]])
        assert len(images.unique(dim=0)) == len(images)


def test_anil_leaves_the_trunk_untouched(digits: ModuleType) -> None:
    theta, tasks = digits.initial_theta(np.random.default_rng(0), 3), _tasks(digits)
    stack = make_stack(theta, 5)
    end = digits.adapted(stack, [tasks.support] * 3, adapts=digits.HEAD)
    assert [name for name in stack if not torch.equal(end[name], stack[name])] == list(digits.HEAD)


def test_reptile_goes_where_adaptation_goes(digits: ModuleType) -> None:
    """One task at a time, by plain gradient descent on the same parts."""
    theta, tasks = digits.initial_theta(np.random.default_rng(0), 3), _tasks(digits, num_tasks=2)
    ends = []
    for i in range(2):
        end = {name: value.clone() for name, value in theta.items()}
        pixels = torch.cat([tasks.support.pixels[i], tasks.query.pixels[i]]).tensor_split(
            digits.NUM_INNER_STEPS
        )
        labels = torch.cat([tasks.support.labels[i], tasks.query.labels[i]]).tensor_split(
            digits.NUM_INNER_STEPS
        )
        for x, y in zip(pixels, labels, strict=True):
            leaves = {name: value.requires_grad_() for name, value in end.items()}
            for name in ("0", "1", "2"):
                x = x @ leaves[f"weight_{name}"] + leaves[f"bias_{name}"]
                x = torch.relu(x) if name != "2" else x
            used = digits.TRUNK + digits.HEAD
            gradients = torch.autograd.grad(
                torch.nn.functional.cross_entropy(x, y), [leaves[name] for name in used]
            )
            end = {name: value.detach() for name, value in leaves.items()}
            for name, gradient in zip(used, gradients, strict=True):
                end[name] = end[name] - digits.STEP_SIZE * gradient
        ends.append(end)
    for name, gradient in digits.reptile_gradient(theta, tasks).items():
        mean = torch.stack([end[name].detach() for end in ends]).mean(0)
        torch.testing.assert_close(gradient, theta[name].detach() - mean, rtol=1e-4, atol=1e-6)


def test_meta_sgd_learns_step_sizes(digits: ModuleType) -> None:
    learner = digits.LEARNERS["Meta-SGD"]
    theta = digits.train(
        learner, digits.load_images(), 1, digits.Settings(num_iterations=5, meta_batch_size=4)
    )
    sizes = torch.cat(
        [value.flatten() for name, value in theta.items() if name.startswith("step_size")]
    )
    assert (sizes != digits.STEP_SIZE).float().mean() > 0.5


@pytest.mark.slow
def test_digits_prints_a_row_for_each_learner(
    digits: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    digits.main(["--num_iterations", "1", "--meta_batch_size", "2", "--num_test_tasks", "2"])
    rows = {cells[0]: cells[1:3] for cells in map(_cells, capsys.readouterr().out.splitlines()[2:])}
    assert {*digits.LEARNERS, *digits.BASELINES, "Chance"} == set(rows)
    assert float(rows["Chance"][0]) == pytest.approx(100 / 3, abs=0.1)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "name",
    [
        "MAML",
        "First-order MAML",
        "Meta-SGD",
        "LSTM meta-learner",
        "Prototypical networks",
        "Matching networks",
    ],
)
def test_digits(digits: ModuleType, name: str) -> None:
    settings = digits.Settings(num_iterations=30, meta_batch_size=8, num_test_tasks=50)
    images, learner = digits.load_images(), digits.LEARNERS[name]
    theta = digits.train(learner, images, 5, settings)
    result = digits.accuracy(learner.scores, theta, images, 5, settings)
    assert float(result.partition("±")[0]) > 100 / 3 + 10


@pytest.mark.thorough
def test_own_environment(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        before, after = load_script("examples/adapt_custom_env.py").main(["--num_iterations=12"])
    finally:
        gym.registry.pop("PushedMass-v0", None)
    assert after > before + 2
    assert f"after one step {after:.2f}" in capsys.readouterr().out


def test_pendulum_gravity(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--num_iterations=2", "--meta_batch_size=3", "--num_episodes=2", "--horizon=8"]
    load_script("examples/pendulum_gravity.py").main([*sizes, "--gravity", "7", "8"])
    out = capsys.readouterr().out
    low, high = re.search(r"gravities from ([\d.]+) to ([\d.]+)", out).groups()  # type: ignore[union-attr]
    assert 7 <= float(low) <= float(high) <= 8


@pytest.mark.slow
@pytest.mark.parametrize(
    ("policy", "task", "num_episodes", "low", "high"),
    [
        ("HalfCheetahDir", "direction=-1", 10, 100, 200),
        ("HalfCheetahVel-pearl", "goal_velocity=1", 2, -100, -60),
        # It adapts in each first episode, too.
        ("HalfCheetahVel-rl2", "goal_velocity=1", 2, 0, -30),
    ],
)
def test_adapt_from_log(
    policy: str,
    task: str,
    num_episodes: int,
    low: float,
    high: float,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = {"policy": policy, "task": task, "num_episodes": num_episodes}
    load_script("examples/adapt_from_log.py").main(
        [f"--{name}={value}" for name, value in (flags | {"log": tmp_path / "log.npz"}).items()]
    )
    before, after = (float(line.split()[-1]) for line in capsys.readouterr().out.splitlines())
    assert before < low
    assert high < after


@pytest.mark.thorough
def test_sb3_finetune(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = [
        "--num_env_steps",
        "2400",
        "--num_points",
        "1",
        "--num_envs",
        "2",
        "--n_steps",
        "32",
        "--num_tasks",
        "2",
    ]
    load_script("examples/sb3_finetune.py").main(["--policy", "PointNavigation", *sizes])
    table = capsys.readouterr().out.splitlines()[3:]
    rows = [[float(cell) for cell in _cells(line.rpartition("|")[0])] for line in table]
    assert [row[0] for row in rows] == [0, 2400]
    # The first row is that of the adapted policy and of a fresh one; adaptation itself took 2000
    # steps.
    assert rows[0][1] > rows[0][2] + 5
    assert all(np.isfinite(rows[1]))
