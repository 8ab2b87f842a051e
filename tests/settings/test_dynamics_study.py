"""What ``compare dynamics`` trains, and where it evaluates."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import gymnasium as gym
import maml_envs
import pytest
from gymnasium.envs.registration import EnvSpec
from maml_envs.engines.dynamics import Parameter

from maml_rl.errors import UserError
from maml_rl.settings.dynamics_study.methods import METHODS, make_variant
from maml_rl.settings.dynamics_study.study import DynamicsStudy
from maml_rl.settings.dynamics_study.varied_dynamics import swept_values
from maml_rl.settings.parser import load_config

PARAMETERS = {
    **maml_envs.FAMILIES["HalfCheetahDir"].robot.parameters,
    "exact": Parameter("m/s²", 0.0, 1000.0, 9.80665),
    "large": Parameter("", 0, 10**6, 12345, is_integer=True),
}
MASS = ("--env.dynamics.body_mass={low: 0.5, high: 2}",)
DELAY = ("--env.dynamics.action_delay={low: 0, high: 2}",)


def study(**changes: Any) -> DynamicsStudy:
    settings: dict[str, Any] = {
        "env": "HalfCheetahDir",
        "flags": (*MASS, *DELAY),
        "num_env_steps": 100_000,
        "horizon": None,
        "action_scale": None,
        "folder": Path("here"),
        "device": "cpu",
    }
    return DynamicsStudy(**settings | changes)


LARGE = (3086.0, 4899.0, 7777.0, 12345.0, 19596.0, 31107.0, 49380.0)


@pytest.mark.parametrize(
    ("name", "low", "high", "values"),
    [
        # A factor: twice as far from 1 on a logarithmic scale.
        ("body_mass", 0.5, 2.0, (0.25, 0.397, 0.63, 1.0, 1.59, 2.52, 4.0)),
        ("actuator_gear", 1.0, 1.0, (1.0,)),
        # A factor that may be zero, or another quantity: on a linear scale, in the valid range.
        ("geom_friction", 0.0, 1.5, (0.0, 0.5, 1.0, 1.5, 2.0)),
        ("slope", -0.1, 0.1, (-0.2, -0.133, -0.0667, 0.0, 0.0667, 0.133, 0.2)),
        ("observation_noise", 0.0, 0.3, (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)),
        ("action_delay", 0.0, 2.0, (0.0, 1.0, 2.0, 3.0, 4.0)),
        ("disabled_actuator", -1.0, 3.0, (-1.0, 0.0, 2.0, 3.0, 4.0, 5.0)),
        # A range beside the nominal value: the sweep includes both.
        ("body_mass", 2.0, 4.0, (1.0, 1.59, 2.52, 4.0, 6.35, 10.1, 16.0)),
        ("slope", 0.1, 0.2, (0.0, 0.0667, 0.133, 0.2, 0.267, 0.333, 0.4)),
        # The nominal value is not rounded.
        ("exact", 4.903325, 19.6133, (2.45, 3.89, 6.18, 9.80665, 15.6, 24.7, 39.2)),
        ("large", 6172.5, 24690.0, LARGE),
    ],
)
def test_sweeps_reach_twice_as_far_as_training(name, low, high, values):
    assert swept_values(PARAMETERS[name], low, high) == values


def test_methods_differ_in_learner_dynamics_and_observation_only():
    configs = {name: study().config(name) for name in METHODS}
    dynamics = {
        "body_mass": {"low": 0.5, "high": 2},
        "action_delay": {"low": 0, "high": 2},
    }
    shared = load_config(env="HalfCheetahDir")
    for name, config in configs.items():
        own = load_config(env="HalfCheetahDir", learner=METHODS[name].learner)
        # Schedules and the number of training tasks are those of the study; see below.
        names = ("decay_iterations", "decay_env_steps", "num_training_tasks")
        changed = {n: getattr(own.learner, n) for n in names if hasattr(own.learner, n)}
        learner = dataclasses.replace(config.learner, **changed)
        assert (learner, config.policy, config.inner) == (own.learner, own.policy, own.inner)
        assert config.horizon == shared.horizon
        assert config.env.kwargs == {
            **shared.env.kwargs,
            "dynamics": {} if name == "untouched" else dynamics,
        }
        assert config.env.observe_task == (name == "oracle")
        assert (config.max_env_steps, config.device) == (100_000, "cpu")
        assert config.output == str(Path("here") / name)
    assert study(horizon=7).config("rl2").horizon == 7
    scaled = [study(action_scale=0.3).config(name) for name in METHODS]
    assert {config.policy.action_scale for config in scaled} == {0.3}
    assert configs["maml"].num_iterations > 1000


def test_a_variant_is_a_method_with_other_settings():
    variants = dict(
        map(
            make_variant,
            (
                "promp=--outer promp --outer.step_size 0.003",
                "careful=--outer.max_kl=0.005",
                "wide=--learner rl2 --learner.hidden_size 256",
            ),
        )
    )
    whole = study(variants=variants, num_env_steps=640_000, horizon=100)
    assert list(whole.methods) == [*METHODS, "promp", "careful", "wide"]
    maml, promp, careful, wide = (
        whole.config(name) for name in ("maml", "promp", "careful", "wide")
    )
    assert (promp.outer.name, promp.outer.step_size) == ("promp", 0.003)
    outer = dataclasses.replace(maml.outer, max_kl=0.005)
    assert careful == dataclasses.replace(maml, outer=outer, output=careful.output)
    assert careful.output == str(Path("here") / "careful")
    assert (wide.learner.name, wide.learner.hidden_size) == ("rl2", 256)
    # Schedules fit the budget, as those of rl2.
    assert wide.learner.decay_env_steps == whole.num_env_steps
    assert whole.methods["wide"].adapts
    assert variants["promp"].observes == (
        "as maml, trained with --outer promp --outer.step_size 0.003"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("--outer promp", "expects NAME="),
        ("promp=", "expects NAME="),
        ("maml=--outer promp", "a new name"),
        ("a/b=--outer promp", "expects NAME="),
        ("long=--max_env_steps 5", "--max_env_steps cannot be set for one method.*outer"),
        ("other=--env AntDir", "--env.name cannot be set for one method"),
        ("promp=--outer 'promp", "No closing quotation"),
    ],
)
def test_what_is_not_a_variant_is_refused(text, message):
    with pytest.raises(UserError, match=message):
        make_variant(text)


def test_an_unknown_setting_of_a_variant_is_named():
    name, variant = make_variant("promp=--outer promp --outer.max_kl 0.1")
    with pytest.raises(UserError, match="max_kl"):
        study(variants={name: variant}).config(name)


def test_step_sizes_fall_until_the_end():
    for name in ("rl2", "rma", "sysid"):
        learner = study(num_env_steps=640_000, horizon=100).config(name).learner
        # Also if episodes end early, so that there are more iterations.
        sizes = [learner.step_size_at(90, number) for number in (0, 320_000, 640_000)]
        middle = (learner.step_size + learner.final_step_size) / 2
        assert sizes == pytest.approx([learner.step_size, middle, learner.final_step_size])


def test_pearl_trains_on_many_bodies():
    assert load_config(env="HalfCheetahDir", learner="pearl").learner.num_training_tasks == 2
    assert study().config("pearl").learner.num_training_tasks == 100


def test_two_thirds_of_the_control_steps_train_the_teacher():
    config = study(num_env_steps=600_000).config("rma")
    limits = config.learner.teacher_limits(config.num_iterations, config.max_env_steps)
    assert limits[1] == 400_000
    assert limits[0] > 600_000


def test_an_actuator_fails_in_mid_episode():
    failures = study(horizon=50).failures()
    fails = {"change_step": 12, "changed/disabled_actuator": {"low": 0, "high": 5}}
    assert failures[0] == (fails, {"change_step": 12})
    assert failures[2] == ({"body_mass": 4.0, **fails}, {"body_mass": 4.0, "change_step": 12})
    assert [swept["change_step"] for _, swept in failures] == [12, 25, 12, 25]
    env = study(horizon=50).env_at(failures[0].dynamics, observe_task=False)
    assert env.kwargs["dynamics"] == {"body_mass": 1, "action_delay": 0, **fails}
    assert len(study(horizon=1).failures()) == 2
    # Another failure would enable the actuator that the task disables.
    assert study(env="CrippledHalfCheetah").failures() == []
    assert len(study(env="CrippledAnt").failures()) == 4
    assert len(study(horizon=1, flags=DELAY).failures()) == 1


def test_two_quantities_vary_together():
    assert study().pairs() == [
        {"body_mass": mass, "action_delay": delay} for mass in (0.25, 1, 4) for delay in (0, 4)
    ]
    assert study(flags=MASS).pairs() == []


def test_a_sweep_sets_one_quantity_and_leaves_the_others_nominal():
    env = study().env_at({"body_mass": 4.0}, observe_task=False)
    assert env.kwargs["dynamics"] == {"body_mass": 4.0, "action_delay": 0}
    varied = study().env_at(None, observe_task=True)
    assert varied.observe_task
    assert varied.kwargs["dynamics"] == study().dynamics.varied.kwargs["dynamics"]
    assert study().trained_range("action_delay") == (0, 2)


def test_a_chosen_sweep_includes_the_nominal_value():
    chosen = study(chosen_sweeps={"body_mass": (0.5, 1.5, 2.5)})
    assert chosen.sweeps() == {
        "body_mass": (0.5, 1.0, 1.5, 2.5),
        "action_delay": study().sweeps()["action_delay"],
    }
    assert {pair["body_mass"] for pair in chosen.pairs()} == {0.5, 1.0, 2.5}
    assert chosen.failures()[-1].swept["body_mass"] == 2.5
    assert chosen.trained_range("body_mass") == (0.5, 2)
    of_gravity = pendulum(GRAVITY, chosen_sweeps={"g": (9.0, 12.0)})
    assert of_gravity.sweeps() == {"g": (9.0, 10.0, 12.0)}


def test_evaluations_use_held_out_tasks():
    crippled = study(env="CrippledAnt", flags=MASS)
    assert crippled.dynamics.varied.kwargs["split"] == "train"
    assert crippled.env_at(None, observe_task=False).kwargs["split"] == "held_out"


def test_goals_can_be_fixed():
    flags = ("--env.low=2", "--env.high=2", *MASS)
    env = study(env="HalfCheetahVel", flags=flags).config("untouched").env
    assert (env.kwargs["low"], env.kwargs["high"], env.kwargs["dynamics"]) == (2, 2, {})


def test_dynamics_of_the_preset_are_replaced():
    assert load_config(env="Walker2dRandParams").env.kwargs["dynamics"]
    walker = study(env="Walker2dRandParams", flags=MASS)
    assert list(walker.dynamics.varied.kwargs["dynamics"]) == ["body_mass"]
    assert walker.config("untouched").env.kwargs["dynamics"] == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"env": "HalfCheetah"}, "unknown environment 'HalfCheetah'"),
        ({"env": "PointNavigation"}, "PointNavigation has no dynamics to vary.*HalfCheetahDir"),
        ({"flags": ("--env.dynamics.bodymass=2",)}, "unknown dynamics 'bodymass'.*body_mass"),
        ({"flags": ("--env.dynamics.body_mass={low: 2, high: -1}",)}, "body_mass"),
        ({"horizon": -1}, "horizon must be"),
        ({"flags": ("--env.dynamics.body_mass=2",)}, "body_mass must be a range.*the value 2"),
        (
            {"chosen_sweeps": {"gravity": (1.0, 2.0)}},
            "--sweep gravity: it does not vary in training. Valid are body_mass, action_delay",
        ),
        (
            {"chosen_sweeps": {"action_delay": (0.0, 0.5)}},
            r"--sweep action_delay: each value must be one integer in \[0, 1000\].*, got 0.5",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        study(**changes)


def pendulum(*flags: str, **changes: Any) -> DynamicsStudy:
    return study(env="Pendulum-v1", flags=flags, **changes)


GRAVITY = "--env.dynamics.g={low: 5, high: 20}"


def test_arguments_of_another_environment_vary():
    configs = {name: pendulum(GRAVITY).config(name) for name in METHODS}
    varied = {"g": {"low": 5, "high": 20}}
    for name, config in configs.items():
        expected = {"g": {"choices": [10.0]}} if name == "untouched" else varied
        assert config.env.kwarg_ranges == expected
        assert config.env.observe_task == (name == "oracle")
    # From 10, the default of the constructor, twice as far as 5 and 20 on a logarithmic scale.
    assert pendulum(GRAVITY).sweeps() == {"g": (2.5, 3.97, 6.3, 10.0, 15.9, 25.2, 40.0)}
    assert pendulum(GRAVITY).env_at(None, observe_task=False) == configs["maml"].env
    assert pendulum(GRAVITY).env_at({"g": 2.5}, observe_task=True).kwarg_ranges == {
        "g": {"choices": [2.5]}
    }
    assert pendulum(GRAVITY).pairs() == pendulum(GRAVITY).failures() == []


def test_a_nominal_argument_can_be_set():
    on_the_moon = pendulum("--env.g=1.6", "--env.dynamics.g={low: 0, high: 2}")
    assert on_the_moon.dynamics.untouched.kwarg_ranges == {"g": {"choices": [1.6]}}
    assert on_the_moon.sweeps()["g"][0] == -1.6
    assert on_the_moon.sweeps()["g"][-1] == 2.4


class Walker(gym.Env):
    """Arguments of several kinds."""

    def __init__(self, num_legs: int = 4, mass: float = 1.0, gait: str = "trot", **others: Any):
        """Make a walker."""


@pytest.fixture
def walker(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = EnvSpec("Walker-v0", entry_point=Walker, kwargs={"mass": 3.0}, max_episode_steps=10)
    monkeypatch.setitem(gym.registry, "Walker-v0", spec)


@pytest.mark.usefixtures("walker")
def test_integer_arguments_stay_integers():
    legs = study(env="Walker-v0", flags=("--env.dynamics.num_legs=[4, 5, 6]", *MASS_ARGUMENT))
    assert legs.sweeps()["num_legs"] == (4.0, 5.0, 6.0, 7.0, 8.0, 9.0)
    (value,) = legs.env_at({"num_legs": 6.0}, observe_task=False).kwarg_ranges["num_legs"][
        "choices"
    ]
    assert type(value) is int
    # The nominal mass is that of the registration.
    assert legs.dynamics.untouched.kwarg_ranges["mass"] == {"choices": [3.0]}
    assert len(legs.pairs()) == 2 * 3


MASS_ARGUMENT = ("--env.dynamics.mass={low: 2, high: 6}",)


@pytest.mark.usefixtures("walker")
@pytest.mark.parametrize(
    ("env", "flags", "message"),
    [
        ("Pendulum-v1", (), "Pendulum-v1 is not a task family.*arguments of its constructor"),
        ("Pendulum-v1", ("--env.dynamics.q={low: 1, high: 2}",), "no argument 'q'.*arguments: g"),
        ("Pendulum-v1", ("--env.dynamics.g=9",), "--dynamics g must be a range.*the value 9"),
        ("Pendulum-v1", ("--env.dynamics.g={low: 9, high: 1}",), "'g' must be a range"),
        ("Walker-v0", ("--env.dynamics.gait=[trot, run]",), "gait VALUE.*default: num_legs, mass$"),
        ("Walker-v0", ("--env.dynamics.torque=[1, 2]",), "torque.*no number.*--env.torque VALUE"),
        (
            "Walker-v0",
            ("--env.dynamics.mass=[a, b]",),
            "--dynamics mass must be.*got no range",
        ),
    ],
)
def test_arguments_that_cannot_vary_are_refused(env, flags, message):
    with pytest.raises(UserError, match=message):
        study(env=env, flags=flags)
