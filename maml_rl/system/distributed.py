"""Run one training in several processes started by ``torchrun`` (docs/scaling.md).

Every process simulates its share of the meta-batch. The processes exchange sums over tasks and
statistics of episodes, and for a replay the episodes themselves, but no parameters, since each
takes the same outer step.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from maml_rl.errors import UserError, in_one_line
from maml_rl.system.thread_pool import TASKS_PER_BLOCK, block_ends

_RUN_FOLDER_KEY = "maml_rl/run_folder/{number}"
_ATTEMPT_KEY = "maml_rl/attempts"
_MAX_WAIT_S = 300.0


@dataclass
class Ranks:
    """The processes of a run, as seen by one of them.

    Args:
        rank: index of this process. Process 0 writes the run's files.
        number: number of processes.
        device: device on which tensors are exchanged.
    """

    rank: int = 0
    number: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    num_bytes: int = 0
    """Bytes that this process has contributed so far."""

    @property
    def leads(self) -> bool:
        """Whether this process writes the run's files."""
        return self.rank == 0

    def share(self, num_tasks: int) -> tuple[int, int]:
        """Return the tasks [start, stop) of this process: whole blocks, evenly distributed.

        Raises:
            UserError: if there are fewer blocks than processes.
        """
        blocks = block_ends(num_tasks, TASKS_PER_BLOCK)
        if len(blocks) < self.number:
            raise UserError(
                f"meta_batch_size {num_tasks} makes too few blocks of {TASKS_PER_BLOCK} tasks "
                f"({len(blocks)}) for {self.number} processes: set at least "
                f"{self.number * TASKS_PER_BLOCK} tasks, or use fewer processes"
            )
        starts = [blocks[len(blocks) * i // self.number][0] for i in range(self.number)]
        cuts = [*starts, num_tasks]
        return cuts[self.rank], cuts[self.rank + 1]

    def sum(self, per_task: Tensor) -> Tensor:
        """Sum (T, ...) over the tasks of all processes in float64."""
        return self._all_reduce(per_task.sum(0, dtype=torch.float64))

    def mean(self, per_task: Tensor) -> Tensor:
        """Average (T, ...) over the tasks of all processes in float64."""
        local_sum = per_task.sum(0, dtype=torch.float64)
        num_tasks = local_sum.new_tensor([len(per_task)])
        total = self._all_reduce(torch.cat([local_sum.flatten(), num_tasks]))
        return (total[:-1] / total[-1]).reshape(local_sum.shape)

    def _all_reduce(self, values: Tensor) -> Tensor:
        """Sum the values of all processes."""
        if self.number == 1:
            return values
        total = values.to(self.device)
        with _failures_named():
            dist.all_reduce(total)
        self.num_bytes += total.nbytes
        return total.to(values.device)

    def gather(self, values: Tensor) -> Tensor:
        """Concatenate the values (N, ...) of all processes by rank; N may differ."""
        if self.number == 1:
            return values
        if values.dtype == torch.bool:  # not supported by Gloo
            return self.gather(values.to(torch.uint8)).to(torch.bool)
        original_device = values.device
        values = values.to(self.device).contiguous()
        # pad to the longest, since all_gather needs equal shapes
        sizes = [torch.zeros(1, dtype=torch.int64, device=self.device) for _ in range(self.number)]
        with _failures_named():
            dist.all_gather(sizes, torch.tensor([len(values)], device=self.device))
        lengths = [int(size) for size in sizes]
        padding = values.new_zeros(max(lengths) - len(values), *values.shape[1:])
        padded = torch.cat([values, padding])
        parts = [torch.empty_like(padded) for _ in range(self.number)]
        with _failures_named():
            dist.all_gather(parts, padded)
        self.num_bytes += padded.nbytes
        unpadded = [part[:length] for part, length in zip(parts, lengths, strict=True)]
        return torch.cat(unpadded).to(original_device)

    def wait(self) -> None:
        """Wait for all processes."""
        if self.number > 1:
            with _failures_named():
                dist.barrier()


@contextlib.contextmanager
def _failures_named() -> Iterator[None]:
    """Report a failure to communicate, such as after an error in another process, in one line.

    Raises:
        UserError: in place of an error of torch.
    """
    try:
        yield
    except RuntimeError as error:
        raise UserError(
            "the processes cannot communicate; if another one has ended, its message says why "
            f"({in_one_line(error)})"
        ) from error


def is_launched() -> bool:
    """Whether ``torchrun`` started this process, alone or with others."""
    return _world_size() > 1 or _has_store()


def is_follower() -> bool:
    """Whether another process of ``torchrun`` writes the files."""
    return _world_size() > 1 and os.environ.get("RANK") != "0"


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """Join the processes that ``torchrun`` started; without torchrun, this process is the only one.

    Args:
        device: device of the policy. Processes communicate by NCCL on GPUs, otherwise by Gloo.

    Raises:
        UserError: if the processes were not started as ``torchrun`` does.
    """
    number = _world_size()
    if number == 1:
        yield Ranks()
        return
    needed = ["RANK", "MASTER_ADDR", "MASTER_PORT"]
    needed += ["LOCAL_RANK"] if device.type == "cuda" else []
    missing = [name for name in needed if name not in os.environ]
    if missing:
        raise UserError(
            f"WORLD_SIZE is {number} without {', '.join(missing)}: start the processes by "
            "torchrun, or unset WORLD_SIZE"
        )
    rank = int(os.environ["RANK"])
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # use torchrun's store under a new prefix; without it torch makes its own
    store = _launcher_store()
    rendezvous: dict[str, Any] = {}
    if store is not None:
        prefix = _agree_on_prefix(store, rank, number)
        attempt_store = dist.PrefixStore(prefix, store)  # type: ignore[attr-defined]
        rendezvous = {"store": attempt_store, "rank": rank, "world_size": number}
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", **rendezvous)
    try:
        yield Ranks(rank, number, device)
    finally:
        dist.destroy_process_group()


def remembered_run_folder(number: int) -> str | None:
    """Return the folder of the run with this number if ``torchrun`` has restarted the processes.

    Args:
        number: of the runs that the program has started before.
    """
    store, key = _launcher_store(), _RUN_FOLDER_KEY.format(number=number)
    if store is None or not store.check([key]):
        return None
    return str(store.get(key).decode())


def remember_run_folder(number: int, folder: str) -> None:
    """Store the folder of a run in ``torchrun`` for the processes of a restart."""
    store = _launcher_store()
    if store is not None:
        store.set(_RUN_FOLDER_KEY.format(number=number), folder)


def _world_size() -> int:
    """Return the number of processes.

    Raises:
        UserError: if the environment variable is not a positive integer.
    """
    text = os.environ.get("WORLD_SIZE") or "1"
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"WORLD_SIZE must be a number of processes, got {text!r:.100}: unset it")
    return int(text)


def _launcher_store() -> Any:
    """Return the key-value store of ``torchrun``, which outlives the processes, or ``None``."""
    if not _has_store():
        return None
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return dist.TCPStore(host, port, is_master=False)  # type: ignore[attr-defined]


def _has_store() -> bool:
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _agree_on_prefix(store: Any, rank: int, number: int) -> str:
    """Return a key prefix for this attempt, the same in all its processes.

    After a restart, ``torchrun``'s store still contains the addresses of the dead processes. So
    every attempt has a number, which is the prefix of its keys.

    Process 0 increments the counter of attempts. Another process may read the counter before that
    and get the previous number. To check, it writes a random token under the number it has read;
    process 0 echoes the tokens written under the new number. A process whose token is echoed has
    the right number; the others read the counter again.

    Raises:
        TimeoutError: if process 0 does not answer.
    """
    # Process 0: increment the counter, echo every token
    if rank == 0:
        attempt = store.add(_ATTEMPT_KEY, 1)
        for other in range(1, number):
            token = store.get(f"{attempt}/token/{other}").decode()  # waits until it is written
            store.set(f"{attempt}/answer/{other}", token)
        return str(attempt)
    # The others: read the counter until the token is echoed
    token = uuid.uuid4().hex
    deadline = time.monotonic() + _MAX_WAIT_S
    while time.monotonic() < deadline:
        attempt = store.add(_ATTEMPT_KEY, 0)  # reads the counter
        store.set(f"{attempt}/token/{rank}", token)
        answer = f"{attempt}/answer/{rank}"
        if store.check([answer]) and store.get(answer).decode() == token:
            return str(attempt)
        time.sleep(0.05)
    raise TimeoutError(
        f"process {rank} of {number} got no answer from process 0 within {_MAX_WAIT_S} s"
    )
