"""The setting ``engine``: what it chooses and refuses, and that a run keeps it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers.runs import assert_equal_runs, same_theta, tiny
from maml_envs.engines.mujoco import MujocoRobot

import maml_rl
from maml_rl.analysis.run_labels import group_settings, labels_of
from maml_rl.cli import main
from maml_rl.errors import UserError
from maml_rl.settings import engine
from maml_rl.settings.config import Config
from maml_rl.settings.engine import FEWEST_SIMULATIONS, with_engine
from maml_rl.settings.parser import load_config
from maml_rl.training.callbacks import Callback
from maml_rl.training.start import resume, train

MANY = {"meta_batch_size": 400, "num_episodes": 21}
CHANGE = {"changed/body_mass": 2.0, "change_step": 3}
OWN_LEARNER = {"name": "helpers.bandit:Bandit"}


def chosen(on_gpu: bool = True, num_processes: int = 1, **settings: Any) -> str:
    config = load_config(**{"env": "HalfCheetahDir", **MANY, **settings})
    setting = with_engine(config, on_gpu, num_processes).engine
    return "mujoco" if setting == "auto" else setting


@pytest.fixture
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "warp_is_installed", lambda: True)


@pytest.mark.usefixtures("_installed")
class TestAuto:
    def test_many_simulations_of_a_family_on_a_gpu_run_on_warp(self) -> None:
        assert chosen() == "warp"
        assert chosen(env="PointNavigation") == "warp"
        assert chosen(learner="rl2", meta_batch_size=FEWEST_SIMULATIONS) == "warp"

    def test_otherwise_on_mujoco(self) -> None:
        assert chosen(on_gpu=False) == "mujoco"
        assert chosen(meta_batch_size=390) == "mujoco"
        # A stage of RL² has one episode of each task.
        assert chosen(learner="rl2") == "mujoco"
        assert chosen(num_processes=2) == "mujoco"
        assert chosen(num_processes=2, meta_batch_size=800) == "warp"

    def test_what_warp_cannot_simulate_or_play(self) -> None:
        assert chosen(env={"name": "HalfCheetahDir", "dynamics": {"body_mass": 2}}) == "warp"
        assert chosen(env={"name": "HalfCheetahDir", "dynamics": CHANGE}) == "mujoco"
        assert chosen(env="Pendulum-v1") == "mujoco"
        assert chosen(env="PointNavigation", learner=OWN_LEARNER) == "mujoco"

    def test_without_the_packages(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(engine, "warp_is_installed", lambda: False)
        assert chosen() == "mujoco"

    def test_a_choice_is_kept(self) -> None:
        assert chosen(on_gpu=False, engine="warp") == "warp"
        assert chosen(engine="mujoco") == "mujoco"


FLAGS = ["--meta_batch_size", "2", "--num_episodes", "2", "--horizon", "4", "--device", "cpu"]
FLAGS += ["--num_iterations", "1", "--engine", "warp"]


def refusal(capfd: pytest.CaptureFixture[str], tmp_path: Path, *flags: str) -> str:
    """The one line that the command prints; it writes no files."""
    assert main(["train", *FLAGS, "--output", str(tmp_path / "run"), *flags]) == 2
    assert not (tmp_path / "run").exists()
    (line,) = capfd.readouterr().err.strip().splitlines()
    return line


class TestWarpRefuses:
    def test_other_environments(self, capfd: Any, tmp_path: Path) -> None:
        line = refusal(capfd, tmp_path, "--env", "Pendulum-v1")
        assert "task families only, got the environment 'Pendulum-v1'" in line
        assert line.endswith("use --engine mujoco")

    def test_learners_of_arrays(self, capfd: Any, tmp_path: Path) -> None:
        line = refusal(
            capfd, tmp_path, "--env", "PointNavigation", "--learner", OWN_LEARNER["name"]
        )
        assert "needs a learner whose actors define act_on_tensors" in line
        assert "got 'helpers.bandit:Bandit': use --engine mujoco" in line

    def test_missing_packages(
        self, capfd: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def device_engine(*arguments: Any) -> None:
            raise ValueError('install them by: pip install "maml-rl[gpu]"')

        monkeypatch.setattr(MujocoRobot, "device_engine", device_engine, raising=False)
        line = refusal(capfd, tmp_path, "--env", "HalfCheetahDir")
        assert line.endswith('engine warp: install them by: pip install "maml-rl[gpu]"')

    def test_dynamics_that_change(
        self, capfd: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(MujocoRobot, "device_engine", lambda *_: None, raising=False)
        dynamics = ["--env.dynamics.changed/body_mass", "2", "--env.dynamics.change_step", "3"]
        line = refusal(capfd, tmp_path, "--env", "HalfCheetahDir", *dynamics)
        assert "the dynamics of HalfCheetahDir change within a task" in line
        assert line.endswith("which only the engine mujoco supports")

    def test_another_name(self, capfd: Any, tmp_path: Path) -> None:
        line = refusal(capfd, tmp_path, "--env", "PointNavigation", "--engine", "bullet")
        assert "engine" in line
        assert "auto, mujoco, warp" in line.replace("'", "")


def saved_engine(run: Path) -> str:
    return yaml.safe_load((run / "config.yaml").read_text())["engine"]


@pytest.mark.slow
def test_the_engine_is_printed_and_stored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "maml_rl")
    for setting, expected in {"auto": "mujoco", "mujoco": "mujoco", "warp": "warp"}.items():
        caplog.clear()
        run = train(tiny(tmp_path / setting, engine=setting, num_iterations=1))
        assert saved_engine(run) == setting
        assert f"on cpu with the engine {expected}, into {run}" in caplog.messages[0]


@pytest.mark.slow
def test_warp_is_stored_if_auto_chooses_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_is_worthwhile", lambda *_: True)
    monkeypatch.setattr(engine, "_can_be_used", lambda _: True)
    run = train(tiny(tmp_path / "run", num_iterations=1))
    assert saved_engine(run) == "warp"
    # Resumed where it would not be chosen, the run keeps it.
    monkeypatch.undo()
    resume(run, 2)
    assert saved_engine(run) == "warp"
    assert_equal_runs(run, train(tiny(tmp_path / "warp", engine="warp", num_iterations=2)))


def test_an_environment_of_gymnasium_has_no_engine_to_print(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "maml_rl")
    train(tiny(tmp_path / "run", env={"name": "Pendulum-v1"}, num_iterations=1))
    assert any("on cpu, into" in message for message in caplog.messages)


@pytest.mark.slow
def test_an_agent_is_evaluated_and_adapted_on_the_cpu(tmp_path: Path) -> None:
    logging = {"final_evaluation": True, "evaluate_every": 1}
    run = train(tiny(tmp_path / "run", engine="warp", num_iterations=1, logging=logging))
    assert (run / "evaluation" / "results.json").is_file()
    agent = maml_rl.load(run)
    assert agent.config.engine == "warp"
    adapted = agent.adapt(task={"goal_x": 0.3, "goal_y": 0.2})
    assert adapted.belief.keys() == agent.belief.keys()


@pytest.mark.slow
def test_runs_of_one_engine_are_one_group(tmp_path: Path) -> None:
    """Runs of earlier versions do not name it, and were played on MuJoCo."""

    def settings(name: str) -> Any:
        return group_settings(tiny(tmp_path, engine=name))

    assert settings("auto") == settings("mujoco") != settings("warp")
    assert labels_of([settings("auto"), settings("warp")]) == ["engine mujoco", "engine warp"]


class _Fails(Callback):
    """Raises after the third iteration."""

    def on_iteration(self, run: Any, metrics: dict[str, float]) -> None:
        if run.iteration == 3:
            raise RuntimeError


@pytest.mark.slow
def test_a_run_that_was_stopped_and_resumed_equals_one_that_was_not(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"engine": "warp", "num_iterations": 5}
    whole = train(tiny(tmp_path / "whole", **settings))
    with pytest.raises(UserError, match="_Fails"):
        train(tiny(tmp_path / "stopped", **settings), callbacks=[_Fails()])
    stopped = resume(tmp_path / "stopped")
    assert saved_engine(stopped) == "warp"
    assert_equal_runs(whole, stopped)


@pytest.mark.slow
def test_a_run_of_an_earlier_version_resumes_on_mujoco(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(tiny(tmp_path / "run", num_iterations=1))
    config = yaml.safe_load((run / "config.yaml").read_text())
    del config["engine"]
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    # With a GPU and the packages, a new run would not.
    monkeypatch.setattr(engine, "_is_worthwhile", lambda *_: True)
    monkeypatch.setattr(engine, "_can_be_used", lambda _: True)
    assert with_engine(Config(), on_gpu=False, num_processes=1).engine == "warp"
    resume(run, 2)
    assert saved_engine(run) == "auto"
    assert_equal_runs(run, train(tiny(tmp_path / "whole", num_iterations=2, engine="mujoco")))
    assert not same_theta(run, train(tiny(tmp_path / "warp", num_iterations=2, engine="warp")))


@pytest.mark.warp
def test_a_robot_on_the_cpu_backend_of_warp(tmp_path: Path) -> None:
    pytest.importorskip("mujoco_warp")
    settings: dict[str, Any] = {
        "env": "HalfCheetahDir",
        "meta_batch_size": 4,
        "num_episodes": 2,
        "horizon": 20,
        "num_iterations": 2,
    }
    runs = {
        name: train(tiny(tmp_path / name, engine=name, **settings)) for name in ("mujoco", "warp")
    }
    theta = {name: maml_rl.load(run).state.tensors["theta"] for name, run in runs.items()}
    # Float32 physics: the same training up to rounding, which contacts amplify.
    for name, value in theta["warp"].items():
        assert value.isfinite().all()
        torch.testing.assert_close(value, theta["mujoco"][name], rtol=0.1, atol=0.02)
