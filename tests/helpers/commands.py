"""Run modules in processes that have imported torch and the package already.

A new interpreter imports torch for seconds. These processes are forked from a server that has
imported it; then they run a module as ``python -m`` does, from its first line. Tests of the imports
themselves, or of how a process is started, use :mod:`subprocess`.
"""

from __future__ import annotations

import faulthandler
import io
import multiprocessing
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

_TESTS = Path(__file__).resolve().parents[1]

_FORKING = multiprocessing.get_context("forkserver")
_FORKING.set_forkserver_preload(
    ["maml_rl", "maml_rl.training.start", "maml_rl.analysis.evaluation", "helpers.commands"]
)


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


class Result(NamedTuple):
    """What a command returned and printed, if it ran in this process."""

    code: int
    out: str
    err: str


class Command:
    """A module that runs in a process of its own, in a new session; used as ``subprocess.Popen``.

    Args:
        module: as after ``python -m``.
        arguments: the command line's arguments.
        folder: working directory; default is the present one.
        variables: environment variables to set.
    """

    def __init__(
        self,
        module: str,
        *arguments: str,
        folder: Path | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self._output = Path(tempfile.mkdtemp())
        environment = {**os.environ, **(variables or {})}
        self._process = _FORKING.Process(
            target=_run_module,
            args=(module, arguments, folder or Path.cwd(), environment, self._output),
        )
        self._process.start()
        weakref.finalize(self, _end, self._process, self._output)

    @property
    def pid(self) -> int:
        """Process id; it is also the id of the process group."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Exit status, −N after signal N; ``None`` while the process runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return the exit status, ``None`` while the process runs."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send a signal to the process."""
        os.kill(self.pid, number)

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        """Wait for the end, and return stdout and stderr.

        Raises:
            subprocess.TimeoutExpired: if the process runs for longer than ``timeout``, in s. It is
                killed.
        """
        self._process.join(timeout)
        if self.returncode is None:
            self._process.kill()
            raise subprocess.TimeoutExpired(self._process.name, timeout)
        return (self._output / "stdout").read_text(), (self._output / "stderr").read_text()


def run(
    module: str,
    *arguments: str,
    folder: Path | None = None,
    variables: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a module to its end; arguments as :class:`Command`."""
    command = Command(module, *arguments, folder=folder, variables=variables)
    out, err = command.communicate()
    assert command.returncode is not None
    return subprocess.CompletedProcess([module, *arguments], command.returncode, out, err)


def run_ranks(
    num_ranks: int,
    module: str,
    *arguments: str,
    folder: Path,
    variables: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a module in several processes that communicate, as ``torchrun`` does.

    Args:
        num_ranks: number of processes.
        module: as after ``python -m``.
        arguments: the command line's arguments, the same for all.
        folder: working directory.
        variables: environment variables to set.

    Returns:
        The first exit status that is not 0, and the outputs of all processes in order of rank. No
        process is ended because another one has failed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        **(variables or {}),
        "WORLD_SIZE": str(num_ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    commands = [
        Command(
            module,
            *arguments,
            folder=folder,
            variables={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(num_ranks)
    ]
    outputs = [command.communicate() for command in commands]
    statuses = [command.returncode or 0 for command in commands]
    out, err = ("".join(texts) for texts in zip(*outputs, strict=True))
    first = next((status for status in statuses if status), 0)
    return subprocess.CompletedProcess([module, *arguments], first, out, err)


def _end(process: BaseProcess, output: Path) -> None:
    """Leave neither a process nor its outputs behind, also where a test fails."""
    process.kill()
    shutil.rmtree(output)


def _run_module(
    module: str, arguments: tuple[str, ...], folder: Path, environment: dict[str, str], output: Path
) -> None:
    """Run a module as the main program, in a process that has just been forked."""
    os.setsid()
    # Signals as in a new process.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    # Streams.
    for name, stream in (("stdout", 1), ("stderr", 2)):
        file = os.open(output / name, os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(file, stream)
        os.close(file)
    faulthandler.enable()  # a process that crashes prints where
    # Environment, folder, and where modules are searched.
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    searched = environment.get("PYTHONPATH", "").split(os.pathsep)
    installed = [path for path in sys.path if path != str(_TESTS)]
    sys.path[:] = [str(folder), *(path for path in searched if path), *installed]
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
