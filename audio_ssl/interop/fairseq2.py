"""fairseq2 0.8: ``.pt`` checkpoints of its wav2vec2 and wav2vec2_asr families. Imports no fairseq2.

fairseq2 keeps settings in asset cards apart from the weights, so a TOML file with ours is written beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audio_ssl.interop.foreign import Foreign, Imported, with_rows_of_origin
from audio_ssl.interop.names import Pair, pairs_of, to_theirs
from audio_ssl.interop.origin import Origin
from audio_ssl.interop.pt_file import only_tensors, save_pt
from audio_ssl.interop.settings import kind_of, require_context_of_all, require_fixed_eps, require_projection
from audio_ssl.interop.sidecar import read_sidecar, write_sidecar

# fairseq2's counter for the Gumbel temperature; ours comes from the number of the update.
_COUNTER = "quantizer.num_updates"


def to_fairseq2(tensors: Mapping[str, Tensor], *, norm_order: str) -> dict[str, Tensor]:
    """Our tensors under fairseq2's names; ``norm_order`` says where its network keeps its norm."""
    kind = kind_of(tensors)
    norm = "layer" if "encoder.feature_encoder.layers.1.norm.weight" in tensors else "group"
    renamed = to_theirs(tensors, pairs_of("fairseq2", (norm, norm_order, kind)))
    if kind == "pretraining":
        renamed[_COUNTER] = torch.zeros((), dtype=torch.int64)
    return renamed


def read_fairseq2(path: Path, content: Mapping[str, Any]) -> Foreign:
    """A fairseq2 checkpoint; settings from the TOML file beside it, else from shapes.

    Args:
        path: the ``.pt`` file.
        content: what it holds.

    Raises:
        CheckpointError: something else than tensors stands among them.
    """
    tensors, document = only_tensors(content.get("model", content), source=path), read_sidecar(path)
    norm_order = _norm_order(tensors)
    symbols = document["ctc"].get("symbols")
    return Foreign(
        path, (path,), tensors, _pairs_in(tensors, norm_order), Origin("fairseq2", symbols=symbols),
        not_ours=(_COUNTER,),
        model={**document["model"], "norm_order": norm_order}, objective=document["objective"], ctc=document["ctc"],
    )  # fmt: skip


def _pairs_in(tensors: Mapping[str, Tensor], norm_order: str) -> list[Pair]:
    norm = "group" if any(".group_norm." in name for name in tensors) else "layer"
    kind = "pretraining" if "quantizer.entries" in tensors else "ctc"
    return pairs_of("fairseq2", (norm, norm_order, kind))


def _norm_order(tensors: Mapping[str, Tensor]) -> str:
    return "post" if "encoder_frontend.layer_norm.weight" in tensors else "pre"


def write_fairseq2(model: Imported, out: Path) -> tuple[int, tuple[str, ...]]:
    """Write a checkpoint for fairseq2's ``load_custom_model``; rows of a CTC head keep our order, blank first.

    Args:
        model: any model; one that came from fairseq2 gets its own order of rows and its counter back.
        out: the ``.pt`` file.

    Returns:
        Number of tensors written, and names of ours that have no place there (none).

    Raises:
        CheckpointError: its model has no place for a part of ours.
        OSError: it cannot be written.
    """
    files, origin = model.files, model.origin
    require_fixed_eps(files.model.layer_norm_eps, path=files.path, system="fairseq2")
    require_projection(files.model.latent_dim, files.model.dim, path=files.path, system="fairseq2")
    require_context_of_all(files.tensors, path=files.path, system="fairseq2")
    document, tensors = with_rows_of_origin(model, system="fairseq2")
    theirs = to_fairseq2(tensors, norm_order=files.model.norm_order)
    if origin is not None and origin.system == "fairseq2":
        theirs |= origin.tensors
    save_pt(out, {"model": theirs})
    write_sidecar(out, document)
    return len(theirs), ()
