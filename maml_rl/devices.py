"""Where policies live, and on how many threads torch computes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from maml_rl.errors import UserError


def resolve_device(name: str) -> torch.device:
    """The torch device that a setting names; ``auto`` is a GPU if there is one.

    Raises:
        UserError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    available = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if name in available or (name == "cuda" and len(available) > 1):
        return torch.device(name)
    raise UserError(f"device {name!r} is not available here; valid are auto, {', '.join(available)}")


@contextlib.contextmanager
def torch_threads(number: int | None) -> Iterator[None]:
    """Have torch compute on ``number`` threads meanwhile; ``None`` leaves it as it is."""
    before = torch.get_num_threads()
    if number is not None:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
