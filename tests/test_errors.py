"""Suggestions for misspelt names."""

from __future__ import annotations

import pytest

from maml_rl.errors import did_you_mean
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
