"""Checkpoints are chosen by iteration or by evaluation, and the best is kept, also across kills."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.runs import assert_equal_runs, last, progress, reseal, tiny

import maml_rl
from maml_rl.cli import main
from maml_rl.errors import UserError
from maml_rl.settings.config import Config
from maml_rl.training import compose, training_run
from maml_rl.training.compose import Training
from maml_rl.training.start import resume, train

pytestmark = pytest.mark.slow

KEEP = {"keep_best": True, "evaluate_every": 2, "checkpoint_every": 3, "keep_checkpoints": 1}


def config_of(output: Path, **settings: Any) -> Config:
    return tiny(output, num_iterations=9, horizon=3, logging={**KEEP, **settings})


def evaluated(run: Path) -> dict[int, float]:
    """Return after the last adaptation step of every evaluated iteration."""
    rows = [
        (row["time/iteration"], row["evaluation/return_after_1_steps"]) for row in progress(run)
    ]
    return {int(iteration): float(value) for iteration, value in rows if value}


def names(run: Path) -> list[int]:
    return sorted(int(path.name) for path in (run / "checkpoints").iterdir())


@pytest.fixture
def descending(monkeypatch: pytest.MonkeyPatch) -> dict[int, float]:
    """Evaluations whose best is the fourth iteration; returns by iteration."""
    returns = {2: -3.0, 4: -1.0, 6: -2.0, 8: -1.0}
    monkeypatch.setattr(
        Training,
        "evaluation_metrics",
        lambda training: {
            "evaluation/return_after_0_steps": 5.0 * training.agent.num_iterations,
            "evaluation/return_after_1_steps": returns[training.agent.num_iterations],
        },
    )
    return returns


def test_the_best_checkpoint_is_that_of_the_highest_return_after_adaptation(tmp_path, caplog):
    caplog.set_level("INFO", "maml_rl")
    run = train(config_of(tmp_path / "run"))
    returns = evaluated(run)
    assert sorted(returns) == [2, 4, 6, 8]
    best = max(returns, key=lambda iteration: returns[iteration])
    agent = maml_rl.load(run, iteration="best")
    assert agent.num_iterations == best
    assert agent.is_best
    assert last(run).values["best"] == {"iteration": best, "return": returns[best]}
    (message,) = [text for text in caplog.messages if text.startswith("best evaluation")]
    assert f"{returns[best]:.1f} after iteration {best}" in message
    assert names(run) == sorted({best, 9})
    newest = maml_rl.load(run)
    assert newest.num_iterations == 9
    assert not newest.is_best


def test_only_the_best_and_the_newest_checkpoints_are_kept(descending, tmp_path):
    """The first of two equal ones; the return before adaptation does not count."""
    run = train(config_of(tmp_path / "run"))
    assert names(run) == [4, 9]
    assert last(run).values["best"] == {"iteration": 4, "return": -1.0}


def test_without_the_setting_no_best_iteration_is_kept(descending, tmp_path):
    run = train(config_of(tmp_path / "run", keep_best=False))
    assert names(run) == [9]
    assert "best" not in last(run).values
    with pytest.raises(UserError, match=r"no best iteration.*logging\.keep_best.*iterations 9"):
        maml_rl.load(run, iteration="best")


def test_an_evaluation_without_a_finite_return_is_not_the_best(descending, tmp_path):
    descending[2] = float("inf")
    descending[4] = float("nan")
    run = train(config_of(tmp_path / "run"))
    assert last(run).values["best"] == {"iteration": 8, "return": -1.0}


class Killed(BaseException):
    """The process was killed."""


def rename_killed_at(call: int, calls: list[int]) -> Callable[..., None]:
    """``os.rename``, which raises Killed from the n-th call on; ``calls`` gets an entry by each."""
    original = os.rename

    def rename(source: Path, target: Path) -> None:
        calls.append(len(calls) + 1)
        if len(calls) >= call:
            raise Killed
        original(source, target)

    return rename


@pytest.mark.thorough
def test_a_killed_run_keeps_the_same_best(descending, tmp_path, monkeypatch):
    """Killed before each checkpoint comes to exist or is removed; nothing is saved after that."""
    monkeypatch.setattr(training_run, "save_after", lambda *args: None)
    calls: list[int] = []
    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", rename_killed_at(100, calls))
        whole = train(config_of(tmp_path / "whole"))
    assert len(calls) == 8, "2, 3, 4 and the end of 2 and 3, 6, 9 and the end of 6"
    for call in calls:
        run = tmp_path / f"run{call}"
        with monkeypatch.context() as patched:
            patched.setattr(os, "rename", rename_killed_at(call, []))
            with pytest.raises(Killed):
                train(config_of(run))
        resume(run)
        assert_equal_runs(run, whole)
        assert {4, 9} <= set(names(run))
        assert maml_rl.load(run, iteration="best").num_iterations == 4


def test_an_extended_run_continues_the_record(descending, tmp_path):
    run = train(config_of(tmp_path / "run"))
    descending |= {10: -5.0, 12: 0.5}
    resume(run, 11)
    assert names(run) == [4, 11]
    resume(run, 13)
    assert names(run) == [12, 13]
    assert maml_rl.load(run, iteration="best").num_iterations == 12


def test_evaluations_in_training_and_the_final_one_share_no_task(tmp_path, monkeypatch):
    tasks: list[tuple[float, ...]] = []
    original = compose.evaluate_with

    def evaluate_with(*args: Any, **options: Any) -> Any:
        result = original(*args, **options)
        tasks.extend(tuple(task.values()) for task in result.tasks)
        return result

    monkeypatch.setattr(compose, "evaluate_with", evaluate_with)
    run = train(config_of(tmp_path / "run", final_evaluation=True))
    results = json.loads((run / "evaluation" / "results.json").read_text())
    final = [tuple(one["task"].values()) for one in results["results"][0]["tasks"]]
    assert len(set(tasks)) == 4 * 3
    assert len(set(final)) == 40
    assert not set(tasks) & set(final)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run with checkpoints of iterations 2, 4 and 6; tests do not write to it."""
    folder = tmp_path_factory.mktemp("chosen") / "run"
    logging = {"keep_best": True, "evaluate_every": 2, "checkpoint_every": 2}
    return train(tiny(folder, horizon=3, logging=logging))


