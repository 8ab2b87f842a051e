"""What becomes of memory that is freed."""

from __future__ import annotations

import ctypes
import os
import platform

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # of malloc.h
_SETTINGS = {_TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 64 * 2**20, _MMAP_THRESHOLD: 32 * 2**20}
"""In bytes; the last one is the largest that glibc takes."""
_OWN_SETTINGS = (
    "GLIBC_TUNABLES",
    "MALLOC_TRIM_THRESHOLD_",
    "MALLOC_TOP_PAD_",
    "MALLOC_MMAP_THRESHOLD_",
)


def keep_freed_memory() -> None:
    """Have glibc keep freed memory for the next request, for as long as the process lives.

    The learner's tensors, of some megabytes each, come and go with every operation. By default
    glibc gives them back to the system, and new pages take longer than the arithmetic on them. Peak
    memory is the same. Other C libraries, and what the user set in the environment, stay as they
    are.
    """
    if platform.libc_ver()[0] == "glibc" and not any(name in os.environ for name in _OWN_SETTINGS):
        set_option = ctypes.CDLL(None).mallopt
        for option, value in _SETTINGS.items():
            set_option(option, value)
