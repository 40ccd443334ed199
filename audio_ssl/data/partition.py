"""Splitting a manifest into parts by hours, so that no speaker (or no file) is in two of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from audio_ssl.data.manifest import Manifest
from audio_ssl.data.table import listed
from audio_ssl.errors import ConfigError, ManifestError
from audio_ssl.rng import numpy_generator

SplitBy = Literal["speaker", "none"]


def split_rows(
    manifest: Manifest, *, parts: Mapping[str, float], by: SplitBy = "speaker", seed: int = 0
) -> dict[str, np.ndarray]:
    """Row numbers of each part, in the manifest's order; see :func:`deal`.

    Args:
        manifest: rows.
        parts: name to share of the hours; the shares add up to 1.
        by: ``speaker``: no speaker is in two parts; ``none``: no file is.
        seed: of the draw.

    Raises:
        ConfigError: shares that are not positive or do not add up to 1.
        ManifestError: rows without speaker, or fewer speakers (files) than parts.
    """
    if not parts or min(parts.values()) <= 0 or abs(sum(parts.values()) - 1) > 1e-6:
        shown = ", ".join(f"{name}={share:g}" for name, share in parts.items())
        raise ConfigError(f"shares of the parts must be > 0 and add up to 1, got {shown or 'none'}")
    files = [path if offset is None else f"{path}\0{offset}" for path, offset in manifest.file_keys()]
    keys = manifest.column("speaker") if by == "speaker" else files
    nameless = [i for i, key in enumerate(keys) if key is None]
    if nameless:
        raise ManifestError(
            listed(
                f"every row must have a speaker to split by speaker, but {len(nameless)} of {len(keys)} have none "
                "(build with --speaker-from, or split with --by none)",
                [manifest.describe(i) for i in nameless],
            )
        )
    kind = "speakers" if by == "speaker" else "files"
    part_of = deal(keys, manifest.durations_s(), shares=list(parts.values()), seed=seed, kind=kind)
    return {name: np.flatnonzero(part_of == i) for i, name in enumerate(parts)}


def deal(
    keys: Sequence[str], seconds: np.ndarray, *, shares: Sequence[float], seed: int, kind: str = "speakers"
) -> np.ndarray:
    """Number of each row's part, so that rows of one key are in one part.

    Keys (speakers, files) are dealt out from the one with most hours to the one with fewest, each to the part that
    lacks most; keys of equal hours come in an order drawn from the seed.

    Args:
        keys: N names.
        seconds: (N,) length of each row.
        shares: of the hours, each > 0; they add up to 1.
        seed: of the draw.
        kind: what the keys are, in messages.

    Returns:
        (N,) int64.

    Raises:
        ManifestError: fewer keys than parts.
    """
    names, group_of = np.unique(np.asarray(keys, dtype=object).astype(str), return_inverse=True)
    if len(names) < len(shares):
        raise ManifestError(f"there must be at least as many {kind} as parts, got {len(names)} and {len(shares)}")
    sums = np.bincount(group_of, weights=seconds)
    return _dealt(sums, np.asarray(shares, dtype=np.float64), seed=seed)[group_of]


def _dealt(seconds: np.ndarray, shares: np.ndarray, *, seed: int) -> np.ndarray:
    """(G,) part of each group."""
    order = numpy_generator(seed, "split").permutation(len(seconds))
    order = order[np.argsort(-seconds[order], kind="stable")]
    lacking = shares * seconds.sum()
    part_of = np.empty(len(seconds), dtype=np.int64)
    for group in order:
        part = int(lacking.argmax())
        part_of[group] = part
        lacking[part] -= seconds[group]
    for part in range(len(shares)):
        if not (part_of == part).any():  # a small share may lack less than every group has: it gets the shortest
            counts = np.bincount(part_of, minlength=len(shares))
            spare = np.flatnonzero(counts[part_of] > 1)
            part_of[spare[seconds[spare].argmin()]] = part
    return part_of
