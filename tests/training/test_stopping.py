"""Stop signals: where a run stops, that nothing finished is lost, and that a hanging run ends."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import Command
from helpers.runs import MODULE, assert_equal_runs, last, tiny

import maml_rl.learners.trials
from maml_rl.learners.maml.learner import MAML
from maml_rl.sampling.collector import Collector
from maml_rl.training import finish, saving, training_run
from maml_rl.training.reporting import Interrupted
from maml_rl.training.start import resume, train

pytestmark = [
    pytest.mark.slow,  # they train
    pytest.mark.skipif(os.name == "nt", reason="POSIX signals"),
]


@pytest.fixture(autouse=True)
def default_handlers(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Of a shell in the foreground; tests in the background ignore Ctrl-C, as do their children."""
    handlers = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGHUP: signal.SIG_DFL,
    }
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def call_first(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, call: int, action: Callable[[], Any]
) -> list[int]:
    """Have ``action`` called at the beginning of the n-th call of a function.

    Returns:
        The numbers of the calls so far.
    """
    original = getattr(owner, name)
    calls: list[int] = []

    def function(*args: Any, **kwargs: Any) -> Any:
        calls.append(len(calls) + 1)
        if len(calls) == call:
            action()
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, function)
    return calls


# --- in this process ---


def test_a_signal_in_an_inner_step_drops_the_iteration(tmp_path, monkeypatch):
    """It is the third one. The collection that would follow never starts."""
    whole = train(tiny(tmp_path / "whole"))
    with monkeypatch.context() as patched:
        send = lambda: signal.raise_signal(signal.SIGTERM)  # noqa: E731
        call_first(patched, maml_rl.learners.trials, "contained_update", 3, send)
        collections = call_first(patched, Collector, "_reset_seeds", 0, send)
        with pytest.raises(Interrupted, match="after iteration 2") as stopped:
            train(tiny(tmp_path / "run"))
    assert stopped.value.exit_status == 128 + signal.SIGTERM
    assert len(collections) == 2 * 2 + 1
    assert last(tmp_path / "run").values["iteration"] == 2
    resume(tmp_path / "run")
    assert_equal_runs(tmp_path / "run", whole)


