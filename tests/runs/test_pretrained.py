"""The policies that come with the package, by name."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
import os
import re
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import maml_rl
from maml_rl.cli import main
from maml_rl.errors import UserError
from maml_rl.runs.pretrained import find_run, output_folder
from maml_rl.settings.config import Config

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "maml_rl" / "pretrained"
NAMES = maml_rl.pretrained_names()


def test_the_names_are_the_folders() -> None:
    assert set(NAMES) == {path.name for path in FOLDER.iterdir()}
    assert {"HalfCheetahDir", "HalfCheetahVel", "PointNavigation"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_each_is_loaded_by_its_name_and_acts(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    agent = maml_rl.load(name)
    assert name == _name(agent.config)
    assert agent.num_adaptation_steps == 0
    action, _ = agent.predict(np.zeros(agent.observation_space.shape), deterministic=True)
    assert np.isfinite(action).all()


def _name(config: Config) -> str:
    """The family's name, with that of the learner if it is not MAML."""
    learner = config.learner.name
    return config.env.name + ("" if learner == "maml" else f"-{learner}")


def _returns(name: str) -> list[float]:
    """Mean returns of a pretrained policy's evaluation, by step."""
    results = json.loads((FOLDER / name / "evaluation" / "results.json").read_text())
    assert results["env"] == name.partition("-")[0]
    returns: list[float] = results["results"][0]["return"]
    return returns


def _text(path: Path) -> bytes:
    """The text in a file: of tensors the header, since numbers may look like anything."""
    content = path.read_bytes()
    if path.suffix != ".safetensors":
        return content
    length = int.from_bytes(content[:8], "little")
    return content[8 : 8 + length]


@pytest.mark.parametrize("name", NAMES)
def test_each_has_its_curve_its_evaluation_and_its_command(name: str) -> None:
    with (FOLDER / name / "progress.csv").open() as file:
        rows = list(csv.DictReader(file))
    (checkpoint,) = (FOLDER / name / "checkpoints").iterdir()
    config = maml_rl.load(name).config
    assert len(rows) == int(checkpoint.name) == config.num_iterations >= 20
    env, learner = config.env.name, config.learner.name
    # The documented command gives its settings.
    command = maml_rl.load_config(env=env, learner=learner, seed=10)
    assert dataclasses.replace(config, output=None) == command
    returns = _returns(name)
    if learner == "rl2":
        assert returns[0] > _returns(env)[0], "it adapts within its first episode"
    elif name == "CrippledAnt":  # evaluated with a leg that training never disables
        before, after = (float(rows[-1][f"train/return_after_{k}_steps"]) for k in range(2))
        assert after > 2 * before, "adaptation helps with the legs of training"
    else:
        assert returns[1] > returns[0], "adaptation helps"
    document = (ROOT / "docs" / "pretrained.md").read_text()
    option = "" if learner == "maml" else f" --learner {learner}"
    assert re.search(rf"python -m maml_rl.train --env \w+{option} --seed 10\n", document)
    absolute = re.compile(
        rb"(^|[^\w.~-])/[A-Za-z]{3,}/", re.MULTILINE
    )  # a path of the machine that it was trained on
    assert not [
        path
        for path in (FOLDER / name).rglob("*")
        if path.is_file() and absolute.search(_text(path))
    ]


def test_adaptation_brings_the_point_to_its_goal() -> None:
    agent, task = maml_rl.load("PointNavigation"), {"goal_x": 0.4, "goal_y": -0.3}
    evaluated = [
        p.predict(np.zeros(2), deterministic=True)[0] @ [0.8, -0.6]
        for p in (agent, agent.adapt(task=task))
    ]
    assert evaluated[1] > evaluated[0] + 0.02


