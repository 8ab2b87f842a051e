"""Settings that a family accepts can be trained; others are refused before any file is written."""

from __future__ import annotations

import dataclasses
import math
import typing
from typing import Any

import pytest
from helpers.families import PER_KIND, PER_ROBOT
from helpers.hypothesis_options import OPTIONS
from hypothesis import given, settings
from hypothesis import strategies as st
from maml_envs import FAMILIES
from maml_envs.engines.changes import lacks_change
from maml_envs.engines.dynamics import Parameter

from maml_rl.cli import main
from maml_rl.settings.parser import load_config
from maml_rl.training.compose import open_training

SIZES: dict[str, Any] = {
    "meta_batch_size": 2,
    "num_episodes": 2,
    "horizon": 3,
    "policy": {"hidden_sizes": [4]},
    "device": "cpu",
    "max_failed_share": 1.0,
    "inner": {"num_steps": 1},
}


def dynamics_of(known: dict[str, Parameter]) -> st.SearchStrategy[dict[str, Any]]:
    """A value or a range, within the limits, for each of up to two quantities."""

    def distribution_of(name: str) -> st.SearchStrategy[Any]:
        parameter = known[name]
        integer = st.integers(int(parameter.low), int(parameter.high))
        number = integer if parameter.is_integer else st.floats(parameter.low, parameter.high)
        pairs = st.lists(number, min_size=2, max_size=2, unique=not parameter.is_integer)
        return number | pairs.map(sorted)

    names = st.lists(st.sampled_from(sorted(known)), max_size=2, unique=True)
    names = names.filter(lambda chosen: not lacks_change(chosen))
    return names.flatmap(
        lambda chosen: st.fixed_dictionaries({name: distribution_of(name) for name in chosen})
    )


def arguments_of(family: type) -> st.SearchStrategy[dict[str, Any]]:
    """Settings of a family, each at its default or within its limits."""
    hints = typing.get_type_hints(family)
    limits = family.task_limits.values()
    least, most = (
        max((low for low, _ in limits), default=0),
        min((high for _, high in limits), default=0),
    )
    strategies: dict[str, st.SearchStrategy[Any]] = {}
    for name, kind in ((f.name, hints[f.name]) for f in dataclasses.fields(family)):
        if kind is bool:
            strategies[name] = st.booleans()
        elif typing.get_origin(kind) is typing.Literal:
            strategies[name] = st.sampled_from(typing.get_args(kind))
        elif name in ("low", "high"):
            default = getattr(family, name)
            strategies[name] = (
                st.floats(least, default) if name == "low" else st.floats(default, most)
            )
        elif name == "goal_radius":
            strategies[name] = st.floats(0, most)
        elif kind is float and name.startswith(("min_", "max_")):  # the two ends of a range
            default = getattr(family, name)
            strategies[name] = (
                st.floats(0, default) if name[:4] == "min_" else st.floats(default, 1e6)
            )
        elif kind is float:
            strategies[name] = st.floats(0, 2) | st.floats(0, 1e6)
        elif name == "frame_skip":
            strategies[name] = st.none() | st.integers(1, 20)
        else:
            assert name == "dynamics", f"this kind of setting is not drawn yet: {name}"
            known = {
                key: value
                for key, value in family.robot.parameters.items()
                if key not in family.task_units
            }
            strategies[name] = dynamics_of(known)
    return st.fixed_dictionaries({}, optional=strategies)


# Together they have every setting of a family.
FAMILIES_OF_ALL_SETTINGS = (
    *PER_ROBOT,
    "AntGoal",
    "CrippledAnt",
    "HalfCheetahDir",
    "PointNavigationSparse",
)


def setting_names(family: type) -> set[str]:
    return {field.name for field in dataclasses.fields(family)}


def test_every_setting_is_drawn() -> None:
    drawn = [setting_names(FAMILIES[name]) for name in FAMILIES_OF_ALL_SETTINGS]
    assert set.union(*drawn) == set.union(*map(setting_names, FAMILIES.values()))


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES_OF_ALL_SETTINGS)
@settings(max_examples=8, **OPTIONS)
@given(data=st.data())
def test_what_a_family_accepts_trains(name, data):
    arguments = data.draw(arguments_of(FAMILIES[name]))
    try:
        with open_training(load_config(env={"name": name, **arguments}, **SIZES)) as training:
            after = training.iterate().state
    except FloatingPointError:
        return  # dynamics with which every simulation is unstable, as documented
    assert after.counters["iteration"] == 1


def wrong_arguments(family: type) -> list[tuple[str, str]]:
    """Pairs of a setting and the text of an invalid value."""
    hints = typing.get_type_hints(family)
    cases = [("dynamics.no_such_quantity", "1")] if hasattr(family, "dynamics") else []
    for name, kind in ((f.name, hints[f.name]) for f in dataclasses.fields(family)):
        if kind is float:
            cases += [
                (name, text)
                for text in ("x", ".nan", ".inf", "-.inf", "null", "true", "[1]", "{a: 1}")
            ]
            if name.endswith(("_weight", "_scale", "radius", "_tolerance", "_limit")):
                cases.append((name, str(math.nextafter(0, -1))))
            if name == "goal_radius":
                cases.append((name, "101"))
        elif name == "frame_skip":
            cases += [(name, text) for text in ("x", "0", "101", "2.5", "true", "[1]")]
        elif kind is bool or typing.get_origin(kind) is typing.Literal:
            cases += [(name, text) for text in ("x", "null", "2", "[true]")]
    return cases


@pytest.mark.slow
@pytest.mark.parametrize("name", PER_KIND)
def test_what_a_family_does_not_accept_is_refused_before_any_file(
    name, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    cases = wrong_arguments(FAMILIES[name])
    for setting, text in [*cases[:: max(1, len(cases) // 12)], cases[-1]]:
        status = main(["train", f"--env={name}", "--num_iterations=1", f"--env.{setting}={text}"])
        (line,) = capsys.readouterr().err.splitlines()
        assert (status, list(tmp_path.iterdir())) == (2, []), (setting, text)
        assert line.startswith("error: ")
        assert setting.rpartition(".")[2] in line
