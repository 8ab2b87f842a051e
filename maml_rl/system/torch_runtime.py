"""Where policies live, on how many threads torch computes, and with which defaults."""

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
    raise UserError(
        f"device {name!r} is not available here; valid are auto, {', '.join(available)}"
    )


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


@contextlib.contextmanager
def standard_torch() -> Iterator[None]:
    """Use torch's standard settings, whatever the caller has set: float32, CPU, gradients.

    The caller's default dtype, default device, gradient mode, inference mode and autocast apply
    again afterwards. The default dtype is one for all threads of the process; the others are the
    calling thread's own.
    """
    with contextlib.ExitStack() as settings:
        if torch.is_inference_mode_enabled():
            settings.enter_context(torch.inference_mode(False))
        if not torch.is_grad_enabled():
            settings.enter_context(torch.enable_grad())
        dtype = torch.get_default_dtype()
        if dtype != torch.float32:
            settings.callback(torch.set_default_dtype, dtype)
            torch.set_default_dtype(torch.float32)
        if torch.get_default_device().type != "cpu":
            settings.enter_context(torch.device("cpu"))
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                settings.enter_context(torch.autocast(kind, enabled=False))
        yield
