"""transformers (Hugging Face): names and settings of wav2vec 2.0 and HuBERT, in all three of their classes.

Knows values, no files: :mod:`audio_ssl.interop.huggingface_files` reads and writes the directories.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from audio_ssl.config import ModelConfig, validate_config
from audio_ssl.errors import CheckpointError
from audio_ssl.interop.names import Pair, match_theirs, pairs_of, to_theirs
from audio_ssl.interop.origin import Family
from audio_ssl.interop.settings import kind_of

CLASSES: dict[Family, dict[str, str]] = {
    "wav2vec2": {"pretraining": "Wav2Vec2ForPreTraining", "ctc": "Wav2Vec2ForCTC", "encoder": "Wav2Vec2Model"},
    "hubert": {"ctc": "HubertForCTC", "encoder": "HubertModel"},
}
# (ours in ModelConfig, theirs, their default where a file leaves it out)
_MODEL_KEYS: tuple[tuple[str, str, Any], ...] = (
    ("conv_dims", "conv_dim", [512] * 7),
    ("conv_kernels", "conv_kernel", [10, 3, 3, 3, 3, 2, 2]),
    ("conv_strides", "conv_stride", [5, 2, 2, 2, 2, 2, 2]),
    ("conv_bias", "conv_bias", False),
    ("feature_norm", "feat_extract_norm", "group"),
    ("feature_dropout", "feat_proj_dropout", 0.0),
    ("dim", "hidden_size", 768),
    ("num_layers", "num_hidden_layers", 12),
    ("num_heads", "num_attention_heads", 12),
    ("ffn_dim", "intermediate_size", 3072),
    ("pos_conv_kernel", "num_conv_pos_embeddings", 128),
    ("pos_conv_groups", "num_conv_pos_embedding_groups", 16),
    ("dropout", "hidden_dropout", 0.1),
    ("attention_dropout", "attention_dropout", 0.1),
    ("activation_dropout", "activation_dropout", 0.1),
    ("layer_drop", "layerdrop", 0.1),
    ("layer_norm_eps", "layer_norm_eps", 1e-5),
)
# (ours in Wav2Vec2Config, theirs); what a file leaves out keeps our default
OBJECTIVE_KEYS = (
    ("mask_prob", "mask_time_prob"),
    ("mask_span_frames", "mask_time_length"),
    ("min_masks", "mask_time_min_masks"),
    ("num_distractors", "num_negatives"),
    ("logit_temperature", "contrastive_logits_temperature"),
    ("num_groups", "num_codevector_groups"),
    ("num_entries", "num_codevectors_per_group"),
    ("code_dim", "codevector_dim"),
    ("target_dim", "proj_codevector_dim"),
    ("target_dropout", "feat_quantizer_dropout"),
    ("diversity_weight", "diversity_loss_weight"),
)
# What a plain encoder of ours has no part for, with the value that means it is not there.
_PLAIN: dict[str, Any] = {
    "hidden_act": "gelu", "feat_extract_activation": "gelu", "add_adapter": False, "feat_proj_layer_norm": True,
    "conv_pos_batch_norm": False,
}  # fmt: skip


# What transformers calls our settings.
TERMS = {"adapter_dim": "adapter_attn_dim", **{ours: theirs for ours, theirs, _ in _MODEL_KEYS}}


def pairs_for(kind: str, family: Family = "wav2vec2") -> list[Pair]:
    """Names of a transformers class."""
    # Both norms of the convs have one name here, and so has the network's norm in both orders.
    return pairs_of("huggingface", ("group", "post", kind), prefix="" if kind == "encoder" else f"{family}.")


def to_huggingface(tensors: Mapping[str, Tensor], *, family: Family = "wav2vec2") -> dict[str, Tensor]:
    """Our tensors under the names of the transformers class for their kind."""
    return to_theirs(tensors, pairs_for(kind_of(tensors), family))


def from_huggingface(tensors: Mapping[str, Tensor], *, family: Family = "wav2vec2") -> dict[str, Tensor]:
    """Tensors of a transformers class under our names.

    Raises:
        CheckpointError: naming tensors that have no place here.
    """
    matched = match_theirs(tensors, pairs_for(kind_in(tensors), family))
    if matched.strays:
        raise CheckpointError(f"every tensor must have a place in a model of ours, but {matched.strays[:10]} have none")
    return matched.tensors


def kind_in(tensors: Mapping[str, Tensor]) -> str:
    """Which of the three classes saved these tensors."""
    if any(name.startswith("lm_head.") for name in tensors):
        return "ctc"
    return "pretraining" if any(name.startswith("quantizer.") for name in tensors) else "encoder"


def family_in(config: Mapping[str, Any], *, source: Path | str = "config.json") -> Family:
    """Whose class ``config.json`` asks for; ``source`` names it in messages.

    Raises:
        CheckpointError: another architecture, or a part that this package does not have.
    """
    found = config.get("model_type", "wav2vec2")
    faults = [] if found in list(CLASSES) else [f"model_type must be {' or '.join(CLASSES)}, got {found!r}"]
    faults += [f"{k} must be {v!r}, got {config[k]!r}" for k, v in _PLAIN.items() if config.get(k, v) != v]
    if faults:
        raise CheckpointError(
            f"{source} must describe a plain wav2vec 2.0 or HuBERT model, but {'; '.join(faults)}; no other "
            "architecture can be read"
        )
    return "hubert" if found == "hubert" else "wav2vec2"


def config_from_huggingface(config: Mapping[str, Any]) -> ModelConfig:
    """The encoder that a ``config.json`` describes.

    Raises:
        CheckpointError: another architecture, or a part that this package does not have.
        ConfigError: a value is out of range.
    """
    family_in(config)
    return validate_config(ModelConfig, model_values(config), source="config.json")


def model_values(config: Mapping[str, Any]) -> dict[str, Any]:
    """Values for ``ModelConfig``; whether waveforms are normalised as in the published models."""
    values = {ours: config.get(theirs, default) for ours, theirs, default in _MODEL_KEYS}
    order = "pre" if config.get("do_stable_layer_norm", False) else "post"
    values["adapter_dim"] = (config.get("adapter_attn_dim") or 0) if order == "pre" else 0  # post-norm blocks have none
    return {**values, "norm_order": order, "normalize_waveform": values["feature_norm"] == "layer"}


def objective_values(config: Mapping[str, Any]) -> dict[str, Any]:
    """Values for ``Wav2Vec2Config`` that the file gives."""
    return {ours: config[theirs] for ours, theirs in OBJECTIVE_KEYS if theirs in config}


def config_to_huggingface(
    document: Mapping[str, Any], *, family: Family = "wav2vec2", base: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """``config.json`` for a document of ours.

    Args:
        document: the sections of a model's ``config.toml``.
        family: whose class.
        base: the ``config.json`` that the model came with; its values stay wherever ours say nothing. Without one,
            masks in training keep transformers' defaults for recognisers and encoders.
    """
    kind, model = document["kind"], document["model"]
    config: dict[str, Any] = {"torch_dtype": "float32", "hidden_act": "gelu", "feat_extract_activation": "gelu"}
    config["num_feat_extract_layers"] = len(model["conv_dims"])
    if kind == "ctc":
        config |= {"vocab_size": len(document["ctc"]["symbols"]), "pad_token_id": 0, "final_dropout": 0.0}
        config |= {"bos_token_id": None, "eos_token_id": None, "ctc_loss_reduction": "sum", "ctc_zero_infinity": True}
    if base is not None:
        config = dict(base)
    config |= {"architectures": [CLASSES[family][kind]], "model_type": family}
    config |= {theirs: _json(model[ours]) for ours, theirs, _ in _MODEL_KEYS}
    config["do_stable_layer_norm"] = model["norm_order"] == "pre"
    if model.get("adapter_dim") or "adapter_attn_dim" in config:
        config["adapter_attn_dim"] = model.get("adapter_dim") or None
    if kind == "pretraining":
        config |= {theirs: document["objective"][ours] for ours, theirs in OBJECTIVE_KEYS}
    return config


def _json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def has_mask_embedding(config: Mapping[str, Any]) -> bool:
    """Whether the class has ``masked_spec_embed``: transformers leaves it out where training would not mask."""
    return bool(config.get("mask_time_prob", 0.05) > 0 or config.get("mask_feature_prob", 0.0) > 0)
