"""Run blocks of tasks in parallel threads."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

import torch

from maml_rl.system.torch_runtime import torch_threads

TASKS_PER_BLOCK = 4
"""Tasks that the learner handles at once on a CPU, so that their tensors stay in its cache."""
_TASKS_PER_BLOCK_ON_GPU = 64

Result = TypeVar("Result")


def tasks_per_block(device: torch.device) -> int:
    """Return how many tasks the learner handles at once.

    It bounds memory; results depend on it by rounding at most.
    """
    return TASKS_PER_BLOCK if device.type == "cpu" else _TASKS_PER_BLOCK_ON_GPU


def block_ends(num_tasks: int, block_size: int) -> list[tuple[int, int]]:
    """Split tasks into blocks (start, stop) of ``block_size``; the last one may be smaller."""
    return [
        (start, min(start + block_size, num_tasks)) for start in range(0, num_tasks, block_size)
    ]


def map_blocks(function: Callable[..., Result], blocks: Iterable[tuple[Any, ...]]) -> list[Result]:
    """Call ``function(*block)`` for every block, on as many threads as torch has.

    One thread computes a block from beginning to end. This keeps every CPU busy with operations
    that are too small to be split, and makes results independent of the number of threads.

    Returns:
        The results, in the order of the blocks.

    Raises:
        What a block raises, after all running blocks have finished. No further block is started.
    """
    blocks = list(blocks)
    num_threads = torch.get_num_threads()
    if min(num_threads, len(blocks)) == 1:
        with torch_threads(1):
            return [function(*block) for block in blocks]
    is_grad_enabled = torch.is_grad_enabled()

    def work(block: tuple[Any, ...]) -> Result:
        with torch.set_grad_enabled(is_grad_enabled):  # the mode belongs to a thread
            return function(*block)

    pool = _pool(num_threads)
    futures = [pool.submit(work, block) for block in blocks]
    try:
        wait(futures, return_when=FIRST_EXCEPTION)
    finally:
        # also after an interrupt: start no further block, finish the running ones
        for future in futures:
            future.cancel()
        wait(futures)
    return _results(futures)


def _results(futures: list[Future[Result]]) -> list[Result]:
    """Empty ``futures`` and return their results.

    No variable may refer to a future that raises: future, exception, traceback and this frame would
    form a cycle, which keeps tensors alive.
    """
    results = []
    while futures:
        results.append(futures.pop(0).result())
    return results


@functools.cache
def _pool(num_threads: int) -> ThreadPoolExecutor:
    """Return the pool of ``num_threads`` threads, each of which runs torch on one thread.

    The threads are kept, since starting them takes longer than many a block. All of them start
    here: a new thread's setting becomes that of every later thread in the process, so the caller's
    has to be restored after the last one.
    """
    pool = ThreadPoolExecutor(num_threads, "blocks of tasks", initializer=_run_torch_on_one_thread)
    all_started = threading.Barrier(num_threads)
    with torch_threads(None):
        try:
            wait([pool.submit(all_started.wait) for _ in range(num_threads)])
        finally:
            all_started.abort()  # after an interrupt, do not leave threads waiting
    return pool


def _run_torch_on_one_thread() -> None:
    torch.get_num_threads()  # initialises the thread, which would overwrite the setting later
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    # threads do not exist in a forked process
    os.register_at_fork(after_in_child=_pool.cache_clear)
