"""Imports point one way: a room imports only rooms that stand before it."""

from __future__ import annotations

import ast
import importlib
import operator
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from helpers.scripts import ROOT, load_script

ROOMS = [
    "system",
    "settings",
    "runs",
    "policies",
    "sampling",
    "learners",
    "agents",
    "analysis",
    "training",
]
COMMANDS = {
    *("__main__", "cli", "compare_flags", "completion", "env_flags"),
    *("train", "evaluate", "compare", "record", "play", "plot", "baselines", "doctor", "list"),
}
ENV_ROOMS = ["distributions", "engines", "family", "families", "gym"]
UPWARD = ("maml_rl.agents.agent", "maml_rl.analysis.evaluation")
"""The only import of a later room: ``Agent.evaluate`` is a method for convenience."""
DOCUMENT = (ROOT / "docs" / "architecture.md").read_text()


def modules_of(folder: Path, package: str) -> dict[str, Path]:
    """The modules of a package by dotted name."""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        parts = [package, *path.relative_to(folder).with_suffix("").parts]
        found[".".join(parts).removesuffix(".__init__")] = path
    return found


MODULES = modules_of(ROOT / "maml_rl", "maml_rl")
ENV_MODULES = modules_of(ROOT / "envs", "maml_envs")


def imported(path: Path) -> set[str]:
    """Every module that a file imports, at its top or inside a function."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
    return names


def room_of(module: str) -> str:
    """``system`` of ``maml_rl.system.stopwatch``, and ``cli`` of ``maml_rl.cli``."""
    return module.split(".")[1] if "." in module else ""


def test_every_module_is_in_a_room_or_a_command() -> None:
    rooms = {room_of(module) for module in MODULES} - {""}
    assert rooms == {*ROOMS, *COMMANDS, "errors"}


@pytest.mark.parametrize("module", sorted(module for module in MODULES if room_of(module) in ROOMS))
def test_a_room_imports_only_earlier_rooms(module: str) -> None:
    allowed = {"errors", *ROOMS[: ROOMS.index(room_of(module)) + 1]}
    for name in imported(MODULES[module]):
        if name.partition(".")[0] == "maml_rl" and (module, name) != UPWARD:
            assert room_of(name) in allowed, f"{module} imports {name}"


@pytest.mark.parametrize(
    "module", sorted(module for module in ENV_MODULES if room_of(module) in ENV_ROOMS)
)
def test_environments_import_one_way(module: str) -> None:
    allowed = ENV_ROOMS[: ENV_ROOMS.index(room_of(module)) + 1]
    for name in imported(ENV_MODULES[module]):
        if name.partition(".")[0] == "maml_envs":
            assert room_of(name) in allowed, f"{module} imports {name}"


@pytest.mark.parametrize("modules", [MODULES, ENV_MODULES], ids=["maml_rl", "maml_envs"])
def test_no_modules_import_each_other(modules: dict[str, Path]) -> None:
    graph = {
        module: imported(path) & modules.keys() - {"maml_rl", "maml_envs"}
        for module, path in modules.items()
    }
    module, later = UPWARD
    graph.get(module, set()).discard(later)
    graph.pop("maml_rl", None)
    graph.pop("maml_envs", None)
    order = list(TopologicalSorter(graph).static_order())  # raises CycleError
    assert set(order) == set(graph)


def test_the_packages_meet_only_in_the_settings() -> None:
    users = {
        module
        for module, path in MODULES.items()
        if any(n.startswith("maml_envs") for n in imported(path))
    }
    assert {room_of(module) for module in users} == {"settings"}
    for path in ENV_MODULES.values():
        assert not any(name.partition(".")[0] == "maml_rl" for name in imported(path)), path


@pytest.mark.slow
def test_settings_and_commands_import_no_torch() -> None:
    code = "import sys, maml_rl.cli, maml_rl.train, maml_rl.settings.parser; "
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_no_room_is_crowded() -> None:
    for room in ROOMS:
        files = [path for path in (ROOT / "maml_rl" / room).glob("*.py") if path.stem != "__init__"]
        assert 3 <= len(files) <= 11, room


def test_the_document_draws_the_rooms_in_their_order() -> None:
    rows = re.findall(r"^\| `(\w+)/` \|", DOCUMENT, re.MULTILINE)
    assert rows[: len(ROOMS)] == ROOMS


@pytest.mark.parametrize("room", ROOMS)
def test_the_document_names_every_module_of_a_room(room: str) -> None:
    row = next(line for line in DOCUMENT.splitlines() if line.startswith(f"| `{room}/` |"))
    named = set(re.findall(r"`(\w+)(?:/)?`", row.split("|")[3]))
    folder = ROOT / "maml_rl" / room
    there = {path.stem for path in folder.glob("*.py")} | {
        path.parent.name for path in folder.glob("*/__init__.py")
    }
    assert named == there - {"__init__"}


def test_stable_baselines3_is_used_by_agents_alone() -> None:
    users = {
        (room_of(module), name)
        for module, path in MODULES.items()
        for name in imported(path)
        if name.startswith("stable_baselines3") and room_of(module) != "agents"
    }
    assert not users


@pytest.mark.slow
def test_tests_and_benchmarks_are_not_imported_by_the_packages() -> None:
    for path in MODULES.values():
        assert not any(
            name.split(".")[0] in {"tests", "benchmarks", "helpers"} for name in imported(path)
        ), path


@pytest.mark.slow
def test_no_test_module_imports_another() -> None:
    for path in (ROOT / "tests").rglob("*.py"):
        assert not any(name.rpartition(".")[2].startswith("test_") for name in imported(path)), path


def test_tests_mirror_the_rooms() -> None:
    folders = {path.parent.name for path in (ROOT / "tests").rglob("test_*.py")} - {"tests"}
    assert folders >= {*ROOMS, "envs", "documents"}


def test_the_walk_passes_functions_that_exist() -> None:
    walk = DOCUMENT[DOCUMENT.index("## Walk of a task") : DOCUMENT.index("## Decisions")]
    names = [name for name in re.findall(r"`((?:\w+\.)+\w+)`", walk) if not name.endswith(".py")]
    assert len(names) > 20
    for name in names:
        assert callable(resolved(name)), name


def resolved(name: str) -> object:
    """The function of a dotted name, in ``maml_rl`` unless it starts with ``maml_envs``."""
    full = name if name.startswith("maml_envs") else f"maml_rl.{name}"
    modules = {**MODULES, **ENV_MODULES}
    module = max((m for m in modules if full.startswith(f"{m}.")), key=len)
    return operator.attrgetter(full.removeprefix(f"{module}."))(importlib.import_module(module))


def test_every_mutant_changes_one_place() -> None:
    mutants = load_script("benchmarks/mutants.py").MUTANTS
    assert [m for m in mutants if (ROOT / m.file).read_text().count(m.old) != 1] == []
