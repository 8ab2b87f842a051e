"""Callbacks observe a run, log numbers, and end it; budgets and StopOnPlateau are callbacks."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.commands import run_ranks
from helpers.own_modules import working_folder
from helpers.runs import (
    animations,
    assert_equal_runs,
    last,
    progress,
    scalars,
    tensorboard_series,
    tiny,
)
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams.backend_context import Context
from tensorboard.plugins.hparams.metadata import (
    SESSION_START_INFO_TAG,
    parse_session_start_info_plugin_data,
)

import maml_rl
from maml_rl.analysis.run_labels import group_settings
from maml_rl.cli import main
from maml_rl.errors import UserError
from maml_rl.training.baseline_runs import baseline_config
from maml_rl.training.callbacks import RunInProgress, StopOnPlateau, make_callbacks


class Recorder(maml_rl.Callback):
    """Records every call; stops and crashes on request."""

    def __init__(self, stop_after: int | None = None, crash_in: str = "") -> None:
        self.calls: list[tuple[str, int]] = []
        self.seen: list[dict[str, float]] = []
        self.stop_after = stop_after
        self.crash_in = crash_in

    def _called(self, method: str, run: Any) -> None:
        self.calls.append((method, run.iteration))
        if self.crash_in in (method, f"{method} {run.iteration}"):
            raise LookupError("lost the robot")

    def on_start(self, run: Any) -> None:
        self._called("start", run)
        if run.iteration == self.stop_after:
            run.stop("enough")

    def on_iteration(self, run: Any, metrics: dict[str, float]) -> None:
        self._called("iteration", run)
        self.seen.append(dict(metrics))
        if run.iteration == self.stop_after:
            run.stop("enough")

    def on_end(self, run: Any) -> None:
        self._called("end", run)


class FakeRun:
    """What StopOnPlateau asks of a run."""

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration
        self.reason: str | None = None

    def stop(self, reason: str) -> None:
        self.reason = reason


class Numbers(maml_rl.Callback):
    """Logs values by iteration."""

    def __init__(self, values: Sequence[Any], tag: Any = "my/number") -> None:
        self.values, self.tag = values, tag

    def on_iteration(self, run: Any, metrics: dict[str, float]) -> None:
        metrics[self.tag] = self.values[run.iteration - 1]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without callbacks; tests do not write to it."""
    return maml_rl.train(tiny(tmp_path_factory.mktemp("plain") / "run"))


@pytest.mark.slow
def test_a_callback_that_only_observes_changes_nothing(plain: Path, tmp_path: Path) -> None:
    recorder = Recorder()
    config = tiny(tmp_path / "run", max_env_steps=10**9, max_hours=1000)
    run = maml_rl.train(config, callbacks=[recorder, maml_rl.Callback()])
    assert_equal_runs(run, plain)
    iterations = [("iteration", i) for i in range(1, 7)]
    assert recorder.calls == [("start", 0), *iterations, ("end", 6)]
    for row, seen in zip(progress(run), recorder.seen, strict=True):
        assert {"time/iteration", *seen} >= row.keys()
        assert all(float(row[name]) == seen[name] for name in row.keys() & seen.keys())


@pytest.mark.slow
def test_the_run_that_callbacks_see(tmp_path: Path) -> None:
    seen = []

    class Observer(maml_rl.Callback):
        def on_iteration(self, run: Any, metrics: dict[str, float]) -> None:
            seen.append((run.folder, run.config, run.iteration, run.num_env_steps))
            assert run.agent.num_iterations == run.iteration
            adapted = run.agent.adapt(task={"goal_x": 0.1, "goal_y": 0.2}, num_episodes=2)
            assert adapted.num_adaptation_steps == 1

    config = tiny(tmp_path / "run", num_iterations=2)
    maml_rl.train(config, [Observer()])
    run = tmp_path / "run"
    num_steps = [int(row["time/num_env_steps"]) for row in progress(run)]
    assert seen == [(run, config, 1, num_steps[0]), (run, config, 2, num_steps[1])]


