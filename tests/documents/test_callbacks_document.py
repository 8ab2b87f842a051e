"""docs/callbacks.md: its commands and Python code work, with the real trackers."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import commands
from helpers.own_modules import working_folder
from helpers.runs import progress

from maml_rl.cli import main

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "callbacks.md").read_text()
TINY = {"meta_batch_size": 2, "num_episodes": 2, "horizon": 4, "device": "cpu"}
QUIET = {"final_evaluation": False, "final_video": False}
FLAGS = [f"--{name}={value}" for name, value in TINY.items()]
FLAGS += [f"--logging.{name}=false" for name in QUIET]

pytestmark = pytest.mark.slow

PYTHON = re.findall(r"```python\n(.*?)```", DOCUMENT, flags=re.DOTALL)
MODULES = {code.split('"""')[1]: code for code in PYTHON if code.startswith('"""my_')}
BLOCKS = re.findall(r"```sh\n(.*?)```", DOCUMENT, flags=re.DOTALL)
SKINNY = dict(re.findall(r"`(MLFLOW_\w+)=(\S+)`", DOCUMENT))


def write_modules(folder: Path) -> None:
    """Write the modules of the document."""
    for name, code in MODULES.items():
        (folder / name).write_text(code)


def documented(name: str) -> tuple[list[str], dict[str, str]]:
    """Arguments of the documented command with a callback, and the variables it exports."""
    (block,) = [block for block in BLOCKS if name in block]
    *exports, command = block.splitlines()
    python, *arguments = shlex.split(command)
    assert python == "python"
    return arguments, dict(line.removeprefix("export ").split("=") for line in exports)


def run(command: list[str], folder: Path, variables: dict[str, str]) -> None:
    """Run a Python command in a new process, since trackers start threads and keep state."""
    write_modules(folder)
    option, module, *arguments = command
    assert option == "-m"
    done = commands.run(module, *arguments, folder=folder, variables=variables)
    assert done.returncode == 0, done.stderr


def test_every_command_and_module_is_tried() -> None:
    assert set(MODULES) == {"my_callbacks.py", "my_wandb.py", "my_mlflow.py"}
    assert len(PYTHON) == 4
    assert len(BLOCKS) == 3


@pytest.mark.thorough
def test_a_callback_of_your_own(tmp_path: Path) -> None:
    write_modules(tmp_path)
    (_, module, *arguments), variables = documented("my_callbacks:FarCorner")
    assert module == "maml_rl.train"
    assert not variables
    with working_folder(tmp_path):
        assert main(["train", *arguments, *FLAGS, "--num_iterations=52", "--output=run"]) == 0
    rows = progress(tmp_path / "run")
    logged = {int(row["time/iteration"]): row["far_corner/return"] for row in rows}
    assert [step for step, value in logged.items() if value] == [50]
    assert -10 < float(logged[50]) < 0  # four steps from the start
    assert len(rows) == 50  # so it counts as solved


def test_callbacks_from_python(tmp_path: Path) -> None:
    (code,) = [code for code in PYTHON if code not in MODULES.values()]
    settings = {**TINY, "num_iterations": 3, "output": "run", "logging": QUIET}
    tiny = code.replace('env="PointNavigation"', f'env="PointNavigation", **{settings!r}')
    assert tiny != code
    write_modules(tmp_path)
    with working_folder(tmp_path):
        exec(tiny, {})
    assert len(progress(tmp_path / "run")) == 3


def test_wandb(tmp_path: Path) -> None:
    command, variables = documented("my_wandb:WandB")
    run([*command, *FLAGS, "--num_iterations=3", "--output=run"], tmp_path, variables)
    (file,) = tmp_path.glob("wandb/offline-run-*/run-run.wandb")
    history = wandb_history(file)
    expected = [float(row["outer/kl"]) for row in progress(tmp_path / "run")]
    assert [row["outer/kl"] for row in history] == expected
    assert [row["_step"] for row in history] == [1, 2, 3]


# An offline run is a LevelDB log: after 7 bytes, blocks of 32 KiB with parts of records, each after
# a header of 7 bytes: checksum (4), length (2) and type (1 whole, 2 first, 3 middle, 4 last part).
READ_WANDB = """
import json, sys
from wandb.proto.wandb_internal_pb2 import Record

data = open(sys.argv[1], "rb").read()
position, record, rows = 7, b"", []
while position + 7 <= len(data):
    left = 32768 - position % 32768
    if left < 7:
        position += left
        continue
    length, kind = int.from_bytes(data[position + 4 : position + 6], "little"), data[position + 6]
    position += 7 + length
    record += data[position - length : position]
    if kind in (1, 4):
        items = Record.FromString(record).history.item
        values = {item.key or ".".join(item.nested_key): item.value_json for item in items}
        rows.append({name: json.loads(text) for name, text in values.items()})
        record = b""
print(json.dumps([row for row in rows if row]))
"""


def wandb_history(file: Path) -> list[dict[str, Any]]:
    """Everything that was logged in offline mode."""
    done = subprocess.run(
        [sys.executable, "-c", READ_WANDB, str(file)], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def test_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumed run continues its MLflow run."""
    for name, value in SKINNY.items():
        monkeypatch.setenv(name, value)
    command, variables = documented("my_mlflow:MLflow")
    run([*command, *FLAGS, "--num_iterations=2", "--output=run"], tmp_path, variables)
    run(["-m", "maml_rl.train", "--resume=run", "--num_iterations=4"], tmp_path, {})
    (tracked,) = tmp_path.glob("mlruns/*/*/metrics")
    lines = (tracked / "outer" / "kl").read_text().split("\n")[:-1]
    expected = [float(row["outer/kl"]) for row in progress(tmp_path / "run")]
    assert [float(line.split()[1]) for line in lines] == expected
    assert [int(line.split()[2]) for line in lines] == [1, 2, 3, 4]
    config = tracked.parent / "artifacts" / "config.yaml"
    assert config.read_bytes() == (tmp_path / "run" / "config.yaml").read_bytes()
