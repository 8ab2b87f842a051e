"""docs/families.md matches the code, and its commands run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import gymnasium as gym
import maml_envs
import pytest
import yaml
from maml_envs.engines.dynamics_setting import parse_dynamics

from maml_rl.cli import main
from maml_rl.settings.learners import LEARNER_CONFIGS
from maml_rl.settings.parser import load_config
from maml_rl.settings.sources import preset_names

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs" / "families.md").read_text()
LINES = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in DOCUMENT.splitlines()
    if line[:1] == "|"
]
FAMILIES = {cells[1]: cells for cells in LINES if "images/families" in cells[0]}
TINY = ["--meta_batch_size", "2", "--num_episodes", "2", "--horizon", "4", "--num_iterations", "1"]


def _block(language: str) -> str:
    return "\n".join(re.findall(rf"```{language}\n(.*?)```", DOCUMENT, flags=re.DOTALL))


def test_every_family_has_a_row_and_a_still() -> None:
    assert list(FAMILIES) == list(maml_envs.FAMILIES)
    for name, cells in FAMILIES.items():
        assert (ROOT / f"docs/images/families/{name}.png").is_file()
        assert set(maml_envs.FAMILIES[name].task_units) == set(re.findall(r"`(\w+)`", cells[3])), (
            f"{name}: task_units must be in code font"
        )


@pytest.mark.parametrize("name", FAMILIES)
def test_sizes_and_presets(name: str) -> None:
    observation_size, horizon = FAMILIES[name][4:6]
    env = gym.make(maml_envs.env_id(name))
    assert env.observation_space.shape == (int(observation_size),)
    assert env.spec.max_episode_steps == int(horizon) == load_config(env=name).horizon
    env.close()


def test_every_preset_of_a_paper_is_listed() -> None:
    listed = []
    for cells in LINES:
        if re.match(r"`\w+/\.\.\.`", cells[0]):
            folder, names = cells[0].strip("`.").rstrip("/"), cells[2]
            families = names.split(", ")
            if names == "the same":
                families = [name.split("/")[1] for name in listed if name.startswith("maml/")]
            listed += [f"{folder}/{name}" for name in families]
    # Those of maml/ and pearl/ are of papers, too.
    of_learners = tuple(f"{name}/" for name in LEARNER_CONFIGS if name not in ("maml", "pearl"))
    names = [name for name in preset_names() if "/" in name and not name.startswith(of_learners)]
    assert sorted([*listed, "pearl/default"]) == sorted(names)


def test_every_quantity_is_listed_with_its_unit_and_nominal_value() -> None:
    parameters = maml_envs.FAMILIES["HalfCheetahVel"].robot.parameters
    known = {name: parameter for name, parameter in parameters.items() if "/" not in name}
    rows = {cells[0].strip("`"): cells for cells in LINES if cells[0].strip("`") in known}
    assert list(rows) == list(known)
    for name, (_, _, unit, nominal) in rows.items():
        assert unit == known[name].unit or name == "observation_noise"
        assert float(nominal.partition(",")[0].replace("−", "-")) == pytest.approx(
            known[name].nominal
        )
    for element in re.findall(r"`(\w+/\w+)`", DOCUMENT):
        assert element in maml_envs.FAMILIES["HalfCheetahVel"].robot.parameters


def test_example_file() -> None:
    env = yaml.safe_load(_block("yaml"))["env"]
    assert (
        len(parse_dynamics(env["dynamics"], maml_envs.FAMILIES[env["name"]].robot.parameters)) == 10
    )
    assert load_config(env=env).env.kwargs["dynamics"] == env["dynamics"]


@pytest.mark.thorough
def test_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = _block("sh").replace("\\\n", " ").splitlines()
    train, *others = [shlex.split(line)[2:] for line in lines if line]
    quiet = ["--logging.final_video=false", "--logging.final_evaluation=false"]
    assert train[0] == "maml_rl.train"
    assert main(["train", *train[1:], *TINY, *quiet]) == 0
    for module, *arguments in others:
        command = module.removeprefix("maml_rl.")
        size = ["--num_tasks", "3"] if command == "evaluate" else ["--size", "160x128"]
        assert main([command, *arguments, "--num_episodes", "2", *size]) == 0
    assert (tmp_path / "runs/masses/evaluation/results.json").is_file()
    assert list((tmp_path / "runs/masses/videos").glob("*.mp4"))


def test_python_example(capsys: pytest.CaptureFixture[str]) -> None:
    exec(_block("python"), {})
    task, unit = capsys.readouterr().out.split("\n")[:2]
    shown = re.search(r"# (\{.*\})", _block("python"))
    assert shown is not None
    for name, value in re.findall(r"'(\w+)': ([\d.]+)\.\.\.", shown[1]):
        assert f"'{name}': {value}" in task
    assert unit == "m/s"
