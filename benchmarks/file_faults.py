"""Inject faults into the file operations of a training run, and compare the resumed run."""

from __future__ import annotations

import csv
import errno
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from maml_rl.learners.base import Iteration, LearnerState
from maml_rl.learners.maml.learner import MAML
from maml_rl.sampling.failures import REWARD, Failure
from maml_rl.settings.config import Config
from maml_rl.training.start import resume, train

logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it warns about discarded events
_NEED_ROOM = ("open", "write", "fsync", "mkdir")
OPERATIONS = (*_NEED_ROOM, "rename", "replace", "rmdir", "unlink")
"""Functions of ``os`` that change files. ``shutil.rmtree`` and ``pathlib`` call them too."""


class Killed(BaseException):
    """The process was killed; also raised by every later file operation."""


class Fault(NamedTuple):
    """The file operation at which a process is killed."""

    at: int
    """Index of the operation."""
    when: str
    """``before`` it, ``half`` way through it (only a write), or ``after`` it."""


@contextmanager
def _patched(wrap: Callable[[str, Any], Any], names: tuple[str, ...]) -> Iterator[None]:
    """Replace functions of ``os`` by ``wrap(name, original)`` inside the context."""
    replacements = {name: wrap(name, getattr(os, name)) for name in names}
    with mock.patch.multiple(os, **replacements):
        yield


@contextmanager
def faulty(fault: Fault | None = None) -> Iterator[list[str]]:
    """Kill the process inside the context at ``fault``.

    Yields:
        The operations so far, updated in place.
    """
    operations: list[str] = []
    dead = False

    def wrap(name: str, original: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal dead
            # opening for reading is not an operation
            if name == "open" and not args[1] & os.O_CREAT:
                return original(*args, **kwargs)
            if dead:
                raise Killed
            # an operation before the fault
            operations.append(name)
            dead = fault is not None and len(operations) - 1 == fault.at
            if not dead:
                return original(*args, **kwargs)
            # the fault
            if fault.when == "after":
                result = original(*args, **kwargs)
                if name == "open":
                    os.close(result)
            elif fault.when == "half" and name == "write":
                original(args[0], args[1][: len(args[1]) // 2])
            raise Killed

        return call

    with _patched(wrap, OPERATIONS):
        yield operations


@contextmanager
def full_disk(after: int) -> Iterator[list[str]]:
    """Simulate a disk that is full after ``after`` operations; the next write is cut in half.

    Yields:
        The operations that failed, updated in place.
    """
    count = 0
    failed: list[str] = []

    def wrap(name: str, original: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            # opening an existing file needs no room
            if name == "open" and (not args[1] & os.O_CREAT or os.path.exists(args[0])):
                return original(*args, **kwargs)
            count += 1
            if count <= after:
                return original(*args, **kwargs)
            # the first write that fails writes half of its content
            failed.append(name)
            if name == "write" and len(failed) == 1:
                content = args[1]
                if len(content) > 1:
                    return original(args[0], content[: (len(content) + 1) // 2])
            return _no_room()

        return call

    with _patched(wrap, _NEED_ROOM):
        yield failed


def _no_room() -> Any:
    """Raise the error of a full disk."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def faults_of(operations: list[str]) -> list[Fault]:
    """Return every possible fault in a process with these operations."""
    return [
        Fault(i, when)
        for i, name in enumerate(operations)
        for when in ("before", "half", "after")
        if when != "half" or name == "write"
    ]


def toy_iteration(self: MAML, state: LearnerState, *args: Any) -> Iteration:
    """Cheap meta-iteration: arithmetic on every kind of state, metric and failure."""
    # state
    done = state.counters["iteration"] + 1
    start = self.initial_state().tensors["theta"]
    theta = {
        name: value / 2 + done - 1 + start[name] for name, value in state.tensors["theta"].items()
    }
    outer = {name: value * 0.9 + 1.0 for name, value in state.tensors["outer"].items()}
    # metrics and failures
    metrics = {"train/return_after_0_steps": float(next(iter(theta.values())).sum())}
    if done % 2 == 0:
        metrics["evaluation/return_after_0_steps"] = done / 7
    failures = [Failure(0, REWARD, done, {"goal": done}), Failure(1, REWARD, 1, {"goal": 0})][
        : done % 3
    ]
    after = state.after_iteration({"theta": theta, "outer": outer}, num_env_steps=10)
    return Iteration(after, metrics, failures)


def go_on(config: Config) -> None:
    """Resume the run if it exists, otherwise start it."""
    run = Path(str(config.output))
    if (run / "config.yaml").exists():
        # skip parsing, which dominates the time
        with mock.patch("maml_rl.training.start.run_config", return_value=config):
            resume(run)
    else:
        train(config)


def differences(run: Path, reference: Path) -> list[str]:
    """List bitwise differences between two finished runs, except wall-clock times."""
    differing = []
    # checkpoints
    last, other = (max(folder.glob("checkpoints/[0-9]*[0-9]")) for folder in (run, reference))
    if last.name != other.name:
        differing.append(f"last checkpoint {last.name} and {other.name}")
    for path in sorted(other.iterdir()):
        if (last / path.name).read_bytes() != path.read_bytes():
            differing.append(f"{path.name} of the last checkpoint")
    if [path for path in (run / "checkpoints").iterdir() if path.name.startswith(".")]:
        differing.append("leftovers in checkpoints")
    history, other_history = (
        {path.name: path.read_bytes() for path in folder.glob("history/*")}
        for folder in (run, reference)
    )
    if history != other_history:
        differing.append("history")
    # logs
    differing += [
        name
        for name in ("progress.csv", "failures.csv")
        if _rows(run / name) != _rows(reference / name)
    ]
    if _scalars(run) != _scalars(reference):
        differing.append("TensorBoard")
    return differing


def _is_clock(name: str) -> bool:
    return name.startswith("time/") and name.endswith("_s")


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return [
            {key: value for key, value in row.items() if not _is_clock(key)}
            for row in csv.DictReader(file)
        ]


def _scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Every TensorBoard scalar by tag: (step, value) in order of steps."""
    accumulator = EventAccumulator(str(run), size_guidance={"tensors": 0})
    accumulator.Reload()
    scalars = {}
    for tag in accumulator.Tags()["tensors"]:
        events = accumulator.Tensors(tag)
        values = [make_ndarray(event.tensor_proto) for event in events]
        # Texts and images are arrays.
        if not _is_clock(tag) and values[0].ndim == 0:
            steps = [event.step for event in events]
            scalars[tag] = list(zip(steps, map(float, values), strict=True))
    return scalars
