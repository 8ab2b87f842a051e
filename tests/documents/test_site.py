"""The documentation site; make docs builds it, and checks its links and its navigation."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType, SimpleNamespace

import griffe
import maml_envs
import pytest
import yaml

import maml_rl

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = [path.read_text() for path in (ROOT / "docs" / "reference").glob("*.md")]


def site_module(name: str) -> ModuleType:
    path = ROOT / "docs" / "site" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("package", [maml_rl, maml_envs])
def test_every_public_name_is_in_the_reference(package: ModuleType) -> None:
    pattern = rf"^::: {package.__name__}(?:\.\w+)*\.(\w+)$"
    documented = re.findall(pattern, "\n".join(REFERENCE), re.MULTILINE)
    public = set(package.__all__) - {"__version__"}
    assert sorted(name for name in documented if name in public) == sorted(public)


def test_what_a_family_uses_is_in_the_reference() -> None:
    document = (ROOT / "docs" / "add_a_family.md").read_text()
    used = re.findall(r"^from (maml_envs\.[\w.]+) import (\w+)$", document, re.MULTILINE)
    names = {f"{module}.{name}" for module, name in used if name != "DynamicsSetting"}  # an alias
    names.add("maml_envs.engines.rendering.FreeCamera")
    documented = re.findall(r"^::: (\S+)$", "\n".join(REFERENCE), re.MULTILINE)
    assert len(names) == 3
    assert names <= set(documented)
    assert "members: [noisy_start," in "".join(REFERENCE)


@pytest.mark.parametrize("name", ["train", "evaluate", "record"])
def test_a_function_with_the_name_of_a_module_is_documented(name: str) -> None:
    function = getattr(maml_rl, name)
    assert f"::: {function.__module__}.{name}\n" in "".join(REFERENCE)


def test_every_class_of_settings_is_in_the_reference() -> None:
    files = (ROOT / "maml_rl" / "settings").rglob("*.py")
    classes = [
        name
        for path in files
        for name in re.findall(r"^class ([A-Z]\w*Config)\b", path.read_text(), re.MULTILINE)
    ]
    base = {"LearnerConfig", "TeacherStudentConfig"}
    documented = re.findall(r"^::: [\w.]+\.(\w*Config)$", "\n".join(REFERENCE), re.MULTILINE)
    expected = {*classes, "Config"} - base
    assert sorted(documented) == sorted(expected), "correct docs/reference/settings.md"


def test_the_navigation_has_every_page() -> None:
    text = (ROOT / "mkdocs.yml").read_text()
    pages = re.findall(r"^ +- (?:\w+: )?(\S+\.(?:md|ipynb))$", text, re.MULTILINE)
    docs = ROOT / "docs"
    files = [*docs.rglob("*.md"), *docs.rglob("*.ipynb")]
    existing = {path.relative_to(docs).as_posix() for path in files}
    assert sorted(pages) == sorted(path for path in existing if "further_seeds" not in path)


def test_links_to_files_outside_docs_become_text() -> None:
    def shown(markdown: str, source: str) -> str:
        page = SimpleNamespace(file=SimpleNamespace(src_uri=source))
        return site_module("hooks").on_page_markdown(markdown, page=page)

    text = "see [the code](../maml_rl/cli.py) and [tasks](families.md#dynamics)"
    assert shown(text, "training.md") == "see the code and [tasks](families.md#dynamics)"
    inside = "![](../images/a.png) [x](../training.md) [y](https://example.org/../..)"
    assert shown(inside, "reference/index.md") == inside
    assert shown("[x](../../README.md)", "reference/index.md") == "x"


def test_cross_references_of_docstrings_become_code() -> None:
    extension = site_module("docstrings").RolesAsCode()
    text = "See :func:`maml_rl.load` and :class:`~maml_rl.agents.Agent`."
    function = griffe.Function("f", docstring=griffe.Docstring(text))
    extension.on_object(obj=function)
    assert function.docstring.value == "See `maml_rl.load` and `Agent`."


def test_the_workflow_publishes_the_site() -> None:
    job = yaml.safe_load((ROOT / ".github" / "workflows" / "docs.yml").read_text())["jobs"]
    commands = [step.get("run", "") for step in job["publish"]["steps"]]
    assert any("mike deploy" in command for command in commands)
