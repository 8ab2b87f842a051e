"""Several processes that share a meta-batch, each with tasks of its own: ``torchrun`` (docs/scaling.md).

What they add up is the same in every process, so each takes the same outer step and no parameters
are sent around.
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

from maml_rl.errors import UserError
from maml_rl.system.thread_pool import TASKS_PER_BLOCK, block_ends

_RUN_FOLDER, _ATTEMPTS = "maml_rl/run_folder", "maml_rl/attempts"
_LONGEST_WAIT_S = 300.0


@dataclass
class Ranks:
    """The processes of a run, and which of them this is.

    Args:
        rank: this process, from 0. The first one leads: it writes the run's files.
        number: processes.
        device: where the numbers that they exchange have to be.
    """

    rank: int = 0
    number: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    num_bytes: int = 0
    """Bytes that this process has put in for the others so far."""

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def share(self, num_tasks: int) -> tuple[int, int]:
        """The tasks start..stop−1 of this process: whole blocks, as equally many as there can be.

        Raises:
            UserError: there are fewer blocks than processes.
        """
        blocks = block_ends(num_tasks, TASKS_PER_BLOCK)
        if len(blocks) < self.number:
            raise UserError(
                f"meta_batch_size {num_tasks} makes too few blocks of {TASKS_PER_BLOCK} tasks "
                f"({len(blocks)}) for "
                f"{self.number} processes: give at least {self.number * TASKS_PER_BLOCK} tasks, "
                f"or fewer processes"
            )
        cuts = [blocks[len(blocks) * i // self.number][0] for i in range(self.number)] + [num_tasks]
        return cuts[self.rank], cuts[self.rank + 1]

    def sum(self, per_task: Tensor) -> Tensor:
        """Add (T, ...) over the tasks of all processes, float64: within a process in task order, then by rank."""
        return self._of_all(per_task.sum(0, dtype=torch.float64))

    def mean(self, per_task: Tensor) -> Tensor:
        """Mean of (T, ...) over the tasks of all processes, float64."""
        own = per_task.sum(0, dtype=torch.float64)
        total = self._of_all(torch.cat([own.flatten(), own.new_tensor([len(per_task)])]))
        return (total[:-1] / total[-1]).reshape(own.shape)

    def _of_all(self, own: Tensor) -> Tensor:
        """The sum of what every process has."""
        if self.number == 1:
            return own
        total = own.to(self.device)
        dist.all_reduce(total)
        self.num_bytes += total.nbytes
        return total.to(own.device)

    def gather(self, values: Tensor) -> Tensor:
        """The values (N, ...) of all processes, in the order of their ranks; N may differ."""
        if self.number == 1:
            return values
        if values.dtype == torch.bool:  # which Gloo does not know
            return self.gather(values.to(torch.uint8)).to(torch.bool)
        place, values = values.device, values.to(self.device).contiguous()
        sizes = [torch.zeros(1, dtype=torch.int64, device=self.device) for _ in range(self.number)]
        dist.all_gather(sizes, torch.tensor([len(values)], device=self.device))
        longest = max(int(size) for size in sizes)
        padded = torch.cat([values, values.new_zeros(longest - len(values), *values.shape[1:])])
        parts = [torch.empty_like(padded) for _ in range(self.number)]
        dist.all_gather(parts, padded)
        self.num_bytes += padded.nbytes
        return torch.cat([part[: int(size)] for part, size in zip(parts, sizes, strict=True)]).to(
            place
        )

    def wait(self) -> None:
        """Wait until every process has come here."""
        if self.number > 1:
            dist.barrier()


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """The processes that ``torchrun`` started with this one; this one alone where none did.

    Args:
        device: of the policy. On a GPU the processes talk by NCCL, else by Gloo.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Ranks()
        return
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    rank, number = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = _launcher_store()
    fresh: dict[str, Any] = {}
    if store is not None:
        fresh = {"store": _unused_part(store, rank, number), "rank": rank, "world_size": number}
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", **fresh)
    try:
        yield Ranks(rank, number, device)
    finally:
        dist.destroy_process_group()


def remembered_run_folder() -> str | None:
    """The run folder that these processes made before ``torchrun`` started them again; ``None`` if they did not."""
    store = _launcher_store()
    return (
        store.get(_RUN_FOLDER).decode()
        if store is not None and store.check([_RUN_FOLDER])
        else None
    )


def remember_run_folder(folder: str) -> None:
    """Have ``torchrun`` remember the run folder for processes that it starts again."""
    store = _launcher_store()
    if store is not None:
        store.set(_RUN_FOLDER, folder)


def _launcher_store() -> Any:
    """What ``torchrun`` itself keeps, beyond the life of the processes that it starts."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    return dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)  # type: ignore[attr-defined]


def _unused_part(store: Any, rank: int, number: int) -> Any:
    """A part of ``torchrun``'s store of this attempt's own: in the whole, the addresses of processes that died remain.

    The first process opens the part, and answers each of the others there with the word that it
    gave.
    """
    if rank == 0:
        part = store.add(_ATTEMPTS, 1)
        for other in range(1, number):
            store.set(f"{part}/answer/{other}", store.get(f"{part}/word/{other}").decode())
        return dist.PrefixStore(str(part), store)  # type: ignore[attr-defined]
    word = uuid.uuid4().hex
    end = time.monotonic() + _LONGEST_WAIT_S
    while time.monotonic() < end:
        part = store.add(_ATTEMPTS, 0)
        store.set(f"{part}/word/{rank}", word)
        answer = f"{part}/answer/{rank}"
        if store.check([answer]) and store.get(answer).decode() == word:
            return dist.PrefixStore(str(part), store)  # type: ignore[attr-defined]
        time.sleep(0.05)
    raise TimeoutError(
        f"process {rank} of {number} heard nothing from the first one within {_LONGEST_WAIT_S} s"
    )
