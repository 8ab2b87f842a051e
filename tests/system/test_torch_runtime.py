"""Freed memory is kept: pages are asked for once, not at every pass."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PASSES, TENSORS, PAGES = 20, 8, 2 * 2**20 // 4096
SCRIPT = f"""
import resource, threading, torch
from maml_rl.system.torch_runtime import keep_freed_memory
if {{kept}}:
    keep_freed_memory()
def one_pass():
    tensors = [torch.zeros({PAGES} * 1024) + 1 for _ in range({TENSORS})]
def work():
    one_pass()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range({PASSES}):
        one_pass()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


def new_pages(kept: bool) -> int:
    """Pages that a thread asked for after its first pass."""
    command = [sys.executable, "-c", SCRIPT.format(kept=kept)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.thorough
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_later_passes_need_few_new_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = new_pages(kept=True)
    assert kept < PASSES * TENSORS * PAGES // 10
    assert 2 * kept < new_pages(kept=False)
    monkeypatch.setenv("MALLOC_TOP_PAD_", "0")  # what the user sets stays
    assert 2 * kept < new_pages(kept=True)
