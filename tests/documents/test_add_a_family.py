"""The example of docs/add_a_family.md, executed literally."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import imageio.v3
import pytest
from helpers import commands
from helpers.own_modules import working_folder

from maml_rl.cli import main

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "add_a_family.md").read_text()
TINY = ["--meta_batch_size", "2", "--num_episodes", "3", "--horizon", "6"]


def _block(language: str, number: int = 0) -> str:
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENT, flags=re.DOTALL)[number]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "cart_place.py").write_text(_block("python"))
    return folder


def _run(folder: Path, code: str) -> None:
    """Run Python code in a new process, in which the families are not registered yet."""
    (folder / "program.py").write_text(code)
    result = commands.run("program", folder=folder)
    assert result.returncode == 0, result.stderr


def test_a_family_takes_less_than_60_lines() -> None:
    assert len(_block("python").splitlines()) < 60


@pytest.mark.slow
def test_gymnasiums_checker(folder: Path) -> None:
    script = (
        "import cart_place, gymnasium, warnings\n"
        "from gymnasium.utils.env_checker import check_env\n"
        "warnings.filterwarnings('error')\n"
        "warnings.filterwarnings('ignore', message='.*A Box observation space')\n"
        # the file's actuator has ±3
        "warnings.filterwarnings('ignore', message='.*For Box action spaces')\n"
        "check_env(gymnasium.make('maml_rl/CartPlace-v0').unwrapped, skip_render_check=True)\n"
    )
    _run(folder, script)


@pytest.mark.slow
def test_commands(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = _block("sh").replace("\\\n", " ").splitlines()
    train, evaluate, record = (shlex.split(line)[2:] for line in lines)

    def run(command: list[str], *flags: str) -> str:
        assert main([command[0].removeprefix("maml_rl."), *command[1:], *flags]) == 0
        return capsys.readouterr().out

    with working_folder(folder):
        run(train, *TINY)
        progress = (folder / "runs/cart/progress.csv").read_text().splitlines()
        assert len(progress) == 3  # a header and two iterations
        run(evaluate, "--num_episodes", "3")
        results = json.loads((folder / "runs/cart/evaluation/results.json").read_text())
        assert all(entry["task"]["body_mass"] == 2 for entry in results["results"][0]["tasks"])
        assert "written to" in run(record, "--num_episodes", "3")


@pytest.mark.slow
def test_a_frame_before_training(folder: Path) -> None:
    _run(folder, _block("python", 1))
    assert imageio.v3.imread(folder / "cart.png").std() > 0
