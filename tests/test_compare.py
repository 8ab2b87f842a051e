"""The command ``compare``."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.runs import full_disk

import maml_rl
from maml_rl.analysis.comparison import saved_evaluations
from maml_rl.analysis.dynamics import study as study_module
from maml_rl.cli import main
from maml_rl.compare_flags import make_parser
from maml_rl.settings.dynamics_study.methods import METHODS

pytestmark = pytest.mark.usefixtures("in_an_empty_folder")

SMALL = [
    "dynamics",
    "--env=HalfCheetahDir",
    "--learners",
    "untouched",
    "oracle",
    "rl2",
    "--seeds",
    "3",
    "--num_env_steps=1",
    "--horizon=5",
    "--dynamics=body_mass=0.5:2,action_delay=0:1",
    "--num_tasks=2",
    "--num_episodes=2",
    "--device=cpu",
]


@pytest.mark.thorough
def test_all_methods_are_trained_and_evaluated_and_a_second_call_repeats_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["compare", *SMALL]) == 0
    folder = Path("runs/compare/HalfCheetahDir-dynamics")
    runs = {path.parent.name: maml_rl.load(path) for path in folder.glob("*/seed-3")}
    assert runs.keys() == {"untouched", "oracle", "rl2"}
    assert {agent.num_iterations for agent in runs.values()} == {1}
    # With the same dynamics: as in training, and each value of each sweep.
    results = json.loads((folder / "evaluation/results.json").read_text())
    conditions: dict[str, list[Any]] = {}
    for result in results["results"]:
        conditions.setdefault(result["policy"], []).append(result["swept"])
    masses = [{"body_mass": value} for value in (0.25, 0.397, 0.63, 1.0, 1.59, 2.52, 4.0)]
    delays = [{"action_delay": value} for value in (0.0, 1.0, 2.0)]
    pairs = [
        {"body_mass": mass, "action_delay": delay} for mass in (0.25, 1, 4) for delay in (0, 2)
    ]
    sweeps = [{}, *masses, *delays, *pairs]
    failures = [{"change_step": 1}, {"change_step": 2}]
    failures += [{"body_mass": 4.0, **failure} for failure in failures]
    assert conditions == {
        "untouched": [*sweeps, *failures],
        "oracle": sweeps,  # it has not observed failures in training
        "rl2": [*sweeps, *failures],
    }
    tasks = [[task["task"] for task in result["tasks"]] for result in results["results"]]
    for first in range(0, 3 * len(sweeps), 3):
        assert tasks[first] == tasks[first + 1] == tasks[first + 2]
    assert tasks[-1] == tasks[-2]
    assert {task["change_step"] for task in tasks[-1]} == {2}
    assert all(task["action_delay"] == 0 for task in tasks[3])
    assert {task["body_mass"] for task in tasks[3]} == {0.25}
    # The same returns as from an evaluation of one run.
    env = maml_rl.load_config(
        env={
            "name": "HalfCheetahDir",
            "observe_task": True,
            "dynamics": {"body_mass": 4.0, "action_delay": 0},
        }
    ).env
    alone = maml_rl.evaluate(
        runs["oracle"], env=env, num_tasks=2, num_episodes=2, num_steps=0, seed=1000
    )
    (of_oracle,) = [
        result["return"]
        for result in results["results"]
        if result["policy"] == "oracle" and result["swept"] == {"body_mass": 4.0}
    ]
    assert alone.mean.tolist() == pytest.approx(of_oracle)
    # Tables and report.
    out = capsys.readouterr().out
    assert "3 runs of at least 1 control steps each: untouched, oracle, rl2; 1 seed of each" in out
    assert re.search(r"the first run took \d+ s; at this pace, the 2 other runs take \d+ s", out)
    assert "method 3 of 3: rl2" in out
    assert "evaluating 3 runs on 21 versions of the dynamics: 59 evaluations" in out
    assert "evaluate all" not in out
    assert "1000000" not in out
    assert "oracle − untouched" in out
    assert "the task with its dynamics" in out
    assert "control steps to recover" in out
    assert "more control steps in training than the 1 of --num_env_steps: untouched (" in out
    words = [line.split() for line in out.splitlines()]
    assert ["body_mass", "action_delay", "untouched", "oracle", "rl2"] in words
    with (folder / "evaluation/results.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 2 * (21 + 17 + 21 * 2)
    page = (folder / "evaluation/report.html").read_text()
    assert "<h2>Two quantities together</h2>" in page
    assert "hours of training" in page
    assert 'alt="learning curves"' in page
    assert "An actuator fails in control step 1 (body mass × 4)" in page
    assert "oracle is left out" in page
    assert "python -m maml_rl.compare dynamics --env=HalfCheetahDir" in page
    # Again, with nothing to do.
    monkeypatch.setattr(saved_evaluations, "evaluate", None)
    assert main(["compare", *SMALL]) == 0
    assert "iterations of" not in capsys.readouterr().err
    again = json.loads((folder / "evaluation/results.json").read_text())
    assert again == results
    assert "the first run took" not in capsys.readouterr().out
    # Longer runs need another folder.
    assert main(["compare", *SMALL, "--num_env_steps=80000"]) == 2
    error = capsys.readouterr().err
    assert "have 1 control steps, not 80,000" in error
    assert f"with --num_env_steps 1, or train others with --output {folder}-80000" in error


@pytest.mark.thorough
def test_learners_are_compared_on_arguments_of_a_gymnasium_environment(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The oracle observes the argument; each version has the value of the sweep."""
    small = [word for word in SMALL if not word.startswith("--dynamics")]
    sweep = "--sweep=g=4:16:4"
    argv = [*small, "--env=Pendulum-v1", "--dynamics=g=5:20", sweep, "--output=out"]
    assert main(["compare", *argv]) == 0
    results = json.loads(Path("out/evaluation/results.json").read_text())["results"]
    tasks = {
        (result["policy"], result["swept"].get("g")): [task["task"] for task in result["tasks"]]
        for result in results
    }
    values = [None, 4.0, 8.0, 10.0, 12.0, 16.0]
    assert list(tasks) == [(name, g) for g in values for name in ("untouched", "oracle", "rl2")]
    assert tasks["oracle", 4.0] == [{"g": 4.0}] * 2
    assert all(5 <= task["g"] <= 20 for task in tasks["oracle", None])
    shapes = {
        name: maml_rl.load(f"out/{name}/seed-3").observation_space.shape
        for name in ("untouched", "oracle")
    }
    assert shapes == {"untouched": (3,), "oracle": (4,)}
    out = capsys.readouterr().out
    assert out.count("making 2 copies of environment 'Pendulum-v1'") == 1
    assert "actuator" not in out


