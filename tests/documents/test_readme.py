"""The commands, examples and links of README.md and docs/ work."""

from __future__ import annotations

import logging
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from helpers.documents import with_small_sizes

import maml_rl
from maml_rl.cli import main
from maml_rl.settings.config import Config
from maml_rl.settings.parser import load_config

ROOT = Path(__file__).resolve().parents[2]
TEXTS = [
    (ROOT / page).read_text()
    for page in (
        "README.md",
        "docs/training.md",
        "docs/evaluation.md",
        "docs/families.md",
        "docs/README.md",
    )
]
TINY = {"meta_batch_size": 2, "num_episodes": 4, "horizon": 8, "num_iterations": 2}


def blocks(language: str) -> list[str]:
    """Return the code blocks of a language in ``TEXTS``."""
    return [
        block
        for text in TEXTS
        for block in re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)
    ]


COMMANDS = [
    line.partition("#")[0].strip()
    for block in blocks("sh")
    for line in block.replace("\\\n", " ").splitlines()
    if line.partition("#")[0]
]


def commands(start: str) -> list[list[str]]:
    """Return the arguments of each command that begins with ``start``."""
    return [
        shlex.split(command.removeprefix(start))
        for command in COMMANDS
        if command.startswith(start)
    ]


@pytest.fixture(scope="module")
def point_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the runs that the commands use."""
    folder = tmp_path_factory.mktemp("readme")
    logging = {"final_evaluation": False, "final_video": False}
    for seed, name in enumerate(("point", "point-seed1")):
        output = str(folder / "runs" / name)
        maml_rl.train(
            load_config(env="PointNavigation", seed=seed, output=output, logging=logging, **TINY)
        )
    points = load_config(
        env="PointNavigation", output=str(folder / "runs/points"), logging=logging, **TINY
    )
    maml_rl.train_seeds(points, [0])
    best = logging | {"evaluate_every": 1, "keep_best": True}
    maml_rl.train(
        load_config(env="PointNavigation", output=str(folder / "runs/best"), logging=best, **TINY)
    )
    masses = {"name": "HalfCheetahVel", "dynamics": {"body_mass": [0.5, 2.0]}}
    maml_rl.train(
        load_config(env=masses, output=str(folder / "runs/masses"), logging=logging, **TINY)
    )
    return folder


def test_the_first_commands_are_pip_install_make_train_and_make_test() -> None:
    assert COMMANDS[0] == "pip install ."
    assert [command for command in COMMANDS if command.startswith("make")][:2] == [
        "make train",
        "make test",
    ]
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    used = {command.split()[1] for command in COMMANDS if command.startswith("make")}
    used.update(re.findall(r"`make ([\w-]+)`", (ROOT / "README.md").read_text()))
    assert used <= set(targets)


def test_ci_runs_the_test_command() -> None:
    assert "\nmake test" in (ROOT / ".ci" / "run").read_text()
    assert "run: make test" in (ROOT / ".github" / "workflows" / "test.yml").read_text()


@pytest.mark.slow
def test_every_training_command_of_the_documents_is_valid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    # Commands that need a run or a package: other tests run these.
    elsewhere = ("--resume", "--seeds", "--init_from runs/", "--help")
    elsewhere += ("cart_place:", "two_ways:", "my_package:", "ascent:")
    elsewhere += ("point_maze:", "dm_control_motor:", "metaworld_ml1:", "rover:")
    num_commands = 0
    for page in (ROOT / "docs").glob("*.md"):
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(), flags=re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                _, is_training, flags = line.partition("-m maml_rl.train ")
                if is_training and not any(part in flags for part in elsewhere):
                    arguments = shlex.split(flags.partition("  #")[0])
                    assert main(["train", *arguments, "--print_config"]) == 0, line
                    num_commands += 1
    assert num_commands > 25
    capsys.readouterr()


@pytest.mark.slow
@pytest.mark.parametrize("arguments", commands("python -m maml_rl.train"), ids=" ".join)
def test_training_commands(
    arguments: list[str],
    point_run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(point_run)
    if "--help" in arguments:
        with pytest.raises(SystemExit) as stop:
            main(["train", *arguments])
        assert stop.value.code == 0
        assert "--inner.num_steps" in capsys.readouterr().out
    elif "--seeds" in arguments:
        sizes = [f"--{name}={value}" for name, value in TINY.items()]
        nothing = ["--logging.final_evaluation=false", "--logging.final_video=false"]
        assert main(["train", *arguments, *sizes, *nothing]) == 0
    elif "--resume" in arguments:
        short = ["3" if argument == "200" else argument for argument in arguments]
        assert main(["train", *short]) == 0
    else:
        assert main(["train", *arguments, "--print_config"]) == 0
        assert "meta_batch_size" in capsys.readouterr().out


@pytest.mark.slow
def test_plotting_commands(point_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(point_run)
    for arguments in commands("python -m maml_rl.plot"):
        (point_run / "curve.png").unlink(missing_ok=True)
        assert main(["plot", *arguments]) == 0
        assert (point_run / "curve.png").exists()


@pytest.mark.slow
@pytest.mark.parametrize("command", ["evaluate", "record"])
def test_commands_on_a_run(command: str, point_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(point_run)
    for arguments in commands(f"python -m maml_rl.{command}"):
        small = ["--num_episodes", "2"]
        if command == "record":
            small += ["--size", "160x128", "--fps", "2"]
        else:
            small += ["--num_tasks", "3"]
            # Two values of each sweep, LOW:HIGH:NUMBER.
            arguments = [re.sub(r"(:[\d.]+):\d+", r"\1:2", word) for word in arguments]
        assert main([command, *arguments, *small]) == 0
        # Files are in --output, or in the folder of the first run.
        output = arguments[0]
        if "--output" in arguments:
            output = arguments[arguments.index("--output") + 1]
        folder = point_run / "runs" / output.removeprefix("runs/")
        assert list(folder.rglob("results.json" if command == "evaluate" else "videos/*.mp4"))


@pytest.mark.slow
@pytest.mark.parametrize("example", blocks("python"))
def test_python_examples(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def load_tiny_config(**settings: Any) -> Config:
        return load_config(**{**settings, **TINY})

    monkeypatch.setattr(maml_rl, "load_config", load_tiny_config, raising=False)
    names: dict[str, object] = {}
    logger = logging.getLogger("maml_rl")
    level = logger.level
    try:
        exec(with_small_sizes(example), names)
    finally:
        logger.setLevel(level)  # an example turns log lines off
    if "import maml_rl\n" in example:  # some examples use the environments only
        assert isinstance(names["agent"], maml_rl.Agent)
    if "maml_rl.train(" in example:
        assert list(tmp_path.glob("runs/**/evaluation/results.json"))
    if "adapted" in names:
        assert (tmp_path / "runs/adapted/config.yaml").is_file()


def test_every_page_is_in_the_index() -> None:
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    index = (ROOT / "docs/README.md").read_text()
    assert set(re.findall(r"^\| \[(\S+)\]\(\1\)", index, flags=re.MULTILINE)) == pages


def test_benchmarks_exist() -> None:
    text = "".join(page.read_text() for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
    programs = set(re.findall(r"python (benchmarks/\S+\.py)", text))
    assert len(programs) > 10
    for program in programs:
        assert (ROOT / program).is_file(), program


def test_links_lead_somewhere() -> None:
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for link, heading in re.findall(r"\]\((?!http)([^)#]*)#?([^)]*)\)", document.read_text()):
            target = document.parent / link if link else document
            assert target.exists(), f"{document.name}: {link}"
            assert not heading or heading in anchors(target), f"{document.name}: {link}#{heading}"


def anchors(document: Path) -> set[str]:
    """Return what links to the headings of a document may name, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
