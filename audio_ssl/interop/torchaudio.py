"""torchaudio: state dicts of ``torchaudio.models.Wav2Vec2Model``.

It has no mask vector, quantizer or projections: exporting drops them by name, importing fills the mask vector.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from audio_ssl.config import ModelConfig
from audio_ssl.interop.directory import Conversion, Foreign, write_foreign
from audio_ssl.interop.names import Pair, pairs_of, to_ours, to_theirs
from audio_ssl.interop.pt_file import only_tensors, read_pt, read_sidecar, write_pt, write_sidecar
from audio_ssl.model.files import read_model_dir


def _pairs() -> list[Pair]:
    # One name for both norms of the convs and for both norm orders; the head is there or not.
    return pairs_of("torchaudio", ("group", "post", "ctc"))


def has_place(name: str) -> bool:
    """Whether torchaudio's model holds the tensor that we call ``name``."""
    return name != "encoder.mask_embedding" and not name.startswith("objective.")


def to_torchaudio(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors under torchaudio's names; those without a place there (:func:`has_place`) are left out."""
    return to_theirs({k: v for k, v in tensors.items() if has_place(k)}, _pairs(), source="the model")


def from_torchaudio(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of torchaudio under our names.

    Raises:
        CheckpointError: naming every tensor that is none of wav2vec 2.0's.
    """
    return to_ours(tensors, _pairs(), source="the torchaudio model")


def torchaudio_arguments(model: ModelConfig, *, num_symbols: int | None) -> dict[str, Any]:
    """Arguments of ``torchaudio.models.wav2vec2_model`` that build the same network."""
    return {
        "extractor_mode": f"{model.feature_norm}_norm",
        "extractor_conv_layer_config": list(zip(model.conv_dims, model.conv_kernels, model.conv_strides, strict=True)),
        "extractor_conv_bias": model.conv_bias,
        "encoder_embed_dim": model.dim,
        "encoder_projection_dropout": model.feature_dropout,
        "encoder_pos_conv_kernel": model.pos_conv_kernel,
        "encoder_pos_conv_groups": model.pos_conv_groups,
        "encoder_num_layers": model.num_layers,
        "encoder_num_heads": model.num_heads,
        "encoder_attention_dropout": model.attention_dropout,
        "encoder_ff_interm_features": model.ffn_dim,
        "encoder_ff_interm_dropout": model.activation_dropout,
        "encoder_dropout": model.dropout,
        "encoder_layer_norm_first": model.norm_order == "pre",
        "encoder_layer_drop": model.layer_drop,
        "aux_num_out": num_symbols,
    }


def export_torchaudio(model_dir: Path, out: Path) -> Conversion:
    """Write a state dict, and beside it a TOML file with the arguments that build its model (section torchaudio).

    Raises:
        CheckpointError: not a model of ours, or ``out`` exists or cannot be written.
    """
    files = read_model_dir(model_dir)
    tensors = to_torchaudio(files.tensors)
    symbols = files.document.get("ctc", {}).get("symbols")
    arguments = torchaudio_arguments(files.model, num_symbols=len(symbols) if symbols else None)
    write_pt(out, tensors)
    write_sidecar(out, {**files.document, "torchaudio": {k: v for k, v in arguments.items() if v is not None}})
    dropped = tuple(name for name in files.tensors if not has_place(name))
    return Conversion(out, files.kind, len(tensors), dropped=dropped)


def import_torchaudio(path: Path, out_dir: Path, *, overrides: Mapping[str, Any] | None = None) -> Conversion:
    """Write our model directory from a state dict; settings from the TOML file beside it, else from its shapes.

    Raises:
        CheckpointError: unreadable, tensors that do not fit, or a head without symbols.
    """
    document = read_sidecar(path)
    foreign = Foreign(
        path,
        from_torchaudio(only_tensors(read_pt(path), source=path)),
        document.get("model", {}),
        {},
        document.get("ctc", {}).get("symbols"),
    )
    return write_foreign(foreign, out_dir, overrides=overrides or {})
