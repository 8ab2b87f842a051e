"""The command line: precedence, help, and invalid input (one message, exit status 2, no file)."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import itertools
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import docstring_parser
import gymnasium as gym
import numpy as np
import pytest
import yaml
from helpers.commands import Result
from helpers.drawn import drawn_task
from maml_envs import FAMILIES

import maml_rl
from maml_rl.cli import COMMANDS, made_folder, main
from maml_rl.env_flags import take_env_flags
from maml_rl.errors import UserError
from maml_rl.settings.config import Config, LoggingConfig, to_mapping
from maml_rl.settings.learners import LEARNER_CONFIGS, OUTER_CONFIGS, BaselineConfig, InnerConfig
from maml_rl.settings.parser import load_config
from maml_rl.settings.policy import PolicyConfig
from maml_rl.settings.sources import preset, preset_names
from maml_rl.system.stop_flag import StopSignal

pytestmark = pytest.mark.usefixtures("in_an_empty_folder")

SIZES = (
    "--num_iterations=1 --meta_batch_size=2 --num_episodes=2 --horizon=4 "
    "--policy.hidden_sizes=[4] --device=cpu"
)
TINY = ("--env", "PointNavigation", *SIZES.split(" "))
GROUPS = {
    "policy": PolicyConfig,
    "inner": InnerConfig,
    "baseline": BaselineConfig,
    "logging": LoggingConfig,
}


Cli = Callable[..., Result]


def contents(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


@pytest.fixture
def cli(capsys) -> Cli:
    """Run a command in this process."""

    def run(*argv: str | Path) -> Result:
        try:
            code = main([str(arg) for arg in argv])
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
        return Result(code, *capsys.readouterr())

    return run


@pytest.fixture
def refused(cli, tmp_path, run) -> Callable[..., str]:
    """Run a command that must fail as a user's mistake; the message."""

    def check(*argv: str | Path) -> str:
        before, run_before = contents(tmp_path), contents(run)
        code, out, err = cli(*argv)
        assert (code, out) == (2, ""), err
        assert err.count("error: ") == 1, err
        assert "Traceback" not in err
        assert contents(tmp_path) == before
        assert contents(run) == run_before
        return err.partition("error: ")[2].strip()

    return check


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A finished run."""
    output = tmp_path_factory.mktemp("finished") / "run"
    config = load_config(
        env="PointNavigation",
        num_iterations=2,
        meta_batch_size=2,
        num_episodes=2,
        horizon=4,
        device="cpu",
        policy={"hidden_sizes": [4]},
        logging={"final_evaluation": False, "final_video": False},
        output=str(output),
    )
    return maml_rl.train(config)


def resolved(cli: Cli, *argv: str | Path) -> dict:
    code, out, err = cli("train", *argv, "--print_config")
    assert (code, err) == (0, "")
    return yaml.safe_load(out)


# --- what wins ---


def test_flag_over_file_over_preset_over_code_wherever_the_flag_stands(cli, tmp_path):
    own = preset("PointNavigation")
    assert own["meta_batch_size"] != Config.meta_batch_size
    assert own["policy"]["action_scale"] not in (0.3, PolicyConfig.action_scale)
    file = tmp_path / "my.yaml"
    file.write_text(
        "env: {name: PointNavigation}\nseed: 3\nhorizon: 33\npolicy: {action_scale: 0.3}\n"
    )
    parts = (("--env", "PointNavigation"), ("--config", str(file)), ("--seed", "5"))
    for order in itertools.permutations(parts):
        values = resolved(cli, *itertools.chain(*order))
        assert values["seed"] == 5
        assert (values["horizon"], values["policy"]["action_scale"]) == (33, 0.3)
        assert values["meta_batch_size"] == own["meta_batch_size"]
        assert values["num_episodes"] == Config.num_episodes
        assert values["policy"]["init_std"] == PolicyConfig.init_std
    assert not (tmp_path / "runs").exists()


def test_flags_are_spelled_with_a_space_or_an_equals_sign(cli):
    spaced = resolved(
        cli, "--env", "PointNavigation", "--inner.num_steps", "2", "--policy.hidden_sizes", "[3, 5]"
    )
    assert spaced == resolved(
        cli, "--env=PointNavigation", "--inner.num_steps=2", "--policy.hidden_sizes=[3,5]"
    )
    assert (spaced["inner"]["num_steps"], spaced["policy"]["hidden_sizes"]) == (2, [3, 5])


def test_the_last_of_two_equal_flags_wins(cli):
    values = resolved(
        cli, "--env=HalfCheetahVel", "--seed=1", "--env", "PointNavigation", "--seed", "2"
    )
    assert (values["env"]["name"], values["seed"]) == ("PointNavigation", 2)
    assert values["meta_batch_size"] == preset("PointNavigation")["meta_batch_size"]


def test_shorthands(cli):
    short = resolved(cli, "--env", "PointNavigation", "--outer", "trpo", "--outer.max_kl", "0.5")
    long = resolved(
        cli, "--env.name", "PointNavigation", "--outer.name", "trpo", "--outer.max_kl", "0.5"
    )
    assert short == long
    assert short["outer"]["max_kl"] == 0.5


def test_the_file_may_name_the_environment(cli, tmp_path):
    (tmp_path / "my.yaml").write_text("env: {name: PointNavigation, high: 0.2}\n")
    values = resolved(cli, "--config", "my.yaml")
    assert values["env"] | {"name": "PointNavigation", "high": 0.2} == values["env"]
    assert values["meta_batch_size"] == preset("PointNavigation")["meta_batch_size"]


def test_a_flag_may_name_another_environment_than_the_file(cli, tmp_path):
    (tmp_path / "my.yaml").write_text("env: {name: HalfCheetahVel}\nseed: 3\n")
    values = resolved(cli, "--config", "my.yaml", "--env", "PointNavigation")
    assert (values["env"]["name"], values["seed"]) == ("PointNavigation", 3)
    assert values["meta_batch_size"] == preset("PointNavigation")["meta_batch_size"]


def test_without_any_flag_the_default_environment_and_its_preset(cli):
    values = resolved(cli)
    assert values["env"]["name"] == "HalfCheetahVel"
    assert values == to_mapping(load_config())


def test_negative_numbers(cli):
    values = resolved(cli, "--env", "PointNavigation", "--env.low", "-0.25", "--env.high=-0.125")
    assert (values["env"]["low"], values["env"]["high"]) == (-0.25, -0.125)
    for flags in (("--env.low=-2.5e-1",), ("--env.low", "-.25"), ("--env.low", "-2.5e-1")):
        assert resolved(cli, "--env", "PointNavigation", *flags)["env"]["low"] == -0.25


@pytest.mark.parametrize(
    "flags",
    [
        (
            "--env",
            "PointNavigation",
            "--seed",
            "4",
            "--env.low",
            "-0.25",
            "--inner.first_order",
            "true",
        ),
        ("--env", "Pendulum-v1", "--env.kwargs", '{"g": 5.0}', "--env.vectorization", "async"),
        ("--env", "HalfCheetahDir", "--outer.max_kl", "0.5", "--output", "somewhere"),
        ("--config", "pytorch_maml_rl/HalfCheetahVel"),
    ],
    ids=lambda flags: flags[1],
)
def test_the_printed_configuration_loads_back(cli, tmp_path, flags):
    code, out, _ = cli("train", *flags, "--print_config")
    assert code == 0
    (tmp_path / "printed.yaml").write_text(out)
    code, again, _ = cli("train", "--config", "printed.yaml", "--print_config")
    assert code == 0
    assert again == out
    for flag, value in itertools.pairwise(flags):
        if flag == "--seed":
            assert yaml.safe_load(out)["seed"] == int(value)


def test_resume_keeps_the_settings_of_the_run(cli, run):
    before = (run / "config.yaml").read_bytes()
    assert cli("train", f"--resume={run}").code == 0
    assert (run / "config.yaml").read_bytes() == before


# --- help ---


def entries(text: str) -> dict[str, str]:
    """Help of each flag, by the flag."""
    parts = re.split(r"\n {2}(?=-)", text)[1:]
    return {re.findall(r"--[\w.]+", part)[0]: " ".join(part.split()) for part in parts}


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_help_shows_every_setting_with_meaning_and_default(cli, monkeypatch, family):
    monkeypatch.setenv("COLUMNS", "10000")
    code, out, err = cli("train", "--env", family, "--help")
    assert (code, err) == (0, "")
    shown = entries(out)
    groups = {"": Config, "env.": FAMILIES[family], "outer.": OUTER_CONFIGS["trpo"]}
    groups |= {f"{name}.": cls for name, cls in GROUPS.items()}
    for prefix, cls in groups.items():
        meanings = {
            parameter.arg_name: parameter.description
            for owner in reversed(cls.__mro__)
            if dataclasses.is_dataclass(owner)
            for parameter in docstring_parser.parse_from_object(owner).params
        }
        for field in dataclasses.fields(cls):
            if prefix == "" and (field.name in GROUPS or field.name in ("env", "learner", "outer")):
                continue
            text = shown[f"--{prefix}{field.name}"]
            assert meanings[field.name], field.name
            assert " ".join(meanings[field.name].split()) in text
            assert "default: " in text
            if field.default not in (None, dataclasses.MISSING) and field.name not in preset(
                family
            ):
                in_preset = preset(family).get(prefix.rstrip("."), {})
                if not (isinstance(in_preset, dict) and field.name in in_preset):
                    assert f"default: {field.default})" in text
    for flag in (
        "--env.name",
        "--learner.name",
        "--outer.name",
        "--config",
        "--resume",
        "--print_config",
    ):
        assert flag in shown
    for choice in ("tanh", "log_prob"):
        assert choice in out


def test_help_shows_the_defaults_that_the_preset_sets(cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "10000")
    shown = entries(cli("train", "--env", "PointNavigation", "-h").out)
    assert f"default: {preset('PointNavigation')['meta_batch_size']})" in shown["--meta_batch_size"]
    assert (
        f"default: {preset('PointNavigation')['policy']['action_scale']})"
        in shown["--policy.action_scale"]
    )


def test_help_of_a_registered_environment(cli):
    code, out, _ = cli("train", "--help", "--env", "Pendulum-v1")
    assert code == 0
    assert "--env.kwargs" in out
    assert "--env.vectorization" in out


@pytest.mark.parametrize("command", ["evaluate", "record"])
def test_help_of_the_other_commands(cli, command):
    code, out, err = cli(command, "--help")
    assert (code, err) == (0, "")
    for flag in ("RUN", "--num_steps", "--num_episodes", "--seed", "--device", "--output"):
        assert flag in out
    assert out.count("default") >= 6


def test_help_of_all_commands(cli):
    code, out, err = cli("--help")
    assert (code, err) == (0, "")
    lines = [line.split(maxsplit=1) for line in out.splitlines() if line.startswith("  ")]
    assert [name for name, _ in lines] == list(COMMANDS)
    assert "\nexample: maml-rl train --env HalfCheetahVel" in out
    assert cli() == (2, "", out)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_can_be_run(cli, command):
    code, out, err = cli(command, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"usage: python -m maml_rl.{command} ")
    assert "--version" in out


# --- list ---


def test_list_names_what_the_other_commands_take(cli):
    sections = {
        "families": list(FAMILIES),
        "presets": preset_names(),
        "learners": list(LEARNER_CONFIGS),
        "outer": list(OUTER_CONFIGS),
        "pretrained": maml_rl.pretrained_names(),
    }
    everything = ""
    for section, names in sections.items():
        code, out, err = cli("list", section)
        assert (code, err) == (0, "")
        rows = [line.split("  ", 1) for line in out.splitlines()]
        assert [name for name, _ in rows] == names
        assert all(what.strip() for _, what in rows)
        everything += "".join(f"  {line}\n" for line in out.splitlines())
    code, out, err = cli("list")
    assert (code, err) == (0, "")
    titles = [line for line in out.splitlines() if line and not line.startswith(" ")]
    assert [title.split(" ")[0] for title in titles] == list(sections)
    assert [line for line in out.splitlines() if line.startswith(" ")] == everything.splitlines()


@pytest.mark.parametrize(
    ("section", "line"),
    [
        ("families", "SwimmerVel +Swim forward at a goal velocity g"),
        ("presets", "maml/PointNavigation +Settings of Finn et al. .2017. for 2-D navigation"),
        ("learners", "maml +Adaptation by policy gradient, learned through the outer step"),
        ("outer", "trpo +Trust-region outer step"),
        ("pretrained", "AntDir +environment AntDir, learner maml, 120 iterations"),
    ],
)
def test_list_says_what_a_name_is(cli, section, line):
    assert re.search(f"^{line}$", cli("list", section).out, re.MULTILINE)


def test_list_does_not_read_a_folder_with_the_name_of_a_pretrained_policy(cli, tmp_path):
    (tmp_path / "AntDir").mkdir()
    assert "AntDir  " in cli("list", "pretrained").out


def test_list_refuses_an_unknown_section(refused):
    message = refused("list", "family")
    assert "unknown section 'family'. Did you mean families? Valid are families, " in message


# --- mistakes ---


@pytest.mark.parametrize(
    ("flag", "closest"),
    [
        ("--sed", "--seed"),
        ("--num_iteration", "--num_iterations"),
        ("--num_iter", None),
        ("--inner.num_step", "--inner.num_steps"),
        ("--inner.num", None),
        ("--step_size", "--inner.step_size"),
        ("--max_kl", "--outer.max_kl"),
        ("--env.hihg", "--env.high"),
        ("--env.goal_velocity", None),
        ("--hidden_sizes", "--policy.hidden_sizes"),
        ("--resum", "--resume"),
        ("--print_conf", "--print_config"),
        ("--outer.learning_rate", None),
        ("--policy", None),
        ("--hlp", "--help"),
    ],
)
@pytest.mark.parametrize("equals", [False, True])
def test_an_unknown_flag_is_refused_with_the_closest(refused, flag, closest, equals):
    message = refused("train", *TINY, *([f"{flag}=1"] if equals else [flag, "1"]))
    assert f"unknown flag {flag}." in message
    if closest is not None:
        assert f"Did you mean {closest}?" in message


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("num_iteration: 3", ["num_iteration", "num_iterations"]),
        ("inner: {num_step: 3}", ["inner.num_step", "inner.num_steps"]),
        ("polcy: {hidden_sizes: [3]}", ["polcy.hidden_sizes", "policy.hidden_sizes"]),
        ("env: {name: PointNavigation, hihg: 1}", ["env.hihg", "env.high"]),
        ("config: other.yaml", ["config"]),
        ("resume: runs/x", ["resume"]),
        ("print_config: true", ["print_config"]),
        ("help: true", ["help"]),
        ("- seed\n- 3", ["list"]),
        ("just text", ["str"]),
        ("seed: [1", ["my.yaml"]),
        ("seed: 1\n\tseed: 2", ["my.yaml"]),
        ("seed: three", ["seed", "three"]),
        ("seed: null", ["seed"]),
        ("horizon: 1.5", ["horizon", "1.5"]),
        ("horizon: -1", ["horizon", "-1"]),
        ("policy: null", ["policy"]),
        ("policy: 3", ["policy"]),
        ("env: 3", ["env"]),
        ("env: {name: PointNavigation, low: 1, high: 0}", ["low", "high"]),
        ("outer: {name: trop}", ["trop", "trpo"]),
        ("output: {a: b}", ["output"]),
        ("seed: !!python/object/apply:os.system ['touch hacked']", ["my.yaml"]),
        ("seed: !!python/object/new:os.system ['touch hacked']", ["my.yaml"]),
        ("env: {name: Pendulum-v1, kwargs: !!python/name:os.system ''}", ["my.yaml"]),
        ("seed: 2021-13-45", ["my.yaml"]),
        ("seed: !!int nothing", ["my.yaml"]),
        ("policy: &again {more: *again}", []),
        pytest.param("[" * 5000, ["my.yaml"], id="nested"),
        ('output: "a\\0b"', ["output"]),
    ],
)
def test_a_bad_file_is_refused(refused, tmp_path, text, parts):
    (tmp_path / "my.yaml").write_text(text)
    message = refused(
        "train", "--env", "PointNavigation", "--num_iterations", "1", "--config", "my.yaml"
    )
    for part in parts:
        assert part in message
    assert not (tmp_path / "hacked").exists()


def test_an_unknown_environment_in_a_file_is_refused(refused, tmp_path):
    (tmp_path / "my.yaml").write_text("env: {name: PointNavigaton}")
    assert "Did you mean 'PointNavigation'" in refused("train", "--config", "my.yaml")


@pytest.mark.parametrize("name", ["missing.yaml", ".", "maml", "HalfCheetahVell"])
def test_a_missing_file_is_refused(refused, name):
    assert "no file" in refused("train", "--config", name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        ("--seed three", ["seed", "three"]),
        ("--seed 1.5", ["seed", "1.5"]),
        ("--seed=-1", ["seed", "-1"]),
        ("--seed true", ["seed"]),
        ("--seed null", ["seed"]),
        ("--seed", ["--seed"]),
        ("--seed=", ["seed"]),
        ("--num_iterations 0", ["num_iterations", "0"]),
        ("--meta_batch_size -2", ["meta_batch_size", "-2"]),
        ("--num_episodes 0", ["num_episodes"]),
        ("--horizon ten", ["horizon", "ten"]),
        ("--policy.hidden_sizes [64,-1]", ["hidden_sizes", "-1"]),
        ("--policy.hidden_sizes 64,64", ["hidden_sizes", "64,64"]),
        ("--policy.hidden_sizes [a]", ["hidden_sizes"]),
        ("--policy.nonlinearity sin", ["nonlinearity", "sin", "tanh"]),
        ("--policy.init_std nan", ["init_std", "nan"]),
        ("--policy.action_scale 0", ["action_scale"]),
        ("--policy.normalize_observations maybe", ["normalize_observations", "maybe"]),
        ("--inner.num_steps -1", ["num_steps", "-1"]),
        ("--inner.step_size inf", ["step_size", "inf"]),
        ("--inner.surrogate logprob", ["surrogate", "logprob", "log_prob"]),
        ("--baseline.discount 1.01", ["discount", "1.01"]),
        ("--baseline.ridge 0", ["ridge"]),
        ("--logging.checkpoint_every 0", ["checkpoint_every", "0"]),
        ("--logging.video_every -1", ["video_every", "-1"]),
        ("--outer.max_kl -0.01", ["max_kl", "-0.01"]),
        ("--outer.line_search_shrink 1.5", ["line_search_shrink", "1.5"]),
        ("--outer ppoo", ["ppoo", "trpo"]),
        ("--env.low 1 --env.high -1", ["low", "high", "1.0", "-1.0"]),
        ("--env.goal_tolerance -1", ["goal_tolerance", "-1"]),
        ("--env.low west", ["low", "west"]),
        ("--env PointNavigaton", ["PointNavigaton", "PointNavigation"]),
        ("--env HalfCheetah", ["HalfCheetah", "Did you mean"]),
        ("--env CartPole", ["CartPole", "CartPole-v"]),
        ("--env CartPole-v99", ["CartPole-v99"]),
        ("--env no_such_module:Env-v0", ["no_such_module"]),
        ("--env :CartPole-v1", [":CartPole-v1"]),
        ("--env json:Env-v0", ["Env-v0"]),
        ("--env Ant-v2", ["Ant-v2"]),
        ("--env Pendulum-v1 --env.kwargs {gravity:1}", ["gravity"]),
        ("--env Pendulum-v1 --env.kwargs 3", ["kwargs"]),
        ("--env Pendulum-v1 --env.kwarg_ranges 3", ["kwarg_ranges"]),
        ("--env Pendulum-v1 --env.kwarg_ranges {g:3}", ["kwarg_ranges"]),
        ("--env Pendulum-v1 --env.task_list {g:3}", ["task_list"]),
        ("--env.kwarg_ranges {low:[1,2]}", ["kwarg_ranges", "PointNavigation", "dynamics"]),
        ("--env Pendulum-v1 --env.vectorization threads", ["vectorization", "threads", "async"]),
        ("--env", ["--env"]),
        ("--config", ["--config"]),
        ("--config --seed 1", ["--config"]),
        ("--resume", ["--resume"]),
        ("--device gpu", ["gpu"]),
        ("--device cuda:99", ["cuda:99"]),
        ("--device meta", ["meta"]),
        ("--device hpu", ["hpu"]),
        ("--init_from missing", ["missing"]),
        ("surplus", ["surplus"]),
        ("-seed 3", ["-seed"]),
        ("--print_config=yes", ["print_config"]),
    ],
)
def test_a_bad_flag_is_refused(refused, flags, parts):
    message = refused("train", *TINY, *flags.split(" "))
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("env", "library"), [("LunarLander-v3", "Box2D"), ("phys2d/CartPole-v1", "jax")]
)
def test_an_environment_whose_library_is_missing_is_refused(refused, monkeypatch, env, library):
    for name in [name for name in sys.modules if name.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    assert library in refused("train", *TINY, "--env", env)


def test_an_environment_whose_module_fails_is_refused_with_the_place(
    refused, monkeypatch, tmp_path_factory
):
    folder = tmp_path_factory.mktemp("modules")  # Python may write bytecode there
    (folder / "two_lines.py").write_text("raise RuntimeError('first line\\nsecond line')\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setitem(
        gym.registry, "TwoLines-v0", gym.envs.registration.EnvSpec("TwoLines-v0", "two_lines:Env")
    )
    message = refused("train", *TINY, "--env", "TwoLines-v0", "--env.size", "3")
    assert "(RuntimeError: first line second line (" in message
    assert message.endswith("two_lines.py, line 1))")


@pytest.mark.parametrize("there", ["file in it", "hidden file in it", "file", "run"])
def test_an_output_that_holds_something_is_refused(refused, tmp_path, run, there):
    output = tmp_path / "output"
    if there == "run":
        output = run
    elif there == "file":
        output.write_text("precious")
    else:
        output.mkdir()
        (output / (".hidden" if "hidden" in there else "thesis.txt")).write_text("precious")
    message = "is not a folder" if there == "file" else "is not empty"
    assert message in refused("train", *TINY, "--output", output)


def test_an_output_that_cannot_be_written_is_refused(refused, tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refused("train", *TINY, "--output", "file/run")
    assert "cannot be written" in refused("train", *TINY, "--output", "x" * 300)


@pytest.mark.parametrize(
    "flags",
    [
        ("--seed", "5"),
        ("--env", "HalfCheetahDir"),
        ("--output", "elsewhere"),
        ("--config", "PointNavigation"),
        ("--inner.num_steps=2",),
        ("--device", "cpu"),
        ("--logging.final_video=false",),
        ("--nonsense", "1"),
        ("surplus",),
    ],
    ids=lambda flags: flags[0],
)
def test_resume_takes_no_other_settings(refused, run, flags):
    name = flags[0].partition("=")[0]
    for argv in (("--resume", run, *flags), (*flags, "--resume", run, "--num_iterations", "9")):
        message = refused("train", *argv)
        assert name in message
        assert "--num_iterations" in message


@pytest.mark.parametrize("number", ["0", "-1", "many", "1.5", "", "²"])
def test_resume_with_a_bad_number_is_refused(refused, run, number):
    assert "num_iterations" in refused("train", "--resume", run, f"--num_iterations={number}")


def test_resume_of_what_is_no_run_is_refused(refused, tmp_path):
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.txt").write_text("precious")
    (tmp_path / "file").write_text("")
    assert "no run folder missing" in refused("train", "--resume", "missing")
    assert "not a run folder" in refused("train", "--resume", "foreign")
    assert "no run folder file" in refused("train", "--resume", "file")


@pytest.mark.slow
@pytest.mark.parametrize("text", ["seed: [", "sed: 1", "seed: one", "- 1", "env: {name: Gone-v0}"])
def test_a_run_with_a_damaged_configuration_is_refused(refused, tmp_path, text):
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "config.yaml").write_text(text)
    for command in (("train", "--resume"), ("evaluate",), ("record",)):
        assert refused(*command, "damaged")


@pytest.mark.parametrize("command", ["evaluate", "record"])
def test_evaluate_and_record_refuse_what_is_no_run(refused, tmp_path, command, run):
    assert "no run folder missing" in refused(command, "missing")
    (tmp_path / "foreign").mkdir()
    assert "not a run folder" in refused(command, "foreign")
    (tmp_path / "early").mkdir()
    (tmp_path / "early" / "config.yaml").write_bytes((run / "config.yaml").read_bytes())
    assert "no checkpoint" in refused(command, "early")
    (tmp_path / "early" / "checkpoints" / "000001").mkdir(parents=True)
    assert "000001" in refused(command, "early")


@pytest.mark.parametrize("command", ["evaluate", "record"])
@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        ("--num_episode 3", ["--num_episode", "--num_episodes"]),
        ("--num_e=3", ["--num_e"]),
        ("--num_episodes 0", ["--num_episodes", "0"]),
        ("--num_episodes x", ["--num_episodes", "x"]),
        ("--num_steps -1", ["--num_steps", "-1"]),
        ("--num_steps 1.5", ["--num_steps", "1.5"]),
        ("--seed -1", ["--seed", "-1"]),
        ("--seed ²", ["--seed"]),
        ("--device gpu", ["gpu"]),
        ("--device cuda:99", ["cuda:99"]),
        ("--output", ["--output"]),
        ("surplus", ["surplus"]),
    ],
)
def test_evaluate_and_record_refuse_bad_flags(refused, run, command, flags, parts):
    message = refused(command, run, *flags.split(" "))
    for part in parts:
        assert part in message


@pytest.mark.parametrize("command", ["evaluate", "record"])
def test_evaluate_and_record_need_a_run(refused, command):
    assert "RUN" in refused(command)


@pytest.mark.parametrize(
    "flags", ["--num_tasks 0", "--num_tasks -1", "--num_task 3", "--num_tasks"]
)
def test_evaluate_refuses_bad_numbers_of_tasks(refused, run, flags):
    assert "--num_task" in refused("evaluate", run, *flags.split(" "))


def test_names_that_are_too_long_are_refused(refused, run):
    name = "x" * 300
    assert "File name too long" in refused("evaluate", run, "--output", name)
    assert "File name too long" in refused("evaluate", run, "--output", f"{name}/in_it")
    assert "File name too long" in refused("plot", run, "--output", f"{name}.png")
    assert "unknown environment" in refused("train", "--env", name)
    with pytest.raises(UserError, match="there is no folder x"):
        maml_rl.load(run).export(f"{name}/policy.ts")


def test_evaluate_refuses_an_output_that_is_a_file(refused, run, tmp_path):
    (tmp_path / "file").write_text("precious")
    assert "file" in refused(
        "evaluate", run, "--num_tasks=2", "--num_episodes=2", "--num_steps=1", "--output", "file"
    )


@pytest.mark.parametrize(
    ("task", "parts"),
    [
        ("goal=1", ["goal", "goal_x"]),
        ("goal_x=1", ["goal_x", "goal_y"]),
        ("goal_x=1,goal_y=2,goal_z=3", ["goal_z"]),
        ("goal_x=east,goal_y=0", ["goal_x", "east"]),
        ("goal_x=nan,goal_y=0", ["goal_x", "nan"]),
        ("goal_x=inf,goal_y=0", ["goal_x", "inf"]),
        ("goal_x=1e9,goal_y=0", ["goal_x"]),
        ("goal_x", ["goal_x"]),
        ("=1", ["=1"]),
        ("", ["NAME=VALUE"]),
        (",", ["NAME=VALUE"]),
    ],
)
def test_record_refuses_a_bad_task(refused, run, task, parts):
    message = refused("record", run, "--task", task)
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dynamics", "goal_x=0:1:3"], "record does not sweep"),
        (["--task", "goal_x=0.1,goal_y=0", "--dynamics", "goal_x=1"], "leave out --dynamics"),
        (
            ["--task", "goal_x=0.1,goal_y=0", "--env.dynamics.body_mass", "3"],
            "leave out --env.dynamics.body_mass",
        ),
    ],
)
def test_record_refuses_contradictions_before_it_loads_the_run(
    refused, run, monkeypatch, flags, message
):
    monkeypatch.setattr("maml_rl.agents.load.load_run", lambda *_: pytest.fail("loaded"))
    assert message in refused("record", run, *flags)


@pytest.mark.parametrize("output", ["new/video.avi", "video", "video.mp4.txt", "new/.mp4"])
def test_record_refuses_an_unknown_ending(refused, run, output):
    assert ".gif" in refused("record", run, "--output", output)


def test_record_refuses_an_output_that_is_a_folder(refused, run, tmp_path):
    (tmp_path / "folder.mp4").mkdir()
    assert "folder.mp4" in refused("record", run, "--output", "folder.mp4")


@pytest.mark.parametrize("argv", [(), ("trian",), ("--seed", "1")])
def test_without_a_command_the_commands_are_named(cli, argv):
    code, out, err = cli(*argv)
    assert (code, out) == (2, "")
    for command in ("train", "evaluate", "record"):
        assert command in err


def test_an_unknown_command_is_an_error(refused):
    assert "trian" in refused("trian")


# --- what the commands do ---


def test_train_logs_what_it_does(cli, tmp_path):
    code, out, err = cli("train", *TINY, "--output", "out", "--logging.final_video=false")
    assert code == 0
    assert "PointNavigation" in out
    assert "32 control steps" in out
    assert "1/1" not in err  # the progress bar is for terminals
    assert (tmp_path / "out" / "evaluation" / "results.json").exists()


def test_the_default_output_is_under_runs(cli, tmp_path):
    flags = ("--logging.final_evaluation=false", "--logging.final_video=false")
    assert cli("train", *TINY, "--seed=7", *flags).code == 0
    (folder,) = (tmp_path / "runs" / "PointNavigation").iterdir()
    assert re.fullmatch(r"\d{8}-\d{6}-7", folder.name)
    assert (folder / "config.yaml").exists()


def test_two_runs_of_one_second_do_not_collide(cli, tmp_path):
    flags = ("--logging.final_evaluation=false", "--logging.final_video=false")
    for _ in range(3):
        code, _, err = cli("train", *TINY, *flags)
        assert code == 0, err
    assert len(list((tmp_path / "runs" / "PointNavigation").iterdir())) == 3


@pytest.mark.slow
def test_evaluate_prints_and_writes(cli, run, tmp_path):
    flags = (
        "--num_tasks=3",
        "--num_episodes=2",
        "--num_steps=2",
        "--seed=1",
        "--device=cpu",
        "--output",
        "results",
    )
    code, out, err = cli("evaluate", run, *flags)
    assert (code, err) == (0, "")
    assert "3 fresh tasks" in out
    written = {path.name for path in (tmp_path / "results").iterdir()}
    assert written >= {
        "results.json",
        "results.csv",
        "report.html",
        "adaptation.png",
        "adaptation.svg",
        "adaptation.pdf",
    }
    (result,) = json.loads((tmp_path / "results" / "results.json").read_text())["results"]
    assert len(result["return"]) == 3
    for k, value in enumerate(result["return"]):
        assert re.search(rf"^ *meta-trained +{k} +{2 * k} +{value:.1f} ", out, re.MULTILINE)
    assert not (run / "evaluation").exists()


# --- another body, other tasks ---


@pytest.fixture(scope="module")
def walking_run(tmp_path_factory) -> Path:
    """A finished run of a family with dynamics and held-out tasks."""
    config = load_config(
        env={"name": "CrippledHalfCheetah", "dynamics": {"body_mass": [0.5, 2.0]}},
        **{
            "num_iterations": 1,
            "meta_batch_size": 2,
            "num_episodes": 2,
            "horizon": 4,
            "device": "cpu",
        },
        policy={"hidden_sizes": [4]},
        logging={"final_evaluation": False, "final_video": False},
        output=str(tmp_path_factory.mktemp("walking") / "run"),
    )
    return maml_rl.train(config)


SMALL = ("--num_tasks=4", "--num_episodes=2", "--num_steps=1", "--output=results")


def evaluated_tasks(cli, tmp_path, *argv: str | Path) -> tuple[str, list[dict]]:
    code, out, err = cli("evaluate", *argv, *SMALL)
    assert (code, err) == (0, "")
    content = json.loads((tmp_path / "results" / "results.json").read_text())
    return out, [entry["task"] for entry in content["results"][0]["tasks"]]


@pytest.mark.slow
def test_evaluate_draws_held_out_tasks_by_default(cli, walking_run, tmp_path):
    out, tasks = evaluated_tasks(cli, tmp_path, walking_run)
    assert "held out of training" in out
    assert {task["disabled_actuator"] for task in tasks} == {0}
    assert all(0.5 <= task["body_mass"] <= 2 for task in tasks)
    out, tasks = evaluated_tasks(cli, tmp_path, walking_run, "--tasks.split", "train")
    assert "held out" not in out
    assert 0 not in {task["disabled_actuator"] for task in tasks}


@pytest.mark.slow
def test_evaluate_with_other_dynamics(cli, walking_run, tmp_path):
    flags = (
        "--dynamics",
        "body_mass=3,slope=-0.1:0.1",
        "--dynamics=action_delay=[1,2]",
        "--dynamics",
        "gravity=9:9.5",
    )
    out, tasks = evaluated_tasks(cli, tmp_path, walking_run, *flags)
    assert "body_mass 3" in out
    for task in tasks:
        assert task["body_mass"] == 3
        assert abs(task["slope"]) <= 0.1
        assert task["action_delay"] in (1, 2)
        assert 9 <= task["gravity"] <= 9.5
    assert len({task["slope"] for task in tasks}) == 4
    settings = json.loads((tmp_path / "results" / "results.json").read_text())["env_settings"]
    assert settings["split"] == "held_out"
    assert settings["dynamics"]["body_mass"] == 3


@pytest.mark.slow
@pytest.mark.parametrize("command", ["evaluate", "record"])
@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        ("--dynamics", ["--dynamics", "value"]),
        ("--dynamics --seed 1", ["--dynamics", "value"]),
        ("--dynamics body_mass", ["NAME=VALUE", "'body_mass'"]),
        ("--dynamics body_mass=1:2:3:4", ["NAME=LOW:HIGH:POINTS", "1:2:3:4"]),
        ("--dynamics body_mass=2:1:3", ["NAME=LOW:HIGH:POINTS", "2:1:3"]),
        ("--dynamics body_mass=1:2:1", ["2 to 1000 points", "1:2:1"]),
        ("--dynamics body_mass=1:heavy:3", ["NAME=LOW:HIGH:POINTS", "1:heavy:3"]),
        ("--dynamics body_mass=", ["NAME=VALUE"]),
        ("--dynamics body_mass=2:1", ["body_mass", "low <= high"]),
        ("--dynamics body_mass=heavy", ["body_mass", "heavy"]),
        ("--dynamics body_mas=2", ["body_mas", "'body_mass'"]),
        ("--dynamics body_mass/tors=2", ["body_mass/torso", "body_mass/ffoot"]),
        ("--dynamics disabled_actuator=1", ["draws disabled_actuator itself"]),
        ("--tasks.splt train", ["splt", "split"]),
        ("--tasks.split test", ["split", "test", "held_out"]),
        ("--tasks.name AntDir", ["no setting 'name'"]),
        ("--tasks.horizon 3", ["no setting 'horizon'"]),
        ("--tasks.control_cost_weight -1", ["control_cost_weight", "-1"]),
        ("--tasks.split", ["--tasks.split", "value"]),
    ],
)
def test_other_bodies_and_tasks_that_make_no_sense(refused, walking_run, command, flags, parts):
    message = refused(command, walking_run, *flags.split(" "))
    for part in parts:
        assert part in message


def test_a_body_without_dynamics(refused, run):
    assert "PointNavigation has no dynamics" in refused(
        "evaluate", run, "--dynamics", "body_mass=2"
    )
    assert "no dynamics" in refused(
        "train", "--env", "PointNavigation", "--env.dynamics.body_mass", "2"
    )


def test_record_takes_a_task_or_a_body_to_draw_from(refused, walking_run):
    message = refused(
        "record", walking_run, "--task", "disabled_actuator=1", "--dynamics", "body_mass=2"
    )
    assert "--task" in message


def test_items_of_the_dynamics_are_flags(cli):
    flags = (
        "--env.dynamics.body_mass",
        "[0.5, 2]",
        "--env.dynamics.slope=0.1",
        "--env.dynamics.dof_damping=null",
    )
    values = resolved(cli, "--env", "HopperRandParams", *flags)["env"]["dynamics"]
    assert (values["body_mass"], values["slope"], values["dof_damping"]) == ([0.5, 2], 0.1, None)
    assert values["geom_friction"]["each"]


def test_train_takes_dynamics_as_the_other_commands_do(cli, refused):
    flags = ("--dynamics", "body_mass=0.5:2,slope=-0.1,disabled_actuator=[-1,0]")
    assert resolved(cli, "--env", "HalfCheetahVel", *flags)["env"]["dynamics"] == {
        "body_mass": {"low": 0.5, "high": 2},
        "slope": -0.1,
        "disabled_actuator": [-1, 0],
    }
    assert "not the sweep" in refused("train", "--dynamics", "body_mass=0.5:2:4")
    assert "unknown flag --tasks.high" in refused("train", "--tasks.high", "3")
    message = refused("train", "--env", "Pendulum-v1", "--dynamics", "g=5:20")
    assert "--env.kwarg_ranges.g [LOW,HIGH]" in message


def test_numpys_numbers_are_settings_too(tmp_path):
    dynamics = {
        "body_mass": np.array([0.5, 2.0]),
        "slope": np.float64(0.1),
        "action_delay": range(3),
    }
    config = load_config(env={"name": "HopperVel", "dynamics": dynamics})
    assert config.env.kwargs["dynamics"] == {
        "body_mass": [0.5, 2.0],
        "slope": 0.1,
        "action_delay": [0, 1, 2],
    }


def test_record_prints_and_writes(cli, run, tmp_path):
    flags = (
        "--task",
        "goal_x=0.25,goal_y=-1e-1",
        "--num_steps=0",
        "--output",
        "videos/point.gif",
        "--stochastic",
    )
    code, out, err = cli("record", run, *flags)
    assert (code, err) == (0, "")
    assert "videos/point.gif" in out
    assert [path.name for path in (tmp_path / "videos").iterdir()] == ["point.gif"]


@pytest.mark.slow
def test_the_modules_run(tmp_path):
    """As processes: nothing but the one message on stderr."""
    for module, argv in (("maml_rl.train", ["--sed", "1"]), ("maml_rl", ["evaluate", "missing"])):
        command = [sys.executable, "-m", module, *argv]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode == 2
        assert done.stdout == ""
        assert re.fullmatch(r"error: .*\n", done.stderr)
    command = [sys.executable, "-m", "maml_rl.record", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "usage: python -m maml_rl.record" in done.stdout


@pytest.mark.thorough
@pytest.mark.parametrize(
    "argv",
    [
        *(["train", "--print_config"], ["train", "--help"], ["evaluate", "--help"], ["--version"]),
        ["train", *TINY, "--logging.final_video=false"],
    ],
    ids=" ".join,
)
def test_nobody_reads_the_output(argv, tmp_path):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "maml_rl", *argv]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    streams = {"stdout": write, "stderr": subprocess.PIPE, "text": True}
    try:
        done = subprocess.run(command, **streams, check=False, cwd=tmp_path, env=buffered)
    finally:
        os.close(write)
    assert done.stderr == ""
    assert done.returncode in (
        (0, 141) if "--help" in argv else (141,)
    )  # argparse passes over it with a long text


@pytest.mark.thorough
@pytest.mark.parametrize("argv", [["list"], ["train", *TINY, "--output=run"]], ids=" ".join)
def test_an_output_on_a_full_disk_is_one_line(argv, tmp_path):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "maml_rl", *argv],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            cwd=tmp_path,
        )
    assert done.returncode == 2
    assert re.fullmatch(
        "error: stdout cannot be written: .* No space left on device\n", done.stderr
    )


def test_a_folder_that_no_longer_exists_is_one_line(refused, tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert "the current folder no longer exists" in refused("list")


def test_flags_with_several_values_may_be_repeated(refused, run):
    message = refused("compare", "dynamics", "--learners", "rl2", "--learners", "rl2")
    assert "rl2 is named twice" in message
    message = refused("plot", run, "--labels", "a", "--labels", "b")
    assert "needs 1 label, one per line of the plot, got 2" in message


def test_dynamics_that_are_set_twice_are_refused(refused, run):
    for flags in (["--dynamics", "goal_x=1:2:2,goal_x=1"], ["--dynamics=goal_x=1"] * 2):
        assert "--dynamics sets goal_x twice" in refused("evaluate", run, *flags)
    for value in ("body_mass=2", "body_mass=0.5:2:3"):
        for other in ("--env.dynamics.body_mass=3", "--tasks.dynamics.body_mass=3"):
            message = refused("evaluate", "HalfCheetahVel", "--dynamics", value, other)
            assert f"--dynamics and {other.partition('=')[0]} both set body_mass" in message
    flags = ("--env=HalfCheetahVel", "--env.dynamics.body_mass=3", "--dynamics=body_mass=0.5:2")
    assert "--env.dynamics.body_mass both set body_mass" in refused("train", *flags)


def test_a_sweep_has_its_ends_and_as_many_values(tmp_path):
    (flags, _) = take_env_flags(["--dynamics", "mass=1e-13:9e-13:3,gap=0.1:0.3:3"])
    assert flags.sweeps == {"mass": (1e-13, 5e-13, 9e-13), "gap": (0.1, 0.2, 0.3)}


NOISY = """
import warnings
import gymnasium as gym, numpy as np
from gymnasium import spaces
class Noisy(gym.Env):
    observation_space = spaces.Box(-1, 1, (2,), np.float64)
    action_space = spaces.Box(-1, 1, (1,), np.float32)
    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}
    def step(self, action):
        return np.full(2, 3.0, np.float32), 1.0, False, False, {}
