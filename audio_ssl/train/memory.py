"""Memory of a CPU run: pages that a step has freed stay in the process for the next one."""

from __future__ import annotations

import ctypes
import sys

# Parameters of glibc's mallopt(3).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_PAD_BYTES = 256 << 20


def keep_freed_memory() -> bool:
    """Tell glibc not to give big blocks back to the kernel, where it is the allocator; for processes that train.

    Every activation of a step is larger than glibc's limit for mapping it on its own; it is then unmapped when it is
    freed, and the kernel clears its pages again when the next step asks for them: 5 million page faults in a few steps
    of the base model, 40 % of its time.

    Returns:
        Whether glibc was told.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_TOP_PAD, _PAD_BYTES))
    return all(mallopt(parameter, value) == 1 for parameter, value in settings)