@pytest.mark.slow
def test_numbers_of_a_callback_are_logged(tmp_path: Path) -> None:
    values = [0.5, 7, -1e-9]
    later = Recorder()
    run = maml_rl.train(tiny(tmp_path / "run", num_iterations=3), [Numbers(values), later])
    assert [float(row["my/number"]) for row in progress(run)] == values
    assert [seen["my/number"] for seen in later.seen] == values
    points = scalars(run)["my/number"]
    assert [step for step, _ in points] == [1, 2, 3]
    assert [value for _, value in points] == pytest.approx(values)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tag", "value"),
    [
        ("my/x", "high"),
        ("my/x", None),
        ("my/x", True),
        ("my/x", 10**400),
        (3, 1.0),
        ("time/iteration", 9),
        ("", 1.0),
        ("my\nx", 1.0),
        ("\ud800", 1.0),
    ],
)
def test_what_cannot_be_logged_is_refused(tmp_path: Path, tag: Any, value: Any) -> None:
    callback = Numbers([1.0, value], "my/x")
    if tag != "my/x":
        callback = Numbers([1.0], tag)
    with pytest.raises(UserError, match=r"test_callbacks:Numbers: metrics must be numbers.* got"):
        maml_rl.train(tiny(tmp_path / "run"), [callback])
    assert (tmp_path / "run" / "checkpoints" / "000001").exists() == (tag == "my/x")


def results(run: Path) -> list[dict[str, Any]]:
    """Results of the final evaluation, without the name of the run."""
    entries = json.loads((run / "evaluation" / "results.json").read_text())["results"]
    return [{key: value for key, value in entry.items() if key != "sources"} for entry in entries]


@pytest.mark.thorough
def test_a_callback_stops_the_run_as_at_its_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "maml_rl")
    logging = {"final_evaluation": True, "final_video": True}
    stopped, recorder = Recorder(stop_after=2), Recorder()
    run = maml_rl.train(tiny(tmp_path / "run", logging=logging), [stopped, recorder])
    assert recorder.calls == [("start", 0), ("iteration", 1), ("iteration", 2), ("end", 2)]
    assert "ended after iteration 2: enough" in caplog.messages
    shorter = maml_rl.train(tiny(tmp_path / "shorter", num_iterations=2, logging=logging))
    assert_equal_runs(run, shorter)
    assert animations(run) == animations(shorter)
    assert results(run) == results(shorter)
    assert (run / "videos" / "final.mp4").read_bytes() == (
        shorter / "videos" / "final.mp4"
    ).read_bytes()


@pytest.mark.slow
def test_a_stopped_run_can_be_continued(plain: Path, tmp_path: Path) -> None:
    run = maml_rl.train(tiny(tmp_path / "run"), [Recorder(stop_after=4)])
    again = Recorder(stop_after=4)
    maml_rl.resume(run, callbacks=[again])
    assert again.calls == [("start", 4), ("end", 4)]
    assert last(run).values["iteration"] == 4
    maml_rl.resume(run)
    assert_equal_runs(run, plain)


@pytest.mark.slow
def test_a_run_that_is_stopped_before_it_starts_can_be_loaded(tmp_path: Path) -> None:
    run = maml_rl.train(tiny(tmp_path / "run"), [Recorder(stop_after=0)])
    assert maml_rl.load(run).num_iterations is None
    assert not (run / "progress.csv").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("crash_in", "num_saved"), [("start", 0), ("iteration 1", 0), ("iteration 4", 3), ("end", 6)]
)
def test_a_crash_saves_the_last_finished_iteration(
    plain: Path, tmp_path: Path, crash_in: str, num_saved: int
) -> None:
    config = tiny(tmp_path / "run", logging={"checkpoint_every": 5})
    method = f"on_{crash_in.partition(' ')[0]}"
    message = rf"callback .*:Recorder failed in {method}: LookupError: lost the robot \(.*\d+\)"
    with pytest.raises(UserError, match=message) as failed:
        maml_rl.train(config, [Recorder(crash_in=crash_in)])
    assert isinstance(failed.value.__cause__, LookupError)
    run = tmp_path / "run"
    saved = [int(path.name) for path in (run / "checkpoints").glob("*")]
    assert max(saved, default=0) == num_saved
    repeated = Recorder()
    maml_rl.resume(run, callbacks=[repeated])
    assert repeated.calls[0] == ("start", num_saved)
    assert_equal_runs(run, plain)


