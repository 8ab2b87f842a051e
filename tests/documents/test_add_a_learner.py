"""The recipe of docs/add_a_learner.md, followed literally."""

from __future__ import annotations

import inspect
import json
import re
import shlex
from pathlib import Path

import pytest
from helpers.own_modules import working_folder

from maml_rl.cli import main
from maml_rl.learners.base import Learner
from maml_rl.settings.learners import LearnerConfig

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "add_a_learner.md").read_text()

# The learner plays one episode in each stage, whatever num_episodes is.
TINY = ["--meta_batch_size", "4", "--logging.final_evaluation", "false"]
TINY += ["--logging.final_video", "false"]


def _block(language: str) -> str:
    (block,) = re.findall(rf"```{language}\n(.*?)```", DOCUMENT, flags=re.DOTALL)
    return block


def test_a_learner_takes_less_than_100_lines() -> None:
    assert len(_block("python").splitlines()) < 100


def test_the_table_names_every_method() -> None:
    named = set(re.findall(r"^\| `(?:Config\.)?(\w+)` \|", DOCUMENT, flags=re.MULTILINE))
    methods = {name for name, _ in inspect.getmembers(Learner, inspect.isfunction)}
    documented = {name for name in methods if not name.startswith("_")}
    assert documented - {"describe", "notice", "started_from"} <= named
    assert named <= {"Config", *dir(Learner), *dir(LearnerConfig)}


@pytest.mark.thorough
def test_commands(tmp_path: Path) -> None:
    (tmp_path / "two_ways.py").write_text(_block("python"))
    lines = _block("sh").replace("\\\n", " ").splitlines()
    train, resume, evaluate, record = (shlex.split(line)[2:] for line in lines)
    with working_folder(tmp_path):
        for (module, *arguments), flags in (
            (train, TINY),
            (resume, []),
            (evaluate, []),
            (record, ["--num_episodes", "2", "--size", "160x128", "--fps", "5"]),
        ):
            assert main([module.removeprefix("maml_rl."), *arguments, *flags]) == 0
    run = tmp_path / "runs" / "two_ways"
    assert len((run / "progress.csv").read_text().splitlines()) == 31
    results = json.loads((run / "evaluation" / "results.json").read_text())
    own, maml = results["results"]
    # The better of two ways earns more than the first one alone.
    assert own["return"][2] > own["return"][0]
    assert own["episodes_used"] == [0, 1, 2, 3]
    assert maml["episodes_used"] == [0, 20, 40, 60]
    assert (run / "videos" / "adaptation.mp4").stat().st_size > 0
