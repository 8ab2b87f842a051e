"""The choice after the last iteration: once per end of a run, resumable, and named in reports."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.drawn import drawn_task
from helpers.runs import assert_equal_runs, assert_same_state, last, reseal, tiny
from safetensors.torch import load_file, save_file

import maml_rl
from maml_rl.analysis.comparison.compare import Comparison
from maml_rl.analysis.comparison.entries import Entry
from maml_rl.analysis.comparison.figures import adaptation_figure
from maml_rl.analysis.report.files import write_report
from maml_rl.cli import main
from maml_rl.errors import UserError
from maml_rl.learners.maml import learner as maml_learner
from maml_rl.learners.maml import step_schedule
from maml_rl.learners.maml.learner import MAML
from maml_rl.sampling.collector import Collector
from maml_rl.training.callbacks import Callback
from maml_rl.training.compose import open_training
from maml_rl.training.reporting import Interrupted

pytestmark = pytest.mark.slow  # they train

INNER = {"step_size": 30.0}
"""The choice is not the constant step size, since this one is too large."""


def config(output: Path, **settings: Any) -> maml_rl.Config:
    return tiny(output, **{"inner": INNER, "num_iterations": 4} | settings)


def factors(run: Path, iteration: int | None = None) -> list[float]:
    """The multiples of the step sizes of a run's agent."""
    agent = maml_rl.load(run, iteration=iteration)
    values: list[float] = agent.state.tensors["adaptation"]["test_factors"].tolist()
    return values


def last_choice(run: Path) -> list[int]:
    """The number of tasks of the choice in a run's newest checkpoint; 0 if there is none."""
    number: list[int] = last(run).tensors["adaptation"]["num_choice_tasks"].tolist()
    return number


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return maml_rl.train(config(tmp_path_factory.mktemp("whole") / "run"))


