"""The benchmark that trains several variants of settings."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import commands
from helpers.runs import assert_same_state
from helpers.scripts import ROOT, load_script

from maml_rl.errors import UserError
from maml_rl.runs.run_folder import create_run_folder, run_config
from maml_rl.settings.config import to_mapping
from maml_rl.settings.parser import load_config

screening = load_script("benchmarks/screening.py")

VARIANTS: dict[str, Any] = {
    "base": {
        "env": "PointNavigation",
        "num_iterations": 2,
        "logging": {"checkpoint_every": 1},
        "meta_batch_size": 2,
        "num_episodes": 2,
        "horizon": 5,
        "policy": {"hidden_sizes": [4]},
        "inner": {"choose_test_step_sizes": False},
        "device": "cpu",
    },
    "variants": {"trpo": {}},
    "seeds": [3],
    "evaluation": {"seed": 1, "num_steps": 1},
}


@pytest.fixture(autouse=True)
def _usual_priority(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a low priority, runs would wait for the other tests."""
    monkeypatch.setattr("os.nice", lambda increment: 0)


def execute(command: str, arguments: list[str], run: Path) -> None:
    """Run a command as the benchmark does, in a process that has imported torch already."""
    done = commands.run(f"maml_rl.{command}", *arguments)
    assert done.returncode == 0, done.stderr
    with (run.parent / f"{run.name}.log").open("a") as log:
        log.write(done.stdout + done.stderr)


def write(folder: Path, **changes: Any) -> Path:
    """Write a file of variants."""
    file = folder / "variants.yaml"
    file.write_text(yaml.safe_dump(VARIANTS | changes, sort_keys=False))
    return file


def without_hours(table: str) -> list[str]:
    """Return the rows without their last column, which a resumed run adds to."""
    return [row.rsplit("|", 2)[0] for row in table.splitlines()]


@pytest.mark.thorough
def test_variants_are_trained_evaluated_and_resumed(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(screening, "_execute", execute)
    output = tmp_path / "screening"
    variants = {"trpo": {}, "adam 2.0-steps": {"outer": "adam", "inner": {"num_steps": 2}}}
    file = write(tmp_path, variants=variants)
    arguments = [str(file), "--jobs=2", f"--output={output}"]
    assert screening.main(arguments) == 0
    table = capsys.readouterr().out
    assert (output / "table.md").read_text() == table
    head, _, *rows = [line.strip("| ").split(" | ") for line in table.splitlines()]
    assert head == ["variant", "seed", "0", "1", "control steps", "hours"]
    assert [row[:2] for row in rows] == [["trpo", "3"], ["adam 2.0-steps", "3"]]
    for row in rows:
        run = output / row[0] / f"seed-{row[1]}"
        (result,) = json.loads((run / "evaluation/results.json").read_text())["results"]
        assert row[2:4] == [f"{value:.1f}" for value in result["return"]]
        assert run_config(run).torch_threads == 1
    finished, interrupted = (output / name / "seed-3" for name in variants)
    assert run_config(interrupted).inner.num_steps == 2

    # a finished run is kept, an interrupted one resumed from its checkpoint
    written = (finished / "progress.csv").stat().st_mtime_ns
    shutil.copytree(interrupted, tmp_path / "uninterrupted")
    shutil.rmtree(interrupted / "evaluation")
    shutil.rmtree(interrupted / "checkpoints/000002")
    assert screening.main(arguments) == 0
    assert without_hours(capsys.readouterr().out) == without_hours(table)
    assert (finished / "progress.csv").stat().st_mtime_ns == written
    assert_same_state(interrupted, tmp_path / "uninterrupted")
    assert (interrupted / "checkpoints/000001").is_dir()
    assert "resuming" in (interrupted.parent / "seed-3.log").read_text()


@pytest.mark.thorough
def test_a_failed_run_is_reported(tmp_path, capsys) -> None:
    output = tmp_path / "screening"
    (output / "trpo").mkdir(parents=True)
    (output / "trpo/seed-3").write_text("a file where the run folder should be")
    assert screening.main([str(write(tmp_path)), f"--output={output}"]) == 1
    printed = capsys.readouterr()
    assert f"error: train ended with exit status 2: see {output / 'trpo/seed-3.log'}" in printed.err
    assert printed.out == (output / "table.md").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": [1, 1]}, "seeds in .* must be different integers"),
        ({"base": [1]}, "base in .* must be a mapping"),
        ({"base": {"num_iteration": 2}}, "trpo in .*num_iterations"),
        ({"variants": {}}, "at least one name"),
        ({"variants": {"../x": {}}}, "must be a file name, got '../x'"),
        ({"variants": {"x": {"outer": "adams"}}}, "x in .*adam"),
        ({"evaluation": {"seed": 1}}, "must have seed, num_steps, got seed"),
        ({"evaluation": {"seed": 1, "num_steps": "all"}}, "--num_steps.*'all'"),
        ({"variant": {}}, "must have base, variants, seeds, evaluation, got"),
    ],
)
def test_bad_files_are_one_message(changes, message, tmp_path, capsys) -> None:
    output = tmp_path / "screening"
    with pytest.raises(SystemExit) as stop:
        screening.main([str(write(tmp_path, **changes)), f"--output={output}"])
    assert stop.value.code == 2
    assert re.search(message, capsys.readouterr().err)
    assert not output.exists()


def test_runs_with_other_settings_are_refused(tmp_path) -> None:
    run = tmp_path / "trpo/seed-3"
    config = load_config(**VARIANTS["base"], seed=4)
    create_run_folder(run, to_mapping(config))
    with pytest.raises(UserError, match=r"the run in .*seed-3 has other settings"):
        screening.read_variants(write(tmp_path), tmp_path)


def test_files_of_variants_are_valid(tmp_path) -> None:
    files = list((ROOT / "benchmarks/screening").glob("*.yaml"))
    assert files
    for file in files:
        configs, _ = screening.read_variants(file, tmp_path)
        assert len({str(config) for config in configs.values()}) == len(configs)
