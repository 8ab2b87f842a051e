"""What a user sees of training: log lines on stdout, unless logging is configured, and the bar."""

from __future__ import annotations

import io
import logging
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import commands
from helpers.commands import Terminal
from helpers.runs import tiny

from maml_rl.training import reporting
from maml_rl.training.reporting import log, progress_bar
from maml_rl.training.start import resume, train
from maml_rl.training.stdout_log import LOGGER, StdoutHandler, default_stdout_log, stdout_log

SCRIPT = """
import logging, sys
import maml_rl

logger = logging.getLogger("maml_rl")
{configure}
maml_rl.train(maml_rl.load_config(
    env="PointNavigation", output="run", num_iterations=1, meta_batch_size=2, num_episodes=2,
    horizon=5, logging={{"final_evaluation": False, "final_video": False}},
))
assert logger.handlers == [] and logger.level == {level}
"""


def run_script(folder: Path, configure: str = "", level: int = logging.NOTSET) -> tuple[str, str]:
    """Stdout and stderr of a program that trains."""
    (folder / "program.py").write_text(SCRIPT.format(configure=configure, level=level))
    done = commands.run("program", folder=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.mark.slow
def test_a_program_that_configures_nothing_sees_lines_on_stdout(tmp_path):
    out, err = run_script(tmp_path)
    assert out.startswith("PointNavigation: 1 meta-iteration of 2 tasks")
    assert err == ""


@pytest.mark.slow
def test_a_level_turns_the_lines_off(tmp_path):
    assert run_script(tmp_path, "logger.setLevel('WARNING')", logging.WARNING) == ("", "")


@pytest.mark.slow
def test_configured_logging_takes_the_lines(tmp_path):
    out, err = run_script(tmp_path, "logging.basicConfig(level='INFO', format='>%(message)s')")
    assert out == ""
    assert ">PointNavigation: 1 meta-iteration of 2 tasks" in err


@pytest.mark.slow
def test_configured_logging_of_warnings_has_no_lines(tmp_path):
    assert run_script(tmp_path, "logging.basicConfig()") == ("", "")


def test_the_default_ends_with_its_block(capsys, monkeypatch):
    monkeypatch.setattr(logging.root, "handlers", [])  # pytest's own
    with default_stdout_log():
        log("within")
        with default_stdout_log():
            log("once")
    log("outside")
    assert capsys.readouterr().out == "within\nonce\n"


def test_a_root_handler_does_not_repeat_lines_of_the_command_line(capsys, monkeypatch):
    monkeypatch.setattr(logging.root, "handlers", [StdoutHandler()])
    with stdout_log():
        log("once")
    assert capsys.readouterr().out == "once\n"
    assert LOGGER.propagate


def test_what_the_encoding_lacks_is_escaped(monkeypatch):
    monkeypatch.setattr(logging.root, "handlers", [])  # pytest's own
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    with default_stdout_log():
        log("−1 → 0, 100 %")
    assert stream.buffer.getvalue().decode() == f"\\u22121 \\u2192 0, 100 %{os.linesep}"


def test_a_terminal_shows_a_bar(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    caplog.set_level("INFO", "maml_rl")
    train(tiny(tmp_path / "run", num_iterations=2))
    assert "2/2" in terminal.getvalue()
    assert "return " in terminal.getvalue()


def test_without_lines_there_is_no_bar(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    caplog.set_level("WARNING", "maml_rl")
    train(tiny(tmp_path / "run", num_iterations=2))
    assert terminal.getvalue() == ""


def test_without_a_bar_checkpoints_are_logged_with_their_returns(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", "maml_rl")
    pattern = r"iteration (\d) of 5: return -?\d+\.\d -> -?\d+\.\d"
    for stream, logged in ((io.StringIO(), ["2", "4", "5"]), (Terminal(), [])):
        monkeypatch.setattr(sys, "stderr", stream)
        caplog.clear()
        output = tmp_path / type(stream).__name__
        train(tiny(output, num_iterations=5, logging={"checkpoint_every": 2}))
        lines = [re.fullmatch(pattern, message) for message in caplog.messages]
        assert [line[1] for line in lines if line] == logged


def test_the_header_of_a_resumed_run_has_what_is_left(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", "maml_rl")
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    run = train(tiny(tmp_path / "run", num_iterations=1))
    for total, text in (
        (3, "the last 2 of 3 meta-iterations, each of"),
        (4, "the last of 4 meta-it"),
    ):
        caplog.clear()
        resume(run, total)
        assert text in caplog.text
        assert f"iteration {total} of {total}: return" in caplog.text


def test_a_notebook_shows_a_bar_and_a_file_does_not(monkeypatch, caplog):
    caplog.set_level("INFO", "maml_rl")
    notebook = type("OutStream", (io.StringIO,), {"__module__": "ipykernel.iostream"})()
    for stream, is_shown in ((notebook, True), (io.StringIO(), False), (None, False)):
        monkeypatch.setattr(sys, "stderr", stream)
        with progress_bar(3, unit="it") as bar:
            assert bar.disable != is_shown


@pytest.mark.parametrize(("seconds", "text"), [(4.9, ""), (5.0, " (5 s)"), (600.0, " (10 min)")])
def test_what_took_long_has_its_time(monkeypatch, seconds, text):
    monkeypatch.setattr(reporting, "time", SimpleNamespace(monotonic=lambda: 100.0 + seconds))
    assert reporting.took_text(100.0) == text


def test_a_line_clears_the_bar_first(monkeypatch, caplog):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    caplog.set_level("INFO", "maml_rl")
    with progress_bar(3, unit="it"):
        LOGGER.addHandler(handler := logging.StreamHandler(terminal))
        log("a line")
        LOGGER.removeHandler(handler)
    before, after = terminal.getvalue().split("a line\n")
    assert before.endswith("\r")
    assert "0/3" in after
