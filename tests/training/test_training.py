"""Training runs: reproducible, resumable bit for bit, and leaving behind what they promise."""

from __future__ import annotations

import dataclasses
import json
import random
import re
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from helpers.commands import Command
from helpers.runs import (
    MODULE,
    animations,
    assert_equal_runs,
    assert_same_state,
    last,
    progress,
    reseal,
    same_theta,
    scalars,
    tiny,
)

import maml_rl
from maml_rl.agents.agent import Agent
from maml_rl.cli import main
from maml_rl.errors import MamlRLWarning, UserError
from maml_rl.learners.base import LearnerState
from maml_rl.learners.maml.learner import MAML
from maml_rl.learners.maml.objective import MetaObjective
from maml_rl.runs.run_folder import locked
from maml_rl.settings.config import Config, origin, to_mapping
from maml_rl.settings.env import EnvConfig
from maml_rl.system.torch_runtime import resolve_device
from maml_rl.training import compose, finish
from maml_rl.training.compose import open_training
from maml_rl.training.reporting import Interrupted
from maml_rl.training.start import resume, train


def interrupt_when(monkeypatch: pytest.MonkeyPatch, iteration: int) -> None:
    """Ctrl-C inside the meta-iteration that follows ``iteration`` finished ones."""
    original = MAML.iteration

    def interrupted(self, state, *args):
        if state.counters["iteration"] == iteration:
            raise KeyboardInterrupt
        return original(self, state, *args)

    monkeypatch.setattr(MAML, "iteration", interrupted)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """An uninterrupted run with a checkpoint every second iteration; tests do not write to it."""
    return train(tiny(tmp_path_factory.mktemp("whole") / "run", logging={"checkpoint_every": 2}))


@pytest.fixture
def copy(whole, tmp_path) -> Path:
    return shutil.copytree(whole, tmp_path / "copy")


def test_a_run_folder_holds_what_it_promises(whole):
    assert sorted(path.name for path in (whole / "checkpoints").iterdir()) == [
        "000002",
        "000004",
        "000006",
    ]
    assert last(whole).values["iteration"] == 6
    config = yaml.safe_load((whole / "config.yaml").read_text())
    assert config == to_mapping(tiny(whole, logging={"checkpoint_every": 2}))
    assert json.loads((whole / "versions.json").read_text())["python"]
    assert [row["time/iteration"] for row in progress(whole)] == [str(i) for i in range(1, 7)]
    for row in progress(whole):
        assert np.isfinite(float(row["train/return_after_0_steps"]))
        assert np.isfinite(float(row["train/return_after_1_steps"]))
    points = scalars(whole)
    assert [step for step, _ in points["train/return_after_1_steps"]] == list(range(1, 7))
    assert [f"{value:.4f}" for _, value in points["outer/kl"]] == [
        f"{float(row['outer/kl']):.4f}" for row in progress(whole)
    ]
    assert not (whole / "evaluation").exists()
    assert not (whole / "videos").exists()


def test_a_run_is_of_the_same_environment_where_its_module_has_moved():
    first, second, other = (
        origin(Config(env=EnvConfig(name=name))) for name in ("a:Env-v0", "b.c:Env-v0", "a:Env-v1")
    )
    assert first == second != other


def test_environment_steps_are_counted(whole):
    num_iterations, num_tasks, num_episodes, horizon, num_stages = 6, 3, 2, 5, 2
    expected = num_iterations * num_tasks * num_episodes * horizon * num_stages
    assert last(whole).values["num_env_steps"] == expected
    assert float(progress(whole)[-1]["time/num_env_steps"]) == expected


def test_the_same_seed_gives_the_same_run_whatever_the_global_generators(whole, tmp_path):
    np.random.seed(99)  # noqa: NPY002
    torch.manual_seed(99)
    assert_equal_runs(whole, train(tiny(tmp_path / "again", logging={"checkpoint_every": 2})))