gym.register("Noisy-v0", Noisy)
gym.register("Noisy-v0", Noisy)
warnings.warn("the robot\\nis old")
warnings.warn("soon gone", FutureWarning)
"""


@pytest.mark.thorough
def test_warnings_are_one_line_each(tmp_path):
    (tmp_path / "noisy.py").write_text(NOISY)
    sizes = [flag for flag in SIZES.split() if not flag.startswith("--policy")]
    argv = ["--env=noisy:Noisy-v0", *sizes, "--output=run", "--logging.final_video=false"]
    command = [sys.executable, "-m", "maml_rl.train", *argv]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [line.rpartition("it/s]")[2] for line in done.stderr.replace("\r", "\n").splitlines()]
    lines = [line for line in lines if line.strip() and "%|" not in line]
    assert all(line.startswith("warning: ") for line in lines), done.stderr
    assert "\x1b" not in done.stderr
    assert lines[:3] == [
        "warning: Overriding environment Noisy-v0 already in registry.",
        f"warning: the robot is old ({tmp_path / 'noisy.py'}:14)",
        f"warning: FutureWarning: soon gone ({tmp_path / 'noisy.py'}:15)",
    ]
    assert len(lines) == len(set(lines))


@pytest.mark.slow
@pytest.mark.parametrize(
    "argv",
    [
        ["train", "--print_config"],
        ["train", "--help"],
        ["train", "--env=PointNavigation", "--outer=promp", "-h"],
        ["list"],
    ],
)
def test_help_and_settings_import_no_torch(argv):
    code = """if True:
        import sys
        from maml_rl.cli import main
        try:
            main(sys.argv[1:])
        except SystemExit as stopped:
            assert not stopped.code
        print(*sys.modules)
    """
    command = [sys.executable, "-c", code, *argv]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "mujoco" in loaded
    assert not loaded & {
        *("torch", "matplotlib", "scipy.stats", "stable_baselines3"),
        *("tensorboard", "imageio", "av", "onnx"),
    }


@pytest.mark.thorough
def test_help_about_a_module_of_the_users_imports_what_it_needs(tmp_path):
    (tmp_path / "with_torch.py").write_text(
        "import gymnasium as gym\nimport torch\n\nSIZE = int(torch.ones(3).sum())\n"
        "class Env(gym.Env):\n    observation_space = action_space = gym.spaces.Box(-1, 1, "
        "(SIZE,))\n"
        "gym.register('WithTorch-v0', Env)\n"
    )
    command = [sys.executable, "-m", "maml_rl.train", "--env", "with_torch:WithTorch-v0", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--env.kwargs" in done.stdout


@pytest.mark.parametrize("argv", [[], *([name] for name in COMMANDS), ["evaluate", "missing"]])
def test_the_version(cli, argv):
    version = importlib.metadata.version("maml-rl")
    assert maml_rl.__version__ == version
    assert cli(*argv, "--version") == (0, f"maml-rl {version}\n", "")


def test_an_unknown_command_has_no_version(refused):
    assert "unknown command 'trian'" in refused("trian", "--version")


@pytest.mark.slow
def test_the_version_imports_no_torch():
    code = "import sys, maml_rl; maml_rl.__version__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        (["trian"], "Did you mean train?"),
        (
            ["train", "--config", "pytorch_maml_rl/HalfCheetahDri"],
            "Did you mean pytorch_maml_rl/HalfCheetahDir?",
        ),
    ],
)
def test_a_name_with_a_slip_is_recognised(argv, hint, capsys):
    assert main(argv) == 2
    assert hint in capsys.readouterr().err


@pytest.mark.slow
def test_an_adapted_policy_is_no_run_to_go_on_with(run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    agent = maml_rl.load(run)
    adapted = agent.adapt(task=drawn_task(agent), num_steps=1, num_episodes=2)
    adapted.save(tmp_path / "adapted")
    before = sorted(tmp_path.rglob("*"))
    assert main(["train", "--resume", "adapted"]) == 2
    error = capsys.readouterr().err
    assert "after 1 adaptation step," in error
    assert error.endswith(" with: python -m maml_rl.train --init_from adapted ...\n")
    assert sorted(path for path in tmp_path.rglob("*") if path.name != ".lock") == before
    with pytest.raises(UserError, match=r"choose another$"):
        adapted.save(tmp_path / "adapted")
    assert main(["evaluate", "adapted", "--num_tasks=2", "--num_episodes=2", "--num_steps=1"]) == 0
    assert "meta-trained, adapted by 1 step" in capsys.readouterr().out


def test_a_family_is_given_as_a_flag(capsys):
    assert main(["train", "ReacherGoal"]) == 2
    assert "--env ReacherGoal" in capsys.readouterr().err


@pytest.mark.slow
def test_evaluate_on_chosen_tasks(run, tmp_path, capsys):
    folder = tmp_path / "evaluation"
    chosen = ["--task", "goal_x=0.3,goal_y=-0.2", "--task=goal_x=0.1,goal_y=0"]
    rest = ["--num_episodes=2", "--num_steps=1", "--output", str(folder)]
    assert main(["evaluate", str(run), *chosen, *rest]) == 0
    out = capsys.readouterr().out
    assert "2 given tasks" in out
    assert "in place of" not in out
    tasks = [
        entry["task"]
        for entry in json.loads((folder / "results.json").read_text())["results"][0]["tasks"]
    ]
    assert tasks == [{"goal_x": 0.3, "goal_y": -0.2}, {"goal_x": 0.1, "goal_y": 0.0}]
    assert "2 given tasks" in (folder / "report.html").read_text()
    assert main(["evaluate", str(run), "--num_tasks=1", *rest]) == 0
    out = capsys.readouterr().out
    assert "1 fresh task," in out
    assert "in place of an earlier evaluation" in out


@pytest.mark.parametrize(
    "others",
    [["--num_tasks", "2"], ["--tasks.high", "0.1"], ["--task", "goal_x=0.1"], ["--task", "x"]],
)
def test_a_chosen_task_stands_alone(run, tmp_path, capsys, others):
    folder = tmp_path / "evaluation"
    argv = [
        "evaluate",
        str(run),
        "--task",
        "goal_x=0.3,goal_y=-0.2",
        *others,
        "--output",
        str(folder),
    ]
    assert main(argv) == 2
    assert "error:" in capsys.readouterr().err
    assert not folder.exists()


@pytest.mark.parametrize("package", ["mujoco", "torch"])
def test_a_missing_dependency_is_one_line(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a new process, where nothing is imported yet."""
    script = f"import sys; sys.modules[{package!r}] = None; from maml_rl.cli import main; "
    script += "sys.exit(main(['train', '--env', 'PointNavigation', '--num_iterations', '1']))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    expected = f"error: package {package} is not installed; maml-rl doctor lists what to install\n"
    assert done.stderr == expected
    assert not list(tmp_path.iterdir())


def test_another_missing_module_is_not_a_dependency(monkeypatch: pytest.MonkeyPatch) -> None:
    def command(argv: list[str]) -> int:
        raise ModuleNotFoundError("No module named 'plugin'", name="plugin")

    monkeypatch.setattr("maml_rl.plot.command", command)
    with pytest.raises(ModuleNotFoundError, match="plugin"):
        main(["plot", "runs"])


def test_sigterm_leaves_no_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(StopSignal), made_folder(tmp_path / "new" / "evaluation"):
        signal.raise_signal(signal.SIGTERM)
    assert not (tmp_path / "new" / "evaluation").exists()


@pytest.mark.parametrize(
    ("error", "status"),
    [(KeyboardInterrupt(), 130), (StopSignal(signal.SIGTERM), 143), (StopSignal(1), 129)],
)
def test_a_stop_signal_is_the_exit_status(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: KeyboardInterrupt,
    status: int,
) -> None:
    def command(argv: list[str]) -> int:
        raise error

    monkeypatch.setattr("maml_rl.plot.command", command)
    assert main(["plot", "runs"]) == status
    assert capsys.readouterr() == ("", "stopped\n")
