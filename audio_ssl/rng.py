"""Every random draw of the project comes from a generator named by (run seed, purpose, indices).

So a draw depends on *what* it is for, never on how often something was called before: any step, batch or row can be
drawn again alone, which makes resuming and parallel loading exact. Nobody seeds anything in another way.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch


def derive_seed(seed: int, purpose: str, *indices: int) -> int:
    """A 63-bit seed from the run seed, a purpose and indices (epoch, step, row, rank ...).

    Args:
        seed: the run's seed.
        purpose: what the draw is for, such as ``"plan"`` or ``"mask"``.
        indices: integers that tell draws of one purpose apart.
    """
    key = "/".join((str(seed), purpose, *map(str, indices))).encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") >> 1


def numpy_generator(seed: int, purpose: str, *indices: int) -> np.random.Generator:
    """A numpy generator (PCG64) for one draw; see :func:`derive_seed`."""
    import numpy as np

    return np.random.default_rng(derive_seed(seed, purpose, *indices))


def torch_generator(seed: int, purpose: str, *indices: int, device: str | torch.device = "cpu") -> torch.Generator:
    """A torch generator on ``device`` for one draw; see :func:`derive_seed`."""
    import torch

    return torch.Generator(device=device).manual_seed(derive_seed(seed, purpose, *indices))