@pytest.mark.slow
def test_another_seed_gives_another_run(whole, tmp_path):
    other = train(tiny(tmp_path / "other", seed=1, num_iterations=1))
    assert not same_theta(whole, other)
    assert (
        progress(other)[0]["train/return_after_0_steps"]
        != progress(whole)[0]["train/return_after_0_steps"]
    )


def untrained(trained: Agent) -> Agent:
    """The agent that the run of ``trained`` began with."""
    return trained.with_state(trained.learner.initial_state())


def test_training_moves_the_parameters(whole):
    trained = maml_rl.load(whole)
    start = untrained(trained).belief
    assert not all(torch.equal(value, start[name]) for name, value in trained.belief.items())


@pytest.mark.slow
def test_global_generators_stay_untouched(tmp_path):
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    train(
        tiny(
            tmp_path / "run",
            num_iterations=1,
            logging={"final_evaluation": True, "final_video": True},
        )
    )
    assert random.getstate() == before[0]
    assert np.array_equal(np.random.get_state()[1], before[1][1])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[2])


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"policy": {"hidden_sizes": [8], "normalize_observations": True}},
        {"inner": {"num_steps": 2}, "logging": {"evaluate_every": 2}},
        {
            "outer": {"name": "promp", "adaptive_kl": True},
            "inner": {"learned_step_size": "per_parameter"},
        },
        {
            "outer": {"name": "adam"},
            "inner": {"adapts": "context"},
            "policy": {"hidden_sizes": [8], "context_size": 2},
        },
        {"outer": {"name": "reptile"}, "inner": {"num_steps": 2, "adapts": "head"}},
        {
            "env": {
                "name": "HalfCheetahVel",
                "dynamics": {
                    "change_episode": [0, 1],
                    "change_step": {"low": 0, "high": 4},
                    "changed/disabled_actuator": [-1, 2],
                    "changed/action_delay": [0, 2],
                },
            }
        },
        {"outer": {"name": "ppo"}, "inner": {"surrogate": "dice", "exploration_credit": 0.5}},
        {
            "outer": {"decay_factor": 0.1, "decay_iterations": 5},
            "inner": {
                "num_steps": 2,
                "learned_step_size": "scalar",
                "learned_per_step": True,
                "gae_lambda": 0.9,
                "advantage": "sum",
                "shared_advantage_scale": True,
                "max_kl": 0.1,
                "early_loss_weight": 1.0,
                "early_loss_iterations": 5,
            },
        },
    ],
    ids=[
        "plain",
        "normalized",
        "evaluated",
        "promp",
        "adam",
        "reptile",
        "changes",
        "ppo",
        "inner steps",
    ],
)
def test_interrupted_and_resumed_equals_uninterrupted(tmp_path, monkeypatch, settings):
    def config(name: str) -> Config:
        return tiny(tmp_path / name, **{key: dict(value) for key, value in settings.items()})

    uninterrupted = train(config("uninterrupted"))
    with monkeypatch.context() as patched:
        interrupt_when(patched, 3)
        with pytest.raises(Interrupted, match=r"after iteration 3.*--resume") as stopped:
            train(config("interrupted"))
    run = stopped.value.run
    assert run == tmp_path / "interrupted"
    assert last(run).values["iteration"] == 3
    assert not (run / "checkpoints" / "000006").exists()
    resume(run)
    assert_equal_runs(uninterrupted, run)


def test_normalizer_statistics_are_in_the_checkpoint(tmp_path):
    run = train(tiny(tmp_path / "run", num_iterations=1, policy={"normalize_observations": True}))
    normalizer = last(run).tensors["normalizer"]
    assert float(normalizer["num_states"]) == last(run).values["num_env_steps"]
    loaded = maml_rl.load(run).state.normalizer
    assert loaded is not None
    assert all(torch.equal(value, normalizer[name]) for name, value in loaded._asdict().items())


