"""Several seeds by one command: runs one after another, continued, evaluated and plotted as one."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers.runs import assert_equal_runs, full_disk, last, tiny

import maml_rl
from maml_rl.cli import main
from maml_rl.errors import MamlRLWarning, UserError
from maml_rl.runs.seeds import checked_seeds
from maml_rl.sampling.failures import TooManyFailures
from maml_rl.settings.config import Config
from maml_rl.settings.env import EnvConfig
from maml_rl.system.stop_flag import StopFlag
from maml_rl.training import saving, start
from maml_rl.training.training_run import TrainingRun

SETTINGS: dict[str, Any] = {
    "env": "PointNavigation",
    "device": "cpu",
    "num_iterations": 2,
    "meta_batch_size": 3,
    "num_episodes": 2,
    "horizon": 3,
    "policy.hidden_sizes": "[8]",
    "logging.final_evaluation": "false",
    "logging.final_video": "false",
}
FLAGS = [f"--{name}={value}" for name, value in SETTINGS.items()]


def config_of(output: Path, **settings: Any) -> Config:
    """The configuration of FLAGS."""
    return tiny(output, **{"num_iterations": 2, "horizon": 3} | settings)


def iterations(folder: Path) -> dict[str, int]:
    """Iterations of each run in a folder, by name."""
    return {run.name: last(run).values["iteration"] for run in sorted(folder.glob("seed-*"))}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Three seeds, trained by one command; tests do not write to it."""
    folder = tmp_path_factory.mktemp("seeds") / "three"
    assert main(["train", *FLAGS, "--seeds", "0", "1", "5", "--output", str(folder)]) == 0
    return folder


@pytest.mark.slow
def test_each_run_is_that_of_the_single_seed(folder, tmp_path):
    names = ["seed-0", "seed-1", "seed-5"]
    assert sorted(path.name for path in folder.iterdir()) == [*names, "seeds.yaml"]
    for seed in (0, 5):
        single = maml_rl.train(config_of(tmp_path / f"single{seed}", seed=seed))
        assert_equal_runs(folder / f"seed-{seed}", single)
    values = yaml.safe_load((folder / "seeds.yaml").read_text())
    assert values["seeds"] == [0, 1, 5]
    config = yaml.safe_load((folder / "seed-1" / "config.yaml").read_text())
    assert (config.pop("seed"), config.pop("output")) == (1, str(folder / "seed-1"))
    assert values["config"] == config


