"""transformers (Hugging Face): ``Wav2Vec2Model``, ``Wav2Vec2ForPreTraining`` and ``Wav2Vec2ForCTC`` directories."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from audio_ssl.checkpoint import load_tensors, replaced_directory, save_tensors, write_json
from audio_ssl.config import ModelConfig, validate_config
from audio_ssl.errors import CheckpointError
from audio_ssl.interop.directory import Conversion, Foreign, refuse_existing, write_foreign
from audio_ssl.interop.names import Pair, pairs_of, to_ours, to_theirs
from audio_ssl.interop.pt_file import only_tensors, read_pt
from audio_ssl.interop.settings import kind_of
from audio_ssl.interop.symbols import BLANK, SEPARATOR, UNKNOWN
from audio_ssl.model.files import ModelFiles, read_model_dir

_PREFIX = "wav2vec2."
_CLASSES = {"pretraining": "Wav2Vec2ForPreTraining", "ctc": "Wav2Vec2ForCTC", "encoder": "Wav2Vec2Model"}
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
_OBJECTIVE_KEYS = (
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


def _pairs(kind: str) -> list[Pair]:
    # Both norms of the convs have one name here, and so has the network's norm in both orders.
    return pairs_of("huggingface", ("group", "post", kind), prefix="" if kind == "encoder" else _PREFIX)


def to_huggingface(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors under the names of the transformers class for their kind."""
    return to_theirs(tensors, _pairs(kind_of(tensors)), source="the model")


