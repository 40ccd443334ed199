"""fairseq2 0.8: ``.pt`` checkpoints of its wav2vec2 and wav2vec2_asr families. Imports no fairseq2.

fairseq2 keeps settings in asset cards apart from the weights, so a TOML file with ours is written beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audio_ssl.interop.directory import Conversion, Foreign, write_foreign
from audio_ssl.interop.names import pairs_of, to_ours, to_theirs
from audio_ssl.interop.pt_file import only_tensors, read_pt, read_sidecar, write_pt, write_sidecar
from audio_ssl.interop.settings import kind_of
from audio_ssl.model.files import read_model_dir

# fairseq2's counter for the Gumbel temperature; ours comes from the number of the update.
_COUNTER = "quantizer.num_updates"


def to_fairseq2(tensors: Mapping[str, Tensor], *, norm_order: str) -> dict[str, Tensor]:
    """Our tensors under fairseq2's names; ``norm_order`` says where its network keeps its norm."""
    kind = kind_of(tensors)
    norm = "layer" if "encoder.feature_encoder.layers.1.norm.weight" in tensors else "group"
    renamed = to_theirs(tensors, pairs_of("fairseq2", (norm, norm_order, kind)), source="the model")
    if kind == "pretraining":
        renamed[_COUNTER] = torch.zeros((), dtype=torch.int64)
    return renamed


def from_fairseq2(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of fairseq2 under our names.

    Raises:
        CheckpointError: naming every tensor that is none of wav2vec 2.0's.
    """
    norm = "group" if any(".group_norm." in name for name in tensors) else "layer"
    kind = "pretraining" if "quantizer.entries" in tensors else "ctc"
    kept = {name: tensor for name, tensor in tensors.items() if name != _COUNTER}
    pairs = pairs_of("fairseq2", (norm, _norm_order(tensors), kind))
    return to_ours(kept, pairs, source="the fairseq2 model")


def _norm_order(tensors: Mapping[str, Tensor]) -> str:
    return "post" if "encoder_frontend.layer_norm.weight" in tensors else "pre"


def export_fairseq2(model_dir: Path, out: Path) -> Conversion:
    """Write a checkpoint for fairseq2's ``load_custom_model``; rows of a CTC head keep our order, blank first.

    Raises:
        CheckpointError: not a model of ours, or ``out`` exists or cannot be written.
    """
    files = read_model_dir(model_dir)
    tensors = to_fairseq2(files.tensors, norm_order=files.model.norm_order)
    write_pt(out, {"model": tensors})
    write_sidecar(out, files.document)
    return Conversion(out, files.kind, len(tensors))


def import_fairseq2(path: Path, out_dir: Path, *, overrides: Mapping[str, Any] | None = None) -> Conversion:
    """Write our model directory from a fairseq2 checkpoint; settings from the TOML file beside it, else from shapes.

    Raises:
        CheckpointError: unreadable, tensors that do not fit, or a head without symbols.
    """
    content, document = read_pt(path), read_sidecar(path)
    theirs = only_tensors(content.get("model", content), source=path)
    model = {"norm_order": _norm_order(theirs), **document.get("model", {})}
    objective, symbols = document.get("objective", {}), document.get("ctc", {}).get("symbols")
    foreign = Foreign(path, from_fairseq2(theirs), model, objective, symbols)
    return write_foreign(foreign, out_dir, overrides=overrides or {})
