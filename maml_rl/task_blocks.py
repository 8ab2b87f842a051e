"""Blocks of tasks, worked on side by side by threads."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any, TypeVar

import torch

from maml_rl.devices import torch_threads

TASKS_PER_BLOCK = 4
"""Tasks that the learner handles at once, so that a block's tensors stay in the processor's cache."""
_TASKS_PER_BLOCK_ON_GPU = 64

Result = TypeVar("Result")


def tasks_per_block(device: torch.device) -> int:
    """Tasks that the learner handles at once; it bounds memory, and results depend on it by rounding at most."""
    return TASKS_PER_BLOCK if device.type == "cpu" else _TASKS_PER_BLOCK_ON_GPU


def block_ends(num_tasks: int, block_size: int) -> list[tuple[int, int]]:
    """Where blocks of ``block_size`` tasks start and stop; the last one may be smaller."""
    return [(start, min(start + block_size, num_tasks)) for start in range(0, num_tasks, block_size)]


def map_blocks(function: Callable[..., Result], blocks: Iterable[tuple[Any, ...]]) -> list[Result]:
    """``function(*block)`` of every block, in their order, as many at a time as torch has threads.

    One thread works on a block from its beginning to its end. So operations that are too small to be shared out keep
    every processor busy, and results do not depend on the number of threads.
    """
    blocks = list(blocks)
    num_torch_threads = torch.get_num_threads()
    if min(num_torch_threads, len(blocks)) == 1:
        with torch_threads(1):
            return [function(*block) for block in blocks]
    is_grad_enabled = torch.is_grad_enabled()

    def work(block: tuple[Any, ...]) -> Result:
        with torch.set_grad_enabled(is_grad_enabled):  # every thread has its own
            return function(*block)

    futures = [_threads(num_torch_threads).submit(work, block) for block in blocks]
    try:
        wait(futures, return_when=FIRST_EXCEPTION)
    finally:  # nothing of this goes on behind the back of whoever deals with an exception
        for future in futures:
            future.cancel()
        wait(futures)
        torch.set_num_threads(num_torch_threads)  # those of threads that others start from now on are as before
    return [future.result() for future in futures]


@functools.cache
def _threads(number: int) -> ThreadPoolExecutor:
    """So many threads, on each of which torch computes alone. They sleep between calls: starting them takes longer."""
    return ThreadPoolExecutor(number, initializer=torch.set_num_threads, initargs=(1,))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_threads.cache_clear)  # threads do not live on in a forked process
