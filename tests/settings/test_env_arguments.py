"""Constructor arguments and tasks of a user's environment arrive and are saved unchanged."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

import maml_rl
from maml_rl.cli import main
from maml_rl.env_flags import env_of
from maml_rl.errors import UserError
from maml_rl.runs.run_folder import run_config
from maml_rl.sampling.environments import make_task_vector_env
from maml_rl.settings.config import Config, env_settings, to_mapping
from maml_rl.settings.env import ENV_SETTINGS, EnvConfig
from maml_rl.settings.parser import parse_training_arguments
from maml_rl.training.start import resume

TINY: dict[str, Any] = {
    "meta_batch_size": 2,
    "num_episodes": 2,
    "horizon": 3,
    "num_iterations": 1,
    "device": "cpu",
}
QUIET = {"final_evaluation": False, "final_video": False}
SMALL = [f"--{name}={value}" for name, value in TINY.items()] + [
    f"--logging.{name}=false" for name in QUIET
]
RECEIVED: list[dict[str, Any]] = []
"""What each constructor was given, in order."""


class AnyArguments(gym.Env):
    """Takes every argument, and remembers what it was given."""

    observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, **arguments: Any) -> None:
        RECEIVED.append(arguments)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.zeros(2, np.float32), -float(np.abs(action).sum()), False, False, {}


class TwoArguments(AnyArguments):
    def __init__(self, mass: float = 1.0, mode: str = "on") -> None:
        super().__init__(mass=mass, mode=mode)


@pytest.fixture(autouse=True)
def _registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    before = dict(gym.registry)
    gym.register(id="AnyArguments-v0", entry_point=AnyArguments)
    gym.register(id="TwoArguments-v0", entry_point=TwoArguments)
    RECEIVED.clear()
    yield
    gym.registry.clear()
    gym.registry.update(before)


def from_python(kwargs: dict[str, Any]) -> Config:
    return maml_rl.load_config(
        env={"name": "AnyArguments-v0", "kwargs": kwargs}, logging=QUIET, output="run", **TINY
    )


def from_file(kwargs: dict[str, Any]) -> Config:
    Path("my.yaml").write_text(json.dumps({"env": {"name": "AnyArguments-v0", "kwargs": kwargs}}))
    return maml_rl.load_config("my.yaml", logging=QUIET, output="run", **TINY)


def from_one_flag(kwargs: dict[str, Any]) -> Config:
    flags = ["--env=AnyArguments-v0", "--env.kwargs", json.dumps(kwargs), "--output=run", *SMALL]
    return parse_training_arguments(flags)


def from_a_flag_for_each(kwargs: dict[str, Any]) -> Config:
    flags = [f"--env.kwargs.{name}={json.dumps(value)}" for name, value in kwargs.items()]
    return parse_training_arguments(["--env=AnyArguments-v0", *flags, "--output=run", *SMALL])


WAYS = [from_python, from_file, from_one_flag, from_a_flag_for_each]
every_way = pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)

VALUES: list[Any] = [
    *(
        "off",
        "on",
        "yes",
        "no",
        "2",
        "1e-3",
        "12:30",
        "null",
        "~",
        "",
        "true",
        " 2 ",
        "[1]",
        "{a: 1}",
        "2024-01-01",
    ),
    *(
        "a: b",
        "- a",
        "#a",
        "\u00e9\u4e16",
        "a\nb",
        "\x00",
        "0x1f",
        "010",
        "1_000",
        "=",
        "<<",
        "!x",
        "*a",
        "%",
    ),
    *(2, 2.0, -1, 0, 1e-3, 1e-300, 10**30, True, False, None, [], {}),
    *([1, 2.0, "3", None, [True]], {"a": {"off": "off", "b": [1, {"c": "12:30"}]}}),
]


@pytest.mark.slow
@every_way
@pytest.mark.parametrize("value", VALUES, ids=ascii)
def test_a_value_arrives_as_it_was_given(value: Any, way: Callable[..., Config]) -> None:
    assert repr(way({"value": value}).env.kwargs) == repr({"value": value})


@pytest.mark.slow
def test_values_survive_the_run_and_what_is_made_of_it() -> None:
    kwargs = {f"value_{i}": value for i, value in enumerate(VALUES)}
    policy = maml_rl.load(maml_rl.train(from_python(kwargs)))
    assert repr(run_config(policy.save("saved")).env.kwargs) == repr(kwargs)
    resume("run", 2)
    assert len(RECEIVED) > 6
    assert {repr(arguments) for arguments in RECEIVED} == {repr(kwargs)}


GYMNASIUMS_OWN = (
    "id",
    "max_episode_steps",
    "disable_env_checker",
    "vectorization_mode",
    "num_envs",
    "horizon",
)


@pytest.mark.slow
@every_way
def test_an_argument_may_have_any_name(way: Callable[..., Config]) -> None:
    kwargs = {
        name: {"low": i, "text": "off"}
        for i, name in enumerate([*sorted(ENV_SETTINGS), *GYMNASIUMS_OWN])
    }
    run = maml_rl.train(way(kwargs))
    assert maml_rl.load(run).config.env == EnvConfig(name="AnyArguments-v0", kwargs=kwargs)
    resume(run, 2)
    assert all(arguments == kwargs for arguments in RECEIVED)


@pytest.mark.parametrize("vectorization", ["sync", pytest.param("async", marks=pytest.mark.slow)])
def test_a_task_may_have_any_name(vectorization: Any) -> None:
    task = dict.fromkeys([*ENV_SETTINGS, *GYMNASIUMS_OWN], 1)
    config = EnvConfig(name="AnyArguments-v0", task_list=(task,), vectorization=vectorization)
    env = make_task_vector_env(config, 2, 3)
    env.set_tasks([task] * 2)
    env.reset(seed=0)
    assert list(env.envs.get_attr("assigned_task")) == [task, task]
    env.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("off", "off"), ("12:30", "12:30"), ('"2"', "2"), ("a=b", "a=b")),
        *(("1e-3", 1e-3), ("2", 2), ("-3", -3), ("null", None), ("true", True)),
    ],
)
def test_a_flag_is_read_as_yaml_once(text: str, value: Any) -> None:
    for flag in ("--env.value", "--env.kwargs.value"):
        for words in ([flag, text], [f"{flag}={text}"]):
            kwargs = parse_training_arguments(["--env=AnyArguments-v0", *words]).env.kwargs
            assert repr(kwargs) == repr({"value": value})


REFUSED = [
    *({1: 2}, {True: 1}, {None: 1}, {(1, 2): 3}),
    *({"a"}, b"a", Path("a"), (1, 2), 1 + 2j, object(), len),
    *(np.float64(1), np.int64(1), np.bool_(True), np.array([1.0])),
    *("a" * 10_001, 10**5000, ["a" * 9000] * 200),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    "make", [lambda value: value, lambda value: [value], lambda value: {"a": value}]
)
@pytest.mark.parametrize("value", REFUSED, ids=lambda value: f"{type(value).__name__}")
def test_what_a_file_cannot_hold_is_refused_before_there_is_a_folder(
    value: Any, make: Callable[..., Any]
) -> None:
    with pytest.raises(UserError, match=r"^env.* (file|longer|limit)") as error:
        from_python({"value": make(value)})
    assert "\n" not in str(error.value)
    config = Config(
        env=EnvConfig(name="AnyArguments-v0", kwargs={"value": make(value)}), device="cpu"
    )
    with pytest.raises(UserError, match=r"^env"):
        maml_rl.train(config)
    assert list(Path().iterdir()) == []


def test_a_name_that_is_not_a_string_is_refused() -> None:
    with pytest.raises(UserError, match=r"^env\.kwargs must be a mapping from names to values"):
        maml_rl.load_config(env={"name": "TwoArguments-v0", "kwargs": {1: 2}})


def test_a_value_that_holds_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(UserError, match="nested more than"):
        from_python({"value": value})


@pytest.mark.parametrize(
    "text", ["[1", "2024-01-01", "!!python/name:os.system ''", "{1: 2}", "a: b: c", "@x"]
)
def test_a_flag_that_is_no_yaml_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--env=AnyArguments-v0", "--env.value", text, *SMALL]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --env.value")
    assert list(Path().iterdir()) == []


def test_settings_of_a_file_and_of_python_are_merged_by_argument() -> None:
    Path("my.yaml").write_text("env: {name: TwoArguments-v0, mass: 2, kwargs: {mode: a}}")
    for given in ({"mass": 3}, {"kwargs": {"mass": 3}}):
        assert maml_rl.load_config("my.yaml", env=given).env.kwargs == {"mode": "a", "mass": 3}
    flags = ["--config=my.yaml", "--env.mass=3", "--env.kwargs={mode: b}"]
    assert parse_training_arguments(flags).env.kwargs == {"mode": "b", "mass": 3}


def test_an_argument_that_is_given_twice_is_refused() -> None:
    with pytest.raises(UserError, match=r"env\.mass is also in env\.kwargs"):
        maml_rl.load_config(env={"name": "TwoArguments-v0", "mass": 1, "kwargs": {"mass": 2}})


def test_arguments_beside_the_name_are_read_as_earlier_versions_wrote_them() -> None:
    Path("config.yaml").write_text(
        "env: {name: TwoArguments-v0, mass: 2, mode: 'off', vectorization: async}"
    )
    env = run_config(Path()).env
    assert env == EnvConfig(
        name="TwoArguments-v0", kwargs={"mass": 2, "mode": "off"}, vectorization="async"
    )
    assert to_mapping(Config(env=env))["env"] == {
        "name": "TwoArguments-v0",
        "mass": 2,
        "mode": "off",
        "vectorization": "async",
    }


@pytest.mark.parametrize(
    "flags", [["--env.mas=1"], ["--env.kwargs.mas=1"], ["--env.kwargs={mas: 1}"]]
)
def test_an_unknown_argument_is_refused_with_the_closest(flags: list[str]) -> None:
    with pytest.raises(
        UserError, match=r"TwoArguments-v0 takes no argument 'mas'\. Did you mean 'mass'\?"
    ):
        parse_training_arguments(["--env=TwoArguments-v0", *flags])


class OfItsOwn(AnyArguments):
    """Registered with a time limit of its own."""


@pytest.mark.parametrize(("registered", "horizon"), [(50, 50), (200, 200), (None, 100), (-1, 100)])
def test_the_horizon_is_the_environments_own(registered: int | None, horizon: int) -> None:
    gym.register(id="OfItsOwn-v0", entry_point=OfItsOwn, max_episode_steps=registered)
    Path("my.yaml").write_text("env: OfItsOwn-v0\nhorizon: 30")
    assert maml_rl.load_config(env="OfItsOwn-v0").horizon == horizon
    assert maml_rl.load_config(env="OfItsOwn-v0", horizon=7).horizon == 7
    assert maml_rl.load_config("my.yaml").horizon == 30
    assert parse_training_arguments(["--env=OfItsOwn-v0"]).horizon == horizon
    assert parse_training_arguments(["--env=OfItsOwn-v0", "--horizon=7"]).horizon == 7
    assert parse_training_arguments(["--config=my.yaml"]).horizon == 30
    assert maml_rl.load_config(env="PointNavigation").horizon == 100


@pytest.mark.parametrize(
    ("registered", "flags", "words"),
    [
        (4, [], "4 steps (its max_episode_steps)"),
        (4, ["--horizon=3"], "3 steps (as set; its max_episode_steps is 4)"),
        (None, ["--horizon=3"], "3 steps (as set; it is registered without max_episode_steps)"),
        (None, [], "100 steps (by default; it is registered without max_episode_steps)"),
    ],
)
def test_the_first_line_says_where_the_horizon_is_from(
    registered: int | None, flags: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    gym.register(id="OfItsOwn-v0", entry_point=OfItsOwn, max_episode_steps=registered)
    small = [flag for flag in SMALL if not flag.startswith("--horizon")]
    assert main(["train", "--env=OfItsOwn-v0", "--output=run", *small, *flags]) == 0
    copies, announcement, *_ = capsys.readouterr().out.splitlines()
    assert copies.startswith("making ")
    assert announcement.startswith("OfItsOwn-v0: ")
    assert words in announcement
    kept = run_config(Path("run"))
    assert f"{kept.horizon} steps" in words
    gym.registry["OfItsOwn-v0"].max_episode_steps = 9  # a run keeps its own
    assert run_config(Path("run")) == kept


class Camera(AnyArguments):
    def __init__(self, shape: list[int]) -> None:
        self.observation_space = spaces.Box(0, 255, tuple(shape), np.uint8)  # type: ignore[assignment]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observation_space.sample(), 0.0, False, False, {}


@pytest.mark.parametrize("shape", [[64, 64, 3], [2001]])
def test_observations_that_are_too_large_are_refused(shape: list[int]) -> None:
    gym.register(id="Camera-v0", entry_point=Camera)
    config = maml_rl.load_config(
        env={"name": "Camera-v0", "shape": shape}, output="run", logging=QUIET, **TINY
    )
    with pytest.raises(
        UserError, match=f"observations of {np.prod(shape)} entries .* at most 2000"
    ):
        maml_rl.train(config)
    assert not Path("run").exists()


def test_small_images_are_observations() -> None:
    gym.register(id="Camera-v0", entry_point=Camera)
    run = maml_rl.train(
        maml_rl.load_config(
            env={"name": "Camera-v0", "shape": [4, 4, 3]}, output="run", logging=QUIET, **TINY
        )
    )
    agent = maml_rl.load(run)
    assert agent.observation_space.shape == (4, 4, 3)
    assert agent.learner.policy.observation_shape == (4 * 4 * 3,)
    actions, _ = agent.predict(np.zeros((5, 4, 4, 3), np.uint8))
    assert actions.shape == (5, 1)


def test_a_class_that_is_not_registered_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import gymnasium\n\nclass Trolley(gymnasium.Env): ...\n"
    (tmp_path / "my_trolley.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    message = (
        r"my_trolley has the class Trolley, and does not register it: add "
        r"gymnasium\.register\(id='Trolley-v0', entry_point=Trolley\)"
    )
    for name in ("my_trolley:Trolley", "my_trolley:Trolley-v0"):
        with pytest.raises(UserError, match=message):
            maml_rl.load_config(env=name)


def test_an_argument_that_the_listed_tasks_set_cannot_be_set_beside_them() -> None:
    env = EnvConfig(name="TwoArguments-v0", task_list=({"mass": 1}, {"mass": 2}))
    config = Config(env=env)
    assert env_of(config, ["--env.mode=off"]).kwargs == {"mode": "off"}
    with pytest.raises(UserError, match=r"mass is part of the tasks \(env\.task_list\)"):
        env_of(config, ["--env.mass=3"])


def test_settings_of_an_environment_have_the_distribution_of_its_tasks() -> None:
    env = EnvConfig(name="TwoArguments-v0", kwargs={"mode": "off"}, kwarg_ranges={"mass": [1, 2]})
    assert env_settings(env) == {"mode": "off", "kwarg_ranges": {"mass": [1, 2]}}
    assert env_settings(EnvConfig(name="HalfCheetahVel", kwargs={"low": 1.0})) == {"low": 1.0}