def test_an_error_of_this_package_in_a_callback_names_the_callback(tmp_path: Path) -> None:
    class Saver(maml_rl.Callback):
        def on_start(self, run: Any) -> None:
            run.agent.save(tmp_path)

    (tmp_path / "notes.txt").touch()
    message = r"^callback .*Saver failed in on_start: output .* exists and is not empty"
    with pytest.raises(UserError, match=message):
        maml_rl.train(tiny(tmp_path / "run"), [Saver()])


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        ([Recorder], "make an object of the class"),
        ([print], "list of maml_rl.Callback"),
        (Recorder(), "list of maml_rl.Callback"),
    ],
)
def test_what_is_not_a_callback_is_refused(tmp_path: Path, callbacks: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        maml_rl.train(tiny(tmp_path / "run"), callbacks)
    assert not (tmp_path / "run").exists()


def test_the_first_reason_to_stop_counts() -> None:
    run = RunInProgress(Path("run"), None, None)
    run.stop("enough")
    run.stop("too slow")
    assert run.stop_reason == "enough"


# --- on the command line ---

MODULE = """
import maml_rl
from maml_rl.training.callbacks import StopOnPlateau


class Hello(maml_rl.Callback):
    def on_iteration(self, run, metrics):
        metrics["my/steps"] = run.num_env_steps


class Stop(maml_rl.Callback):
    def on_iteration(self, run, metrics):
        if run.iteration >= 2:
            run.stop("two are enough")


class Crash(maml_rl.Callback):
    def on_iteration(self, run, metrics):
        if run.iteration == 2:
            raise ValueError("no such\\n robot")


class Broken(maml_rl.Callback):
    def __init__(self):
        raise KeyError("token")


def plateau():
    return StopOnPlateau("evaluation/return_after_1_steps", patience=10)
"""
FLAGS = ["--env=PointNavigation", "--meta_batch_size=3", "--num_episodes=2", "--horizon=5"]
FLAGS += ["--policy.hidden_sizes=[8]", "--device=cpu", "--num_iterations=4", "--output=run"]
FLAGS += ["--logging.final_evaluation=false", "--logging.final_video=false"]


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    """The current folder, with a module of callbacks."""
    (tmp_path / "my_callbacks.py").write_text(MODULE)
    with working_folder(tmp_path):
        yield tmp_path


@pytest.mark.slow
def test_callbacks_by_name_are_settings(project: Path) -> None:
    names = ["my_callbacks:Hello", "my_callbacks:Stop"]
    assert main(["train", *FLAGS, f"--callbacks=[{','.join(names)}]"]) == 0
    run = project / "run"
    assert yaml.safe_load((run / "config.yaml").read_text())["callbacks"] == names
    assert len(progress(run)) == 2
    # A resumed run has them too, and nobody else needs the module.
    assert main(["train", "--resume", "run"]) == 0
    rows = progress(run)
    assert [float(row["my/steps"]) for row in rows] == [
        float(row["time/num_env_steps"]) for row in rows
    ]
    assert len(rows) == 3
    (project / "my_callbacks.py").unlink()
    sys.modules.pop("my_callbacks")
    assert maml_rl.load(run).num_iterations == 3


@pytest.mark.slow
def test_a_single_callback_needs_no_list(project: Path) -> None:
    (project / "settings.yaml").write_text("callbacks: my_callbacks:Stop\n")
    assert main(["train", *FLAGS, "--config=settings.yaml"]) == 0
    assert len(progress(project / "run")) == 2
    config = maml_rl.load_config(env="PointNavigation", callbacks="my_callbacks:Stop")
    assert config.callbacks == ("my_callbacks:Stop",)
    assert config == maml_rl.load_config(env="PointNavigation", callbacks=["my_callbacks:Stop"])


def test_those_of_the_settings_come_before_those_of_the_caller(project: Path) -> None:
    config = tiny(project / "run", callbacks="my_callbacks:Hello", max_env_steps=9)
    made = make_callbacks(config, [Recorder()])
    assert [type(callback).__name__ for callback in made] == ["MaxEnvSteps", "Hello", "Recorder"]


@pytest.mark.slow
def test_a_crash_is_one_line(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *FLAGS, "--callbacks", "my_callbacks:Crash"]) == 2
    out, err = capsys.readouterr()
    (error,) = [line for line in err.splitlines() if line]
    line = MODULE.splitlines().index('            raise ValueError("no such\\n robot")') + 1
    where = f"{project / 'my_callbacks.py'}, line {line}"
    assert error == (
        "error: callback my_callbacks:Crash failed in on_iteration: ValueError: no such robot "
        f"({where})"
    )
    assert "iteration 1 is saved. Resume with: python -m maml_rl.train --resume run" in out
    assert last(project / "run").values["iteration"] == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_callbacks", "each a name such as module:Name, got"),
        ("3", "each a name such as module:Name, got"),
        ("[my_callbacks:Hello,4]", "each a name such as module:Name, got"),
        ("my_callbacks:Helo", "defines no 'Helo'. Did you mean 'my_callbacks:Hello'?"),
        ("no_such_module:Hello", "module 'no_such_module' cannot be imported"),
        ("my_callbacks:MODULE", "defines no 'MODULE'"),
        ("my_callbacks:Broken", "cannot be made without arguments: KeyError: 'token'"),
        ("maml_rl.training.callbacks:StopOnPlateau", "'metric' and 'patience'"),
        ("builtins:dict", "must make a maml_rl.Callback, got dict"),
        ("my_callbacks:plateau", "only if logging.evaluate_every is at least 1"),
    ],
)
def test_mistakes_are_refused_in_one_line(
    project: Path, capsys: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    assert main(["train", *FLAGS, f"--callbacks={name}"]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert (project / "run").exists() == (name == "my_callbacks:plateau")


def test_runs_that_differ_only_in_callbacks_and_budgets_are_one_group(tmp_path: Path) -> None:
    plain = tiny(tmp_path)
    others = {"callbacks": ["a:B"], "max_env_steps": 5, "max_hours": 2.5}
    assert group_settings(tiny(tmp_path, **others)) == group_settings(plain)


# --- StopOnPlateau ---

CURVE = [1.0, 3.0, 2.0, 3.05, 3.1, 9.0]


def plateau(patience: int = 2, min_delta: float = 0.1) -> list[maml_rl.Callback]:
    return [Numbers(CURVE), StopOnPlateau("my/number", patience, min_delta)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("patience", "min_delta", "num_iterations"),
    [(2, 0.1, 4), (3, 0.1, 5), (2, 0.0, 6), (1, 0.0, 3), (4, 0.2, 6), (1, 1e6, 2)],
)
def test_stop_on_plateau(
    tmp_path: Path, patience: int, min_delta: float, num_iterations: int
) -> None:
    """The best of CURVE is that of iteration 2, until one exceeds it by more than min_delta."""
    run = maml_rl.train(tiny(tmp_path / "run"), plateau(patience, min_delta))
    assert len(progress(run)) == num_iterations


@pytest.mark.slow
def test_an_interrupted_run_stops_on_the_same_plateau(tmp_path: Path) -> None:
    whole = maml_rl.train(tiny(tmp_path / "whole"), plateau())
    config = tiny(tmp_path / "run")
    with pytest.raises(UserError):
        maml_rl.train(config, [*plateau(), Recorder(crash_in="iteration 4")])
    run = tmp_path / "run"
    maml_rl.resume(run, callbacks=plateau())
    assert_equal_runs(run, whole)
    # It has ended: resuming it does nothing more.
    maml_rl.resume(run, callbacks=plateau())
    assert_equal_runs(run, whole)


@pytest.mark.slow
def test_a_metric_that_is_not_logged_is_refused(tmp_path: Path) -> None:
    for name, suggestion in (
        ("train/return_after_1_step", "train/return_after_1_steps"),
        ("evaluation/return_after_1_step", "evaluation/return_after_1_steps"),
    ):
        config = tiny(tmp_path / name, logging={"evaluate_every": 2})
        with pytest.raises(UserError, match=rf"Did you mean {suggestion}\? Logged are .*outer/kl"):
            maml_rl.train(config, [StopOnPlateau(name, 3)])


@pytest.mark.parametrize(("missing_in", "last"), [(1, 5), (3, 6)])
def test_a_metric_may_be_missing_after_a_failed_update(missing_in: int, last: int) -> None:
    """The last rise is in iteration 3, or 4 where 3 failed."""
    callback = StopOnPlateau("update/kl", patience=2)
    for i, value in enumerate([1.0, 2.0, 3.0, 3.0, 3.0, 3.0][:last], 1):
        run = FakeRun(i)
        metrics = {"update/failed": 0.0, "update/kl": value}
        callback.on_iteration(run, {"update/failed": 1.0} if i == missing_in else metrics)
        assert (run.reason is not None) == (i == last)


def test_a_metric_without_a_value_yet_does_not_stop() -> None:
    callback = StopOnPlateau("my/number", patience=2)
    reasons = []
    for i, value in enumerate([math.nan, math.nan, math.nan, 1.0, math.nan, 0.5], 1):
        run = FakeRun(i)
        callback.on_iteration(run, {"my/number": value})
        reasons.append(run.reason is not None)
    assert reasons == [False] * 5 + [True]


def test_a_metric_that_was_logged_before_may_be_missing() -> None:
    callback = StopOnPlateau("my/number", patience=2)
    callback.on_iteration(FakeRun(1), {"my/number": 1.0})
    callback.on_iteration(FakeRun(2), {"outer/kl": 1.0})
    with pytest.raises(UserError, match="'my/other' is not logged"):
        StopOnPlateau("my/other", patience=2).on_iteration(FakeRun(2), {"outer/kl": 1.0})


@pytest.mark.slow
def test_a_plateau_of_evaluations_is_judged_where_they_are_logged(tmp_path: Path) -> None:
    config = tiny(tmp_path / "run", logging={"evaluate_every": 2})
    callback = StopOnPlateau("evaluation/return_after_1_steps", patience=1, min_delta=1e6)
    run = maml_rl.train(config, [callback])
    assert len(progress(run)) == 4


def test_a_callback_may_write_equal_metrics(tmp_path: Path) -> None:
    class Writes(maml_rl.Callback):
        def on_iteration(self, run: Any, metrics: dict[str, float]) -> None:
            metrics["my/nothing"] = math.nan
            metrics.update({tag: float(value) for tag, value in metrics.items()})

    run = maml_rl.train(tiny(tmp_path / "run", num_iterations=1), [Writes(), Writes()])
    assert len(progress(run)) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda metrics: metrics.clear(), "must not change or remove .*, outer/kl"),
        (
            lambda metrics: metrics.pop("time/num_env_steps"),
            "must not change or remove time/num_env_steps$",
        ),
        (
            lambda metrics: metrics.update({"evaluation/return_after_1_steps": 1e9}),
            "must not change or remove evaluation/return_after_1_steps$",
        ),
        (lambda metrics: metrics.update({"my/number": "one"}), "metrics must be numbers"),
    ],
)
def test_a_callback_only_adds_metrics(change: Any, message: str, tmp_path: Path) -> None:
    class Changes(maml_rl.Callback):
        def on_iteration(self, run: Any, metrics: dict[str, float]) -> None:
            if run.iteration == 2:
                change(metrics)

    config = tiny(tmp_path / "run", logging={"evaluate_every": 2, "keep_best": True})
    with pytest.raises(UserError, match=f"callback .*Changes: .*{message}"):
        maml_rl.train(config, [Changes()])
    assert len(progress(tmp_path / "run")) == 1


