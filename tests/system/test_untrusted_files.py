"""Paths that users give: home folder, names that are not UTF-8, read-only folders, any locale."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.runs import full_disk, tiny

import maml_rl
from maml_rl.cli import main
from maml_rl.errors import UserError
from maml_rl.system.untrusted_files import user_path
from maml_rl.training.start import resume, train

EVALUATION = ["--num_tasks", "1", "--num_episodes", "1", "--num_steps", "1", "--device", "cpu"]
VIDEO = ["--num_steps", "0", "--size", "128x128", "--device", "cpu"]
TRAINING = [
    "--env=PointNavigation",
    "--num_iterations=1",
    "--meta_batch_size=2",
    "--num_episodes=2",
]
TRAINING += ["--horizon=4"]
TRAINING += ["--policy.hidden_sizes=[4]", "--device=cpu", "--logging.final_video=false"]
TRAINING += ["--logging.final_evaluation=false"]


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """The user's home folder, beside the working folder."""
    folder = tmp_path / "home"
    (tmp_path / "work").mkdir()
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("USERPROFILE", str(folder))
    monkeypatch.chdir(tmp_path / "work")
    return folder


def test_the_home_folder_in_every_setting_and_function(home):
    assert train(tiny(Path("~/run"), num_iterations=2)) == home / "run"
    assert resume("~/run", 3) == home / "run"
    policy = maml_rl.load("~/run")
    policy.save("~/saved")
    policy.export("~/policy.ts")
    maml_rl.record(policy, "~/video.gif", num_steps=0, size=(128, 128))
    train(tiny(Path("~/warm"), num_iterations=1, init_from="~/saved"))
    (home / "settings.yaml").write_text("seed: 7\n")
    assert maml_rl.load_config("~/settings.yaml").seed == 7
    vectors, rewards = np.zeros((1, 2, 2)), np.zeros((1, 2))
    np.savez(home / "log.npz", observations=vectors, actions=vectors, rewards=rewards)
    assert maml_rl.EpisodeLog.load("~/log.npz").rewards.shape == (1, 2)
    expected = {"run", "saved", "policy.ts", "video.gif", "warm", "settings.yaml", "log.npz"}
    assert {path.name for path in home.iterdir() if not path.name.startswith(".")} == expected
    assert not list(Path.cwd().iterdir())


def test_the_home_folder_in_every_command(home):
    assert main(["train", *TRAINING, "--output=~/run"]) == 0
    assert main(["train", "--resume", "~/run", "--num_iterations", "2"]) == 0
    assert main(["evaluate", "~/run", *EVALUATION, "--output", "~/evaluation"]) == 0
    assert main(["record", "~/run", *VIDEO, "--output=~/video.gif"]) == 0
    assert main(["plot", "~/run", "--output", "~/curve.png"]) == 0
    assert main(["baselines", "~/run", "--baseline", "random"]) == 0
    # Without Matplotlib's caches.
    names = {path.name for path in home.iterdir() if not path.name.startswith(".")}
    assert names == {"run", "evaluation", "video.gif", "curve.png"}
    assert not list(Path.cwd().iterdir())


def test_an_unknown_home_folder_is_refused(home, capsys):
    assert main(["evaluate", "~no_such_user/run"]) == 2
    err = capsys.readouterr().err
    assert "~no_such_user/run: home folder not found" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "command",
    [
        ["train", *TRAINING, "--config", ""],
        ["train", "--resume", ""],
        ["evaluate", ""],
        ["evaluate", "AntDir", "--output", ""],
        ["record", "AntDir", "--output", ""],
        ["plot", ""],
        ["baselines", ""],
    ],
    ids=" ".join,
)
def test_an_empty_path_is_refused(command, home, capsys):
    assert main(command) == 2
    err = capsys.readouterr().err
    assert "expected a path, got an empty text" in err
    assert err.count("\n") == 1
    assert not list(Path.cwd().iterdir())


NOT_UTF_8 = os.fsdecode(b"run-\xff")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems allow no such names")
def test_a_name_that_is_not_utf_8_is_refused_at_the_start(home, capsys):
    (home / NOT_UTF_8).mkdir()
    path = str(home / NOT_UTF_8 / "run")
    commands = [
        ["train", *TRAINING, "--output", path],
        ["train", *TRAINING, "--init_from", path],
        ["train", *TRAINING, "--config", path],
        ["train", "--resume", path],
        ["evaluate", path],
        ["evaluate", "AntDir", "--output", path],
        ["record", path],
        ["record", "AntDir", "--output", f"{path}.mp4"],
        ["plot", path],
        ["plot", "run", "--output", f"{path}.png"],
        ["plot", "run", "--title", path],
        ["baselines", path],
    ]
    for command in commands:
        assert main(command) == 2, command
        err = capsys.readouterr().err
        assert "is not UTF-8" in err, command
        assert err.count("\n") == 1, command
    assert not list((home / NOT_UTF_8).iterdir())
    assert not list(Path.cwd().iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="other systems allow no such names")
