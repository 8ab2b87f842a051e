"""Accepted configurations train; values out of range are refused by name, before any file."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import tempfile
import typing
from pathlib import Path
from typing import Any

import pytest
from helpers.hypothesis_options import OPTIONS
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from maml_rl.cli import main
from maml_rl.errors import UserError
from maml_rl.settings.config import Config, LoggingConfig
from maml_rl.settings.learners import (
    LEARNER_CONFIGS,
    OUTER_CONFIGS,
    BaselineConfig,
    InnerConfig,
)
from maml_rl.settings.parser import load_config
from maml_rl.settings.policy import PolicyConfig
from maml_rl.settings.ranges import Each, Integer, ObjectName, OrNone, Positive, Real
from maml_rl.training.compose import open_training

GROUPS: dict[str, type] = {
    "": Config,
    "policy.": PolicyConfig,
    "inner.": InnerConfig,
    "baseline.": BaselineConfig,
    "logging.": LoggingConfig,
}
LEARNERS = {f"learner.{name}.": cls for name, cls in LEARNER_CONFIGS.items()}
OUTERS = {f"outer.{name}.": cls for name, cls in OUTER_CONFIGS.items()}
SIZES = {
    ("", "meta_batch_size"): st.integers(1, 3),
    ("", "num_episodes"): st.integers(1, 3),
    ("", "horizon"): st.integers(1, 6),
    ("", "torch_threads"): st.none() | st.integers(1, 3),
    ("", "tasks_per_block"): st.none() | st.integers(1, 5),
    ("inner.", "num_steps"): st.integers(0, 2),
    ("policy.", "hidden_sizes"): st.lists(st.integers(1, 5), max_size=3),
    ("policy.", "context_size"): st.integers(0, 3),
    ("outer.", "num_epochs"): st.integers(1, 3),
    ("outer.", "cg_iterations"): st.integers(1, 12),
    ("outer.", "line_search_steps"): st.integers(1, 12),
}
"""Where the whole range would take its time."""


def numbers(expected: Any) -> st.SearchStrategy[Any]:
    """Values in a range, both ends among them."""
    if isinstance(expected, Each):
        return st.lists(numbers(expected.range), max_size=3)
    if isinstance(expected, OrNone):
        return st.none() | numbers(expected.range)
    if isinstance(expected, ObjectName):
        return st.sampled_from(["module:Name", "package.module:make_it"])
    if isinstance(expected, Integer):
        return st.integers(expected.least, expected.most)
    low = 0.0 if isinstance(expected, Positive) else expected.least
    usual = st.floats(max(low, 1e-3), min(expected.most, 2.0))
    return usual | st.floats(low, expected.most, exclude_min=isinstance(expected, Positive))


def values_of(cls: type, group: str) -> st.SearchStrategy[dict[str, Any]]:
    """Settings of a group; any of them may be left at its default."""
    hints, found = typing.get_type_hints(cls), {}
    for field in dataclasses.fields(cls):
        kind = hints[field.name]
        if field.name in cls.RANGES:  # type: ignore[attr-defined]
            found[field.name] = SIZES.get((group, field.name), numbers(cls.RANGES[field.name]))  # type: ignore[attr-defined]
        elif kind is bool:
            found[field.name] = st.booleans()
        elif typing.get_origin(kind) is typing.Literal:
            found[field.name] = st.sampled_from(typing.get_args(kind))
    sizes = {name: value for name, value in found.items() if (group, name) in SIZES and group == ""}
    return st.fixed_dictionaries(sizes, optional={k: v for k, v in found.items() if k not in sizes})


CONFIGURATIONS = st.fixed_dictionaries(
    {
        "top": values_of(Config, ""),
        "learner": st.sampled_from(sorted(LEARNER_CONFIGS)),
        "policy": values_of(PolicyConfig, "policy."),
        "inner": values_of(InnerConfig, "inner."),
        "baseline": values_of(BaselineConfig, "baseline."),
        "outer": st.sampled_from(sorted(OUTER_CONFIGS)).flatmap(
            lambda name: values_of(OUTER_CONFIGS[name], "outer.").map(
                lambda values: {"name": name, **values}
            )
        ),
    }
)


@pytest.mark.parametrize(
    "cls",
    [*GROUPS.values(), *LEARNER_CONFIGS.values(), *OUTER_CONFIGS.values()],
    ids=lambda cls: cls.__name__,
)
def test_every_number_has_a_range(cls):
    hints = typing.get_type_hints(cls)
    wanted = {
        f.name
        for f in dataclasses.fields(cls)
        if hints[f.name] in (int, float, int | None, float | None) or "tuple" in str(hints[f.name])
    }
    assert wanted == set(cls.RANGES)
    assert all(expected.accepts(getattr(cls(), name)) for name, expected in cls.RANGES.items())


@pytest.mark.thorough
@settings(max_examples=40, **OPTIONS)
@given(CONFIGURATIONS)
def test_what_is_accepted_trains(drawn):
    values = {key: value for key, value in drawn.items() if key != "top"} | drawn["top"]
    if values["inner"].get("adapts") == "context":
        values["policy"] = {
            **values["policy"],
            "context_size": max(1, values["policy"].get("context_size", 1)),
        }
    else:
        values["policy"] = {**values["policy"], "context_size": 0}
    try:
        config = load_config(env="PointNavigation", **values, device="cpu")
    except UserError:  # a combination that is refused
        assume(False)
    try:
        with open_training(config) as training:
            after = training.iterate().state
    except FloatingPointError:
        return  # training diverged, as documented
    assert after.counters["iteration"] == 1
    before = training.agent.state.tensors
    assert after.tensors.keys() == before.keys()
    assert after.tensors["theta"].keys() == before["theta"].keys()


def test_the_message_about_a_range_names_its_exact_end() -> None:
    for cls in (GROUPS | LEARNERS | OUTERS).values():
        for name, expected in getattr(cls, "RANGES", {}).items():
            inner = getattr(expected, "range", expected)
            if isinstance(inner, (Positive, Real)):
                assert float(str(inner).split()[-1]) == inner.most, (cls, name)


def wrong_values(expected: Any) -> list[str]:
    """Texts of values out of a range, or of another type."""
    texts = ["", "x", "null", "true", ".nan", ".inf", "-.inf", "{a: 1}"]
    if isinstance(expected, Each):
        return [
            *texts,
            "[x]",
            "[-1]",
            "[0]",
            "[.nan]",
            "[true]",
            "[" + ",".join(["1"] * (expected.most + 1)) + "]",
        ]
    if isinstance(expected, OrNone):
        return [text for text in wrong_values(expected.range) if text not in ("", "null")]
    most = expected.most
    texts += [str(most + 1 if isinstance(most, int) else most * 1.5), "1e400", "9" * 400, "[1]"]
    if isinstance(expected, Integer):
        return [*texts, str(expected.least - 1), "0.5", "1e3.5"]
    return [*texts, "-1", *(["0", "0.0"] if isinstance(expected, Positive) else [])]


def cases() -> list[tuple[list[str], str, str]]:
    """(flags that come first, setting, wrong value)."""
    found = []
    for group, cls in [*GROUPS.items(), *LEARNERS.items(), *OUTERS.items()]:
        kind_of_group, _, name_of_config = group.rstrip(".").partition(".")
        before = [f"--{kind_of_group}={name_of_config}"] if name_of_config else []
        prefix = f"{kind_of_group}." if before else group
        hints = typing.get_type_hints(cls)
        for field in dataclasses.fields(cls):
            name, kind = f"{prefix}{field.name}", hints[field.name]
            if field.name in cls.RANGES:  # type: ignore[attr-defined]
                found += [(before, name, text) for text in wrong_values(cls.RANGES[field.name])]  # type: ignore[attr-defined]
            elif kind is bool or typing.get_origin(kind) is typing.Literal:
                found += [(before, name, text) for text in ("x", "null", "2", "[true]", "")]
    for text in ("x", "-1", ".nan", ".inf", "null", "true", "[1]"):
        found += [([], name, text) for name in ("env.goal_tolerance",)]
    return [
        *found,
        ([], "env.low", "1000"),
        ([], "env.low", ".nan"),
        ([], "output", ""),
        ([], "device", "tpu"),
    ]


@pytest.mark.slow
@settings(max_examples=60, **OPTIONS)
@given(st.sampled_from(cases()))
def test_what_is_out_of_range_is_refused_before_any_file(case):
    before, name, text = case
    stderr = io.StringIO()
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.chdir(folder),
        contextlib.redirect_stderr(stderr),
    ):
        status = main(
            ["train", "--env=PointNavigation", "--num_iterations=1", *before, f"--{name}={text}"]
        )
        assert list(Path(folder).iterdir()) == []
    assert status == 2, (name, text)
    (line,) = stderr.getvalue().splitlines()
    assert line.startswith("error: ")
    assert name.rpartition(".")[2] in line
