"""What a terminal shows during a long iteration or evaluation, and estimates of the time left."""

from __future__ import annotations

import io
import re
import sys

import pytest
from helpers.commands import Terminal
from helpers.runs import tiny
from tqdm import tqdm

import maml_rl
from maml_rl.system.text import duration_text
from maml_rl.training import progress as progress_module
from maml_rl.training import reporting as reporting_module
from maml_rl.training.progress import Activity, Pace
from maml_rl.training.reporting import evaluations_shown, log_pace, time_left
from maml_rl.training.start import resume, train


class Clock:
    """Stands still unless a test moves it; each reading adds ``per_reading_s``."""

    def __init__(self, per_reading_s: float = 0.0) -> None:
        self.now_s = 100.0
        self.per_reading_s = per_reading_s

    def monotonic(self) -> float:
        self.now_s += self.per_reading_s
        return self.now_s


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress_module, "time", clock)
    return clock


@pytest.mark.parametrize(
    ("duration_s", "text"),
    [
        (0.4, "0 s"),
        (89, "89 s"),
        (90, "2 min"),
        (2400, "40 min"),
        (5400, "1 h 30 min"),
        (7200, "2 h"),
        (7500, "2 h 5 min"),
        (172_800, "2 d"),
        (273_600, "3 d 4 h"),
    ],
)
def test_a_duration_has_two_units_at_most(duration_s, text):
    assert duration_text(duration_s) == text


def test_the_first_iteration_does_not_count_for_the_pace(clock, caplog):
    caplog.set_level("INFO", "maml_rl")
    pace = Pace(total=302, num_finished=2)
    lines = []
    for duration_s in (30.0, 8.0, 12.0):
        clock.now_s += duration_s
        pace.count()
        log_pace(pace)
        lines.append(time_left(pace))
    # 300 iterations: 30 s, 8 s, and 298 of 8 s; later 297 of 10 s.
    assert caplog.messages == ["300 iterations, about 40 min on this machine"]
    assert lines == ["", ", about 40 min left", ", about 50 min left"]


def test_a_short_run_has_no_estimate(clock, caplog):
    caplog.set_level("INFO", "maml_rl")
    pace = Pace(total=5, num_finished=0)
    for _ in range(5):
        clock.now_s += 2.0
        pace.count()
        log_pace(pace)
        assert time_left(pace) == ""
    assert caplog.messages == []


def test_a_budget_of_control_steps_bounds_the_estimates(clock, caplog):
    caplog.set_level("INFO", "maml_rl")
    pace = Pace(1_000_000, 2, max_env_steps=1000, num_env_steps=200, steps_per_iteration=150)
    assert (pace.total, pace.total_text, pace.num_iterations) == (8, "about 8", 6)
    # Iterations of 100 control steps, of which the first one has 20 more: (1000 − 420) / 100 left.
    for num_env_steps in (320, 420):
        clock.now_s += 60.0
        pace.count(num_env_steps)
        log_pace(pace)
    assert (pace.total, pace.left_s) == (2 + 2 + 6, 6 * 60)
    assert caplog.messages == ["about 8 iterations, about 8 min on this machine"]
    assert time_left(pace) == ", about 6 min left"
    pace.count(1010)  # the last one
    assert (pace.total, pace.left_s) == (5, 0)
    assert Pace(5, 0, max_env_steps=1000, steps_per_iteration=100).total_text == "5"


def test_a_budget_of_hours_bounds_the_estimates(clock):
    pace = Pace(150, 0, max_hours=0.1)
    assert pace.total_text == "150"
    for _ in range(2):
        clock.now_s += 50.0
        pace.count()
    assert (pace.total_text, pace.left_s) == ("about 8", 6 * 50)  # 260 s are left


