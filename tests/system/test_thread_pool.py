"""Blocks of tasks on several threads."""

from __future__ import annotations

import contextlib
import gc
import signal
import subprocess
import sys
import threading
import time
import weakref

import pytest
import torch

from maml_rl.system.thread_pool import block_ends, map_blocks
from maml_rl.system.torch_runtime import torch_threads


@pytest.mark.parametrize("number", [1, 3])
def test_results_are_in_order_and_torch_uses_one_thread_per_block(number: int) -> None:
    num_threads: list[int] = []

    def double(start: int, stop: int) -> int:
        num_threads.append(torch.get_num_threads())
        return 2 * stop

    with torch_threads(number):
        assert map_blocks(double, block_ends(10, 4)) == [8, 16, 20]
        assert torch.get_num_threads() == number
        in_new_thread: list[int] = []
        thread = threading.Thread(target=lambda: in_new_thread.append(torch.get_num_threads()))
        thread.start()
        thread.join()
    assert num_threads == [1, 1, 1]
    assert in_new_thread == [number]


@pytest.mark.parametrize("enabled", [False, True])
def test_threads_have_the_callers_grad_mode(enabled: bool) -> None:
    with torch.set_grad_enabled(enabled):
        assert map_blocks(lambda _: torch.is_grad_enabled(), [(0,), (1,)]) == [enabled, enabled]


def test_an_exception_propagates_after_all_running_blocks_have_finished() -> None:
    started: list[int] = []
    ended: list[int] = []

    def fail(number: int) -> None:
        started.append(number)
        if number == 2:
            raise ZeroDivisionError("of block 2")
        time.sleep(0.02)
        ended.append(number)

    with torch_threads(2), pytest.raises(ZeroDivisionError, match="of block 2"):
        map_blocks(fail, [(number,) for number in range(50)])
    assert sorted(ended) == sorted(set(started) - {2})
    assert len(started) < 50
    with torch_threads(2):
        assert map_blocks(lambda number: number, [(1,), (2,), (3,)]) == [1, 2, 3]


def test_threads_are_started_once() -> None:
    def name(_: int) -> str:
        time.sleep(0.01)
        return threading.current_thread().name

    with torch_threads(3):
        calls = [set(map_blocks(name, [(i,) for i in range(6)])) for _ in range(4)]
    assert len(set.union(*calls)) == 3


def test_every_thread_runs_torch_on_one_thread_from_its_first_block() -> None:
    with torch_threads(5):
        map_blocks(lambda _: time.sleep(0.01), [(0,), (1,)])
        numbers = map_blocks(
            lambda _: (time.sleep(0.01), torch.get_num_threads())[1], [(i,) for i in range(10)]
        )
        assert torch.get_num_threads() == 5
    assert numbers == [1] * 10


def test_a_failed_call_leaves_no_reference_cycle() -> None:
    class Large:
        pass

    references: list[weakref.ref[Large]] = []

    def fail(number: int) -> Large:
        large = Large()
        references.append(weakref.ref(large))
        if number == 5:
            raise ZeroDivisionError
        return large

    gc.disable()
    try:
        with torch_threads(2):
            with contextlib.suppress(ZeroDivisionError):
                map_blocks(fail, [(number,) for number in range(8)])
            map_blocks(lambda _: time.sleep(0.01), [(0,), (1,)])  # both threads have other work
        assert len(references) >= 6
        assert all(reference() is None for reference in references)
    finally:
        gc.enable()


INTERRUPTED = """
import signal, time
import torch
from maml_rl.system.thread_pool import map_blocks

def interrupt(*_):
    raise KeyboardInterrupt

def work(number):
    started.append(number)
    time.sleep(0.1)
    finished.append(number)

signal.signal(signal.SIGALRM, interrupt)
torch.set_num_threads(2)
blocks = [(number,) for number in range(50)]
started, finished = [], []
signal.setitimer(signal.ITIMER_REAL, 0.5)
"""


@pytest.mark.slow
def test_after_an_interrupt_running_blocks_finish_and_no_other_starts() -> None:
    script = (
        INTERRUPTED
        + """
try:
    map_blocks(work, blocks)
except KeyboardInterrupt:
    print(0 < len(started) < 50, sorted(started) == sorted(finished))
print(map_blocks(lambda number: number, blocks) == list(range(50)))
"""
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120
    )
    assert (done.stdout, done.stderr) == ("True True\nTrue\n", "")


@pytest.mark.thorough
def test_an_interrupted_process_exits() -> None:
    script = INTERRUPTED + "map_blocks(work, blocks)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == -signal.SIGINT
    assert done.stderr.rstrip().endswith("KeyboardInterrupt")


@pytest.mark.thorough
def test_a_forked_process_starts_its_own() -> None:
    script = """
import os
import torch
from maml_rl.system.thread_pool import map_blocks
torch.set_num_threads(2)
blocks = [(1,), (2,), (3,)]
assert map_blocks(lambda n: n, blocks) == [1, 2, 3]
child = os.fork()
if child == 0:
    raise SystemExit(map_blocks(lambda n: 2 * n, blocks) != [2, 4, 6])
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    # Newer Pythons warn of every fork beside threads.
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("0\n", "")