@pytest.mark.slow
def test_the_same_command_continues_and_adds_seeds(folder, tmp_path, capsys):
    """A finished run is kept, an interrupted one resumed, a missing one started."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    shutil.rmtree(copy / "seed-1" / "checkpoints")
    shutil.rmtree(copy / "seed-5")
    finished = last(copy / "seed-0")
    written = (copy / "seed-0" / "checkpoints" / "000002" / "values.json").stat().st_mtime_ns
    capsys.readouterr()
    assert main(["train", *FLAGS, "--seeds=[0, 1, 5, 3]", "--output", str(copy)]) == 0
    assert last(copy / "seed-0").values == finished.values
    after = (copy / "seed-0" / "checkpoints" / "000002" / "values.json").stat().st_mtime_ns
    assert after == written
    for name in ("seed-1", "seed-5"):
        assert_equal_runs(copy / name, folder / name)
    assert iterations(copy) == dict.fromkeys(["seed-0", "seed-1", "seed-3", "seed-5"], 2)
    assert yaml.safe_load((copy / "seeds.yaml").read_text())["seeds"] == [0, 1, 5, 3]  # as added
    out = capsys.readouterr().out
    assert f"all 2 iterations of {copy / 'seed-0'} are finished" in out
    assert f"seed 3, run 4 of 4: {copy / 'seed-3'}" in out
    assert out.splitlines()[-1] == f"evaluate all: python -m maml_rl.evaluate {copy}"


@pytest.mark.slow
def test_resume_continues_all_seeds(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    shutil.rmtree(copy / "seed-5")
    assert main(["train", "--resume", str(copy), "--num_iterations", "3"]) == 0
    assert iterations(copy) == dict.fromkeys(["seed-0", "seed-1", "seed-5"], 3)
    whole = maml_rl.train(config_of(tmp_path / "whole", seed=5, num_iterations=3))
    assert_equal_runs(copy / "seed-5", whole)
    assert main(["train", *FLAGS, "--seeds", "0", "--output", str(copy)]) == 2  # two iterations


@pytest.mark.slow
def test_an_interrupted_extension_goes_for_all_seeds(folder, tmp_path, monkeypatch):
    copy = shutil.copytree(folder, tmp_path / "copy")
    with monkeypatch.context() as patch:
        interrupted_at_seed(patch, 1, KeyboardInterrupt(), after=3)
        assert main(["train", "--resume", str(copy), "--num_iterations", "4"]) == 130
    assert iterations(copy) == {"seed-0": 4, "seed-1": 3, "seed-5": 2}
    assert main(["train", "--resume", str(copy)]) == 0
    assert iterations(copy) == dict.fromkeys(["seed-0", "seed-1", "seed-5"], 4)


@pytest.mark.slow
def test_without_output_the_folder_is_named_by_the_date(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *FLAGS, "--seeds", "3", "4"]) == 0
    (folder,) = Path("runs/PointNavigation").iterdir()
    assert re.fullmatch(r"\d{8}-\d{6}", folder.name)
    assert iterations(folder) == {"seed-3": 2, "seed-4": 2}


def interrupted_at_seed(
    monkeypatch: pytest.MonkeyPatch, seed: int, error: BaseException, after: int = 1
) -> None:
    """Raise an error in an iteration of a seed, the second one unless another is given."""
    original = TrainingRun._iteration

    def iteration(self: TrainingRun, *args: Any) -> None:
        if self.config.seed == seed and self.iteration == after:
            raise error
        original(self, *args)

    monkeypatch.setattr(TrainingRun, "_iteration", iteration)


@pytest.mark.slow
def test_ctrl_c_stops_all_seeds_and_one_line_says_how_to_resume(folder, tmp_path, monkeypatch):
    """As a user sees it: the last line, and no later seed is started."""
    stopped = tmp_path / "my runs"
    with monkeypatch.context() as patched:
        interrupted_at_seed(patched, 1, KeyboardInterrupt())
        with pytest.raises(maml_rl.Interrupted) as error:
            maml_rl.train_seeds(config_of(stopped), [0, 1, 5])
    assert str(error.value) == (
        f"stopped after iteration 1 of {stopped / 'seed-1'}. Resume with: python -m maml_rl.train "
        f"--resume '{stopped}'"
    )
    assert error.value.run == stopped / "seed-1"
    assert error.value.exit_status == 130
    assert iterations(stopped) == {"seed-0": 2, "seed-1": 1}
    assert main(["train", "--resume", str(stopped)]) == 0
    for name in ("seed-0", "seed-1", "seed-5"):
        assert_equal_runs(stopped / name, folder / name)


@pytest.mark.slow
def test_the_command_exits_as_a_stopped_run_does(tmp_path, monkeypatch, capsys):
    original = StopFlag.check

    def check(self: StopFlag) -> None:
        signal.raise_signal(signal.SIGTERM)
        original(self)

    monkeypatch.setattr(StopFlag, "check", check)
    output = str(tmp_path / "runs")
    assert main(["train", *FLAGS, "--seeds", "0", "1", "--output", output]) == 143
    assert capsys.readouterr().out.splitlines()[-1].endswith(f"train --resume {output}")
    assert not (tmp_path / "runs" / "seed-1").exists()


@pytest.mark.slow
def test_ctrl_c_while_a_run_is_opened_stops_all_seeds(folder, tmp_path, monkeypatch):
    copy = shutil.copytree(folder, tmp_path / "copy")

    def interrupted(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(start, "open_training", interrupted)
    with pytest.raises(maml_rl.Interrupted, match=rf"iteration 2 of .*seed-0.*--resume {copy}$"):
        maml_rl.train_seeds(config_of(copy), [0, 1])


def test_ctrl_c_before_the_first_run_leaves_no_folder(tmp_path, monkeypatch, capsys):
    def interrupted(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(start, "open_training", interrupted)
    output = tmp_path / "runs"
    assert main(["train", *FLAGS, "--seeds", "0", "1", "--output", str(output)]) == 130
    assert capsys.readouterr().err == "stopped\n"
    assert not output.exists()


@pytest.mark.slow
def test_a_seed_with_too_many_failures_does_not_stop_the_others(tmp_path, monkeypatch, capsys):
    interrupted_at_seed(monkeypatch, 0, TooManyFailures("too many", []))
    output = tmp_path / "runs"
    assert main(["train", *FLAGS, "--seeds", "0", "1", "--output", str(output)]) == 1
    assert f"1 of 2 runs stopped: {output / 'seed-0'}: too many" in capsys.readouterr().err
    assert iterations(output) == {"seed-0": 1, "seed-1": 2}


@pytest.mark.slow
def test_a_signal_while_a_failed_seed_is_saved_stops_all_seeds(tmp_path, monkeypatch, capsys):
    interrupted_at_seed(monkeypatch, 0, TooManyFailures("too many", []))
    original = saving.save_state

    def save_state(*args: Any) -> None:
        signal.raise_signal(signal.SIGTERM)
        original(*args)

    monkeypatch.setattr(saving, "save_state", save_state)
    output = tmp_path / "runs"
    assert main(["train", *FLAGS, "--seeds", "0", "1", "--output", str(output)]) == 143
    out, err = capsys.readouterr()
    assert out.splitlines()[-1].endswith(f"train --resume {output}")
    assert "iteration 1 is saved" in out + err
    assert iterations(output) == {"seed-0": 1}


@pytest.mark.slow
def test_evaluate_and_plot_take_the_folder_of_all_seeds(folder, tmp_path, capsys, monkeypatch):
    copy = shutil.copytree(folder, tmp_path / "copy")
    monkeypatch.chdir(tmp_path)
    small = ["--num_tasks=2", "--num_episodes=2", "--num_steps=1", "--device=cpu"]
    assert main(["evaluate", "copy", *small]) == 0
    out = capsys.readouterr().out
    assert "meta-trained (3 runs)" in out
    assert "written to copy/evaluation" in out
    (entry,) = json.loads((copy / "evaluation" / "results.json").read_text())["results"]
    assert entry["sources"] == ["copy/seed-0", "copy/seed-1", "copy/seed-5"]
    assert entry["training_seeds"] == [0, 1, 5]
    assert entry["interval_over"] == "runs"
    # The same as naming the runs
    runs = [f"copy/{name}" for name in ("seed-0", "seed-1", "seed-5")]
    assert main(["evaluate", *runs, *small, "--output", "named"]) == 0
    (named,) = json.loads(Path("named/results.json").read_text())["results"]
    assert named == entry
    # A run that has not been started is left out
    shutil.rmtree(copy / "seed-1")
    capsys.readouterr()
    with pytest.warns(MamlRLWarning, match="copy also lists seeds .* not been started: 1$"):
        assert main(["plot", "copy", "--output", "folder.svg"]) == 0
    of_folder = capsys.readouterr().out
    assert main(["plot", runs[0], runs[2], "--output", "named.svg"]) == 0
    assert capsys.readouterr().out.replace("named.svg", "folder.svg") == of_folder
    with pytest.warns(MamlRLWarning, match="not been started"):
        assert main(["plot", "copy", runs[0]]) == 2
    assert "run copy/seed-0 is given twice" in capsys.readouterr().err


@pytest.mark.slow
def test_settings_in_python_need_not_be_complete(tmp_path):
    """Arguments of the family that are left out are defaults, also when the call continues."""
    config = dataclasses.replace(config_of(tmp_path / "runs"), env=EnvConfig(name="SwimmerVel"))
    runs = maml_rl.train_seeds(config, [4])
    assert runs == [tmp_path / "runs" / "seed-4"]
    assert maml_rl.train_seeds(config, range(4, 5)) == runs


@pytest.mark.slow
def test_other_settings_are_refused(folder, capsys, tmp_path):
    flags = [*FLAGS, "--horizon=4", "--outer.max_kl=0.5", "--seeds", "0", "8"]
    assert main(["train", *flags, "--output", str(folder)]) == 2
    error = capsys.readouterr().err
    assert f"the runs in {folder} have other settings of horizon, outer: " in error
    assert f"--resume {folder}" in error
    assert yaml.safe_load((folder / "seeds.yaml").read_text())["seeds"] == [0, 1, 5]
    assert not (folder / "seed-8").exists()
    # A folder whose name a shell splits
    spaced = shutil.copytree(folder, tmp_path / "my runs")
    assert main(["train", *flags, "--output", str(spaced)]) == 2
    assert capsys.readouterr().err.endswith(f"--resume '{spaced}'\n")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--seeds", "0", "0"], "seeds must be different integers"),
        (["--seeds"], "--seeds needs non-negative integers, such as 0 1 2; got ''"),
        (["--seeds", "0", "-1"], "got '0 -1'"),
        (["--seeds", "0", "x"], "got '0 x'"),
        (["--seeds=[0, 1.5]"], "got '[0, 1.5]'"),
        (["--seeds", "9" * 30], "--seeds needs non-negative integers"),
        (["--seeds", str(1 << 63)], "seeds must be different integers, each an integer from 0 to"),
        (["--seeds", "0", "--seeds", "1"], "--seeds is given twice"),
        (["--seeds", "0", "1", "--seed", "2"], "--seeds cannot be combined with --seed, "),
        (["--seeds", "0", "1", "--seed=2"], "--seeds cannot be combined with --seed, "),
        (["--seeds", "0", "1", "--print_config"], "combined with --print_config"),
        (["--seeds", "0", "1", "--resume", "runs"], "combined with --resume, which resumes all"),
        (["--seeds", "0", "--horizon", "0"], "horizon must be"),
        (["--seeds", "0", "--env", "CartPol-v1"], "CartPol"),
    ],
)
def test_bad_flags_are_refused_in_one_line(tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *flags]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_an_environment_that_cannot_be_opened_leaves_no_folder(tmp_path, capsys):
    output = tmp_path / "runs"
    flags = ["--env", "CartPole-v1", "--env.kwarg_ranges", "{wind: [0, 1]}", "--seeds", "0", "1"]
    assert main(["train", *flags, "--output", str(output)]) == 2
    assert "wind" in capsys.readouterr().err
    assert not output.exists()


def test_a_folder_in_use_is_refused_before_environments_are_made(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("")
    assert main(["train", "--env", "CartPole-v1", "--output", str(tmp_path)]) == 2
    printed = capsys.readouterr()
    assert "exists and is not empty" in printed.err
    assert "copies of environment" not in printed.out + printed.err


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UserError, match="exists and is not empty: choose another"):
        maml_rl.train_seeds(config_of(tmp_path), [0])
    (tmp_path / "notes.txt").unlink()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file is not a folder: choose another"):
        maml_rl.train_seeds(config_of(tmp_path / "file"), [0])


@pytest.mark.slow
def test_when_the_disk_is_full_before_the_first_run_the_same_command_continues(
    tmp_path, monkeypatch, capsys
):
    output = tmp_path / "runs"
    flags = ["train", *FLAGS, "--seeds=0", "--output", str(output)]
    for module in ("maml_rl.runs.seeds.write_whole", "maml_rl.runs.run_folder.write_config"):
        with monkeypatch.context() as patch:
            patch.setattr(module, full_disk)
            assert main(flags) == 2
        error = capsys.readouterr().err
        assert "No space left" in error
        assert error.count("\n") == 1
        # A run folder without config.yaml is left by the second error only.
        assert output.exists() == (module != "maml_rl.runs.seeds.write_whole")
    assert main(flags) == 0
    assert iterations(output) == {"seed-0": 2}


def test_a_name_that_is_too_long_is_refused_in_one_line(tmp_path, capsys):
    name = str(tmp_path / ("x" * 300))
    for flags, message in (
        (["train", *FLAGS, "--seeds=0", "--output", name], "File name too long"),
        (["train", "--resume", name], "there is no run folder"),
    ):
        assert main(flags) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


@pytest.mark.parametrize("seeds", [[0, 1], (0, 1), range(2), np.arange(2), [np.int64(0), 1]])
def test_seeds_may_be_of_numpy(seeds):
    assert checked_seeds(seeds, "seeds") == (0, 1)


@pytest.mark.parametrize("seeds", [[], 3, "12", [0, -1], [0, 1.0], [True], [1, 1]])
def test_bad_seeds_are_refused_in_python(tmp_path, seeds):
    with pytest.raises(UserError, match="seeds must be different integers, each an integer"):
        maml_rl.train_seeds(config_of(tmp_path / "runs"), seeds)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "must hold a list seeds and a mapping config"),
        ("seeds: 3\nconfig: {}", "must hold a list seeds and a mapping config"),
        ("seeds: [0, a]\nconfig: {}", "must be different integers"),
        ("seeds: [0]\nconfig: {horizn: 3}", "unknown setting 'horizn' in .*seeds.yaml"),
        ("seeds: [0", "cannot be read as YAML"),
        ("seeds: [0]\nconfig: {}", "no run in .* has been started"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, capsys, content, message):
    (tmp_path / "seeds.yaml").write_text(content)
    commands = [["evaluate", str(tmp_path)], ["plot", str(tmp_path)]]
    if "started" not in message:
        commands.append(["train", "--resume", str(tmp_path)])
    for command in commands:
        assert main(command) == 2
        error = capsys.readouterr().err
        assert re.search(message, error)
        assert error.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "variable", [("WORLD_SIZE", "2"), ("TORCHELASTIC_USE_AGENT_STORE", "True")]
)
def test_torchrun_is_refused(folder, tmp_path, monkeypatch, capsys, variable):
    monkeypatch.setenv(*variable)
    flags = [*FLAGS, "--seeds", "0", "1", "--output", str(tmp_path / "runs")]
    for arguments in (flags, ["--resume", str(folder)]):
        assert main(["train", *arguments]) == 2
        assert "with torchrun, train one seed at a time" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