def test_a_relative_path_works_below_a_folder_that_is_not_utf_8(home, monkeypatch):
    (home / NOT_UTF_8).mkdir()
    monkeypatch.chdir(home / NOT_UTF_8)
    assert main(["train", *TRAINING, "--output", "run"]) == 0
    assert main(["evaluate", "run", *EVALUATION]) == 0
    assert main(["record", "run", *VIDEO]) == 0
    assert Path("run/videos/adaptation.mp4").exists()


def test_a_path_in_utf_8_stays_as_it_is():
    assert user_path("Läufe/α") == Path("Läufe/α")


def test_what_is_no_path_is_refused():
    with pytest.raises(UserError, match="expected a path, got 5"):
        user_path(5)


@pytest.mark.thorough
@pytest.mark.skipif(os.name == "nt", reason="POSIX locales")
def test_every_command_in_an_ascii_locale(tmp_path):
    """What the locale lacks is printed escaped; files are in UTF-8, as elsewhere."""
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""}
    commands = [
        ["train", *TRAINING, "--output", "run"],
        ["train", "--resume", "run"],
        ["evaluate", "run", *EVALUATION],
        ["record", "run", *VIDEO],
        ["plot", "run"],
        ["plot", "run", "--labels", "Läufe → θ"],
        ["train", "--help"],
    ]
    # One process for all of them, separated by --, with the arguments as the locale decodes them.
    lines = [
        "import itertools, sys",
        "from maml_rl.cli import main",
        "groups = itertools.groupby(sys.argv[1:], lambda word: word == '--')",
        "for command in [list(words) for is_separator, words in groups if not is_separator]:",
        "    print('status', main(command), flush=True)",
    ]
    words = [word for command in commands for word in ["--", *command]]
    encoded = [word.encode() for word in [sys.executable, "-c", "\n".join(lines), *words]]
    finished = subprocess.run(
        encoded, env={**os.environ, **locale}, cwd=tmp_path, capture_output=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    statuses = re.findall(rb"^status (\d+)$", finished.stdout, flags=re.MULTILINE)
    # No text of this locale is the label; --help ends the process.
    assert statuses == [b"0"] * 5 + [b"2"], finished.stderr
    assert b"usage:" in finished.stdout
    assert b"Traceback" not in finished.stderr, finished.stderr
    assert finished.stdout.isascii()
    assert (tmp_path / "run" / "evaluation" / "report.html").read_text(encoding="utf-8")


def test_an_evaluation_that_cannot_be_written_names_the_flag(home, capsys, monkeypatch):
    """Before it plays anything: a run on a read-only disk may have an evaluation already."""
    train(tiny(Path("run"), num_iterations=1))
    Path("run/evaluation").mkdir()
    # Permissions do not bind every user that runs the tests.
    monkeypatch.setattr(tempfile, "TemporaryFile", full_disk)
    monkeypatch.setattr(
        "maml_rl.analysis.comparison.saved_evaluations.evaluate",
        lambda *_, **__: pytest.fail("played"),
    )
    assert main(["evaluate", "run", *EVALUATION]) == 2
    err = capsys.readouterr().err
    assert "run/evaluation cannot be written" in err
    assert "--output" in err
    assert err.count("\n") == 1
    assert list(Path("run/evaluation").iterdir()) == []


@pytest.mark.parametrize(
    "failing",
    [
        "maml_rl.analysis.report.files.write_whole",
        "maml_rl.analysis.comparison.saved_evaluations.write_whole",
    ],
)
def test_a_disk_that_fills_up_during_an_evaluation_is_one_line(home, capsys, monkeypatch, failing):
    train(tiny(Path("run"), num_iterations=1))
    monkeypatch.setattr(failing, full_disk)
    assert main(["evaluate", "run", *EVALUATION]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert "cannot be written" in line
    assert "No space left" in line


def test_a_policy_that_cannot_be_saved_or_exported_is_one_line(home, monkeypatch):
    policy = maml_rl.load(train(tiny(Path("run"), num_iterations=1)))
    with monkeypatch.context() as patched:
        patched.setattr("maml_rl.agents.agent.save_checkpoint", full_disk)
        with pytest.raises(UserError, match=r"saved cannot be written.*No space"):
            policy.save("saved")
    monkeypatch.setattr("maml_rl.system.atomic_files.os.replace", full_disk)
    with pytest.raises(UserError, match=r"policy\.ts cannot be written.*No space"):
        policy.export("policy.ts")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems allow no such names")
def test_a_path_given_from_python_that_is_not_utf_8_is_refused(home):
    run = train(tiny(Path("run"), num_iterations=1))
    policy = maml_rl.load(run)
    path = home / NOT_UTF_8
    uses: list[Callable[[], object]] = [
        lambda: train(tiny(path, num_iterations=1)),
        lambda: train(tiny(Path("other"), num_iterations=1, init_from=str(path))),
        lambda: resume(path),
        lambda: maml_rl.load(path),
        lambda: policy.save(path),
        lambda: policy.export(f"{path}.ts"),
        lambda: maml_rl.record(policy, f"{path}.mp4"),
        lambda: maml_rl.load_config(path),
        lambda: maml_rl.EpisodeLog.load(path),
    ]
    for use in uses:
        with pytest.raises(UserError, match="is not UTF-8"):
            use()
    assert not path.exists()
    assert [entry.name for entry in Path.cwd().iterdir()] == ["run"]
