"""Calls from programs and notebooks that changed torch's defaults, the backend or threads."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.drawn import drawn_task
from helpers.runs import assert_equal_runs, tiny

import maml_rl
from maml_rl.system.process_environment import ignore_missing_backend
from maml_rl.training.reporting import Interrupted
from maml_rl.training.start import train

pytestmark = pytest.mark.slow


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def default_device(name: str) -> Iterator[None]:
    torch.set_default_device(name)
    try:
        yield
    finally:
        torch.set_default_device(None)


SETTINGS: dict[str, Callable[[], Any]] = {
    "default dtype": lambda: default_dtype(torch.float64),
    "default device": lambda: default_device("meta"),
    "device context": lambda: torch.device("meta"),
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "set_grad_enabled": lambda: torch.set_grad_enabled(False),
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}


def results_of(run: Path) -> list[np.ndarray]:
    """Return results of each public function that uses a run."""
    agent = maml_rl.load(run)
    adapted = agent.adapt(task=drawn_task(agent), num_steps=1, num_episodes=2)
    observation = np.full(agent.observation_space.shape, 0.1, np.float32)
    result = maml_rl.evaluate(agent, num_tasks=2, num_episodes=2, num_steps=1)
    module = agent.module()
    return [
        *(value.detach().numpy() for value in adapted.belief.values()),
        adapted.predict(observation, deterministic=True)[0],
        result.returns,
        *(value.detach().numpy() for value in module.state_dict().values()),
    ]


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> tuple[Path, list[np.ndarray]]:
    run = train(tiny(tmp_path_factory.mktemp("plain") / "run", num_iterations=2))
    return run, results_of(run)


@pytest.mark.thorough
@pytest.mark.parametrize("setting", SETTINGS)
def test_the_callers_torch_settings_change_nothing_and_stay(plain, tmp_path, setting):
    def state() -> list[Any]:
        return [
            torch.get_default_dtype(),
            torch.get_default_device(),
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.is_autocast_enabled("cpu"),
        ]

    reference_run, expected = plain
    outside = state()
    with SETTINGS[setting]():
        inside = state()
        run = train(tiny(tmp_path / "run", num_iterations=2))
        results = results_of(run)
        assert state() == inside
        assert inside != outside
    assert state() == outside
    assert_equal_runs(run, reference_run)
    for result, reference in zip(results, expected, strict=True):
        assert result.dtype == reference.dtype
        np.testing.assert_array_equal(result, reference)


def test_an_agent_loaded_in_inference_mode_can_adapt_outside_it(plain):
    with torch.inference_mode():
        agent = maml_rl.load(plain[0])
    adapted = agent.adapt(task=drawn_task(agent), num_steps=1, num_episodes=2)
    assert adapted.num_adaptation_steps == 1


def test_a_sweep_does_not_swallow_an_interrupt(tmp_path, monkeypatch):
    def interrupt(metrics):
        raise KeyboardInterrupt

    def sweep() -> None:
        for i in range(3):
            with contextlib.suppress(Exception):
                train(tiny(tmp_path / str(i), num_iterations=2))

    monkeypatch.setattr("maml_rl.training.training_run.progress_text", interrupt)
    with pytest.raises(KeyboardInterrupt) as stopped:
        sweep()
    assert stopped.type is Interrupted
    assert [path.name for path in tmp_path.iterdir()] == ["0"]


def test_training_in_a_running_event_loop(plain, tmp_path):
    async def cell() -> Path:
        return train(tiny(tmp_path / "run", num_iterations=2))

    assert_equal_runs(asyncio.run(cell()), plain[0])


def test_training_outside_the_main_thread(plain, tmp_path):
    """Signal handlers can be set only in the main thread."""
    thread = threading.Thread(target=train, args=[tiny(tmp_path / "run", num_iterations=2)])
    thread.start()
    thread.join()
    assert_equal_runs(tmp_path / "run", plain[0])


@pytest.mark.thorough
def test_a_command_started_by_a_notebook_writes_its_figures(plain, tmp_path):
    """A notebook kernel exports MPLBACKEND, whose module may not be installed for the command."""
    flags = ["--num_tasks", "1", "--num_episodes", "1", "--num_steps", "1", "--device", "cpu"]
    flags += ["--output", str(tmp_path / "new")]
    command = [sys.executable, "-m", "maml_rl.evaluate", str(plain[0]), *flags]
    environment = {**os.environ, "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert (tmp_path / "new" / "adaptation.png").exists()


def test_only_a_missing_backend_is_removed(monkeypatch):
    for kept in ("agg", "module://json.decoder"):
        monkeypatch.setenv("MPLBACKEND", kept)
        ignore_missing_backend()
        assert os.environ["MPLBACKEND"] == kept
    monkeypatch.setenv("MPLBACKEND", "module://no_such_package.backend")
    ignore_missing_backend()
    assert "MPLBACKEND" not in os.environ
    ignore_missing_backend()