def test_an_error_for_an_unknown_name_lists_the_known_ones() -> None:
    for call in (lambda: maml_rl.load("HalfCheetahDri"), lambda: find_run("HalfCheetahDri")):
        with pytest.raises(UserError, match="there is no run folder HalfCheetahDri") as refused:
            call()
        assert all(name in str(refused.value) for name in NAMES)


def test_a_missing_folder_is_named_with_where_it_was_looked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"^there is no run folder runs/none in {tmp_path}$"):
        find_run("runs/none")
    with pytest.raises(UserError, match=f"^there is no run folder {tmp_path}/none$"):
        find_run(tmp_path / "none")


def test_a_folder_of_that_name_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    task = {"goal_x": 0.1, "goal_y": 0.1}
    own = maml_rl.load("PointNavigation").adapt(task=task, num_steps=1)
    own.save("PointNavigation")
    assert maml_rl.load("PointNavigation").num_adaptation_steps == 1
    Path("HalfCheetahDir").mkdir()
    with pytest.raises(UserError, match=r"config\.yaml"):
        maml_rl.load("HalfCheetahDir")


@pytest.mark.parametrize("folder", [FOLDER / "AntDir", Path(os.path.relpath(FOLDER / "AntDir"))])
def test_results_are_written_elsewhere_however_the_folder_is_named(folder: Path) -> None:
    assert output_folder(folder) == Path("runs/AntDir")


def test_an_empty_name_is_refused() -> None:
    with pytest.raises(UserError, match="expected a path, got an empty text"):
        maml_rl.load("")


def test_an_iteration_may_be_an_integer_of_numpy() -> None:
    agent = maml_rl.load("HalfCheetahDir")
    again = maml_rl.load("HalfCheetahDir", iteration=np.int64(agent.num_iterations))
    assert again.num_iterations == agent.num_iterations


def test_the_document_makes_the_environment_of_an_agent_with_another_horizon() -> None:
    document = (Path(__file__).parents[2] / "docs" / "pretrained.md").read_text()
    (call,) = re.findall(r"`(gymnasium\.make\([^`]*\))`", document)
    agent = maml_rl.load("HalfCheetahVel-pearl")
    env = eval(call, {"gymnasium": gymnasium, "agent": agent})
    agent.check_spaces(env.observation_space, env.action_space)
    env.reset(seed=0)
    steps = itertools.count(1)
    while not any(env.step(env.action_space.sample())[2:4]):
        next(steps)
    assert next(steps) == agent.config.horizon == 200


def _files() -> set[Path]:
    return set(FOLDER.rglob("*"))


@pytest.mark.thorough
def test_the_commands_write_beside_and_not_into_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = _files()
    sizes = ["--num_tasks", "2", "--num_episodes", "2", "--num_steps", "1"]
    assert main(["evaluate", "PointNavigation", *sizes]) == 0
    assert (tmp_path / "runs" / "PointNavigation" / "evaluation" / "results.json").is_file()
    arguments = ["--num_steps", "0", "--num_episodes", "2", "--size", "128x128", "--format", "gif"]
    assert main(["record", "PointNavigation", *arguments]) == 0
    assert (tmp_path / "runs" / "PointNavigation" / "videos" / "adaptation.gif").is_file()
    assert _files() == before


@pytest.mark.slow
def test_training_starts_from_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sizes = [
        "--num_iterations",
        "1",
        "--meta_batch_size",
        "2",
        "--num_episodes",
        "2",
        "--horizon",
        "5",
    ]
    off = [
        "--logging.final_evaluation",
        "false",
        "--logging.final_video",
        "false",
        "--output",
        "run",
    ]
    assert (
        main(
            [
                "train",
                "--env",
                "PointNavigation",
                "--seed",
                "7",
                "--init_from",
                "PointNavigation",
                *sizes,
                *off,
            ]
        )
        == 0
    )
    trained, start = (
        maml_rl.load("run").belief["weight_0"],
        maml_rl.load("PointNavigation").belief["weight_0"],
    )
    assert float((trained - start).abs().max()) < 0.2
