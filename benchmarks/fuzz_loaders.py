"""Every file that the package loads: an intact example, its reader, and ways to damage it."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml

import maml_rl
from maml_rl.agents.learner_checkpoint import restored
from maml_rl.analysis.comparison.compare import Comparison
from maml_rl.analysis.comparison.entries import Entry
from maml_rl.analysis.comparison.saved_evaluations import evaluate_or_read
from maml_rl.analysis.comparison.scratch import Scratch
from maml_rl.errors import UserError
from maml_rl.runs.checkpoint_files import load_checkpoint
from maml_rl.runs.progress_log import AppendingCSV
from maml_rl.runs.progress_table import read_progress
from maml_rl.runs.run_folder import run_config
from maml_rl.settings.parser import parse_training_arguments
from maml_rl.training import baseline_runs

SETTINGS: dict[str, Any] = {
    "env": {"name": "PointNavigation"},
    "device": "cpu",
    "num_iterations": 2,
    "meta_batch_size": 2,
    "num_episodes": 2,
    "horizon": 5,
    "policy": {"hidden_sizes": [4], "normalize_observations": True},
    "outer": {"name": "promp"},
    "logging": {"final_evaluation": False, "final_video": False},
}
_SIZES: dict[str, Any] = {
    "num_tasks": 2,
    "num_episodes": 2,
    "num_steps": 1,
    "seed": 0,
    "deterministic": False,
    "deterministic_adaptation": False,
}
_VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    1e308,
    10**400,
    float("nan"),
    float("inf"),
    "",
    "\0",
    "../x",
    [],
    {},
    [[]],
]
_VALUES += [
    {"a": {"b": 1}},
    1.5,
    "x" * 300,
    ["a", 1],
    2**63,
    -(2**63),
    "auto",
    [1, [2, [3]]],
    {"name": None},
]
_TEXTS = (
    b"1e999",
    b"9" * 5000,
    b"-1",
    b"NaN",
    b"Infinity",
    b"!!python/object/apply:os.system ['true']",
    b"*a",
    b"&a [*a]",
)
_TEXTS += (
    b"[" * 3000,
    b"{" * 3000,
    b"\xff\xfe",
    b"\0",
    b"null",
    b"{}",
    b"18446744073709551615",
    b"1:59:59",
    b"<<: *a",
)
_TEXTS += (
    b"\xc2\xb2",
    b"!!int ''",
    b"!!bool x",
    b"!!binary x",
    b"2001-99-99",
    b"? [a]\n: b",
    b"'\"",
    b"\r\n",
    b",,,,",
)


class Loader(NamedTuple):
    """An intact file and its reader."""

    sound: bytes
    """Content of the intact file."""
    load: Callable[[bytes], object]
    """Replace the content, and load the file as the package does."""


class _Touch:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def hostile_pickle(marker: Path) -> bytes:
    """Return a pickle that creates the file ``marker`` when it is loaded."""
    return pickle.dumps(_Touch(marker))


def reseal(checkpoint: Path) -> None:
    """Rewrite SHA256SUMS to match the files."""
    names = ("tensors.safetensors", "values.json")
    sums = [
        f"{hashlib.sha256((checkpoint / name).read_bytes()).hexdigest()}  {name}\n"
        for name in names
    ]
    (checkpoint / "SHA256SUMS").write_text("".join(sums))


def make_loaders(folder: Path) -> dict[str, Loader]:
    """Train a small run, and return the readers of its files."""
    run = maml_rl.train(maml_rl.load_config(**SETTINGS, output=str(folder / "run")))
    agent = maml_rl.load(run)
    checkpoint = run / "checkpoints" / "000002"
    cpu = torch.device("cpu")
    # copies of the checkpoint in both formats
    new = folder / "format_2"
    old = folder / "format_1"
    values = json.loads((checkpoint / "values.json").read_text())
    for copy, version in ((new, 2), (old, 1)):
        copy.mkdir()
        (copy / "tensors.safetensors").write_bytes(
            (checkpoint / "tensors.safetensors").read_bytes()
        )
        (copy / "values.json").write_text(json.dumps({**values, "format_version": version}))
    reseal(new)

    def load(path: Path) -> None:
        loaded = load_checkpoint(path, cpu)
        loaded.check_run({"environment": "PointNavigation"})
        restored(loaded, agent.learner)

    def replaced(path: Path, read: Callable[[], object]) -> Loader:
        sound = path.read_bytes()

        def load_instead(content: bytes) -> object:
            path.write_bytes(content)
            try:
                return read()
            finally:  # other loaders read this file too
                path.write_bytes(sound)

        return Loader(sound, load_instead)

    def resealed(name: str) -> Loader:
        return replaced(new / name, lambda: (reseal(new), load(new)))

    # checkpoints
    loaders = {
        "tensors.safetensors": resealed("tensors.safetensors"),
        "values.json": resealed("values.json"),
        "tensors.safetensors, format 1": replaced(old / "tensors.safetensors", lambda: load(old)),
        "values.json, format 1": replaced(old / "values.json", lambda: load(old)),
    }
    sums = folder / "sums"
    _copy(checkpoint, sums)
    loaders["SHA256SUMS"] = replaced(sums / "SHA256SUMS", lambda: load(sums))
    # configurations
    settings = folder / "settings"
    settings.mkdir()
    (settings / "config.yaml").write_bytes((run / "config.yaml").read_bytes())
    loaders["config.yaml of a run"] = replaced(
        settings / "config.yaml", lambda: run_config(settings)
    )
    user_config = settings / "given.yaml"
    user_config.write_text(yaml.safe_dump(SETTINGS))
    loaders["--config"] = replaced(
        user_config, lambda: parse_training_arguments([f"--config={user_config}"])
    )
    return loaders | _results(folder, run, agent, replaced)


def _results(
    folder: Path, run: Path, agent: maml_rl.Agent, replaced: Callable[..., Loader]
) -> dict[str, Loader]:
    """Return the readers of a run's logs and results."""
    logs = folder / "logs"
    _copy(run, logs)
    episodes = folder / "episodes.npz"
    shape = np.zeros((6, 2), np.float32)
    ends = np.arange(6) % 3 == 2
    np.savez(episodes, observations=shape, actions=shape, rewards=shape[:, 0], episode_ends=ends)
    task = {"goal_x": 0.1, "goal_y": 0.2}
    ppo = folder / "results.json"
    curve = {"task": task, "num_env_steps": [0, 10], "returns": [-1.0, 0.5]}
    described = {"env": "PointNavigation", "seed": 0}
    ppo.write_text(json.dumps({**described, "tasks": [curve, curve]}))
    unfinished = folder / "unfinished"

    def evaluated() -> None:
        evaluation = evaluate_or_read(
            agent,
            agent.config.env,
            _SIZES,
            None,
            fixed={},
            folder=unfinished,
            activity=lambda text: None,
        )
        entry = Entry("maml", (run,), (evaluation,), {})
        _ = Comparison([entry]).settings

    evaluated()
    (cache,) = unfinished.iterdir()

    return {
        "progress.csv, resumed": replaced(
            logs / "progress.csv", lambda: AppendingCSV(logs / "progress.csv", 1)
        ),
        "progress.csv, drawn": replaced(logs / "progress.csv", lambda: read_progress(logs)),
        "episodes.npz": replaced(
            episodes, lambda: agent.adapt(episodes=maml_rl.EpisodeLog.load(episodes))
        ),
        "results.json of PPO": replaced(
            ppo,
            lambda: (
                Scratch.read(ppo, [task]),
                baseline_runs._finished_tasks(ppo, described),
            ),
        ),
        "unfinished/*.json": replaced(cache, evaluated),
    }


