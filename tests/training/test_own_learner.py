"""A learner of the user's own goes through every command: no code but its own file knows it."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path

import imageio.v3
import numpy as np
import pytest
from helpers.commands import Command, run_ranks
from helpers.runs import assert_equal_runs, last, progress, tiny

import maml_rl
from maml_rl.cli import main
from maml_rl.errors import UserError
from maml_rl.runs.checkpoint import latest_checkpoint

LEARNER = "helpers.bandit:Bandit"
WITH_HISTORY = "helpers.remembering:Remembering"
HELPERS = {"PYTHONPATH": str(Path(__file__).parents[1])}
FLAGS = [
    "--env=PointNavigation",
    "--learner",
    LEARNER,
    "--learner.growth=0.2",
    "--meta_batch_size=8",
    "--horizon=5",
    "--device=cpu",
    "--logging.final_evaluation=false",
    "--logging.final_video=false",
    "--logging.checkpoint_every=2",
    "--logging.evaluate_every=3",
]


def train(run: Path, *flags: str) -> Path:
    assert main(["train", *FLAGS, "--output", str(run), *flags]) == 0
    return run


@pytest.mark.slow
@pytest.mark.parametrize("learner", [LEARNER, WITH_HISTORY])
def test_it_resumes_after_sigkill_bit_identical(learner: str, tmp_path: Path) -> None:
    run = tmp_path / "killed"
    flags = [*FLAGS, "--learner", learner]
    process = Command(
        "maml_rl.train",
        *flags,
        "--num_iterations=1000000",
        f"--output={run}",
        variables=HELPERS,
    )
    deadline = time.monotonic() + 120
    while latest_checkpoint(run / "checkpoints") is None:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "no checkpoint within two minutes"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    num_iterations = last(run).values["iteration"] + 3
    maml_rl.resume(run, num_iterations)
    number = f"--num_iterations={num_iterations}"
    whole = train(tmp_path / "whole", "--learner", learner, number)
    assert_equal_runs(run, whole)


@pytest.mark.slow
@pytest.mark.parametrize("learner", [LEARNER, WITH_HISTORY])
def test_two_processes_train_as_one(learner: str, tmp_path: Path) -> None:
    one = train(tmp_path / "one", "--num_iterations=4", "--learner", learner)
    done = run_ranks(
        2,
        "maml_rl.train",
        *FLAGS,
        f"--learner={learner}",
        "--num_iterations=4",
        "--output=two",
        folder=tmp_path,
        variables=HELPERS,
    )
    assert done.returncode == 0, done.stderr
    assert_equal_runs(one, tmp_path / "two")


@pytest.mark.slow
def test_a_history_is_for_resuming_only(tmp_path: Path) -> None:
    run = train(tmp_path / "run", "--learner", WITH_HISTORY, "--num_iterations=4")
    names = sorted(path.name for path in (run / "history").iterdir())
    # Checkpoints 2 and 4 have three entries at most.
    assert names == [f"{i:06d}.safetensors" for i in (1, 2, 3, 4)]
    # An agent is loaded, saved and continued without it.
    shutil.rmtree(run / "history")
    agent = maml_rl.load(run)
    assert agent.state.history == ()
    saved = agent.save(tmp_path / "saved")
    assert not (saved / "history").exists()
    started = train(
        tmp_path / "started",
        "--learner",
        WITH_HISTORY,
        "--num_iterations=2",
        f"--init_from={run}",
    )
    assert len(list((started / "history").iterdir())) == 2
    # But a run is not.
    with pytest.raises(UserError, match="it has no folder history, of which checkpoint 000004"):
        maml_rl.resume(run, 6)


@pytest.mark.slow
def test_a_history_of_another_learner_is_refused(tmp_path: Path) -> None:
    run = train(tmp_path / "run", "--learner", WITH_HISTORY, "--num_iterations=2")
    config = run / "config.yaml"
    text = config.read_text().replace(WITH_HISTORY, LEARNER)
    config.write_text("".join(line for line in text.splitlines(True) if "window" not in line))
    with pytest.raises(UserError, match=r"000001.*this learner has no history"):
        maml_rl.resume(run, 4)


@pytest.mark.thorough
def test_it_is_evaluated_beside_maml_recorded_and_adapted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = train(tmp_path / "own", "--num_iterations=6")
    assert "evaluation/return_after_2_steps" in progress(own)[2]
    maml = maml_rl.train(tiny(tmp_path / "maml", num_iterations=2))
    # One comparison, on the same tasks.
    small = ["--num_tasks", "5", "--num_episodes", "4", "--num_steps", "2"]
    assert main(["evaluate", str(own), str(maml), *small]) == 0
    table = capsys.readouterr().out
    assert LEARNER in table
    results = json.loads((own / "evaluation" / "results.json").read_text())
    first, second = results["results"]
    assert first["learners"] == [{"name": LEARNER}]
    assert second["learners"][0]["name"] == "maml"
    assert first["episodes_used"] == [0, 1, 2]
    assert second["episodes_used"] == [0, 4, 8]
    assert [entry["task"] for entry in first["tasks"]] == [e["task"] for e in second["tasks"]]
    # A sweep over a task value.
    sweep = ["--dynamics", "goal_x=-0.4:0.4:3", "--output", str(tmp_path / "sweep")]
    assert main(["evaluate", str(own), *small, *sweep]) == 0
    # A video.
    capsys.readouterr()
    assert main(["record", str(own), "--task", "goal_x=0.3,goal_y=0.3"]) == 0
    assert "adapted on 1 episode per step" in capsys.readouterr().out
    assert main(["record", str(own), "--num_steps", "0", "--task", "goal_x=0.3,goal_y=0.3"]) == 0
    assert "adapted" not in capsys.readouterr().out.replace("adaptation.mp4", "")
    assert len(imageio.v3.imread(own / "videos" / "adaptation.mp4", plugin="pyav")) > 1
    # Adaptation picks the arm that moves towards the goal: positive actions are arm 0.
    agent = maml_rl.load(own)
    for sign in (1, -1):
        adapted = agent.adapt(task={"goal_x": 0.4 * sign, "goal_y": 0.4 * sign})
        action, _ = adapted.predict(np.zeros(2), deterministic=True)
        assert np.sign(action).tolist() == [sign, sign]


def test_its_settings_are_flags_and_have_help(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--learner", LEARNER, "--help"])
    text = capsys.readouterr().out
    assert "--learner.growth" in text
    assert "Relative growth of the actions" in text
    assert "--inner.num_steps" not in text
    output = ["--output", str(tmp_path / "run")]
    assert main(["train", "--learner", LEARNER, "--inner.num_steps=2", *output]) == 2
    assert "inner" in capsys.readouterr().err
    assert main(["train", "--learner", "helpers.bandit:Missing", *output]) == 2
    error = capsys.readouterr().err
    assert "Missing" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()
