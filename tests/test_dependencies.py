"""Versions: lower bounds are those that were tried, and every dependency is described."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from maml_rl.cli import DEPENDENCIES

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
RUNTIME: list[str] = PROJECT["dependencies"]
FOR_USERS: list[str] = [
    *PROJECT["optional-dependencies"]["completion"],
    *PROJECT["optional-dependencies"]["export"],
]
EXTRAS: list[str] = [*FOR_USERS, *PROJECT["optional-dependencies"]["dev"]]


def _name(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _bounds(requirements: list[str]) -> dict[str, str]:
    found = (re.fullmatch(r"([\w-]+)>=([\d.]+)", requirement) for requirement in requirements)
    return {_name(match[1]): match[2] for match in found if match}


def _pinned(file: str) -> dict[str, str]:
    lines = (
        line for line in (ROOT / file).read_text().splitlines() if line and not line.startswith("#")
    )
    return {_name(name): version for name, _, version in (line.partition("==") for line in lines)}


def _number(version: str) -> tuple[int, ...]:
    """Without zeros at its end: 2.8 is 2.8.0."""
    return tuple(int(part) for part in re.sub(r"(\.0)+$", "", version).split("."))


def test_every_runtime_dependency_has_a_lower_bound_and_no_other():
    assert len(_bounds(RUNTIME)) == len(RUNTIME)


def test_the_commands_know_the_import_name_of_every_runtime_dependency():
    packages = importlib.metadata.packages_distributions()  # some have several: mujoco-core
    known = [{_name(package) for package in packages[name]} for name in DEPENDENCIES]
    assert all(names & set(_bounds(RUNTIME)) for names in known)
    assert set(_bounds(RUNTIME)) <= set().union(*known)


def test_the_oldest_versions_are_the_lower_bounds():
    oldest, bounds = _pinned("constraints-oldest.txt"), _bounds([*RUNTIME, *EXTRAS])
    assert set(_bounds([*RUNTIME, *FOR_USERS])) <= set(oldest) <= set(bounds)
    assert {name: _number(version) for name, version in oldest.items()} == {
        name: _number(bounds[name]) for name in oldest
    }


def test_the_versions_that_set_up_installs_are_within_the_bounds():
    exact = _pinned("constraints.txt")
    for name, bound in _bounds(RUNTIME).items():
        assert _number(exact[name]) >= _number(bound), name


@pytest.mark.parametrize("requirement", [*RUNTIME, *FOR_USERS])
def test_every_dependency_is_described(requirement):
    name = requirement.partition(">=")[0]
    rows = [
        line
        for line in (ROOT / "docs" / "dependencies.md").read_text().splitlines()
        if line.startswith("| ")
    ]
    assert sum(line.startswith(f"| {name} |") for line in rows) == 1


def test_the_workflow_tests_the_oldest_and_the_newest():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())["jobs"]
    rows = jobs["supported-versions"]["strategy"]["matrix"]["include"]
    oldest, newest = rows
    assert f">={oldest['python']}" == PROJECT["requires-python"]
    assert oldest["constraints"] == "-c constraints-oldest.txt"
    assert newest["constraints"] == ""
    assert PROJECT["classifiers"][-2].endswith(f":: {newest['python']}")