def _copy(source: Path, target: Path) -> None:
    target.mkdir()
    for path in source.iterdir():
        if path.is_file():
            (target / path.name).write_bytes(path.read_bytes())


def damaged(sound: bytes, rng: random.Random) -> bytes:
    """Damage ``sound``: one to four random changes, or one changed value in YAML or JSON."""
    # one changed value
    if rng.random() < 0.4:
        changed = None
        with contextlib.suppress(Exception):  # the input may be damaged already
            changed = _other_value(sound, rng)
        if changed is not None:
            return changed
    # random changes of bytes
    content = bytearray(sound)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(content) + 1)
        length = rng.choice([1, 4, 8, rng.randint(1, 200)])
        match rng.randrange(7):
            case 0 if at < len(content):
                content[at] ^= 1 << rng.randrange(8)
            case 1:
                del content[at:]
            case 2:
                content[at:at] = rng.choice(_TEXTS)
            case 3:
                content[at : at + length] = rng.randbytes(length)
            case 4:
                start = rng.randrange(len(content) + 1)
                content[at:at] = content[start : start + length]
            case 5:
                content[at : at + 8] = rng.choice(
                    [b"\xff" * 8, bytes(8), (1 << 62).to_bytes(8, "little")]
                )
            case 6:
                numbers = [i for i, byte in enumerate(content) if 48 <= byte <= 57]
                if numbers:
                    i = rng.choice(numbers)
                    content[i : i + 1] = rng.choice(_TEXTS)
    return bytes(content)


def _other_value(sound: bytes, rng: random.Random) -> bytes | None:
    """Replace one value in JSON, YAML or a safetensors header.

    Returns ``None``, or raises, for other files.
    """
    length = int.from_bytes(sound[:8], "little")
    if 8 + length <= len(sound) and sound[8:9] == b"{":
        header = json.loads(sound[8 : 8 + length])
        text = json.dumps(_replaced(header, rng)).encode()
        return len(text).to_bytes(8, "little") + text + sound[8 + length :]
    values = yaml.safe_load(sound.decode())
    if not isinstance(values, dict):
        return None
    text = (
        json.dumps(_replaced(values, rng))
        if sound[:1] == b"{"
        else yaml.safe_dump(_replaced(values, rng))
    )
    return text.encode(errors="replace")


def _replaced(values: Any, rng: random.Random) -> Any:
    """Replace, delete or rename one value, at any depth."""
    if not isinstance(values, (dict, list)) or not values or rng.random() < 0.1:
        return rng.choice(_VALUES)
    values = dict(values) if isinstance(values, dict) else list(values)
    key = rng.choice(list(values)) if isinstance(values, dict) else rng.randrange(len(values))
    match rng.randrange(8):
        case 0:
            del values[key]
        case 1 if isinstance(values, dict):
            values[rng.choice(["x", "name", "", "kwargs", "output", *values])] = values.pop(key)
        case _:
            values[key] = _replaced(values[key], rng)
    return values


@dataclasses.dataclass
class Findings:
    """Errors of loaders other than ``UserError``."""

    errors: list[str] = dataclasses.field(default_factory=list)
    num_refused: int = 0

    def feed(self, name: str, loader: Loader, content: bytes) -> None:
        """Load ``content``; anything but success and ``UserError`` is a finding."""
        try:
            loader.load(content)
        except UserError as error:
            self.num_refused += 1
            if "\n" in str(error):
                self.errors.append(f"{name}: several lines: {str(error)!r:.300}")
        except Exception as error:
            self.errors.append(
                f"{name}: {type(error).__name__}: {error!s:.300}; input {content!r:.2000}"
            )
