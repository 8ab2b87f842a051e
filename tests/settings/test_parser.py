"""Settings from files, from Python and from flags: what they resolve to, and what is refused."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import maml_configs
import numpy as np
import pytest
import yaml

import maml_rl
from maml_rl.errors import UserError
from maml_rl.settings.config import Config, to_mapping
from maml_rl.settings.env import EnvConfig, resolve_env_id
from maml_rl.settings.learners import LEARNER_CONFIGS, OUTER_CONFIGS
from maml_rl.settings.parser import load_config, parse_training_arguments, resolve
from maml_rl.settings.sources import preset, preset_names

CONFIGS = Path(maml_configs.__path__[0])
FILES = sorted(CONFIGS.rglob("*.yaml"))


def file_id(path: Path) -> str:
    return str(path.relative_to(CONFIGS).with_suffix(""))


def test_there_are_presets():
    assert len(FILES) >= 3
    assert sorted(file_id(path) for path in FILES) == preset_names()


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=file_id)
def test_every_file_in_configs_resolves(path):
    config = load_config(file_id(path))
    assert resolve_env_id(config.env.name)
    assert config == parse_training_arguments([f"--config={path}"])
    # What a run folder holds resolves to the same again.
    assert resolve(yaml.safe_load(yaml.safe_dump(to_mapping(config))), [], source="test") == config

    # The file's own values arrive, whatever a preset of the same environment says.
    def check(given: dict, resolved: dict, where: str) -> None:
        for key, value in given.items():
            if isinstance(value, dict):
                check(value, resolved[key], f"{where}{key}.")
            else:
                assert resolved[key] == value, f"{where}{key}"

    check(yaml.safe_load(path.read_text()), to_mapping(config), "")


@pytest.mark.parametrize("path", [path for path in FILES if path.parent == CONFIGS], ids=file_id)
def test_a_preset_belongs_to_the_environment_it_is_named_after(path):
    assert preset(path.stem)["env"]["name"] == path.stem


OF_LEARNERS = [
    path
    for path in FILES
    if path.parent.name in {*LEARNER_CONFIGS} - {"maml"} and path.stem != "default"
]


@pytest.mark.parametrize("path", OF_LEARNERS, ids=file_id)
def test_a_preset_belongs_to_the_learner_whose_folder_it_is_in(path):
    own = preset(path.stem, path.parent.name)
    assert (own["env"]["name"], own["learner"]["name"]) == (path.stem, path.parent.name)


def test_a_learner_without_a_preset_of_the_environment_has_its_default_one():
    default = yaml.safe_load((CONFIGS / "rl2" / "default.yaml").read_text())
    assert not (CONFIGS / "rl2" / "AntDir.yaml").exists()
    shared = preset("AntDir")
    own = preset("AntDir", "rl2")
    assert own == {
        "env": shared["env"],
        "horizon": shared["horizon"],
        **default,
        "policy": {**shared["policy"], **default["policy"]},
    }
    assert preset("AntDir", "joint")["meta_batch_size"] == shared["meta_batch_size"]
    assert preset("Pendulum-v1", "rl2") == {"horizon": 200}


@pytest.mark.parametrize(
    "config",
    [
        Config(),
        Config(seed=5, output="here", init_from="there", device="cpu"),
        Config(
            env=EnvConfig(
                name="PointNavigation", kwargs={"low": -1.0, "high": 0.25, "goal_tolerance": 0.5}
            )
        ),
        Config(env=EnvConfig(name="Pendulum-v1", kwargs={"g": 9.5}, vectorization="async")),
        Config(env=EnvConfig(name="CartPole-v1")),
    ],
    ids=lambda config: config.env.name,
)
def test_a_configuration_survives_the_round_trip(config):
    text = yaml.safe_dump(to_mapping(config))
    again = resolve(yaml.safe_load(text), [], source="test")
    assert to_mapping(again) | {"env": None} == to_mapping(config) | {"env": None}
    assert (again.env.name, again.env.vectorization) == (config.env.name, config.env.vectorization)
    assert config.env.kwargs.items() <= again.env.kwargs.items()


def test_python_and_flags_agree():
    from_python = load_config(
        env={"name": "PointNavigation", "high": 0.3}, inner={"num_steps": 2}, seed=4
    )
    flags = ["--env", "PointNavigation", "--env.high", "0.3", "--inner.num_steps", "2", "--seed=4"]
    assert parse_training_arguments(flags) == from_python


def test_python_settings_win_over_the_file_and_the_file_over_the_preset(tmp_path):
    file = tmp_path / "my.yaml"
    file.write_text("env: {name: PointNavigation}\nmeta_batch_size: 3\nseed: 3\n")
    assert preset("PointNavigation")["meta_batch_size"] not in (3, Config.meta_batch_size)
    config = load_config(file, seed=9)
    assert (config.seed, config.meta_batch_size) == (9, 3)
    assert config.num_episodes == Config.num_episodes
    assert config.policy.action_scale == preset("PointNavigation")["policy"]["action_scale"]


@pytest.mark.parametrize(
    ("settings", "closest"),
    [
        ({"sed": 1}, "seed"),
        ({"inner": {"num_step": 1}}, "inner.num_steps"),
        ({"iner": {"num_steps": 1}}, "inner.num_steps"),
        ({"num_steps": 1}, "inner.num_steps"),
        ({"env": {"name": "PointNavigation", "hihg": 1.0}}, "env.high"),
        ({"outer": {"name": "trpo", "max_k": 1.0}}, "outer.max_kl"),
        ({"logging": {"final_vidio": False}}, "logging.final_video"),
    ],
)
def test_an_unknown_setting_is_refused_with_the_closest(settings, closest):
    with pytest.raises(
        UserError, match=rf"unknown setting .*Did you mean {closest.replace('.', '[.]')}\?"
    ):
        load_config(**settings)


def test_dynamics_of_an_environment_without_them_are_refused():
    message = "env.dynamics.body_mass in .*: this environment has no dynamics to set"
    with pytest.raises(UserError, match=message):
        load_config(env={"name": "PointNavigation", "dynamics": {"body_mass": [0.5, 2]}})


@pytest.mark.parametrize(
    "settings",
    [
        {"seed": "three"},
        {"seed": 1.5},
        {"seed": True},
        {"seed": None},
        {"seed": -1},
        {"seed": [1]},
        {"device": None},
        {"num_iterations": 0},
        {"num_iterations": "many"},
        {"meta_batch_size": 0},
        {"num_episodes": -3},
        {"horizon": 0},
        {"policy": {"hidden_sizes": [64, 0]}},
        {"policy": {"hidden_sizes": 64}},
        {"policy": {"hidden_sizes": [1.5]}},
        {"policy": {"nonlinearity": "gelu"}},
        {"policy": {"init_std": 0}},
        {"policy": {"init_std": float("nan")}},
        {"policy": {"action_scale": float("inf")}},
        {"policy": {"normalize_observations": "perhaps"}},
        {"policy": [1]},
        {"policy": None},
        {"inner": {"num_steps": -1}},
        {"inner": {"step_size": -0.1}},
        {"inner": {"surrogate": "dice_"}},
        {"baseline": {"discount": 1.5}},
        {"baseline": {"ridge": 0}},
        {"logging": {"checkpoint_every": 0}},
        {"logging": {"video_every": -1}},
        {"outer": {"name": "trop"}},
        {"outer": {"name": "trpo", "line_search_shrink": 1.0}},
        {"outer": {"name": ["trpo"]}},
        {"outer": ["trpo"]},
        {"env": {"name": "PointNavigation", "low": 0.5, "high": -0.5}},
        {"env": {"name": "PointNavigation", "low": "west"}},
        {"env": {"name": "PointNavigation", "goal_tolerance": float("nan")}},
        {"env": {"name": 3}},
        {"env": None},
        {"env": ["PointNavigation"]},
        {1: 2},
    ],
    ids=str,
)
def test_a_value_that_makes_no_sense_is_refused(settings):
    values = {"env": {"name": "PointNavigation"}} | settings
    # The message has the name of the last setting, or the value of an unknown choice.
    *_, name = settings
    value = settings[name]
    while isinstance(value, dict):
        *_, key = value
        name, value = (name, value[key]) if key == "name" else (key, value[key])
    with pytest.raises(UserError, match=f"{name}|{re.escape(str(value))}"):
        resolve(values, [], source="test")


@pytest.mark.parametrize("value", [[1], 3, None])
def test_a_group_without_settings_is_refused(value):
    with pytest.raises(UserError, match="policy in test must be a mapping of settings, got"):
        resolve({"env": {"name": "PointNavigation"}, "policy": value}, [], source="test")


def test_a_setting_with_the_name_of_a_flag_is_refused(tmp_path):
    """It would be read, but after the names that choose the other settings."""
    file = tmp_path / "my.yaml"
    file.write_text("env: PointNavigation\nlearner.name: rl2\n")
    nested = re.escape("write a setting of a group as learner: {name: VALUE}")
    with pytest.raises(UserError, match=f"^'learner.name' in {re.escape(str(file))}: {nested}$"):
        parse_training_arguments(["--config", str(file)])
    with pytest.raises(UserError, match=f"^'learner.name' in the arguments: {nested}$"):
        load_config(**{"env": "PointNavigation", "learner.name": "rl2"})


def test_numbers_of_numpy_are_numbers():
    typed = load_config(env="PointNavigation", seed=3, inner={"step_size": 0.5})
    step_size = np.float32(0.5)
    read = load_config(env="PointNavigation", seed=np.int64(3), inner={"step_size": step_size})
    assert read == typed


def test_a_group_must_be_of_its_class():
    values = {"env": "PointNavigation", "inner": {}, "policy": None, "logging": 3}
    for group, value in values.items():
        expected = f"^{group} must be of type {Config.GROUP_TYPES[group].__name__}, got {value!r}$"
        with pytest.raises(ValueError, match=expected):
            Config(**{group: value})


def test_callbacks_say_what_they_take():
    expected = re.escape('"callbacks": Expected a list of strings or a string. Got value: [5]')
    with pytest.raises(UserError, match=f"^{expected}$"):
        load_config(env="PointNavigation", callbacks=[5])


@pytest.mark.parametrize("setting", ["env.frame_skip", "torch_threads"])
def test_a_setting_that_may_be_null_says_what_it_takes(setting):
    expected = re.escape(f'"{setting}": Expected an integer or null. Got value: 2.5')
    with pytest.raises(UserError, match=f"^{expected}$"):
        parse_training_arguments(["--env", "HalfCheetahVel", f"--{setting}", "2.5"])


def test_an_empty_value_is_refused_in_the_same_words():
    with pytest.raises(UserError, match=r'^"max_hours": Expected a number or null. Got value: $'):
        parse_training_arguments(["--max_hours", ""])


def test_an_unknown_environment_is_refused_with_the_closest():
    with pytest.raises(UserError, match="Did you mean 'PointNavigation'"):
        load_config(env="PointNavigaton")


def test_a_missing_file_is_refused_with_the_presets():
    with pytest.raises(UserError, match="maml/HalfCheetahVel"):
        load_config("no_such_file")


def test_defaults_are_written_once_in_code():
    """Without any preset, resolving nothing gives what the dataclasses say."""
    config = resolve({"env": {"name": "PointNavigation"}}, [], source="test")
    for field in dataclasses.fields(Config):
        if field.name != "env":
            assert getattr(config, field.name) == getattr(Config(), field.name), field.name


def test_the_names_at_the_top_of_the_package_are_there():
    for name in set(maml_rl.__all__) - {"__version__"}:
        assert getattr(maml_rl, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = maml_rl.nothing


@pytest.mark.parametrize(
    "name", ["HalfCheetahDir", "maml_rl/HalfCheetahDir-v0", "maml_envs:maml_rl/HalfCheetahDir-v0"]
)
def test_a_family_has_its_preset_however_it_is_named(name):
    named, short = maml_rl.load_config(env=name), maml_rl.load_config(env="HalfCheetahDir")
    assert (named.policy, named.inner, named.outer) == (short.policy, short.inner, short.outer)
    assert named.policy.action_scale == 0.2


def test_a_preset_of_a_folder_is_no_environment():
    with pytest.raises(UserError, match="unknown environment"):
        maml_rl.load_config(env="maml/HalfCheetahVel")


WITH_STEP_SIZE = [name for name, config in OUTER_CONFIGS.items() if "step_size" in config.RANGES]


@pytest.mark.parametrize("name", WITH_STEP_SIZE)
def test_another_outer_step_leaves_the_presets_behind(name: str) -> None:
    default = OUTER_CONFIGS[name]()
    assert maml_rl.load_config(env="HalfCheetahVel", outer=name).outer == default
    assert (
        maml_rl.load_config(
            env="HalfCheetahVel", outer={"name": name, "step_size": 0.5}
        ).outer.step_size
        == 0.5
    )
    assert parse_training_arguments(["--env", "HalfCheetahVel", "--outer", name]).outer == default
    assert (
        parse_training_arguments(["--config", "maml/HalfCheetahVel", "--outer", name]).outer
        == default
    )
    assert (
        parse_training_arguments(["--env", "HalfCheetahVel", "--outer", "trpo"]).outer.max_kl == 0.1
    )


def test_a_setting_of_another_outer_step_is_named_as_such() -> None:
    assert WITH_STEP_SIZE[:4] == ["promp", "ppo", "adam", "reptile"]
    with pytest.raises(
        UserError, match=rf"It is a setting of --outer {' and '.join(WITH_STEP_SIZE)}\."
    ):
        parse_training_arguments(["--outer", "trpo", "--outer.step_size", "0.1"])


@pytest.mark.parametrize("name", ["HalfCheetahDir", "Pendulum-v1"])
def test_another_environment_leaves_the_files_behind(name: str) -> None:
    """From Python as from flags; other settings of the file stay."""
    config = load_config("maml/HalfCheetahVel", env=name)
    assert config == parse_training_arguments(["--config", "maml/HalfCheetahVel", "--env", name])
    assert config.env == load_config(env=name).env
    assert config.policy.hidden_sizes == load_config("maml/HalfCheetahVel").policy.hidden_sizes


@pytest.mark.parametrize("range_of_mass", [{"low": 0.9, "high": 1.1}, [0.9, 1.1], None])
def test_dynamics_in_python_equal_those_of_a_flag(range_of_mass, tmp_path):
    """A range replaces the one of the file as a whole; other quantities stay."""
    file = tmp_path / "settings.yaml"
    of_file = {"low": 0.5, "high": 2.0, "log": True, "each": True}
    dynamics = {"body_mass": of_file, "gravity": 5.0}
    file.write_text(yaml.safe_dump({"env": {"name": "HalfCheetahDir", "dynamics": dynamics}}))
    of_python = load_config(file, env={"dynamics": {"body_mass": range_of_mass}})
    text = yaml.safe_dump(range_of_mass, default_flow_style=True).strip().removesuffix("...")
    flag = f"--env.dynamics.body_mass={text.strip()}"
    of_flag = parse_training_arguments(["--config", str(file), flag])
    assert of_python.env == of_flag.env
    assert of_python.env.kwargs["dynamics"] == {"body_mass": range_of_mass, "gravity": 5.0}
