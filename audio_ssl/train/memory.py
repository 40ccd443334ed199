"""Memory of a run: how much it has taken, and on a CPU pages that a step has freed stay for the next one."""

from __future__ import annotations

import ctypes
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from audio_ssl.errors import TrainingError

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


def peak_memory_gib(device: torch.device) -> float:
    """Most memory that this process has had so far: tensors on a GPU; on a CPU all of the process, the code too."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024  # macOS tells bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


@contextmanager
def told_out_of_memory(micro_batch_s: float) -> Iterator[None]:
    """Say which settings to change when memory does not suffice for what is done inside.

    Args:
        micro_batch_s: of the run.

    Raises:
        TrainingError: it does not.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        is_of_memory = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not is_of_memory and "can't allocate memory" not in str(error):  # how torch says it on a CPU
            raise
        raise TrainingError(
            f"a micro-batch must fit the device's memory, {micro_batch_s:g} s (data.micro_batch_s) do not; lower it "
            "(data.batch_s may stay: more micro-batches make up for it), or set run.checkpoint_activations=true; then "
            "start again, with --resume auto where the run had begun"
        ) from error