@pytest.mark.slow
def test_interrupted_while_evaluating_equals_uninterrupted(tmp_path, monkeypatch):
    """Ctrl-C after an iteration, before its metrics are on disk: the iteration is done again."""
    logging = {"evaluate_every": 3}
    uninterrupted = train(tiny(tmp_path / "uninterrupted", logging=logging))

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    config = tiny(tmp_path / "interrupted", logging=logging)
    with monkeypatch.context() as patched:
        patched.setattr(compose, "evaluate_with", interrupt)
        with pytest.raises(Interrupted):
            train(config)
    resume(str(config.output))
    assert_equal_runs(uninterrupted, Path(str(config.output)))


@pytest.mark.thorough
@pytest.mark.parametrize("what", ["evaluate", "play"])
def test_interrupted_at_the_end_names_the_command_to_resume(tmp_path, monkeypatch, what):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    config = tiny(
        tmp_path / "run", num_iterations=1, logging={"final_evaluation": True, "final_video": True}
    )
    with monkeypatch.context() as patched:
        patched.setattr(finish, what, interrupt)
        with pytest.raises((Interrupted, KeyboardInterrupt)) as stopped:
            train(config)
    assert stopped.type is Interrupted
    assert "--resume" in str(stopped.value)
    resume(tmp_path / "run")
    assert (tmp_path / "run" / "evaluation" / "results.json").exists()
    assert (tmp_path / "run" / "videos" / "final.mp4").exists()


