"""Freed memory stays in the process, where glibc is the allocator."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys, torch
from audio_ssl.train.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(40):
    torch.ones(32 << 20, dtype=torch.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_pages_are_not_cleared_again_and_again():
    run = [sys.executable, "-c", SCRIPT]
    kept, given_back = (
        int(subprocess.run([*run, how], capture_output=True, text=True, check=True).stdout) for how in ("keep", "no")
    )
    assert kept < given_back / 2  # not none: glibc asks for a little more than it gave to align the next block
