"""What ``compare dynamics`` trains, and where it evaluates."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import maml_envs
import pytest

from maml_rl.errors import UserError
from maml_rl.settings.dynamics_study import METHODS, DynamicsStudy, make_variant, swept_values
from maml_rl.settings.parser import load_config

PARAMETERS = maml_envs.FAMILIES["HalfCheetahDir"].body.parameters
MASS = ("--env.dynamics.body_mass={low: 0.5, high: 2}",)
DELAY = ("--env.dynamics.action_delay={low: 0, high: 2}",)


def study(**changes: Any) -> DynamicsStudy:
    settings: dict[str, Any] = {
        "env": "HalfCheetahDir",
        "flags": (*MASS, *DELAY),
        "num_env_steps": 1000,
        "horizon": None,
        "action_scale": None,
        "folder": Path("here"),
        "device": "cpu",
    }
    return DynamicsStudy(**settings | changes)


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
        names = ("teacher_iterations", "decay_iterations", "num_training_tasks")
        changed = {n: getattr(own.learner, n) for n in names if hasattr(own.learner, n)}
        learner = dataclasses.replace(config.learner, **changed)
        assert (learner, config.policy, config.inner) == (own.learner, own.policy, own.inner)
        assert config.horizon == shared.horizon
        assert config.env.kwargs == {
            **shared.env.kwargs,
            "dynamics": {} if name == "untouched" else dynamics,
        }
        assert config.env.observe_task == (name == "oracle")
        assert (config.max_env_steps, config.device) == (1000, "cpu")
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
    assert wide.learner.decay_iterations == whole.config("rl2").learner.decay_iterations
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
        config = study(num_env_steps=640_000, horizon=100).config(name)
        assert config.learner.decay_iterations == 50
        assert config.learner.step_size_at(50) == pytest.approx(config.learner.final_step_size)


def test_pearl_trains_on_many_bodies():
    assert load_config(env="HalfCheetahDir", learner="pearl").learner.num_training_tasks == 2
    assert study().config("pearl").learner.num_training_tasks == 100


def test_two_thirds_of_the_control_steps_train_the_teacher():
    config = study(num_env_steps=640_000, horizon=100).config("rma")
    assert (config.meta_batch_size, config.learner.num_episodes) == (64, 2)
    # 50 iterations of 64 · 2 · 100 control steps.
    assert config.learner.teacher_iterations == 33
    assert study(num_env_steps=1).config("sysid").learner.teacher_iterations == 1
    long = study(num_env_steps=10**9).config("rma")  # more iterations than those of the preset
    assert long.learner.teacher_iterations > load_config(env="AntDir", learner="rma").num_iterations


def test_an_actuator_fails_in_mid_episode():
    failures = study(horizon=50).failures()
    fails = {"change_step": 12, "changed/disabled_actuator": {"low": 0, "high": 5}}
    assert failures[0] == (fails, {"change_step": 12})
    assert failures[2] == ({"body_mass": 4.0, **fails}, {"body_mass": 4.0, "change_step": 12})
    assert [swept["change_step"] for _, swept in failures] == [12, 25, 12, 25]
    env = study(horizon=50).env_at(failures[0].dynamics, observe_task=False)
    assert env.kwargs["dynamics"] == {"body_mass": 1, "action_delay": 0, **fails}
    assert len(study(horizon=1).failures()) == 2
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
    assert varied.kwargs["dynamics"] == study().varied_env.kwargs["dynamics"]
    assert study().trained_range("action_delay") == (0, 2)


def test_evaluations_use_held_out_tasks():
    crippled = study(env="CrippledAnt", flags=MASS)
    assert crippled.varied_env.kwargs["split"] == "train"
    assert crippled.env_at(None, observe_task=False).kwargs["split"] == "held_out"


def test_goals_can_be_fixed():
    flags = ("--env.low=2", "--env.high=2", *MASS)
    env = study(env="HalfCheetahVel", flags=flags).config("untouched").env
    assert (env.kwargs["low"], env.kwargs["high"], env.kwargs["dynamics"]) == (2, 2, {})


def test_dynamics_of_the_preset_are_replaced():
    assert load_config(env="Walker2dRandParams").env.kwargs["dynamics"]
    walker = study(env="Walker2dRandParams", flags=MASS)
    assert list(walker.varied_env.kwargs["dynamics"]) == ["body_mass"]
    assert walker.config("untouched").env.kwargs["dynamics"] == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"env": "Pendulum-v1"}, "Pendulum-v1 is not a task family.*kwarg_ranges"),
        ({"env": "HalfCheetah"}, "unknown environment 'HalfCheetah'"),
        ({"env": "PointNavigation"}, "PointNavigation has no dynamics to vary.*HalfCheetahDir"),
        ({"flags": ("--env.dynamics.bodymass=2",)}, "unknown dynamics 'bodymass'.*body_mass"),
        ({"flags": ("--env.dynamics.body_mass={low: 2, high: -1}",)}, "body_mass"),
        ({"horizon": -1}, "horizon must be"),
        ({"flags": ("--env.dynamics.body_mass=2",)}, "body_mass must be a range.*the value 4"),
    ],
)
def test_what_cannot_be_compared_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        study(**changes)