def test_an_iteration_is_loaded(run):
    for number in (2, 4, 6):
        agent = maml_rl.load(run, iteration=number)
        assert agent.num_iterations == number
        assert not agent.is_best


@pytest.mark.parametrize(
    ("iteration", "message"),
    [
        (3, "no checkpoint of iteration 3: .* has checkpoints of iterations 2, 4, 6"),
        (-1, "no checkpoint of iteration -1: .* 2, 4, 6"),
        (True, "an iteration must be an integer, or best; got True"),
        (2.0, r"an iteration must be an integer, or best; got 2\.0"),
        ("last", "an iteration must be an integer, or best; got 'last'"),
    ],
)
def test_an_iteration_that_does_not_exist_is_refused(run, iteration, message):
    with pytest.raises(UserError, match=message):
        maml_rl.load(run, iteration=iteration)


@pytest.mark.parametrize("entry", [3, {}, {"iteration": 2}, {"iteration": "2", "return": 0.0}])
def test_a_damaged_record_is_refused(run, tmp_path, entry):
    copy = shutil.copytree(run, tmp_path / "copy")
    path = copy / "checkpoints" / "000006" / "values.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"best": entry}))
    reseal(path.parent)
    message = "000006 is damaged: best must have iteration and return"
    with pytest.raises(UserError, match=message):
        maml_rl.load(copy, iteration="best")
    with pytest.raises(UserError, match=message):
        resume(copy, 8)


