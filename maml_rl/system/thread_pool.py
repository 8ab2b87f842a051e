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
"""Tasks that the learner handles at once on a CPU, so that their tensors fit in its cache."""
_TASKS_PER_BLOCK_ON_GPU = 64

Result = TypeVar("Result")


def tasks_per_block(device: torch.device) -> int:
    """Return how many tasks the learner handles at once.

    More tasks take more memory. Results differ by rounding at most.
    """
    return TASKS_PER_BLOCK if device.type == "cpu" else _TASKS_PER_BLOCK_ON_GPU


def block_ends(num_tasks: int, block_size: int) -> list[tuple[int, int]]:
    """Split tasks into blocks (start, stop) of ``block_size``; the last one may be smaller."""
    return [
        (start, min(start + block_size, num_tasks)) for start in range(0, num_tasks, block_size)
    ]


def map_blocks(function: Callable[..., Result], blocks: Iterable[tuple[Any, ...]]) -> list[Result]:
    """Call ``function(*block)`` for every block, on as many threads as torch is set to.

    One thread computes a block from beginning to end. This keeps every CPU busy with operations
    that are too small to be split, and makes results independent of the number of threads.

    Returns:
        The results, in the order of the blocks.

    Raises:
        The exception of the first block, in order, that failed. Running blocks finish before, and
            no further block is started.
    """
    blocks = list(blocks)
    num_threads = torch.get_num_threads()
    if min(num_threads, len(blocks)) == 1:
        with torch_threads(1):
            return [function(*block) for block in blocks]
    is_grad_enabled = torch.is_grad_enabled()

    def work(block: tuple[Any, ...]) -> Result:
        with torch.set_grad_enabled(is_grad_enabled):  # the mode is per thread
            return function(*block)

    pool = _pool(num_threads)
    futures = [pool.submit(work, block) for block in blocks]
    try:
        wait(futures, return_when=FIRST_EXCEPTION)
    finally:
        # after an exception or interrupt: start no further block, finish the running ones
        for future in futures:
            future.cancel()
        wait(futures)
    return _results(futures)


def _results(futures: list[Future[Result]]) -> list[Result]:
    """Return the results of ``futures``, which is emptied.

    A future is removed before its exception is raised. Otherwise future, exception, traceback and
    this frame would form a reference cycle, which keeps tensors alive.
    """
    results = []
    while futures:
        results.append(futures.pop(0).result())
    return results


@functools.cache
def _pool(num_threads: int) -> ThreadPoolExecutor:
    """Return the pool of ``num_threads`` threads, each of which runs torch on one thread.

    The threads are reused, since starting them may take longer than a block. All start here: each
    also changes torch's default for later threads of the process, which is restored once, after
    the last.
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
    torch.get_num_threads()  # lazy initialisation of the thread, which would undo the next line
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    # a forked process does not have its parent's threads
    os.register_at_fork(after_in_child=_pool.cache_clear)