@pytest.mark.slow
def test_a_disk_that_is_full_when_the_report_is_written_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("maml_rl.analysis.report.files.write_whole", full_disk)
    few = [flag for flag in SMALL if flag not in ("oracle", "rl2") and "body_mass" not in flag]
    assert main(["compare", *few, "--dynamics=action_delay=0:1", "--output=out"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert "out/evaluation cannot be written" in line
    assert "No space left" in line
    assert "--output" not in line  # in another folder, all runs would be trained again
    assert line.endswith("; the same command resumes")


def test_the_evaluation_has_as_many_steps_as_training_or_as_chosen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    agent = SimpleNamespace(learner=SimpleNamespace(num_adaptation_steps=2))
    monkeypatch.setattr(study_module, "load_run", lambda run, device: agent)
    study = SimpleNamespace(folder=Path("runs"), methods=METHODS)
    parser = make_parser()

    def num_steps(name: str, *flags: str) -> int:
        chosen = parser.parse_args(["dynamics", *flags]).num_steps
        (subject,) = study_module.subjects_of(study, name, [0], torch.device("cpu"), chosen)
        return subject.num_steps

    assert [num_steps("maml"), num_steps("oracle")] == [2, 0]
    assert [num_steps(name, "--num_steps", "5") for name in ("maml", "oracle")] == [5, 0]


def test_pearl_is_not_compared_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "dynamics", "--reference=pearl"]) == 2
    others = ", ".join(name for name in METHODS if name != "pearl")
    assert f"pearl is not compared. Valid are {others}\n" in capsys.readouterr().err