@pytest.mark.slow
def test_interrupted_before_the_first_iteration(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        interrupt_when(patched, 0)
        with pytest.raises(Interrupted, match="after iteration 0"):
            train(tiny(tmp_path / "run", num_iterations=2))
    resume(tmp_path / "run", 2)
    assert_equal_runs(tmp_path / "run", train(tiny(tmp_path / "other", num_iterations=2)))


@pytest.mark.slow
def test_ctrl_c_on_the_command_line(tmp_path):
    """A signal to a real process: exit status 130, a checkpoint, and advice that works."""
    run = tmp_path / "interrupted"
    flags = ["--env=PointNavigation", "--meta_batch_size=3", "--num_episodes=2", "--horizon=5"]
    flags += ["--policy.hidden_sizes=[8]", "--device=cpu"]
    flags += ["--logging.final_evaluation=false", "--logging.final_video=false"]
    flags += ["--num_iterations=100000", f"--output={run}"]
    process = Command("maml_rl.train", *flags)
    deadline = time.monotonic() + 60
    path = run / "progress.csv"
    while not path.exists() or path.read_bytes().count(b"\n") < 4:
        assert time.monotonic() < deadline, "no progress within a minute"
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    stopped = last(run).values["iteration"]
    assert stopped >= 3
    advice = out.splitlines()[-1]
    assert advice.endswith(f"python -m maml_rl.train --resume {run}")
    assert f"iteration {stopped}" in advice

    (tmp_path / "other").mkdir()
    longer = ["--num_iterations", str(stopped + 2)]
    assert main(["train", "--resume", str(run), *longer]) == 0
    assert main(["train", *flags, *longer, "--output", str(tmp_path / "other")]) == 0
    assert_equal_runs(run, tmp_path / "other")
    assert len(progress(run)) == stopped + 2


def test_the_advice_can_be_pasted():
    assert "--resume 'my runs/a'" in str(Interrupted(Path("my runs/a"), 3))


def test_a_run_without_evaluation_ends_with_what_is_next(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sizes = ["--meta_batch_size=2", "--num_episodes=2", "--horizon=5", "--num_iterations=1"]
    off = ["--logging.final_evaluation=false", "--logging.final_video=false", "--device=cpu"]
    command = ["train", "--env", "PointNavigation", "--output", "runs/my point", *sizes, *off]
    assert main(command) == 0
    last_line = (
        "finished: the policy is in runs/my point; next: python -m maml_rl.evaluate 'runs/my point'"
    )
    assert capsys.readouterr().out.splitlines()[-1] == last_line
    assert main(["train", "--resume", "runs/my point", "--num_iterations", "2"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == last_line


@pytest.mark.slow
def test_a_finished_run_can_be_extended(whole, tmp_path):
    run = tmp_path / "run"
    train(tiny(run, num_iterations=4, logging={"checkpoint_every": 2}))
    assert main(["train", "--resume", str(run), "--num_iterations", "6"]) == 0
    assert_equal_runs(whole, run)
    assert yaml.safe_load((run / "config.yaml").read_text())["num_iterations"] == 6


@pytest.mark.parametrize("iterations", [[], ["--num_iterations", "6"], ["--num_iterations=3"]])
def test_resuming_a_finished_run_is_a_success(whole, copy, capsys, iterations):
    assert main(["train", "--resume", str(copy), *iterations]) == 0
    assert "finished" in capsys.readouterr().out
    assert_equal_runs(whole, copy)


@pytest.mark.slow
def test_an_unfinished_run_can_end_with_the_iterations_that_it_has(tmp_path, caplog):
    run = tmp_path / "run"
    train(tiny(run, num_iterations=2, logging={"checkpoint_every": 1}))
    final = run / "checkpoints" / "000002"
    shutil.rmtree(final)
    caplog.set_level("INFO", "maml_rl")
    resume(run, num_iterations=1)
    assert f"{run} has 1 iteration, as requested: ending the run" in caplog.messages
    resume(run)  # it has ended for good
    assert last(run).values["iteration"] == 1


@pytest.mark.thorough
def test_resuming_a_finished_run_writes_missing_results(tmp_path):
    run = tmp_path / "run"
    config = tiny(run, num_iterations=1, logging={"final_evaluation": True, "final_video": True})
    train(config)
    evaluation = (run / "evaluation" / "results.json").read_bytes()
    for folder in ("evaluation", "videos"):
        shutil.rmtree(run / folder)
    resume(run)
    assert (run / "evaluation" / "results.json").read_bytes() == evaluation
    assert (run / "videos" / "final.mp4").stat().st_size > 0


@pytest.mark.slow
def test_a_longer_run_logs_that_it_replaces_its_evaluation(tmp_path, caplog):
    run = tmp_path / "run"
    train(tiny(run, num_iterations=1, logging={"final_evaluation": True}))
    before = (run / "evaluation" / "results.json").read_bytes()
    caplog.set_level("INFO", "maml_rl")
    resume(run, 3)
    assert any("the last 2 of 3 meta-iterations, each of" in text for text in caplog.messages)
    assert f"{run / 'evaluation'} will be replaced at the end" in caplog.messages
    assert (run / "evaluation" / "results.json").read_bytes() != before


@pytest.mark.slow
def test_a_run_without_a_checkpoint_starts_over(whole, copy):
    shutil.rmtree(copy / "checkpoints")
    assert main(["train", "--resume", str(copy)]) == 0
    assert_equal_runs(whole, copy)


@pytest.mark.slow
def test_a_half_written_checkpoint_is_not_taken(whole, copy):
    for name in ("000004", "000006"):
        shutil.rmtree(copy / "checkpoints" / name)
    (copy / "checkpoints" / ".000004.tmp").mkdir()
    assert main(["train", "--resume", str(copy)]) == 0
    assert_equal_runs(whole, copy)
    assert not (copy / "checkpoints" / ".000004.tmp").exists()


@pytest.mark.parametrize("damage", ["none", "half row", "half event"])
def test_a_killed_run_resumes_from_its_checkpoint(whole, copy, damage):
    """Rows and events beyond the checkpoint, the last perhaps half-written, are cut."""
    for name in ("000004", "000006"):
        shutil.rmtree(copy / "checkpoints" / name)
    if damage != "none":
        (path,) = copy.glob("progress.csv" if damage == "half row" else "events.out.tfevents.*")
        path.write_bytes(path.read_bytes()[:-17])
    assert main(["train", "--resume", str(copy)]) == 0
    assert_equal_runs(whole, copy)


@pytest.mark.parametrize("damage", ["foreign", "no counter", "text for a counter", "newer"])
def test_a_checkpoint_that_does_not_fit_is_refused(copy, capsys, damage):
    path = copy / "checkpoints" / "000006"
    values = json.loads((path / "values.json").read_text())
    if damage == "foreign":
        config = copy / "config.yaml"
        config.write_text(config.read_text().replace("- 8", "- 9"))
    elif damage == "no counter":
        del values["iteration"]
    elif damage == "text for a counter":
        values["iteration"] = "six"
    else:
        values["format_version"] = 999
    (path / "values.json").write_text(json.dumps(values))
    reseal(path)
    assert main(["train", "--resume", str(copy)]) == 2
    assert capsys.readouterr().err.count("error: ") == 1


def test_a_second_process_on_the_same_folder_is_refused(copy, capsys):
    shutil.rmtree(copy / "checkpoints")
    before = (copy / "progress.csv").read_bytes(), (copy / "config.yaml").read_bytes()
    with locked(copy):
        assert main(["train", "--resume", str(copy), "--num_iterations", "9"]) == 2
    assert "another process" in capsys.readouterr().err
    assert ((copy / "progress.csv").read_bytes(), (copy / "config.yaml").read_bytes()) == before


@pytest.mark.slow
def test_evaluations_and_videos_come_as_often_as_asked_for(tmp_path):
    run = train(
        tiny(tmp_path / "run", num_iterations=5, logging={"evaluate_every": 2, "video_every": 3})
    )
    evaluated = [
        row["time/iteration"] for row in progress(run) if row["evaluation/return_after_0_steps"]
    ]
    assert evaluated == ["2", "4"]
    assert [step for step, _ in scalars(run)["evaluation/return_after_1_steps"]] == [2, 4]
    assert [path.name for path in (run / "videos").iterdir()] == ["000003.mp4"]
    assert set(progress(run)[0]) & {"videos/adaptation"} == set()
    assert [(step, gif[:6]) for step, gif in animations(run)] == [(3, b"GIF89a")]
    assert not (run / "evaluation").exists()


def test_evaluating_changes_nothing_about_training(whole, tmp_path):
    config = tiny(tmp_path / "run", logging={"checkpoint_every": 2, "evaluate_every": 1})
    assert_same_state(whole, train(config))


@pytest.mark.slow
def test_a_run_ends_with_an_evaluation_and_a_video(tmp_path, caplog):
    caplog.set_level("INFO", "maml_rl")
    config = tiny(
        tmp_path / "run", num_iterations=1, logging={"final_evaluation": True, "final_video": True}
    )
    run = train(config)
    written = {path.name for path in (run / "evaluation").iterdir()}
    assert written >= {
        "results.json",
        "results.csv",
        "report.html",
        "adaptation.png",
        "adaptation.svg",
        "adaptation.pdf",
    }
    assert [path.name for path in (run / "videos").iterdir()] == ["final.mp4"]
    announced = caplog.messages[0]
    for part in ("PointNavigation", "cpu", str(run), f"{3 * 2 * 5 * 2:,} control steps"):
        assert part in announced
    assert any("40 fresh tasks" in text for text in caplog.messages)
    announcements = [text for text in caplog.messages if "skips it" in text]
    assert announcements == [
        "evaluating 40 tasks, 3 adaptation steps (--logging.final_evaluation false skips it) ...",
        "recording a video of at most 6 panels x 5 control steps (--logging.final_video false "
        "skips it) ...",
    ]


@pytest.mark.slow
def test_warm_start_takes_the_other_runs_theta(whole, tmp_path, monkeypatch):
    config = tiny(tmp_path / "warm", seed=5, init_from=str(whole), num_iterations=1)
    started: list[LearnerState] = []
    original = MAML.iteration
    monkeypatch.setattr(
        MAML,
        "iteration",
        lambda self, state, *args: (started.append(state), original(self, state, *args))[1],
    )
    run = train(config)
    theta = last(whole).tensors["theta"]
    start = started[0].tensors["theta"]
    assert all(torch.equal(value, theta[name]) for name, value in start.items())
    assert set(started[0].counters.values()) == {0}
    assert not same_theta(run, train(tiny(tmp_path / "cold", seed=5, num_iterations=1)))
    assert len(progress(run)) == 1


@pytest.mark.slow
def test_warm_start_takes_the_parameters_of_an_adapted_agent(whole, tmp_path):
    adapted = maml_rl.load(whole).adapt(task={"goal_x": 0.3, "goal_y": 0.2})
    source = adapted.save(tmp_path / "adapted")
    with open_training(tiny(tmp_path / "warm", init_from=str(source))) as training:
        theta = training.agent.state.tensors["theta"]
    assert all(torch.equal(value, adapted.belief[name][0]) for name, value in theta.items())
    assert not torch.equal(theta["weight_0"], last(whole).tensors["theta"]["weight_0"])


def test_warm_start_from_another_shape_is_refused(whole, tmp_path):
    config = tiny(tmp_path / "warm", init_from=str(whole), policy={"hidden_sizes": [9]})
    with pytest.raises(
        UserError,
        match=r"was trained with policy\.hidden_sizes \(8,\): set the same value, got \(9,\)",
    ):
        train(config)
    assert not (tmp_path / "warm").exists()


@pytest.mark.parametrize("learner", ["rl2", "pearl"])
def test_warm_start_from_another_learner_is_refused(learner, tmp_path):
    names = {"rl2": {"num_minibatches": 1}, "pearl": {"num_updates": 1, "num_training_tasks": 0}}
    settings = {"learner": {"name": learner, **names[learner]}, "num_iterations": 1}
    source = train(tiny(tmp_path / "source", **settings))
    with pytest.raises(UserError, match="init_from is a run of another learner"):
        train(tiny(tmp_path / "run", init_from=str(source)))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_warm_start_takes_the_units_of_the_values(tmp_path):
    """RL²'s value network, a part of theta, learns normalised values."""
    learner = {"learner": {"name": "rl2", "num_minibatches": 1}}
    source = train(tiny(tmp_path / "source", num_iterations=2, **learner))
    with open_training(tiny(tmp_path / "run", init_from=str(source), **learner)) as training:
        scale = training.agent.state.tensors["value_scale"]
    expected = last(source).tensors["value_scale"]
    assert expected["weight"] > 1
    assert all(torch.equal(scale[name], expected[name]) for name in expected)


def test_warm_start_from_nothing_is_refused(tmp_path):
    with pytest.raises(UserError, match="missing"):
        train(tiny(tmp_path / "warm", init_from=str(tmp_path / "missing")))
    assert not (tmp_path / "warm").exists()


@pytest.mark.slow
def test_a_warm_started_run_resumes_without_the_other(whole, tmp_path):
    source = shutil.copytree(whole, tmp_path / "source")
    config = tiny(tmp_path / "warm", init_from=str(source), num_iterations=2)
    run = train(config)
    shutil.rmtree(source)
    resume(run, 3)
    assert last(run).values["iteration"] == 3


@pytest.mark.slow
def test_warm_start_takes_the_normalizer_too(whole, tmp_path):
    on = {"hidden_sizes": [8], "normalize_observations": True}
    source = train(tiny(tmp_path / "source", num_iterations=1, policy=on))
    run = train(tiny(tmp_path / "run", num_iterations=1, init_from=str(source), policy=on))
    seen = [last(folder).tensors["normalizer"]["num_states"] for folder in (source, run)]
    assert float(seen[1] - seen[0]) == last(run).values["num_env_steps"]
    for init_from, policy in ((source, {"hidden_sizes": [8]}), (whole, on)):
        with pytest.raises(UserError, match="normalize_observations"):
            train(tiny(tmp_path / "refused", init_from=str(init_from), policy=policy))
    assert not (tmp_path / "refused").exists()


def test_a_start_with_another_nonlinearity_is_refused(whole, tmp_path):
    policy = {"hidden_sizes": [8], "nonlinearity": "relu"}
    with pytest.raises(UserError, match=r"was trained with policy\.nonlinearity tanh: .*got relu"):
        train(tiny(tmp_path / "run", init_from=str(whole), policy=policy))


def test_a_start_from_another_robot_is_refused(whole, tmp_path):
    config = dataclasses.replace(
        maml_rl.load_config(env="HalfCheetahVel", init_from=whole), output=str(tmp_path / "run")
    )
    message = (
        f"{whole} was trained in PointNavigation, with observations and actions of 2 and 2 "
        "numbers; those of HalfCheetahVel have 17 and 6"
    )
    with pytest.raises(UserError, match=re.escape(message)):
        train(config)
    assert not (tmp_path / "run").exists()


def test_a_start_with_another_scale_of_actions_is_a_warning(whole, tmp_path):
    policy = {"hidden_sizes": [8], "action_scale": 0.3}
    config = tiny(tmp_path / "run", init_from=str(whole), policy=policy)
    with pytest.warns(MamlRLWarning, match="give other actions"), open_training(config):
        pass


def test_a_run_that_could_not_be_read_again_is_refused(tmp_path):
    env = EnvConfig(name="PointNavigation", vectorization="async")
    config = dataclasses.replace(tiny(tmp_path / "run"), env=env)
    with pytest.raises(UserError, match=r"unknown setting 'env\.vectorization'"):
        train(config)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "env",
    [
        {"name": "CartPole-v1"},
        {"name": "Pendulum-v1", "kwargs": {"g": 5.0}},
        {"name": "Pendulum-v1", "g": 5.0},
    ],
    ids=["discrete", "kwargs", "beside the name"],
)
def test_a_registered_environment_trains(tmp_path, env):
    run = train(tiny(tmp_path / "run", env=env, num_iterations=2))
    assert last(run).values["iteration"] == 2
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (
        config["env"].items()
        >= {"name": env["name"], **({"g": 5.0} if "Pendulum" in env["name"] else {})}.items()
    )
    assert maml_rl.load(run).config.env.kwargs == ({"g": 5.0} if "Pendulum" in env["name"] else {})


@pytest.mark.slow
def test_without_a_renderer_training_logs_it_and_continues(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pygame", None)  # as where it is not installed
    run = tmp_path / "run"
    flags = [
        "--env=CartPole-v1",
        "--num_iterations=2",
        "--meta_batch_size=2",
        "--num_episodes=2",
        "--horizon=5",
    ]
    assert main(["train", *flags, "--policy.hidden_sizes=[4]", "--output", str(run)]) == 0
    out, err = capsys.readouterr()
    assert out.index("no video will be made") < out.index("return on 40 tasks (1 different)")
    assert "Traceback" not in out + err
    assert (run / "evaluation" / "results.json").exists()
    assert not (run / "videos").exists()


def test_arguments_of_an_environment_reach_it(tmp_path):
    def first_return(g: float) -> str:
        flags = [
            "--env",
            "Pendulum-v1",
            "--num_iterations",
            "1",
            "--meta_batch_size",
            "1",
            "--num_episodes",
            "2",
            "--horizon",
            "4",
        ]
        flags += [
            "--logging.final_evaluation=false",
            "--logging.final_video=false",
            "--policy.hidden_sizes=[4]",
        ]
        run = tmp_path / str(g)
        assert (
            main(["train", *flags, "--env.kwargs", json.dumps({"g": g}), "--output", str(run)]) == 0
        )
        return progress(run)[0]["train/return_after_0_steps"]

    assert first_return(0.0) != first_return(9.0)


@pytest.mark.slow
def test_an_environment_of_ones_own_trains(tmp_path, monkeypatch, capsys):
    (tmp_path / "my_line.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    flags = [
        "--env",
        "my_line:Line-v0",
        "--num_iterations",
        "2",
        "--meta_batch_size",
        "2",
        "--num_episodes",
        "2",
        "--horizon",
        "5",
    ]
    run = tmp_path / "run"
    assert main(["train", *flags, "--policy.hidden_sizes=[4]", "--output", str(run)]) == 0
    assert "no video will be made" in capsys.readouterr().out
    assert last(run).values["iteration"] == 2
    tasks = json.loads((run / "evaluation" / "results.json").read_text())["results"][0]["tasks"]
    assert len({entry["task"]["goal"] for entry in tasks}) == 40
    assert not (run / "videos").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*The reward is a NaN value")
def test_a_nan_reward_stops_the_run(tmp_path, monkeypatch, capsys):
    (tmp_path / "my_nan.py").write_text(
        MODULE.replace("-abs(float(self.x[0]) - self.goal)", "float('nan')").replace(
            "Line-v0", "NoNumber-v0"
        )
    )
    monkeypatch.syspath_prepend(tmp_path)
    flags = [
        "--env=my_nan:NoNumber-v0",
        "--num_iterations=2",
        "--meta_batch_size=2",
        "--num_episodes=2",
        "--horizon=5",
    ]
    flags += ["--logging.final_evaluation=false", "--logging.final_video=false"]
    assert main(["train", *flags, "--output", str(tmp_path / "run")]) == 1
    err = capsys.readouterr().err
    assert "2 of 2 tasks failed" in err
    assert 'a reward is not finite (first at adaptation step 0, task {"goal": ' in err
    assert "Traceback" not in err


@pytest.mark.slow
def test_no_inner_steps_and_the_smallest_sizes(tmp_path):
    sizes: Mapping[str, Any] = {
        "num_iterations": 2,
        "meta_batch_size": 1,
        "num_episodes": 1,
        "horizon": 1,
    }
    for inner in ({"num_steps": 0}, {"num_steps": 1}, {"num_steps": 2, "first_order": True}):
        run = train(tiny(tmp_path / str(inner["num_steps"]), **sizes, inner=inner))
        for value in last(run).tensors["theta"].values():
            assert value.isfinite().all()


def test_devices():
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("gpu", "cuda:99", "", "cpu:x"):
        with pytest.raises(UserError, match="not available"):
            resolve_device(name)


@pytest.mark.slow
def test_maml_trpo_learns_to_adapt(tmp_path):
    """Return, seeds 0 to 3: untrained −13.5 after a step; trained −10.5 before and −4 after it."""
    config = tiny(
        tmp_path / "run",
        num_iterations=20,
        meta_batch_size=10,
        num_episodes=10,
        horizon=30,
        policy={"hidden_sizes": [32, 32], "action_scale": 1.0},
        outer={"max_kl": 0.04},
    )
    trained = maml_rl.load(train(config))

    def returns(agent: maml_rl.Agent) -> np.ndarray:
        return maml_rl.evaluate(agent, num_tasks=20, num_episodes=10, num_steps=1, seed=100).mean

    before, after = returns(trained)
    assert returns(untrained(trained))[1] < -11
    assert after > -7.5
    assert after > before + 4


def test_tasks_that_are_no_mappings_are_refused_before_training(tmp_path, monkeypatch):
    (tmp_path / "numbered.py").write_text(
        "import gymnasium as gym\n"
        "from gymnasium.envs.classic_control import CartPoleEnv\n"
        "class Numbered(CartPoleEnv):\n"
        "    def sample_tasks(self, n):\n"
        "        return list(range(n))\n"
        "gym.register('Numbered-v0', Numbered)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = maml_rl.load_config(
        env="numbered:Numbered-v0", output=str(tmp_path / "run"), meta_batch_size=2
    )
    with pytest.raises(UserError, match="mapping from names to values"):
        train(config)


@pytest.mark.parametrize(("setting", "used"), [(None, 4), (1, 1), (100, 100)])
def test_tasks_per_block_are_those_of_the_configuration(tmp_path, monkeypatch, setting, used):
    sizes = set()
    blocks = MetaObjective.blocks
    monkeypatch.setattr(
        MetaObjective, "blocks", lambda self: sizes.add(self.block_size) or blocks(self)
    )
    # ProMP makes no block larger, unlike TRPO with thinned states.
    outer = {"name": "promp", "num_epochs": 2}
    train(tiny(tmp_path / "run", num_iterations=1, tasks_per_block=setting, outer=outer))
    assert sizes == {used}