def test_a_run_with_a_budget_does_not_name_iterations_beyond_it(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", "maml_rl")
    # 3 tasks x 2 episodes x 5 control steps, before and after adaptation: 60 in an iteration.
    settings = {"num_iterations": 10_000, "max_env_steps": 130}
    for stream in (Terminal(), io.StringIO()):
        caplog.clear()
        monkeypatch.setattr(sys, "stderr", stream)
        logging = {"checkpoint_every": 1}
        train(tiny(tmp_path / type(stream).__name__, logging=logging, **settings))
        text = caplog.text + stream.getvalue()
        assert "about 3 meta-iterations, each of" in text
        assert "10000" not in text
        if stream.isatty():
            assert "3/3" in text
        else:
            assert "iteration 3 of about 3: return" in text


def test_only_what_is_long_is_shown_and_twice_a_second_at_most(clock):
    bar = tqdm(total=3, file=(terminal := Terminal()), mininterval=0)
    activity = Activity(bar)

    def shown_after(seconds: float, text: str) -> bool:
        clock.now_s += seconds
        activity(text)
        return text in terminal.getvalue()

    assert not shown_after(4.5, "stage 1: 1")
    assert shown_after(0.5, "stage 1: 2")
    assert not shown_after(0.25, "stage 1: 3")
    assert shown_after(0.25, "stage 1: 4")
    assert shown_after(0.0, "learning")
    # After a long iteration the next one is shown from its beginning, after a short one not.
    bar.update()
    assert shown_after(0.0, "stage 1: 5")
    assert not shown_after(0.25, "stage 1: 6")
    bar.update()
    assert not shown_after(0.25, "stage 1: 7")
    assert not shown_after(4.0, "learning again")
    assert shown_after(1.0, "stage 2: 8")


def test_nothing_is_shown_without_a_terminal(clock):
    stream = io.StringIO()
    activity = Activity(tqdm(total=2, file=stream, disable=True))
    clock.now_s += 60
    activity("playing")
    assert stream.getvalue() == ""


@pytest.mark.thorough
def test_training_shows_stages_on_a_terminal_and_not_in_a_log(clock, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", "maml_rl")
    clock.per_reading_s = 6.0
    logging = {"checkpoint_every": 1, "evaluate_every": 2, "final_evaluation": True}
    texts = {}
    for stream in (Terminal(), io.StringIO()):
        monkeypatch.setattr(sys, "stderr", stream)
        caplog.clear()
        run = train(tiny(tmp_path / type(stream).__name__, num_iterations=3, logging=logging))
        texts[type(stream)] = stream.getvalue()
        assert not any("control step " in message for message in caplog.messages)
        if stream.isatty():
            assert sum("iterations, about" in message for message in caplog.messages) == 1
    horizon = maml_rl.load(run).config.horizon
    for text in (f"stage 2: control step {horizon} of {horizon}", "learning from stage 1"):
        assert text in texts[Terminal]
    assert "evaluation, stage 2: control step 1" in texts[Terminal]
    assert re.search(r"0/1 .*evaluation/s, stage 4: control step", texts[Terminal])
    assert texts[io.StringIO] == ""
    # Lines of a log have the time left; a resumed run estimates its own iterations.
    caplog.clear()
    resume(run, 6)
    assert "3 iterations, about" in " ".join(caplog.messages)
    assert any(re.search(r"return .* left$", message) for message in caplog.messages)


def test_a_comparison_shows_a_bar_on_a_terminal_and_else_a_line_each_half_minute(
    clock, monkeypatch, caplog
):
    caplog.set_level("INFO", "maml_rl")
    monkeypatch.setattr(reporting_module, "time", clock)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with evaluations_shown(40) as (progress, _):
        for number in range(1, 5):
            clock.now_s += 20.0
            progress(f"maml at body_mass={number}")
    assert caplog.messages == [
        "2 of 40 evaluations: maml at body_mass=2, about 13 min left",
        "4 of 40 evaluations: maml at body_mass=4, about 12 min left",
    ]
    caplog.clear()
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with evaluations_shown(1) as (progress, _):
        clock.now_s += 60.0
        progress("maml")
    assert caplog.messages == []
    assert "1/1" in terminal.getvalue()


def test_an_evaluation_says_how_far_it_is():
    texts: list[str] = []
    agent = maml_rl.load("PointNavigation")
    maml_rl.evaluate(agent, num_tasks=2, num_episodes=2, num_steps=1, progress=texts.append)
    stages = [
        int(re.match(r"stage (\d+): control step \d+ of 100$", text)[1])
        for text in texts
        if text.startswith("stage")
    ]
    assert stages == sorted(stages)
    assert set(stages) == {1, 2}
    assert texts[-1] == "learning from stage 2"