OF_MAML = ["dynamics", "--learners=maml", "--num_env_steps=4000", "--horizon=5", "--seeds=0"]


def test_an_occupied_folder_is_refused_before_the_first_run(
    capsys: pytest.CaptureFixture[str],
) -> None:
    notes = Path("cmp/randomised/notes.txt")
    notes.parent.mkdir(parents=True)
    notes.write_text("")
    argv = ["dynamics", "--learners", "untouched", "randomised", *OF_MAML[2:], "--output=cmp"]
    assert main(["compare", *argv]) == 2
    assert "output cmp/randomised exists and is not empty" in capsys.readouterr().err
    assert [path for path in Path("cmp").rglob("*") if path.is_file()] == [notes]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["kinematics"], "invalid choice: 'kinematics'"),
        (["dynamics", "--learners", "mamml"], "unknown method 'mamml'. Did you mean maml?"),
        (["dynamics", "--env", "Pendulum-v1"], "Pendulum-v1 is not a task family"),
        (["dynamics", "--dynamics", "body_mass=0.5:2:4"], "takes values in training"),
        (["dynamics", "--dynamics", "bodymass=0.5:2"], "unknown dynamics 'bodymass'"),
        (["dynamics", "--sweep", "body_mass=0.5:2"], "expected NAME=LOW:HIGH:POINTS"),
        (["dynamics", "--sweep", "body_mass=2:1:4"], "2 to 1000 points, got 'body_mass=2:1:4'"),
        (["dynamics", "--sweep", "body_mass"], "expected NAME=LOW:HIGH:POINTS"),
        (["dynamics", "--sweep", "gravity=1:2:3"], "--sweep gravity: it does not vary in training"),
        (["dynamics", "--num_env_steps", "0"], "at least 1"),
        (
            ["dynamics", "--num_env_steps", "10000"],
            "method rma: --num_env_steps must be at least 76,800, three iterations of 64 tasks x 2",
        ),
        (["dynamics", "--num_steps", "0"], "at least 1"),
        (["dynamics", "--action_scale", "-1"], "action_scale must be a finite number above 0"),
        (["dynamics", "--seeds", "1", "1"], "seeds must be different"),
        (["dynamics", "--learners", "maml", "maml"], "maml is named twice"),
        (["dynamics", "--output", "a_file"], "a_file"),
        (["dynamics", "--learners", "promp"], 'add it with --variant promp="--outer promp"'),
        (["dynamics", "--learners", "a:Mine"], 'add it with --variant Mine="--learner a:Mine"'),
        (["dynamics", "--variant", "a=--outer adam", "--variant", "a=--outer adam"], "given twice"),
        (["dynamics", "--variant", "a=--outer.max_kll 1"], "Did you mean --outer.max_kl?"),
        (["dynamics", "--variant", "a=outer promp"], "expected flags, such as --outer promp, got"),
        (
            [*OF_MAML, "--variant", "a=--policy.network nomod:Net"],
            "policy.network 'nomod:Net': module 'nomod' cannot be imported",
        ),
        ([*OF_MAML, "--variant", "a=--learner builtins:dict"], "learner 'builtins:dict' cannot"),
        (["dynamics", "--device", "foo"], "device 'foo' is not available"),
        (["dynamics", "--reference", "mamml"], "--reference mamml is not compared"),
        ([], "required: what"),
        (["--env", "AntDir"], "Give dynamics: python -m maml_rl.compare dynamics"),
        (["dynamics", "--env", "PointNavigation"], "choose a family that has, such as HalfCheetah"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("a_file").write_text("")
    assert main(["compare", *argv]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert [path.name for path in Path().iterdir()] == ["a_file"]
