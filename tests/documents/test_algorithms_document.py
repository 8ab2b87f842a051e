"""docs/algorithms.md: its commands run, and its table of errors matches the enumeration."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from helpers.enumeration import error

from maml_rl.cli import main
from maml_rl.learners.maml.outer import OUTER
from maml_rl.settings.parser import load_config

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs" / "algorithms.md").read_text()
COMMANDS, _ = re.findall(r"```sh\n(.*?)```", DOCUMENT, flags=re.DOTALL)
TINY = ["--meta_batch_size", "2", "--num_episodes", "3", "--horizon", "5", "--num_iterations", "2"]
QUIET = ["--logging.final_evaluation", "false", "--logging.final_video", "false", "--output", "run"]


@pytest.mark.thorough
@pytest.mark.parametrize("command", COMMANDS.splitlines())
def test_commands(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = shlex.split(command.removeprefix("python -m maml_rl.train"))
    if not {"rl2", "rma", "sysid"}.isdisjoint(arguments):  # as few minibatches as tasks
        arguments.append("--learner.num_minibatches=1")
    if "pearl" in arguments:
        arguments.append("--learner.num_updates=2")
    assert main(["train", *arguments, *TINY, *QUIET]) == 0
    assert len((tmp_path / "run/progress.csv").read_text().splitlines()) == 3


def test_every_outer_step_and_its_settings_are_listed() -> None:
    rows = {
        name: row
        for row in DOCUMENT.splitlines()
        for name in re.findall(r"^\| `(\w+)` \| .*`outer/\w+\.py`", row)
    }
    assert list(rows) == list(OUTER)
    for name, row in rows.items():
        outer = load_config(env="HalfCheetahVel", outer=name).outer
        for setting in re.findall(r"`(\w+)`", row.rsplit(" | ", 1)[1]):
            assert hasattr(outer, setting), setting


def test_table_of_errors() -> None:
    rows = re.findall(
        r"^\| ([\d.]+) \| (\d) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$",
        DOCUMENT,
        flags=re.MULTILINE,
    )
    assert [row[:2] for row in rows] == [(a, h) for a in ("0.1", "0.8") for h in "123"]
    for alpha, horizon, log_prob, likelihood_ratio, dice, first_order in rows:
        names = ("log_prob", "likelihood_ratio", "dice")
        errors = [error(name, int(horizon), float(alpha)) for name in names]
        errors.append(error("dice", int(horizon), float(alpha), first_order=True))
        in_table = [float(log_prob), float(likelihood_ratio), float(dice), float(first_order)]
        assert errors == pytest.approx(in_table, rel=0.02, abs=1e-6)


@pytest.mark.slow
def test_reptile_with_one_inner_step_runs_with_a_notice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--env", "PointNavigation", "--outer", "reptile", *TINY, *QUIET]) == 0
    assert "notice: with fewer than two inner steps Reptile" in capsys.readouterr().out


def insert(path: Path, before: str, text: str) -> None:
    content = path.read_text()
    assert content.count(before) == 1, before
    path.write_text(content.replace(before, text + before))


@pytest.mark.thorough
def test_the_recipe_for_an_outer_step(tmp_path: Path) -> None:
    """In a copy of the package: settings, step and table as the document has them."""
    settings, step = map(
        textwrap.dedent, re.findall(r" {3}```python\n(.*?) {3}```", DOCUMENT, flags=re.DOTALL)
    )
    [line] = re.findall(r'`("sgd": Outer\(sgd_step\),)`', DOCUMENT)
    for name, source in (
        ("maml_rl", "maml_rl"),
        ("maml_envs", "envs"),
        ("maml_configs", "configs"),
    ):
        shutil.copytree(ROOT / source, tmp_path / name)
    package = tmp_path / "maml_rl"
    # 1. Settings.
    module = package / "settings/learners/outer.py"
    insert(module, "OUTER_CONFIGS: dict", settings + "\n\n")
    insert(module, "ProMPConfig, PPOConfig, AdamConfig", "SGDConfig, ")
    # 2. The step.
    outer = package / "learners/maml/outer"
    (outer / "sgd.py").write_text(step)
    # 3. The table.
    importing = "from maml_rl.learners.maml.outer.sgd import sgd_step\n"
    insert(outer / "__init__.py", "from maml_rl.learners.maml.outer.trpo import", importing)
    insert(outer / "__init__.py", '    "reptile": Outer(', f"    {line}\n")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "maml_rl.train", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    done = run("--env", "PointNavigation", "--outer", "sgd", *TINY, *QUIET)
    assert done.returncode == 0, done.stderr
    assert run("--resume", "run", "--num_iterations", "3").returncode == 0
    assert len((tmp_path / "run/progress.csv").read_text().splitlines()) == 4
    refused = run("--env", "PointNavigation", "--outer", "sgd", "--outer.step_size", "-1")
    assert "outer.step_size must be" in refused.stderr
