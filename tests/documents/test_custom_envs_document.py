"""docs/custom_envs.md and docs/logged_episodes.md: commands, Python examples and YAML file work."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
import pytest
import yaml

from maml_rl.cli import main
from maml_rl.settings.drawn_tasks import parse

DOCS = Path(__file__).resolve().parents[2] / "docs"
DOCUMENT = (DOCS / "custom_envs.md").read_text()
TINY = ["--meta_batch_size", "2", "--num_episodes", "2", "--horizon", "4", "--num_iterations", "1"]
SHORT = ["--num_tasks", "2", "--num_episodes", "2", "--num_steps", "1"]
QUIET = ["--logging.final_video", "false", "--logging.final_evaluation", "false"]

pytestmark = pytest.mark.slow


def _blocks(language: str, document: str = DOCUMENT) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", document, flags=re.DOTALL)


COMMANDS = [line for block in _blocks("sh") for line in block.splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Run every command in a folder that has the module of the document."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "my_package.py").write_text(_blocks("python")[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        for command in COMMANDS:
            _, _, module, *arguments = shlex.split(command)
            name = module.removeprefix("maml_rl.")
            small = [*TINY, *QUIET] if name == "train" else SHORT
            assert main([name, *arguments, *small]) == 0
        yield folder
    sys.modules.pop("my_package", None)
    gym.registry.pop("MyEnv-v0", None)


@pytest.mark.thorough
def test_commands(folder: Path) -> None:
    names = {command.partition(" runs/")[0].partition(" --env ")[0] for command in COMMANDS}
    assert names == {"python -m maml_rl.train", "python -m maml_rl.evaluate"}
    assert (folder / "runs" / "pendulum" / "evaluation" / "sweep_g.png").exists()
    runs = {
        path.name
        for path in (folder / "runs").iterdir()
        if (path / "checkpoints" / "000001").is_dir()
    }
    assert runs == {"cartpole", "mine", "pendulum", "planets"}


def test_python(folder: Path) -> None:
    names: dict[str, object] = {"gymnasium": gym}
    exec(_blocks("python")[1], names)
    assert names["env"].action_space.contains(names["action"])  # type: ignore[attr-defined]
    before = names.pop("adapted")
    (loop,) = _blocks("python", (DOCS / "logged_episodes.md").read_text())
    names["env"] = gym.make("MyEnv-v0", max_episode_steps=4)  # the horizon of TINY
    exec(loop, names)
    assert type(names["adapted"]) is type(before)
    assert sum(names["episode_ends"]) == 20  # type: ignore[call-overload]


def test_file() -> None:
    (file,) = _blocks("yaml")
    tasks = parse(yaml.safe_load(file)["env"]["kwarg_ranges"], ())
    assert tasks is not None
    assert tasks.names == ["friction", "mass", "num_links"]
    assert tasks.distributions["friction"].is_log
    assert tasks.distributions["num_links"].choices == (2, 3, 4)
