"""torchaudio: state dicts of ``torchaudio.models.Wav2Vec2Model``, and of ``HuBERTPretrainModel`` for reading.

Its model has no mask vector, quantizer or projections. What has no place there is kept in a safetensors file beside
the state dict, under our names, and is found again on the way back.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from audio_ssl.checkpoint import save_tensors
from audio_ssl.config import ModelConfig
from audio_ssl.interop.foreign import Foreign, Imported, with_rows_of_origin
from audio_ssl.interop.names import Pair, pairs_of, to_theirs
from audio_ssl.interop.origin import Origin
from audio_ssl.interop.pt_file import only_tensors, save_pt
from audio_ssl.interop.settings import require_fixed_eps
from audio_ssl.interop.sidecar import read_rest, read_sidecar, rest_path, write_sidecar

_WRAPPED = "wav2vec2."  # what HuBERTPretrainModel puts before the encoder's names
_LABELS = ("logit_generator.*",)


def _pairs(prefix: str = "") -> list[Pair]:
    # One name for both norms of the convs and for both norm orders; the head is there or not.
    return pairs_of("torchaudio", ("group", "post", "ctc"), prefix=prefix)


def _pairs_of_hubert() -> list[Pair]:
    return [*_pairs(_WRAPPED), ("encoder.mask_embedding", "mask_generator.mask_embedding")]


def has_place(name: str) -> bool:
    """Whether torchaudio's model holds the tensor that we call ``name``."""
    return name != "encoder.mask_embedding" and not name.startswith("objective.")


def to_torchaudio(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors under torchaudio's names; those without a place there (:func:`has_place`) are left out."""
    return to_theirs({k: v for k, v in tensors.items() if has_place(k)}, _pairs())


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


def read_torchaudio(path: Path, content: Mapping[str, Any]) -> Foreign:
    """A state dict; settings from the TOML file beside it, else from shapes.

    Args:
        path: the ``.pt`` file.
        content: what it holds.

    Raises:
        CheckpointError: something else than tensors stands among them.
    """
    tensors, document = only_tensors(content, source=path), read_sidecar(path)
    is_hubert = any(name.startswith(_WRAPPED) for name in tensors)
    pairs, rest = _pairs_of_hubert() if is_hubert else _pairs(), read_rest(path)
    symbols = document["ctc"].get("symbols")
    return Foreign(
        path, (path,), {**tensors, **rest}, pairs + [(name, name) for name in rest],
        Origin("torchaudio", "hubert" if is_hubert else "wav2vec2", {"prefix": _WRAPPED * is_hubert}, symbols),
        not_ours=_LABELS if is_hubert else (),
        model=document["model"], objective=document["objective"], ctc=document["ctc"],
    )  # fmt: skip


def write_torchaudio(model: Imported, out: Path) -> tuple[int, tuple[str, ...]]:
    """Write a state dict, and beside it a TOML file with the arguments that build its model (section torchaudio).

    Args:
        model: any model; one that came from torchaudio gets its own order of rows back.
        out: the ``.pt`` file.

    Returns:
        Number of tensors written, and names of ours that have no place there (they stand in the file beside).

    Raises:
        OSError: it cannot be written.
    """
    files, origin = model.files, model.origin
    require_fixed_eps(files.model.layer_norm_eps, path=files.path, system="torchaudio")
    document, tensors = with_rows_of_origin(model, system="torchaudio")
    symbols = document.get("ctc", {}).get("symbols")
    arguments = torchaudio_arguments(files.model, num_symbols=len(symbols) if symbols else None)
    if origin is not None and origin.system == "torchaudio" and origin.settings.get("prefix"):
        theirs, rest = {**to_theirs(tensors, _pairs_of_hubert()), **origin.tensors}, {}
    else:
        theirs = to_torchaudio(tensors)
        rest = {name: tensor for name, tensor in tensors.items() if not has_place(name)}
        save_tensors(rest_path(out), rest)
    save_pt(out, theirs)
    write_sidecar(out, {**document, "torchaudio": {k: v for k, v in arguments.items() if v is not None}})
    return len(theirs), tuple(rest)
