"""A conversion checks itself: what was written is read back, and one forward pass runs beside each peer."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from audio_ssl.errors import CheckpointError
from audio_ssl.interop.foreign import Imported
from audio_ssl.interop.peer_forward import RUNNERS, run_ours
from audio_ssl.tensors import is_valid_mask

# Rounding of float32 stays near 1e-6 of the largest value, 24 layers deep; a wrong map shows at 1e-2 and above.
TOLERANCE = 1e-4
_NUM_FRAMES = (37, 23)


@dataclass(frozen=True)
class Check:
    """One forward pass beside a peer.

    Attributes:
        system: the peer.
        version: of its package; empty where nothing ran.
        what: outputs that were compared.
        difference: the largest, relative to the output's largest value; None where nothing ran.
        reason: why nothing ran.
    """

    system: str
    version: str = ""
    what: tuple[str, ...] = ()
    difference: float | None = None
    reason: str = ""


def check_same(written: Imported, source: Imported, *, dropped: tuple[str, ...]) -> None:
    """Compare a model read back with the one that was written, bit for bit.

    Raises:
        CheckpointError: naming what differs.
    """
    theirs, ours = written.files.tensors, source.files.tensors
    faults = [
        name
        for name, tensor in ours.items()
        if name not in dropped and not (name in theirs and _are_same(theirs[name], tensor))
    ]
    if faults or written.files.kind != source.files.kind:
        raise CheckpointError(
            f"{written.files.path}, read back, must hold the tensors that were written, but these differ: "
            f"{', '.join(faults[:10]) or written.files.kind}; nothing is kept. The disk may be failing"
        )


def _are_same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())


@torch.no_grad()
def check_against(system: str, path: Path, model: Imported) -> Check:
    """Run a checkpoint in the peer that it belongs to, and beside it in ours.

    Args:
        system: the peer.
        path: its checkpoint.
        model: what was read from ``path``.

    Raises:
        CheckpointError: they differ by more than rounding.
    """
    if system not in RUNNERS:
        return Check(system, reason="it cannot be imported on this version of Python")
    waveforms, num_samples = _waveforms(model)
    try:
        theirs = RUNNERS[system](path, model, waveforms, num_samples)
    except ImportError as error:
        return Check(system, reason=f"it cannot be imported ({error})")
    except Exception as error:  # a peer's own reading of its own files
        raise CheckpointError(
            f"{path} must load in {system} {version(system)}, but it does not: {type(error).__name__}: {error!s:.500}; "
            "nothing is kept. Mend it, or give --no-check to do without this comparison"
        ) from error
    ours = run_ours(model, waveforms, num_samples)
    is_valid = is_valid_mask(model.files.model.geometry.num_frames(num_samples), ours["frames"].shape[1])
    differences = {name: _relative(ours[name][is_valid], theirs[name][is_valid]) for name in theirs}
    worst = max(differences, key=lambda name: differences[name])
    if not differences[worst] <= TOLERANCE:  # so that NaN is refused, too
        raise CheckpointError(
            f"{path} must give the same numbers in {system} {version(system)} and here, but {worst} differ by "
            f"{differences[worst]:.1e} of the largest value; nothing is kept. Settings that the source does not tell "
            "may be wrong: give them with --set"
        )
    return Check(system, version(system), tuple(differences), differences[worst])


def _waveforms(model: Imported) -> tuple[Tensor, Tensor]:
    """Noise: two rows, one of them padded, where peers keep padding out (layer norm), else one."""
    settings = model.files.model
    geometry = settings.geometry
    lengths = [geometry.receptive_field_samples + (n - 1) * geometry.hop_samples for n in _NUM_FRAMES]
    num_samples = torch.tensor(lengths if settings.feature_norm == "layer" else lengths[:1])
    waveforms = torch.randn(len(num_samples), lengths[0], generator=torch.Generator().manual_seed(0))
    return waveforms.masked_fill(~is_valid_mask(num_samples, lengths[0]), 0.0), num_samples


def _relative(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference over the largest value."""
    return float((ours.float() - theirs.float()).abs().max() / theirs.float().abs().max().clamp(min=1e-30))
