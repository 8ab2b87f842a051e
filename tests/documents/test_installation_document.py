"""Files of installation: Dockerfiles copy what the package needs, and versions agree."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.cuda"])
def test_an_image_has_all_that_the_package_is_built_from(name: str) -> None:
    lines = (ROOT / "docker" / name).read_text().splitlines()
    copied = {file for line in lines if line.startswith("COPY ") for file in line.split()[1:-1]}
    folders = PROJECT["tool"]["setuptools"]["package-dir"].values()
    needed = {folder.partition("/")[0] for folder in folders} | {"maml_rl"}
    needed |= {"pyproject.toml", PROJECT["project"]["readme"], *PROJECT["project"]["license-files"]}
    assert copied == {*needed, "constraints.txt"}
    assert all((ROOT / file).exists() for file in copied)
    # The context has these files.
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    assert {line[1:] for line in ignore if line.startswith("!")} == copied


def test_images_have_a_supported_python_and_run_the_command() -> None:
    for name in ("Dockerfile", "Dockerfile.cuda"):
        text = (ROOT / "docker" / name).read_text()
        [version] = re.findall(r"^FROM python:([\d.]+)-slim$", text, re.MULTILINE)
        assert PROJECT["project"]["requires-python"] == f">={version}"
        assert 'ENTRYPOINT ["maml-rl"]' in text
        assert "maml-rl" in PROJECT["project"]["scripts"]


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["project"]["version"]
    assert citation["license"] == PROJECT["project"]["license"]
    authors = [author["name"] for author in PROJECT["project"]["authors"]]
    assert [author["name"] for author in citation["authors"]] == authors


def test_extras_of_the_document_exist() -> None:
    text = (ROOT / "docs" / "installation.md").read_text()
    extras = set(re.findall(r"maml-rl\[(\w+)\]", text))
    assert extras == set(PROJECT["project"]["optional-dependencies"])
