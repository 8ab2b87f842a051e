"""What the README and the pages of docs/ show exists and runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import maml_rl
from maml_rl.cli import main
from maml_rl.settings.parser import load_config

ROOT = Path(__file__).resolve().parents[2]
TEXTS = [
    (ROOT / name).read_text()
    for name in ("README.md", *(f"docs/{n}.md" for n in ("training", "evaluation", "families")))
]
TINY = {"meta_batch_size": 2, "num_episodes": 4, "horizon": 8, "num_iterations": 2}


def blocks(language: str) -> list[str]:
    return [
        block
        for text in TEXTS
        for block in re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)
    ]


COMMANDS = [
    line.partition("#")[0].strip()
    for block in blocks("sh")
    for line in block.splitlines()
    if line.partition("#")[0]
]


def commands(start: str) -> list[list[str]]:
    return [
        shlex.split(command.removeprefix(start))
        for command in COMMANDS
        if command.startswith(start)
    ]


@pytest.fixture(scope="module")
def point_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the runs that the texts speak of exist."""
    folder = tmp_path_factory.mktemp("readme")
    logging = {"final_evaluation": False, "final_video": False}
    for seed, name in enumerate(("point", "point-seed1")):
        output = str(folder / "runs" / name)
        maml_rl.train(
            load_config(env="PointNavigation", seed=seed, output=output, logging=logging, **TINY)
        )
    masses = {"name": "HalfCheetahVel", "dynamics": {"body_mass": [0.5, 2.0]}}
    maml_rl.train(
        load_config(env=masses, output=str(folder / "runs/masses"), logging=logging, **TINY)
    )
    return folder


def test_the_first_commands_are_the_two_that_set_up_everything() -> None:
    assert [command.split()[:2] for command in COMMANDS[:2]] == [
        ["make", "train"],
        ["make", "test"],
    ]
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert {command.split()[1] for command in COMMANDS if command.startswith("make")} <= set(
        targets
    )


def test_ci_runs_the_test_command() -> None:
    assert "\nmake test" in (ROOT / ".ci" / "run").read_text()
    assert "run: make test" in (ROOT / ".github" / "workflows" / "test.yml").read_text()


def test_every_training_command_of_the_documents_is_valid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    found = 0
    for page in (ROOT / "docs").glob("*.md"):
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(), flags=re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                _, is_training, flags = line.partition("-m maml_rl.train ")
                elsewhere = (
                    "--resume",
                    "--init_from runs/",
                    "cart_place:",
                    "my_package:",
                    "--help",
                )  # in other tests
                if is_training and not any(part in flags for part in elsewhere):
                    assert (
                        main(["train", *shlex.split(flags.partition("  #")[0]), "--print_config"])
                        == 0
                    ), line
                    found += 1
    assert found > 50
    capsys.readouterr()


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
    elif "--resume" in arguments:
        short = ["3" if argument == "200" else argument for argument in arguments]
        assert main(["train", *short]) == 0
    else:
        assert main(["train", *arguments, "--print_config"]) == 0
        assert "meta_batch_size" in capsys.readouterr().out


def test_plotting_commands(point_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(point_run)
    (arguments,) = commands("python -m maml_rl.plot")
    assert main(["plot", *arguments]) == 0
    assert (point_run / "curve.png").exists()


@pytest.mark.parametrize("command", ["evaluate", "record"])
def test_commands_on_a_run(command: str, point_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(point_run)
    for arguments in commands(f"python -m maml_rl.{command}"):
        small = [
            "--num_episodes",
            "2",
            *(["--size", "160x128", "--fps", "2"] if command == "record" else []),
        ]
        assert main([command, *arguments, *small]) == 0
        where = (
            arguments[arguments.index("--output") + 1] if "--output" in arguments else arguments[0]
        )
        folder = point_run / "runs" / where.removeprefix("runs/")
        assert list(folder.rglob("results.json" if command == "evaluate" else "videos/*.mp4"))


@pytest.mark.parametrize("example", blocks("python"))
def test_python_examples(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        maml_rl,
        "load_config",
        lambda **settings: load_config(**{**settings, **TINY}),
        raising=False,
    )
    names: dict[str, object] = {}
    exec(example, names)
    if "import maml_rl\n" in example:  # and not the environments alone
        assert isinstance(names["policy"], maml_rl.MetaPolicy)
    if "maml_rl.train(" in example:
        assert list(tmp_path.glob("runs/**/evaluation/results.json"))
    if "adapted" in names:
        assert (tmp_path / "runs/adapted/config.yaml").is_file()


def test_every_page_is_in_the_index() -> None:
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert (
        set(
            re.findall(
                r"^\| \[(\S+)\]\(\1\)", (ROOT / "docs/README.md").read_text(), flags=re.MULTILINE
            )
        )
        == pages
    )


def test_benchmarks_and_links_exist() -> None:
    for arguments in commands("python benchmarks"):
        assert (ROOT / ("benchmarks" + arguments[0])).is_file()
    for document in [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "CONTRIBUTING.md"]:
        for link in re.findall(r"\]\((?!http)([^)#]+)\)", document.read_text()):
            assert (document.parent / link).exists(), f"{document.name}: {link}"
