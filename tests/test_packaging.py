"""The wheel, installed where a user's project has a folder of its own called envs."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    files = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    for name in files:
        if name.startswith(("maml_rl/", "envs/", "configs/")) or name in {
            "pyproject.toml",
            "README.md",
            "LICENSE",
        }:
            target = source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run(
        [*command, "--wheel-dir", str(folder), str(source)], check=True, capture_output=True
    )
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_every_module_preset_and_pretrained_policy(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder, package in (
        ("maml_rl", "maml_rl"),
        ("envs", "maml_envs"),
        ("configs", "maml_configs"),
    ):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in {".py", ".yaml"} or ("pretrained" in path.parts and path.is_file()):
                assert f"{package}/{path.relative_to(ROOT / folder)}" in names
    assert not any(name.startswith("envs/") for name in names)


@pytest.mark.thorough
def test_training_beside_a_folder_called_envs(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    purelib = Path(
        subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    )
    zipfile.ZipFile(wheel).extractall(purelib)
    # The dependencies, without the checkout: a path in a .pth file does not run the .pth files of
    # that path.
    (purelib / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    project = tmp_path / "project"
    (project / "envs").mkdir(parents=True)
    (project / "envs" / "__init__.py").write_text("raise RuntimeError('the decoy was imported')\n")
    sizes = [
        "--num_iterations",
        "1",
        "--meta_batch_size",
        "2",
        "--num_episodes",
        "2",
        "--horizon",
        "5",
    ]
    off = ["--logging.final_evaluation", "false", "--logging.final_video", "false"]
    done = subprocess.run(
        [
            python,
            "-m",
            "maml_rl.train",
            "--env",
            "PointNavigation",
            "--output",
            "run",
            *sizes,
            *off,
        ],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (project / "run" / "checkpoints" / "000001").is_dir()
    where = subprocess.run(
        [python, "-c", "import maml_rl, maml_envs; print(maml_rl.__file__, maml_envs.__file__)"],
        cwd=project,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert where.count(str(purelib)) == 2
