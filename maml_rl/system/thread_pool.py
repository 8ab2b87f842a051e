"""Blocks of tasks, worked on side by side by threads."""

from __future__ import annotations

import atexit
import functools
import os
import threading
from collections.abc import Callable, Iterable
from queue import SimpleQueue
from typing import Any, TypeVar

import torch

from maml_rl.system.torch_runtime import torch_threads

TASKS_PER_BLOCK = 4
"""Tasks that the learner handles at once, so that a block's tensors stay in the processor's cache."""
_TASKS_PER_BLOCK_ON_GPU = 64

Result = TypeVar("Result")


def tasks_per_block(device: torch.device) -> int:
    """Tasks that the learner handles at once; it bounds memory, and results depend on it by rounding at most."""
    return TASKS_PER_BLOCK if device.type == "cpu" else _TASKS_PER_BLOCK_ON_GPU


def block_ends(num_tasks: int, block_size: int) -> list[tuple[int, int]]:
    """Where blocks of ``block_size`` tasks start and stop; the last one may be smaller."""
    return [
        (start, min(start + block_size, num_tasks)) for start in range(0, num_tasks, block_size)
    ]


def map_blocks(function: Callable[..., Result], blocks: Iterable[tuple[Any, ...]]) -> list[Result]:
    """``function(*block)`` of every block, in their order, as many at a time as torch has threads.

    One thread works on a block from its beginning to its end. So operations that are too small to
    be shared out keep every processor busy, and results do not depend on the number of threads.
    What a block raises comes out when no other is being worked on any more. Where the caller is
    interrupted, threads finish the block that they are at.
    """
    blocks = list(blocks)
    num_torch_threads = torch.get_num_threads()
    if min(num_torch_threads, len(blocks)) == 1:
        with torch_threads(1):
            return [function(*block) for block in blocks]
    is_grad_enabled = torch.is_grad_enabled()
    ended: SimpleQueue[tuple[int, Result | None, BaseException | None]] = SimpleQueue()
    stops: list[bool] = []  # filled when no further block shall be begun

    def work(number: int) -> None:
        result, error = None, None
        if not stops:
            try:
                with torch.set_grad_enabled(is_grad_enabled):  # every thread has its own
                    result = function(*blocks[number])
            except BaseException as raised:  # the caller's to deal with
                stops.append(True)
                error = raised
        ended.put((number, result, error))
        del result, error  # an exception knows this frame: nothing shall live as long as both

    results: dict[int, Any] = {}
    first_error: BaseException | None = None
    try:
        queue = _threads(num_torch_threads)
        for number in range(len(blocks)):
            queue.put(functools.partial(work, number))
        for _ in blocks:
            number, results[number], error = ended.get()
            first_error = first_error or error
    finally:
        stops.append(True)  # also where the caller is interrupted
    if first_error is not None:
        results.clear()
        try:
            raise first_error
        finally:
            del first_error, error
    return [results[number] for number in range(len(blocks))]


@functools.cache
def _threads(number: int) -> SimpleQueue[Callable[[], None] | None]:
    """Where ``number`` threads take their work from, on each of which torch computes alone.

    They sleep between calls: starting them takes longer than many a block. Nothing here holds a
    lock that an interrupt could leave behind, as it could a
    :class:`~concurrent.futures.ThreadPoolExecutor`'s.
    """
    queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
    ready: SimpleQueue[None] = SimpleQueue()

    def serve() -> None:
        # a thread takes the number of all when it first asks, and would do so later
        torch.get_num_threads()
        torch.set_num_threads(1)
        ready.put(None)
        while (work := queue.get()) is not None:
            work()
            del work  # and what it holds, while there is none

    threads = [
        threading.Thread(target=serve, name=f"blocks of tasks {i}", daemon=True)
        for i in range(number)
    ]
    before = torch.get_num_threads()
    try:
        for thread in threads:
            thread.start()
        for _ in threads:
            ready.get()
    finally:
        torch.set_num_threads(
            before
        )  # those of threads that others start from now on are as before

    def close() -> None:
        for _ in threads:
            queue.put(None)
        for thread in threads:
            thread.join()

    atexit.register(close)
    return queue


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        after_in_child=_threads.cache_clear
    )  # threads do not live on in a forked process