def from_huggingface(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of any of the three transformers classes under our names.

    Raises:
        CheckpointError: naming every tensor that is none of wav2vec 2.0's.
    """
    if any(name.startswith("lm_head.") for name in tensors):
        kind = "ctc"
    elif any(name.startswith("quantizer.") for name in tensors):
        kind = "pretraining"
    else:
        kind = "encoder"
        tensors = {name.removeprefix(_PREFIX): tensor for name, tensor in tensors.items()}
    return to_ours(tensors, _pairs(kind), source="the transformers model")


def config_from_huggingface(config: Mapping[str, Any]) -> ModelConfig:
    """The encoder that a ``config.json`` describes.

    Raises:
        CheckpointError: another architecture, or a part that this package does not have.
        ConfigError: a value is out of range.
    """
    return validate_config(ModelConfig, _model_values(config), source="config.json")


def _model_values(config: Mapping[str, Any]) -> dict[str, Any]:
    required: dict[str, Any] = {"model_type": "wav2vec2", "hidden_act": "gelu", "feat_extract_activation": "gelu"}
    required |= {"add_adapter": False, "adapter_attn_dim": None}
    faults = [f"{k} must be {v!r}, got {config[k]!r}" for k, v in required.items() if config.get(k, v) != v]
    if faults:
        raise CheckpointError(f"config.json must describe a plain wav2vec 2.0 model: {'; '.join(faults)}")
    values = {ours: config.get(theirs, default) for ours, theirs, default in _MODEL_KEYS}
    is_layer = values["feature_norm"] == "layer"
    # The feature extractor's own file says whether waveforms are normalised; without it, as in the published models.
    order = "pre" if config.get("do_stable_layer_norm", False) else "post"
    return {**values, "norm_order": order, "normalize_waveform": is_layer}


def config_to_huggingface(document: Mapping[str, Any]) -> dict[str, Any]:
    """``config.json`` for a document of ours; masks in training keep transformers' defaults for CTC and encoders."""
    kind, model = document["kind"], document["model"]
    config: dict[str, Any] = {theirs: model[ours] for ours, theirs, _ in _MODEL_KEYS}
    config |= {"architectures": [_CLASSES[kind]], "model_type": "wav2vec2", "torch_dtype": "float32"}
    config |= {"do_stable_layer_norm": model["norm_order"] == "pre", "num_feat_extract_layers": len(model["conv_dims"])}
    config |= {"hidden_act": "gelu", "feat_extract_activation": "gelu"}
    if kind == "pretraining":
        config |= {theirs: document["objective"][ours] for ours, theirs in _OBJECTIVE_KEYS}
    if kind == "ctc":
        config |= {"vocab_size": len(document["ctc"]["symbols"]), "pad_token_id": 0, "final_dropout": 0.0}
        config |= {"bos_token_id": None, "eos_token_id": None, "ctc_loss_reduction": "sum", "ctc_zero_infinity": True}
    return config


def export_huggingface(model_dir: Path, out_dir: Path) -> Conversion:
    """Write a directory that transformers' ``from_pretrained`` loads: model, feature extractor, and tokenizer for CTC.

    Raises:
        CheckpointError: not a model of ours, or ``out_dir`` exists or cannot be written.
    """
    refuse_existing(out_dir)
    files = read_model_dir(model_dir)
    tensors = to_huggingface(files.tensors)
    with replaced_directory(out_dir) as draft:
        save_tensors(draft / "model.safetensors", tensors)
        write_json(draft / "config.json", config_to_huggingface(files.document))
        write_json(draft / "preprocessor_config.json", _preprocessor(files))
        if files.kind == "ctc":
            _write_tokenizer(draft, files.document["ctc"]["symbols"])
    return Conversion(out_dir, files.kind, len(tensors))


def _preprocessor(files: ModelFiles) -> dict[str, Any]:
    return {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "sampling_rate": files.model.sample_rate_hz,
        "do_normalize": files.model.normalize_waveform,
        "padding_side": "right",
        "padding_value": 0.0,
        # transformers' group norm takes padding in; its published models of this kind are run without a mask
        "return_attention_mask": files.model.feature_norm == "layer",
    }


def _write_tokenizer(folder: Path, symbols: list[str]) -> None:
    specials = {"pad_token": BLANK, "unk_token": UNKNOWN}
    tokenizer = {
        "tokenizer_class": "Wav2Vec2CTCTokenizer", "processor_class": "Wav2Vec2Processor", **specials,
        "bos_token": None, "eos_token": None, "word_delimiter_token": SEPARATOR, "replace_word_delimiter_char": " ",
        # transformers' flag of this name turns text to upper case
        "do_lower_case": False, "clean_up_tokenization_spaces": False,
    }  # fmt: skip
    write_json(folder / "vocab.json", {symbol: row for row, symbol in enumerate(symbols)})
    write_json(folder / "tokenizer_config.json", tokenizer)
    write_json(folder / "special_tokens_map.json", specials)
    write_json(folder / "processor_config.json", {"processor_class": "Wav2Vec2Processor"})


def import_huggingface(directory: Path, out_dir: Path, *, overrides: Mapping[str, Any] | None = None) -> Conversion:
    """Write our model directory from a transformers directory (``model.safetensors`` or ``pytorch_model.bin``).

    Args:
        directory: with ``config.json``; ``preprocessor_config.json`` and ``vocab.json`` are used where they are.
        out_dir: a directory that does not exist yet.
        overrides: values of ``ModelConfig`` that win.

    Raises:
        CheckpointError: files missing, another architecture, or tensors that do not fit.
    """
    config, preprocessor = _read_json(directory / "config.json"), _read_json(directory / "preprocessor_config.json")
    if not config:
        raise CheckpointError(f"{directory} must be a transformers model directory with config.json")
    model = _model_values(config)
    model["normalize_waveform"] = preprocessor.get("do_normalize", model["normalize_waveform"])
    model["sample_rate_hz"] = preprocessor.get("sampling_rate", 16_000)
    objective = {ours: config[theirs] for ours, theirs in _OBJECTIVE_KEYS if theirs in config}
    tensors = from_huggingface(_read_weights(directory))
    foreign = Foreign(directory, tensors, model, objective, _read_symbols(directory))
    return write_foreign(foreign, out_dir, overrides=overrides or {})


def _read_weights(directory: Path) -> dict[str, Tensor]:
    if (directory / "model.safetensors").exists():
        return load_tensors(directory / "model.safetensors")
    path = directory / "pytorch_model.bin"
    if not path.exists():
        raise CheckpointError(f"{directory} must hold model.safetensors or pytorch_model.bin, in one piece")
    return only_tensors(read_pt(path), source=path)


def _read_symbols(directory: Path) -> list[str] | None:
    """Symbol of each row, the special ones under our names; None without a vocabulary."""
    vocabulary = {**_read_json(directory / "vocab.json"), **_read_json(directory / "added_tokens.json")}
    if not vocabulary:
        return None
    settings = _read_json(directory / "tokenizer_config.json")
    names = {settings.get(key) or ours: ours for key, ours in (
        ("pad_token", BLANK), ("unk_token", UNKNOWN), ("word_delimiter_token", SEPARATOR),
    )}  # fmt: skip
    symbol_of = {row: names.get(symbol, symbol) for symbol, row in vocabulary.items()}
    return [symbol_of.get(row, f"<row {row}>") for row in range(max(symbol_of) + 1)]


def _read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is none."""
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} must be a readable JSON file: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} must hold a JSON object, got {type(value).__name__}")
    return value
