"""All comparisons of :mod:`exactness`, by peer, and whether a peer can be imported at all."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator

import comparisons_fairseq2
import comparisons_torchaudio
import comparisons_transformers
from exactness import Case, Row

from audio_ssl.data.engine_fairseq2 import preload_libsndfile

Comparison = Callable[[Case], Iterator[Row]]

COMPARISONS: dict[str, tuple[Comparison, ...]] = {
    module.PEER: tuple(getattr(module, name) for name in names)
    for module, names in (
        (comparisons_transformers, ("frames", "ctc", "pretraining")),
        (comparisons_torchaudio, ("frames", "ctc")),
        (comparisons_fairseq2, ("frames", "ctc", "pretraining", "padded_pretraining")),
    )
}


def reason_to_leave_out(peer: str) -> str | None:
    """Why the peer cannot be imported; None where it can."""
    try:
        if peer == "fairseq2":
            preload_libsndfile()
        importlib.import_module({"torchaudio": "torchaudio.models"}.get(peer, peer))
    except (ImportError, OSError) as error:
        return f"{peer} cannot be imported: {error}"
    return None
