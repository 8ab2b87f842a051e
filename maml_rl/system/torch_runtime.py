"""How torch runs in this process: device, number of threads, default settings, freed memory."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
from collections.abc import Iterator

import torch

from maml_rl.errors import UserError

# option numbers of mallopt, from malloc.h
_TRIM_THRESHOLD = -1
_TOP_PAD = -2
_MMAP_THRESHOLD = -3
_MALLOC_OPTIONS = {
    _TRIM_THRESHOLD: 2**31 - 1,
    _TOP_PAD: 64 * 2**20,
    _MMAP_THRESHOLD: 32 * 2**20,  # the largest that glibc accepts
}
"""In bytes."""
_MALLOC_VARIABLES = (
    "GLIBC_TUNABLES",
    "MALLOC_TRIM_THRESHOLD_",
    "MALLOC_TOP_PAD_",
    "MALLOC_MMAP_THRESHOLD_",
)
"""Environment variables by which the user configures glibc's allocator."""


def resolve_device(name: str) -> torch.device:
    """Return the torch device for a setting; ``auto`` is a GPU if there is one.

    Raises:
        UserError: if the device is not available.
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
    """Set torch's number of threads inside the context; ``None`` leaves it unchanged."""
    before = torch.get_num_threads()
    if number is not None:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def standard_torch() -> Iterator[None]:
    """Use float32, the CPU and gradients in the context, whatever the caller has set.

    The caller's default dtype, default device, gradient mode, inference mode and autocast are
    restored afterwards. The default dtype belongs to the process, the others to the calling thread.
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


def keep_freed_memory() -> None:
    """Have glibc keep freed memory for the rest of the process.

    Every operation of the learner allocates and frees tensors of a few megabytes. By default glibc
    returns them to the system, and getting new pages takes longer than the arithmetic on them. Peak
    memory does not change. Nothing is done with another C library, or if the user configures
    malloc in the environment.
    """
    is_user_set = any(name in os.environ for name in _MALLOC_VARIABLES)
    if platform.libc_ver()[0] == "glibc" and not is_user_set:
        set_option = ctypes.CDLL(None).mallopt
        for option, value in _MALLOC_OPTIONS.items():
            set_option(option, value)