@pytest.mark.parametrize("metric", [None, 3])
def test_a_metric_is_a_tag(metric):
    with pytest.raises(UserError, match="metric must be a tag such as"):
        StopOnPlateau(metric, patience=1)


@pytest.mark.slow
@pytest.mark.parametrize("reason", [None, 3])
def test_a_reason_is_text(tmp_path, reason):
    class Stops(maml_rl.Callback):
        def on_iteration(self, run, metrics):
            run.stop(reason)

    with pytest.raises(UserError, match=f"the reason to stop must be a string, got {reason}"):
        maml_rl.train(tiny(tmp_path / "run"), [Stops()])


@pytest.mark.parametrize(("patience", "min_delta"), [(0, 0.0), (1.5, 0.0), (1, -1.0), (1, None)])
def test_a_plateau_out_of_range_is_refused(patience: Any, min_delta: Any) -> None:
    with pytest.raises(UserError, match=r"(patience|min_delta) must be"):
        StopOnPlateau("outer/kl", patience, min_delta)


# --- budgets ---


@pytest.mark.slow
def test_a_budget_of_steps_ends_the_run_and_its_resumes(
    plain: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "maml_rl")
    num_steps = int(progress(plain)[2]["time/num_env_steps"])
    run = maml_rl.train(tiny(tmp_path / "run", max_env_steps=num_steps))
    assert last(run).values["iteration"] == 3
    assert f"it ends earlier after {num_steps:,} control steps (max_env_steps)" in caplog.text
    # One step more than the budget takes one iteration more.
    longer = maml_rl.train(tiny(tmp_path / "longer", max_env_steps=num_steps + 1))
    assert last(longer).values["iteration"] == 4
    # Resuming does nothing more, whatever num_iterations is.
    files = {path: path.read_bytes() for path in run.glob("events*")}
    assert main(["train", "--resume", str(run), "--num_iterations=9"]) == 0
    assert last(run).values["iteration"] == 3
    assert files == {path: path.read_bytes() for path in run.glob("events*")}
    # A larger budget extends the run.
    flags = ["--num_iterations=6", "--max_env_steps=1000000"]
    assert main(["train", "--resume", str(run), *flags]) == 0
    assert_equal_runs(run, plain)