@pytest.fixture
def choices(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The iterations after which a choice is made."""
    made: list[int] = []
    original = maml_learner.with_chosen_factors

    def counting(learner, state, *args):
        made.append(state.counters["iteration"])
        return original(learner, state, *args)

    monkeypatch.setattr(maml_learner, "with_chosen_factors", counting)
    return made


def test_only_the_last_checkpoint_has_the_choice_and_a_line_names_it(
    tmp_path: Path, choices: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "maml_rl"):
        run = maml_rl.train(config(tmp_path / "run", logging={"checkpoint_every": 2}))
    assert choices == [4]
    assert factors(run, 2) == [1.0] * 10
    assert factors(run) == factors(run, 4) != [1.0] * 10
    assert last(run).values["is_final"] is True
    note = maml_rl.load(run).learner.describe(maml_rl.load(run).state)["note"]
    assert note.endswith("(chosen on 3 training tasks)")
    assert [record.message for record in caplog.records].count(note) == 1


def test_a_finished_run_is_not_changed_by_a_resume(
    whole: Path, tmp_path: Path, choices: list[int]
) -> None:
    run = shutil.copytree(whole, tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in (run / "checkpoints").rglob("*")}
    maml_rl.resume(run)
    assert choices == []
    assert {path: path.stat().st_mtime_ns for path in (run / "checkpoints").rglob("*")} == before


def test_an_extended_run_chooses_again_and_ends_as_an_uninterrupted_one(
    whole: Path, tmp_path: Path, choices: list[int]
) -> None:
    """Also its evaluations in training, which follow the first choice."""
    logging = {"evaluate_every": 1}
    run = maml_rl.train(config(tmp_path / "run", num_iterations=2, logging=logging))
    maml_rl.resume(run, 4)
    assert choices == [2, 4]
    assert_equal_runs(run, maml_rl.train(config(tmp_path / "whole", logging=logging)))
    assert_same_state(run, whole)


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("call", [1, 5])
def test_an_interrupted_choice_is_repeated(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, choices: list[int], call: int
) -> None:
    collect, num_calls = Collector.collect, [0]

    def interrupted(self, *args):
        num_calls[0] += bool(choices)
        if num_calls[0] == call:
            signal.raise_signal(signal.SIGTERM)
        return collect(self, *args)

    with monkeypatch.context() as patched:
        patched.setattr(Collector, "collect", interrupted)
        with pytest.raises(Interrupted, match="after iteration 4"):
            maml_rl.train(config(tmp_path / "run"))
    assert last(tmp_path / "run").values["is_final"] is False
    assert factors(tmp_path / "run") == [1.0] * 10
    maml_rl.resume(tmp_path / "run")
    assert choices == [4, 4]
    assert_equal_runs(tmp_path / "run", whole)
    assert last(tmp_path / "run").values["is_final"] is True


def test_a_choice_that_raises_is_repeated(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raising(*args):
        raise ValueError("of the environment")

    with monkeypatch.context() as patched:
        patched.setattr(MAML, "after_training", raising)
        with pytest.raises(ValueError, match="of the environment"):
            maml_rl.train(config(tmp_path / "run"))
    maml_rl.resume(tmp_path / "run")
    assert_equal_runs(tmp_path / "run", whole)


class StopAfterTwo(Callback):
    """Ends a run after two iterations, and keeps the agent of its end."""

    def on_iteration(self, run, metrics):
        assert run.agent.state.tensors["adaptation"]["num_choice_tasks"].tolist() == [0]
        if run.iteration == 2:
            run.stop("two are enough")

    def on_end(self, run):
        self.agent = run.agent


def test_a_run_that_a_callback_ends_chooses_too(tmp_path: Path, choices: list[int]) -> None:
    callback = StopAfterTwo()
    run = maml_rl.train(config(tmp_path / "run"), [callback])
    assert choices == [2]
    values = callback.agent.state.tensors["adaptation"]
    assert values["test_factors"].tolist() == factors(run)
    assert values["num_choice_tasks"].tolist() == last_choice(run) == [3]


def test_a_run_that_is_ended_where_it_was_interrupted_chooses(
    whole: Path, tmp_path: Path, choices: list[int]
) -> None:
    """With fewer iterations than it was to have, so that it takes no further one."""

    class Stop(Callback):
        def on_iteration(self, run, metrics):
            if run.iteration == 3:
                raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="after iteration 2"):
        maml_rl.train(config(tmp_path / "run"), [Stop()])
    assert last(tmp_path / "run").values["is_final"] is False
    maml_rl.resume(tmp_path / "run", 2)
    assert choices == [2]
    assert last_choice(tmp_path / "run") == [3]


@pytest.mark.parametrize("chooses", [True, False])
def test_a_line_announces_the_choice(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, chooses: bool
) -> None:
    inner = {**INNER, "choose_test_step_sizes": chooses}
    with caplog.at_level("INFO", "maml_rl"):
        maml_rl.train(config(tmp_path / "run", inner=inner))
    line = "after the last iteration: choosing step sizes on 3 training tasks ..."
    assert [text for text in caplog.messages if "choosing" in text] == [line] * chooses
    if chooses:
        assert caplog.messages.index(line) < caplog.messages.index(
            next(text for text in caplog.messages if "chosen on 3 training tasks" in text)
        )


def test_the_choice_says_how_far_it_is(whole: Path) -> None:
    texts: list[str] = []
    with open_training(maml_rl.load(whole).config) as training:
        agent = training.agent.with_state(maml_rl.load(whole).state)
        training._replace(agent=agent).with_progress(texts.append).ended()
    number = len(step_schedule.schedules(1))
    choosing = "choosing step sizes on 3 training tasks"
    assert texts[0].startswith(f"{choosing}, stage 1: control step 1 of ")
    for k in range(1, number + 1):
        assert any(text.startswith(f"{choosing}, {k} of {number}, stage 2: ") for text in texts)


def test_it_can_be_switched_off(tmp_path: Path, choices: list[int]) -> None:
    inner = {**INNER, "choose_test_step_sizes": False}
    assert factors(maml_rl.train(config(tmp_path / "run", inner=inner))) == [1.0] * 10
    assert choices == []


def of_an_earlier_version(run: Path) -> None:
    """Remove what earlier versions did not write from the newest checkpoint of a run."""
    path = run / "checkpoints" / "000004"
    values = json.loads((path / "values.json").read_text())
    del values["is_final"]
    (path / "values.json").write_text(json.dumps(values))
    tensors = load_file(path / "tensors.safetensors")
    del tensors["adaptation/num_choice_tasks"]
    tensors["adaptation/test_factors"] = torch.ones(10)
    save_file(tensors, path / "tensors.safetensors")
    reseal(path)


def test_a_finished_run_of_an_earlier_version_keeps_constant_step_sizes(
    whole: Path, tmp_path: Path, choices: list[int]
) -> None:
    run = shutil.copytree(whole, tmp_path / "run")
    of_an_earlier_version(run)
    maml_rl.resume(run)
    assert choices == []
    agent = maml_rl.load(run)
    assert agent.learner.describe(agent.state)["note"].endswith(": 30 (inner.step_size)")
    # The user can choose for it, and keep the choice.
    better = agent.with_chosen_step_sizes(num_tasks=8)
    assert choices == [4]
    kept = maml_rl.load(better.save(tmp_path / "better"))
    for name, value in better.state.tensors["adaptation"].items():
        assert kept.state.tensors["adaptation"][name].equal(value)
    text = better.evaluate(num_tasks=2, num_episodes=2).table().splitlines()[-1]
    assert text == better.learner.describe(better.state)["note"]
    assert text.endswith("(chosen on 8 training tasks)")


def test_an_agent_chooses_as_a_function_of_the_seed(whole: Path) -> None:
    agent = maml_rl.load(whole)
    first, second = (agent.with_chosen_step_sizes(num_tasks=5, seed=3) for _ in range(2))
    assert first.state.tensors["adaptation"]["num_choice_tasks"].tolist() == [5]
    for name, value in first.state.tensors["adaptation"].items():
        assert value.equal(second.state.tensors["adaptation"][name])
    # The first step differs from that of the constant step size, and so the adapted agent.
    constant = agent.with_state(maml_learner.with_test_factors(agent.state, [1.0]))
    task = {"goal_x": 0.3, "goal_y": 0.1}
    one, other = (each.adapt(task=task).belief["weight_0"] for each in (first, constant))
    assert not one.equal(other)


@pytest.mark.parametrize(
    ("settings", "arguments", "message"),
    [
        ({}, {"num_tasks": 0}, "num_tasks must be an integer of at least 1, got 0"),
        ({}, {"seed": -1}, "seed must be a non-negative integer|seed must be an integer"),
        ({"learner": "joint", "inner": {}}, {}, "nothing to choose for this agent"),
        ({"inner": {"test_step_sizes": [0.1]}}, {}, "nothing to choose for this agent"),
        ({"inner": {"choose_test_step_sizes": False}}, {}, "choose_test_step_sizes true"),
    ],
)
def test_an_agent_refuses_what_it_cannot_choose(
    settings: dict[str, Any], arguments: dict[str, int], message: str, tmp_path: Path
) -> None:
    agent = maml_rl.load(maml_rl.train(config(tmp_path / "run", num_iterations=1, **settings)))
    with pytest.raises(UserError, match=message):
        agent.with_chosen_step_sizes(**arguments)


def test_an_adapted_agent_chooses_nothing(whole: Path) -> None:
    agent = maml_rl.load(whole)
    with pytest.raises(UserError, match="taken 1 adaptation step: choose"):
        agent.adapt(task=drawn_task(agent)).with_chosen_step_sizes()


def test_every_report_names_the_step_sizes(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fixed = {"inner": {"test_step_sizes": [0.3, 0.1]}, "num_iterations": 1}
    other = maml_rl.train(config(tmp_path / "other", **fixed))
    agent = maml_rl.load(whole)
    note = agent.learner.describe(agent.state)["note"]
    flags = ["--num_tasks=2", "--num_episodes=2", "--num_steps=2", f"--output={tmp_path / 'both'}"]
    assert main(["evaluate", str(whole), str(other), *flags]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.endswith(f": {note}") for line in lines) == 1
    assert sum("0.3, 0.1, 0.1, ... (inner.test_step_sizes)" in line for line in lines) == 1
    results = json.loads((tmp_path / "both" / "results.json").read_text())["results"]
    assert [result["learners"][0]["note"] == note for result in results] == [True, False]
    assert results[1]["learners"][0]["step_sizes"] == [0.3, *[0.1] * 9]
    html = (tmp_path / "both" / "report.html").read_text()
    assert f"{note}." in html


def test_runs_that_chose_differently_are_listed_by_their_seeds(whole: Path, tmp_path: Path) -> None:
    agent = maml_rl.load(whole)
    agents = [agent.with_state(maml_learner.with_test_factors(agent.state, [f])) for f in (1, 0.5)]
    both = [each.evaluate(num_tasks=2, num_episodes=2, num_steps=1) for each in agents]
    comparison = Comparison([Entry("ours", (Path("a"), Path("b")), tuple(both), {})])
    sizes = ["30 (inner.step_size)", "15 (inner.step_size)"]
    seed = f"seed {agent.config.seed}"
    line = "; ".join(f"{seed}: adaptation step sizes after training: {size}" for size in sizes)
    assert f"ours (2 runs): {line}" in comparison.table().splitlines()
    write_report(tmp_path, comparison)
    result = json.loads((tmp_path / "results.json").read_text())["results"][0]
    assert [learner["step_sizes"][0] for learner in result["learners"]] == [30, 15]
    title = adaptation_figure(comparison).get_suptitle()
    assert line in title.replace("\n", " ")
    assert np.max([len(row) for row in title.splitlines()]) <= 80
