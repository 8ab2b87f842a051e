"""Blocks of tasks on several threads."""

from __future__ import annotations

import threading

import pytest
import torch

from maml_rl.devices import torch_threads
from maml_rl.task_blocks import block_ends, map_blocks


@pytest.mark.parametrize("number", [1, 3])
def test_results_are_in_order_and_one_thread_of_torch_works_on_each(number: int) -> None:
    seen: list[int] = []

    def double(start: int, stop: int) -> int:
        seen.append(torch.get_num_threads())
        return 2 * stop

    with torch_threads(number):
        assert map_blocks(double, block_ends(10, 4)) == [8, 16, 20]
        assert torch.get_num_threads() == number
        later: list[int] = []
        thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
        thread.start()
        thread.join()
    assert seen == [1, 1, 1]
    assert later == [number]


@pytest.mark.parametrize("enabled", [False, True])
def test_gradients_are_taken_where_they_were(enabled: bool) -> None:
    with torch.set_grad_enabled(enabled):
        assert map_blocks(lambda _: torch.is_grad_enabled(), [(0,), (1,)]) == [enabled, enabled]


def test_what_a_block_raises_comes_out() -> None:
    def fail(number: int) -> None:
        if number == 2:
            raise ZeroDivisionError("of block 2")

    with pytest.raises(ZeroDivisionError, match="of block 2"):
        map_blocks(fail, [(0,), (1,), (2,), (3,)])
    assert not [thread for thread in threading.enumerate() if "ThreadPool" in thread.name]