@pytest.mark.slow
def test_a_budget_of_hours_starts_again_with_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that each iteration advances by half an hour."""
    now_s = [0.0]

    class Clock(maml_rl.Callback):
        def on_iteration(self, run: Any, metrics: dict[str, float]) -> None:
            now_s[0] += 1800

    monkeypatch.setattr(time, "monotonic", lambda: now_s[0])
    run = maml_rl.train(tiny(tmp_path / "run", num_iterations=9, max_hours=1.0), [Clock()])
    # The budget is read before the clock advances.
    assert last(run).values["iteration"] == 3
    maml_rl.resume(run, callbacks=[Clock()])
    assert last(run).values["iteration"] == 6


@pytest.mark.parametrize("settings", [{"max_env_steps": 0}, {"max_hours": 0.0}, {"max_hours": -1}])
def test_budgets_out_of_range_are_refused(tmp_path: Path, settings: dict[str, Any]) -> None:
    (name,) = settings
    with pytest.raises(UserError, match=f"{name} must be"):
        tiny(tmp_path / "run", **settings)


@pytest.mark.parametrize("flag", ["--max_env_steps=0", "--max_env_steps=1e3", "--seed=1"])
def test_what_resume_does_not_take_is_refused(
    capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    assert main(["train", "--resume", "run", flag]) == 2
    assert flag.partition("=")[0] in capsys.readouterr().err


@pytest.mark.slow
def test_baselines_have_no_budgets_and_no_callbacks(plain: Path) -> None:
    config = plain / "config.yaml"
    before = config.read_text()
    try:
        config.write_text(
            before.replace("max_env_steps: null", "max_env_steps: 5")
            .replace("max_hours: null", "max_hours: 0.5")
            .replace("callbacks: []", "callbacks: [no_such_module:Name]")
        )
        assert config.read_text() != before
        baseline = baseline_config(plain, "pretrained", num_iterations=2)
    finally:
        config.write_text(before)
    assert (baseline.max_env_steps, baseline.max_hours, baseline.callbacks) == (None, None, ())


# --- several processes ---


def launch(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return run_ranks(2, "maml_rl.train", *arguments, folder=folder)


@pytest.mark.slow
def test_all_processes_end_where_process_0_stops(project: Path) -> None:
    flags = [*FLAGS, "--meta_batch_size=8", "--num_iterations=20", "--max_env_steps=100000"]
    done = launch(*flags, "--callbacks=my_callbacks:Stop", folder=project)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("ended after iteration 2: two are enough") == 1
    assert len(progress(project / "run")) == 2
    # The budget is reached when it resumes: no process iterates.
    done = launch("--resume=run", "--max_env_steps=10", folder=project)
    assert done.returncode == 0, done.stderr
    assert len(progress(project / "run")) == 2


@pytest.mark.slow
def test_a_crash_in_process_0_ends_all_processes(project: Path) -> None:
    flags = [*FLAGS, "--meta_batch_size=8", "--callbacks=my_callbacks:Crash"]
    done = launch(*flags, folder=project)
    assert done.returncode != 0
    assert "error: callback my_callbacks:Crash failed in on_iteration" in done.stderr
    assert "error: the processes cannot communicate" in done.stderr
    assert "[rank1]: Traceback" not in done.stderr
    assert last(project / "run").values["iteration"] == 1


# --- TensorBoard ---


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    logging = {"final_evaluation": True, "final_video": True}
    folder = tmp_path_factory.mktemp("evaluated") / "run"
    return maml_rl.train(tiny(folder, num_iterations=2, logging=logging))


@pytest.mark.thorough
def test_tensorboard_shows_the_final_evaluation_and_video(evaluated: Path) -> None:
    points = scalars(evaluated)
    (entry,) = results(evaluated)
    for k in range(4):
        for name in ("return", "success"):
            ((step, value),) = points[f"final_evaluation/{name}_after_{k}_steps"]
            assert step == 2
            assert value == pytest.approx(entry[name][k])
    ((step, gif),) = animations(evaluated)
    assert (step, gif[:6]) == (2, b"GIF89a")
    assert "videos/final" in tensorboard_series(evaluated)


@pytest.mark.slow
def test_tensorboard_has_no_success_where_the_environment_reports_none(tmp_path: Path) -> None:
    env = {"env": {"name": "HalfCheetahVel"}, "num_iterations": 1}
    run = maml_rl.train(tiny(tmp_path / "run", **env, logging={"final_evaluation": True}))
    tags = [tag for tag in scalars(run) if tag.startswith("final_evaluation/")]
    assert tags == [f"final_evaluation/return_after_{k}_steps" for k in range(4)]


@pytest.mark.slow
def test_resuming_a_finished_run_logs_nothing_twice(evaluated: Path) -> None:
    before = tensorboard_series(evaluated).keys()
    maml_rl.resume(evaluated)
    assert tensorboard_series(evaluated).keys() == before
    assert all(len(points) <= 2 for points in scalars(evaluated).values())
    assert len(animations(evaluated)) == 1


def experiment(logdir: Path) -> Any:
    """What TensorBoard's HPARAMS tab shows for all runs in a folder."""
    multiplexer = EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(logdir))
    multiplexer.Reload()
    provider = MultiplexerDataProvider(multiplexer, str(logdir))
    hparams = Context(TBContext(data_provider=provider))
    request = RequestContext()
    metadata = hparams.hparams_metadata(request, "")
    found = hparams.hparams_from_data_provider(request, "", 0)
    return hparams.experiment_from_metadata(request, "", True, metadata, found)