def test_a_run_without_checkpoints_has_no_iteration(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    shutil.rmtree(copy / "checkpoints")
    for iteration in (2, "best"):
        with pytest.raises(UserError, match="checkpoints has none"):
            maml_rl.load(copy, iteration=iteration)


def test_a_best_checkpoint_that_is_gone_is_refused(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    best = maml_rl.load(copy, iteration="best").num_iterations
    assert best < 6, "choose another seed: the newest checkpoint holds the record"
    shutil.rmtree(copy / "checkpoints" / f"{best:06d}")
    with pytest.raises(UserError, match=rf"no checkpoint of the best iteration, {best},.*6"):
        maml_rl.load(copy, iteration="best")


SMALL = ["--num_tasks=2", "--num_episodes=2", "--num_steps=1", "--device=cpu"]


def evaluation(run: Path, output: Path, *flags: str) -> tuple[dict[str, Any], str]:
    """Entry of the run in results.json, and report.html."""
    assert main(["evaluate", str(run), *SMALL, "--output", str(output), *flags]) == 0
    (entry,) = json.loads((output / "results.json").read_text())["results"]
    return entry, (output / "report.html").read_text()


def test_evaluate_names_the_chosen_iteration(run, tmp_path, capsys):
    chosen = "chosen by evaluations in training"
    best = maml_rl.load(run, iteration="best").num_iterations
    entry, report = evaluation(run, tmp_path / "best", "--iteration", "best")
    assert entry["policy"] == "meta-trained, best iteration"
    assert entry["num_iterations"] == [best]
    assert entry["is_best_iteration"] == [True]
    assert f"<td>{best} ({chosen})</td>" in report
    assert "meta-trained, best iteration" in capsys.readouterr().out
    entry, report = evaluation(run, tmp_path / "second", "--iteration=2")
    assert entry["policy"] == "meta-trained, iteration 2"
    assert entry["num_iterations"] == [2]
    assert entry["is_best_iteration"] == [False]
    assert "<td>2</td>" in report
    assert chosen not in report
    entry, _ = evaluation(run, tmp_path / "newest")
    assert entry["policy"] == "meta-trained"
    assert entry["num_iterations"] == [6]


def test_the_best_iteration_is_evaluated_as_any_agent(run, tmp_path):
    best = maml_rl.load(run, iteration="best")
    entry, _ = evaluation(run, tmp_path / "best", "--iteration", "best")
    result = maml_rl.evaluate(best, num_tasks=2, num_episodes=2, num_steps=1)
    assert entry["return"] == pytest.approx(result.mean.tolist())
    assert result.description["is_best"]


def test_record_films_the_chosen_iteration(run, tmp_path, monkeypatch):
    filmed = []
    monkeypatch.setattr(
        "maml_rl.analysis.recording.record", lambda agent, path, **settings: filmed.append(agent)
    )
    video = str(tmp_path / "video.mp4")
    assert main(["record", str(run), "--device=cpu", "--iteration", "4", "--output", video]) == 0
    assert [agent.num_iterations for agent in filmed] == [4]


@pytest.mark.parametrize("command", ["evaluate", "record"])
@pytest.mark.parametrize(
    ("iteration", "message"),
    [
        ("3", "there is no checkpoint of iteration 3: "),
        ("-2", "expected best or an integer of at least 0, got '-2'"),
        ("bset", "expected best or an integer of at least 0, got 'bset'"),
    ],
)
def test_a_command_refuses_an_iteration_in_one_line(run, capsys, command, iteration, message):
    assert main([command, str(run), f"--iteration={iteration}"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (run / "evaluation").exists()


def test_keep_best_without_evaluations_is_refused(tmp_path, capsys):
    flags = ["--env", "PointNavigation", "--output", str(tmp_path / "run")]
    assert main(["train", *flags, "--logging.keep_best", "true"]) == 2
    error = capsys.readouterr().err
    assert "logging.keep_best needs evaluations in training: set logging.evaluate_every" in error
    assert not (tmp_path / "run").exists()
