"""Suggestions for misspelt names, and errors of the user's code in one line."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

import pytest
import torch

import maml_rl
from maml_rl.errors import UserError, did_you_mean, errors_named, in_one_line
from maml_rl.runs.checkpoint_files import DamagedCheckpoint
from maml_rl.sampling.failures import Failure, TooManyFailures
from maml_rl.settings.sources import preset_names
from maml_rl.settings.training_parser import known_settings, training_parser

SETTINGS = [
    f"--{name}" for name in known_settings(training_parser("HalfCheetahVel", "maml", "trpo"))
]
ENVS = [
    "HalfCheetahVel",
    "HalfCheetahDir",
    "AntVel",
    "AntDir",
    "Pendulum-v1",
    "CartPole-v1",
    "PointNavigation",
]

GOOD = {
    "--sed": "--seed",
    "--num_iteration": "--num_iterations",
    "--num_iter": "--num_iterations",
    "--num_itreations": "--num_iterations",
    "--num_episode": "--num_episodes",
    "--inner.num_step": "--inner.num_steps",
    "--iner.num_steps": "--inner.num_steps",
    "--num_steps": "--inner.num_steps",
    "--step_size": "--inner.step_size",
    "--max_kl": "--outer.max_kl",
    "--env.hihg": "--env.high",
    "--hidden_sizes": "--policy.hidden_sizes",
    "--policy.hidden_layers": "--policy.hidden_sizes",
    "--hidden-sizes": "--policy.hidden_sizes",
    "--logging.final_vidio": "--logging.final_video",
    "--eval_every": "--logging.evaluate_every",
    "--checkpoint_freq": "--logging.checkpoint_every",
    "--horizn": "--horizon",
    "--ouput": "--output",
    "--max_failed": "--max_failed_share",
    "--baseline.gae": "--baseline.gae_lambda",
    "--outer.max_k": "--outer.max_kl",
    "--batch_size": "--meta_batch_size",
}
BAD = [
    *(
        "--num_env_steps",
        "--total_timesteps",
        "--num_tasks",
        "--max_steps",
        "--num_envs",
    ),
    *(
        "--lr",
        "--learning_rate",
        "--epochs",
        "--num_epochs",
        "--num_workers",
        "--render",
        "--gamma",
    ),
    *("--log_dir", "--train_steps", "--size", "--env_name_of_mine", "--x", "--entropy", "--train"),
]


@pytest.mark.parametrize(("name", "meant"), GOOD.items())
def test_a_slip_is_recognised(name: str, meant: str) -> None:
    assert did_you_mean(name, SETTINGS) == f" Did you mean {meant}?"


@pytest.mark.parametrize("name", BAD)
def test_nothing_is_suggested_for_a_name_of_another_meaning(name: str) -> None:
    assert did_you_mean(name, SETTINGS) == ""


@pytest.mark.parametrize(
    ("name", "valid", "meant"),
    [
        ("HalfCheetahVell", ENVS, "HalfCheetahVel"),
        ("HalfCheetahDri", ENVS, "HalfCheetahDir"),
        ("halfcheetahvel", ENVS, "HalfCheetahVel"),
        ("Pendulum-v2", ENVS, "Pendulum-v1"),
        ("Cartpole-v1", ENVS, "CartPole-v1"),
        ("pytorch_maml_rl/HalfCheetahDri", preset_names(), "pytorch_maml_rl/HalfCheetahDir"),
        ("trop", ["trpo", "promp", "ppo"], "trpo"),
        ("gg", ["g", "render_mode"], "g"),
        ("evalute", ["train", "evaluate", "record"], "evaluate"),
        ("Acrobot-v1", ENVS, None),
        ("Reacher", ENVS, None),
        ("sac", ["trpo", "promp", "ppo"], None),
        ("plan", ["train", "evaluate", "record"], None),
        ("", ["train"], None),
    ],
)
def test_other_names(name: str, valid: list[str], meant: str | None) -> None:
    assert did_you_mean(name, valid) == (f" Did you mean {meant}?" if meant else "")


def test_every_setting_is_the_closest_to_itself() -> None:
    for name in SETTINGS:
        assert did_you_mean(name, SETTINGS) == f" Did you mean {name}?"


def multiplies() -> None:
    torch.nn.Linear(3, 2)(torch.zeros(1, 4))


def reads() -> None:
    json.loads("no such text")


@pytest.mark.parametrize("function", [multiplies, reads])
def test_the_line_of_the_user_is_named_and_not_one_of_a_library(function) -> None:
    with pytest.raises((RuntimeError, ValueError)) as raised:
        function()
    line = function.__code__.co_firstlineno + 1
    assert in_one_line(raised.value).endswith(f" ({__file__}, line {line})")


def test_an_error_that_only_a_library_raised_names_its_line() -> None:
    with pytest.raises(ValueError, match="Expecting value") as raised:
        reads()
    error = raised.value
    trace = error.__traceback__
    while trace.tb_next is not None:
        trace = trace.tb_next
    error.__traceback__ = trace  # without the frames of this file
    assert in_one_line(error).endswith(f"decoder.py, line {trace.tb_lineno})")


def test_an_error_may_be_made_from_another_as_gymnasium_does_for_workers() -> None:
    assert str(UserError(UserError("the arm is stuck"))) == "the arm is stuck"


def test_a_message_with_an_array_is_one_line() -> None:
    error = UserError(f"a file of two  words: got {torch.eye(2)!r}")
    assert str(error) == "a file of two  words: got tensor([[1., 0.], [0., 1.]])"


def test_the_end_of_the_program_is_an_error_of_the_users_code() -> None:
    refused = pytest.raises(
        UserError, match=r"^the network raised SystemExit: 0 \(.*test_errors.py"
    )
    with refused, errors_named("the network raised"):
        sys.exit(0)


@pytest.mark.parametrize(
    "error",
    [
        UserError("a  message"),
        TooManyFailures("all failed", [Failure(0, "the simulation broke down", 3, {"goal": 1.0})]),
        maml_rl.Interrupted(Path("run"), 3, 15, Path("runs"), has_ended=True),
        DamagedCheckpoint(Path("run/checkpoints/000001"), "it is empty"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_reach_the_caller_of_a_process_pool(error: BaseException) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)
