"""Imports point one way: each module may import only modules of lower levels."""

from __future__ import annotations

import ast
import importlib
import operator
import re
from pathlib import Path

import pytest
from helpers.scripts import load_script

ROOT = Path(__file__).resolve().parent.parent

LEVELS = [
    {"errors"},
    {
        "threads",
        "stopwatch",
        "intervals",
        "random_streams",
        "protocols",
        "episodes",
        "allocator",
        "torch_stand_in",
        "matplotlib_backend",
    }
    | {"durable_files", "stop_signals", "bounded_files", "user_paths"},
    {"devices", "setting_checks", "cpu_operations"},
    {"task_blocks"},
    {"ranks", "safe_yaml", "array_files"},
    {"failures", "normalizer"},
    {"checkpoint", "run_folder", "pretrained_runs", "metrics_writers", "policies", "baseline"}
    | {"video_grid", "drawn_tasks", "task_observer"},
    {"advantages", "inner", "task_setter", "acting"},
    {"maml", "sampling_metrics", "collection", "task_vector_env"},
    {"adaptation", "outer.adam", "folding"},
    {"outer.trpo", "outer.ppo", "outer.reptile", "sb3", "episode_log", "export"},
    {"outer.promp"},
    {"outer"},
    {"config"},
    {"meta_policy", "meta_trainer"},
    {"evaluation", "recording"},
    {"comparison"},
    {"figures"},
    {"report"},
    {"config_files"},
    {"run_groups", "policy_import"},
    {"training", "learning_curves"},
    {"baseline_runs"},
    {"cli"},
    {"train", "evaluate", "record", "plot", "baselines", "__main__"},
]
LEVEL_OF = {module: level for level, modules in enumerate(LEVELS) for module in modules}


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


def module_name(path: Path) -> str:
    return str(path.relative_to(ROOT / "maml_rl").with_suffix("")).replace("/", ".").removesuffix(".__init__")


MODULES = {module_name(path): path for path in (ROOT / "maml_rl").rglob("*.py") if path.parent.name != "__pycache__"}
MODULES.pop("__init__")


def test_every_module_has_a_level() -> None:
    assert set(MODULES) == set(LEVEL_OF)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_point_down(module: str) -> None:
    for name in imported(MODULES[module]):
        if name.startswith("maml_rl."):
            used = name.removeprefix("maml_rl.")
            assert LEVEL_OF[used] < LEVEL_OF[module], f"{module} imports {used}, which does not stand below it"


def test_the_packages_meet_only_in_config_files() -> None:
    users = {module for module, path in MODULES.items() if any(n.startswith("maml_envs") for n in imported(path))}
    assert users == {"config_files"}
    for path in (ROOT / "envs").glob("*.py"):
        assert not any(name.startswith("maml_rl") for name in imported(path)), path


def test_stable_baselines3_is_used_for_its_logger_and_in_sb3_alone() -> None:
    users = {
        (module, name)
        for module, path in MODULES.items()
        for name in imported(path)
        if name.startswith("stable_baselines3") and module != "sb3"
    }
    assert users == {("metrics_writers", "stable_baselines3.common.logger")}


def test_tests_and_benchmarks_are_not_imported_by_the_packages() -> None:
    for path in MODULES.values():
        assert not any(name.split(".")[0] in {"tests", "benchmarks"} for name in imported(path)), path


def test_the_walk_passes_functions_that_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    walk = text[text.index("## The walk of a task") : text.index("## Layers")]
    names = [name for name in re.findall(r"`((?:\w+\.)+\w+)`", walk) if not name.endswith(".py")]
    assert len(names) > 20
    for name in names:
        module, _, attribute = name.partition(".") if not name.startswith(("outer.", "maml_envs.")) else split(name)
        package = module if module.startswith("maml_envs") else f"maml_rl.{module}"
        assert callable(operator.attrgetter(attribute)(importlib.import_module(package))), name


def split(name: str) -> tuple[str, str, str]:
    """outer.trpo.trpo_step: two parts are the module."""
    first, second, attribute = name.split(".", 2)
    return f"{first}.{second}", ".", attribute


def test_every_mutant_changes_one_place() -> None:
    mutants = load_script("benchmarks/mutants.py").MUTANTS
    assert [m for m in mutants if (ROOT / m.file).read_text().count(m.old) != 1] == []