def test_a_signal_in_the_last_collection_comes_before_the_outer_step(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        send = lambda: signal.raise_signal(signal.SIGINT)  # noqa: E731
        call_first(patched, Collector, "_reset_seeds", 2, send)
        outer_steps = call_first(patched, MAML, "_outer_step", 0, send)
        with pytest.raises(Interrupted, match="after iteration 0") as stopped:
            train(tiny(tmp_path / "run"))
    assert stopped.value.exit_status == 128 + signal.SIGINT
    assert outer_steps == []


def test_a_signal_in_the_outer_step_lets_the_iteration_finish(tmp_path, monkeypatch):
    whole = train(tiny(tmp_path / "whole"))
    with monkeypatch.context() as patched:
        send = lambda: signal.raise_signal(signal.SIGHUP)  # noqa: E731
        call_first(patched, MAML, "_outer_step", 3, send)
        with pytest.raises(Interrupted, match="after iteration 3"):
            train(tiny(tmp_path / "run"))
    assert last(tmp_path / "run").values["iteration"] == 3
    resume(tmp_path / "run")
    assert_equal_runs(tmp_path / "run", whole)


def test_a_second_signal_does_not_wait(tmp_path, monkeypatch):
    reached = []

    def send_twice() -> None:
        signal.raise_signal(signal.SIGINT)
        reached.append("first")
        signal.raise_signal(signal.SIGINT)
        reached.append("second")

    with monkeypatch.context() as patched:
        call_first(patched, MAML, "_outer_step", 3, send_twice)
        with pytest.raises(Interrupted, match="after iteration 2"):
            train(tiny(tmp_path / "run"))
    assert reached == ["first"]
    assert last(tmp_path / "run").values["iteration"] == 2


def test_a_further_signal_while_a_stopped_run_is_saved_changes_nothing(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        send = lambda: signal.raise_signal(signal.SIGINT)  # noqa: E731
        call_first(patched, MAML, "_outer_step", 3, send)
        call_first(patched, saving, "save_state", 1, send)
        with pytest.raises(Interrupted, match="after iteration 3") as stopped:
            train(tiny(tmp_path / "run"))
    assert stopped.value.exit_status == 128 + signal.SIGINT
    assert last(tmp_path / "run").values["iteration"] == 3


@pytest.mark.parametrize("call", [5, 6], ids=["failures.csv", "progress.csv"])
def test_a_signal_while_an_iteration_is_written_waits(tmp_path, monkeypatch, call):
    whole = train(tiny(tmp_path / "whole"))

    def send_twice() -> None:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patched:
        call_first(patched, training_run.AppendingCSV, "append", call, send_twice)
        with pytest.raises(Interrupted, match="after iteration 3"):
            train(tiny(tmp_path / "run"))
    resume(tmp_path / "run")
    assert_equal_runs(tmp_path / "run", whole)


@pytest.mark.parametrize("name", ["evaluate", "play"])
def test_a_signal_in_a_final_phase_does_not_wait(tmp_path, monkeypatch, name):
    logging = {"final_evaluation": True, "final_video": True}
    monkeypatch.setattr(finish, "evaluate" if name == "play" else "play", fail)
    if name == "play":
        logging["final_evaluation"] = False
    original = []

    def interrupted(*args: Any, **kwargs: Any) -> None:
        signal.raise_signal(signal.SIGTERM)
        original.append("not reached")

    monkeypatch.setattr(finish, name, interrupted)
    with pytest.raises(Interrupted, match="after iteration 1") as stopped:
        train(tiny(tmp_path / "run", num_iterations=1, logging=logging))
    assert stopped.value.exit_status == 128 + signal.SIGTERM
    ended = "Training has ended, its evaluation or video has not. Resume with: "
    assert ended in str(stopped.value)
    assert original == []


def fail(*args: Any, **kwargs: Any) -> None:
    raise AssertionError


@pytest.mark.slow
def test_a_signal_in_a_video_does_not_wait(tmp_path, monkeypatch):
    logging = {"video_every": 2}
    whole = train(tiny(tmp_path / "whole", num_iterations=3, logging=logging))

    def interrupted(*args: Any, **kwargs: Any) -> None:
        signal.raise_signal(signal.SIGTERM)
        pytest.fail("the signal waits")

    with monkeypatch.context() as patched:
        patched.setattr(finish, "play", interrupted)
        with pytest.raises(Interrupted, match="after iteration 1"):
            train(tiny(tmp_path / "run", num_iterations=3, logging=logging))
    resume(tmp_path / "run")
    assert_equal_runs(tmp_path / "run", whole)


def test_an_error_after_a_signal_is_a_stop(tmp_path, monkeypatch):
    """As where the signal has ended a worker process, too."""

    def stopped_and_failing() -> None:
        signal.raise_signal(signal.SIGTERM)
        raise EOFError

    call_first(monkeypatch, Collector, "_reset_seeds", 3, stopped_and_failing)
    with pytest.raises(Interrupted, match="after iteration 1") as stopped:
        train(tiny(tmp_path / "run"))
    assert stopped.value.exit_status == 128 + signal.SIGTERM


def test_a_handler_of_the_user_is_called_and_does_not_stop_the_run(tmp_path, monkeypatch):
    received = []
    signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    send = lambda: signal.raise_signal(signal.SIGTERM)  # noqa: E731
    call_first(monkeypatch, training_run.AppendingCSV, "append", 2, send)
    run = train(tiny(tmp_path / "run"))
    assert last(run).values["iteration"] == 6
    assert received == [signal.SIGTERM]


# --- real processes ---

# An environment that waits in a step while a file exists.
WAITING = MODULE.replace("Line-v0", "Waiting-v0").replace(
    "        self.x = np.clip",
    "        import os, time\n"
    "        while os.path.exists('wait'):\n"
    "            open('waiting', 'w').close()\n"
    "            time.sleep(0.01)\n"
    "        self.x = np.clip",
)


def start_waiting(folder: Path, *flags: str) -> Command:
    """A training process, once its environment waits in a step; it has a process group."""
    (folder / "waits.py").write_text(WAITING)
    (folder / "wait").touch()
    sizes = ["--meta_batch_size=2", "--num_episodes=2", "--horizon=5", "--num_iterations=1000"]
    results = ["--logging.final_evaluation=false", "--logging.final_video=false"]
    arguments = ["--env=waits:Waiting-v0", "--output=run", *sizes, *results, *flags]
    process = Command("maml_rl.train", *arguments, folder=folder)
    until((folder / "waiting").exists, process)
    return process


def until(condition: Callable[[], bool], process: Command) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_a_second_ctrl_c_ends_an_environment_that_hangs(tmp_path, vectorization):
    process = start_waiting(tmp_path, f"--env.vectorization={vectorization}")
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    time.sleep(1.0)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "press Ctrl-C again to stop at once" in err
    assert "Traceback" not in err
    assert out.splitlines()[-1].startswith("stopped after iteration 0. Resume with: ")
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.slow
@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_sigterm_stops_after_the_stage(tmp_path, vectorization):
    """It goes to the process alone, as from a cluster, or to its workers too."""
    process = start_waiting(tmp_path, f"--env.vectorization={vectorization}")
    (tmp_path / "wait").unlink()
    until(lambda: len(rows(tmp_path / "run")) > 3, process)
    if vectorization == "async":
        os.killpg(process.pid, signal.SIGTERM)
    else:
        process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, err
    assert "Traceback" not in err
    iteration = last(tmp_path / "run").values["iteration"]
    assert out.splitlines()[-1].startswith(f"stopped after iteration {iteration}. ")


def rows(run: Path) -> list[str]:
    path = run / "progress.csv"
    return path.read_text().splitlines() if path.exists() else []