@pytest.mark.slow
def test_tensorboard_compares_hyperparameters_by_the_final_evaluation(evaluated: Path) -> None:
    shown = experiment(evaluated.parent)
    names = {info.name for info in shown.hparam_infos}
    assert {"seed", "inner.step_size", "outer.name", "policy.hidden_sizes"} <= names
    assert "final_evaluation/return_after_1_steps" in {info.name.tag for info in shown.metric_infos}


def hyperparameters(run: Path) -> dict[str, Any]:
    accumulator = EventAccumulator(str(run))
    accumulator.Reload()
    content = accumulator.SummaryMetadata(SESSION_START_INFO_TAG).plugin_data.content
    values = parse_session_start_info_plugin_data(content).hparams
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in values.items()}


@pytest.mark.slow
def test_tensorboard_has_the_settings(plain: Path) -> None:
    values = hyperparameters(plain)
    assert values["inner.step_size"] == 0.1
    assert values["inner.first_order"] is False
    assert values["outer.name"] == "trpo"
    assert values["policy.hidden_sizes"] == "[8]"
    assert "max_hours" not in values
    ((step, text),) = tensorboard_series(plain)["config"]
    assert step == 1
    text = text[0].decode()
    assert yaml.safe_load(text.removeprefix("```yaml").removesuffix("```")) == yaml.safe_load(
        (plain / "config.yaml").read_text()
    )
