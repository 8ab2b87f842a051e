"""Time of the GRU over whole trials on a CPU: torch's, the package's, and that in plain Python.

Prints milliseconds of a forward and a backward pass, alone on one thread, and with two threads that
compute one each at the same time.

    python benchmarks/gru.py
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import torch
from torch import Tensor

from maml_rl.policies.recurrent import gru

SIZES = ((8, 400), (13, 200), (25, 200))
"""Trials and steps."""
NUM_INPUTS, HIDDEN_SIZE = 64, 128
NUM_PASSES = 12

Gru = Callable[..., tuple[Tensor, Tensor]]


def gru_of_torch(inputs: Tensor, memory: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
    """``torch.gru`` with the arguments of ``gru_on_cpu``."""
    outputs, last = torch.gru(inputs, memory[None], weights, True, 1, 0.0, True, False, True)
    return outputs, last[0]


def passes(function: Gru, num_trials: int, length: int) -> None:
    """Run forward and backward passes on one thread."""
    torch.set_num_threads(1)
    inputs = torch.randn(num_trials, length, NUM_INPUTS, requires_grad=True)
    memory = torch.zeros(num_trials, HIDDEN_SIZE)
    rows = 3 * HIDDEN_SIZE
    shapes = ((rows, NUM_INPUTS), (rows, HIDDEN_SIZE), (rows,), (rows,))
    weights = [(0.1 * torch.randn(shape)).requires_grad_() for shape in shapes]
    for _ in range(NUM_PASSES):
        outputs, _ = function(inputs, memory, *weights)
        torch.autograd.grad(outputs.sum(), [inputs, *weights])


def milliseconds(function: Gru, num_threads: int, num_trials: int, length: int) -> float:
    """Return the time of a pass, with as many threads that compute one each."""
    arguments = (function, num_trials, length)
    threads = [threading.Thread(target=passes, args=arguments) for _ in range(num_threads)]
    started_s = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return 1000 * (time.perf_counter() - started_s) / NUM_PASSES


def main() -> None:
    """Measure and print."""
    scripted = gru._run_forwards, gru._run_backwards
    cases: dict[str, tuple[Gru, tuple[Callable[..., None], ...]]] = {
        "torch.gru": (gru_of_torch, scripted),
        "gru_on_cpu": (gru.gru_on_cpu, scripted),
        "plain Python": (gru.gru_on_cpu, (gru._forwards, gru._backwards)),
    }
    for num_trials, length in SIZES:
        for name, (function, loops) in cases.items():
            gru._run_forwards, gru._run_backwards = loops
            passes(function, num_trials, length)
            one, two = (milliseconds(function, n, num_trials, length) for n in (1, 2))
            print(f"{num_trials} x {length}  {name:12}  {one:5.1f} ms, two threads {two:5.1f} ms")


if __name__ == "__main__":
    main()
