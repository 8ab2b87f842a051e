"""Kill a training run at any of its file operations, in this process, and compare what a resumed run leaves behind."""

from __future__ import annotations

import csv
import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from maml_rl.learners.maml.inner_step import initial_theta
from maml_rl.learners.maml.learner import MetaIteration, MetaTrainer, TrainingState
from maml_rl.learners.maml.outer.adam import initial_state
from maml_rl.sampling.failures import REWARD, Failure
from maml_rl.settings.config import Config
from maml_rl.training.loop import resume, train

_NEED_ROOM = ("open", "write", "fsync", "mkdir")
OPERATIONS = (*_NEED_ROOM, "rename", "replace", "rmdir", "unlink")
"""Functions of ``os`` that change files. ``shutil.rmtree`` and ``pathlib`` call them too."""


class Killed(BaseException):
    """The process is gone. Nothing may catch this; whatever runs while it passes fails likewise."""


class Fault(NamedTuple):
    """Where a process is killed."""

    at: int
    """The operation, counted from 0."""
    when: str
    """``before`` it, ``half`` way through (of a write), or ``after`` it."""


@contextmanager
def _patched(wrap: Callable[[str, Any], Any], names: tuple[str, ...]) -> Iterator[None]:
    replacements = {name: wrap(name, getattr(os, name)) for name in names}
    with mock.patch.multiple(os, **replacements):
        yield


@contextmanager
def faulty(fault: Fault | None = None) -> Iterator[list[str]]:
    """Kill the block at ``fault``.

    Yields:
        The operations so far.
    """
    seen: list[str] = []
    dead = False

    def wrap(name: str, original: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal dead
            if name == "open" and not args[1] & os.O_CREAT:
                return original(*args, **kwargs)
            if dead:
                raise Killed
            seen.append(name)
            dead = fault is not None and len(seen) - 1 == fault.at
            if not dead:
                return original(*args, **kwargs)
            if fault.when == "after":
                result = original(*args, **kwargs)
                if name == "open":
                    os.close(result)
            elif fault.when == "half" and name == "write":
                original(args[0], args[1][: len(args[1]) // 2])
            raise Killed

        return call

    with _patched(wrap, OPERATIONS):
        yield seen


@contextmanager
def full_disk(after: int) -> Iterator[list[str]]:
    """Let the block write ``after`` times; then there is no room, except half of what the next write asks for.

    Yields:
        The operations that failed.
    """
    count, failed = 0, []

    def wrap(name: str, original: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            if name == "open" and (not args[1] & os.O_CREAT or os.path.exists(args[0])):
                return original(*args, **kwargs)
            count += 1
            if count <= after:
                return original(*args, **kwargs)
            failed.append(name)
            if name == "write" and len(failed) == 1:
                return (
                    original(args[0], args[1][: (len(args[1]) + 1) // 2])
                    if len(args[1]) > 1
                    else _no_room()
                )
            return _no_room()

        return call

    with _patched(wrap, _NEED_ROOM):
        yield failed


def _no_room() -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def faults_of(operations: list[str]) -> list[Fault]:
    """Every way in which a process that does these operations can be killed."""
    return [
        Fault(i, when)
        for i, name in enumerate(operations)
        for when in ("before", "half", "after")
        if when != "half" or name == "write"
    ]


def toy_iteration(self: MetaTrainer, state: TrainingState) -> MetaIteration:
    """A meta-iteration where only files matter: theta' = theta / 2 + iteration, Adam's state, and the rest."""
    start = initial_theta(self.collector.policy, self.inner)
    theta = {name: value / 2 + state.iteration + start[name] for name, value in state.theta.items()}
    outer = {
        name: value * 0.9 + 1.0
        for name, value in (state.outer_state or initial_state(theta)).items()
    }
    done = state.iteration + 1
    metrics = {
        "train/return_after_0_steps": float(next(iter(theta.values())).sum()),
        "time/num_env_steps": done * 10,
    }
    if done % 2 == 0:
        metrics["evaluation/return_after_0_steps"] = done / 7
    failures = [Failure(0, REWARD, done, {"goal": done}), Failure(1, REWARD, 1, {"goal": 0})][
        : done % 3
    ]
    return MetaIteration(
        TrainingState(theta, outer, state.normalizer, done, done * 10), metrics, failures
    )


def go_on(config: Config) -> None:
    """What a cluster's script does each time that it is started: resume the run that is there, or begin."""
    run = Path(str(config.output))
    if (run / "config.yaml").exists():
        with mock.patch(
            "maml_rl.training.loop.run_config", return_value=config
        ):  # parsing takes longer than all the rest
            resume(run)
    else:
        train(config)


def differences(run: Path, reference: Path) -> list[str]:
    """In what two finished runs differ, wall-clock times aside; empty where they are the same, bit for bit."""
    found = []
    last, other = (max(folder.glob("checkpoints/[0-9]*[0-9]")) for folder in (run, reference))
    if last.name != other.name:
        found.append(f"last checkpoint {last.name} and {other.name}")
    for path in sorted(other.iterdir()):
        if (last / path.name).read_bytes() != path.read_bytes():
            found.append(f"{path.name} of the last checkpoint")
    if [path for path in (run / "checkpoints").iterdir() if path.name.startswith(".")]:
        found.append("leftovers in checkpoints")
    found += [
        name
        for name in ("progress.csv", "failures.csv")
        if _rows(run / name) != _rows(reference / name)
    ]
    if _scalars(run) != _scalars(reference):
        found.append("TensorBoard")
    return found


def _is_clock(name: str) -> bool:
    return name.startswith("time/") and name.endswith("_s")


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return [
            {key: value for key, value in row.items() if not _is_clock(key)}
            for row in csv.DictReader(file)
        ]


def _scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Every scalar as TensorBoard shows it: (step, value) by tag."""
    accumulator = EventAccumulator(str(run), size_guidance={"tensors": 0})
    accumulator.Reload()
    return {
        tag: [
            (event.step, float(make_ndarray(event.tensor_proto)))
            for event in accumulator.Tensors(tag)
        ]
        for tag in accumulator.Tags()["tensors"]
        if not _is_clock(tag)
    }
