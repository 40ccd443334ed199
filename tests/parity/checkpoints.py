"""Small checkpoints of every system, made by the system's own modules where it is installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from peers import OBJECTIVE, SYMBOLS, prefixed, random_config, random_encoder, random_objective

from audio_ssl.config import ModelConfig
from audio_ssl.interop.fairseq import to_fairseq
from audio_ssl.interop.peers import build_fairseq2, build_torchaudio
from audio_ssl.model import files

SYSTEMS = ("transformers", "torchaudio", "fairseq2", "fairseq")
KINDS = ("pretraining", "ctc", "encoder")
SHAPE = {
    "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 17,
    "conv_dim": [8, 9, 7, 8, 6, 5, 11], "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 4,
}  # fmt: skip
VARIANTS: dict[str, dict[str, Any]] = {
    "base": {},
    "large": {"do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True, "layer_norm_eps": 2e-5},
}
HEADS = {
    "pretraining": {
        "num_codevector_groups": 2, "num_codevectors_per_group": 5, "codevector_dim": 12, "proj_codevector_dim": 16,
        "mask_time_prob": 0.65,
    },
    "ctc": {"vocab_size": 8, "pad_token_id": 3, "ctc_loss_reduction": "mean", "final_dropout": 0.25},
    "encoder": {"mask_feature_prob": 0.125},
}  # fmt: skip
# The blank is not the first row, and neither <unk> nor | has its usual name or place.
VOCABULARY = {"<s>": 0, "A": 1, "/": 2, "[PAD]": 3, "B": 4, "[UNK]": 5, "Ü": 6, "</s>": 7}
TOKENIZER = {
    "tokenizer_class": "Wav2Vec2CTCTokenizer", "pad_token": "[PAD]", "unk_token": "[UNK]",
    "word_delimiter_token": "/", "bos_token": "<s>", "eos_token": "</s>", "do_lower_case": False,
}  # fmt: skip
PREPROCESSOR = {
    "feature_extractor_type": "Wav2Vec2FeatureExtractor", "feature_size": 1, "padding_side": "right",
    "padding_value": 0.0, "do_normalize": True, "return_attention_mask": True, "sampling_rate": 8000,
}  # fmt: skip


def place(folder: Path, system: str, name: str = "model") -> Path:
    """Where a checkpoint of a system goes."""
    return folder / (name if system in ("audio_ssl", "transformers") else f"{name}.pt")


def save_ours(path: Path, config: ModelConfig, kind: str) -> None:
    encoder = random_encoder(config)
    if kind == "ctc":
        document = files.ctc_document(config, symbols=SYMBOLS)
        modules = {"encoder": encoder, "head": torch.nn.Linear(config.dim, len(SYMBOLS))}
    elif kind == "pretraining":
        document = files.pretraining_document(config, OBJECTIVE)
        modules = {"encoder": encoder, "objective": random_objective(config)}
    else:
        document, modules = files.encoder_document(config), {"encoder": encoder}
    files.save_model_dir(path, document, modules)


def save_transformers(path: Path, variant: str, kind: str, *, family: str = "Wav2Vec2", **how: Any) -> torch.nn.Module:
    """A model with weights of transformers' own making, saved as it saves, with what stands beside it."""
    import transformers

    torch.manual_seed(5)
    values = {**SHAPE, **VARIANTS[variant], **HEADS[kind]}
    config = getattr(transformers, f"{family}Config")(**values)
    suffix = {"pretraining": "ForPreTraining", "ctc": "ForCTC", "encoder": "Model"}[kind]
    model: torch.nn.Module = getattr(transformers, family + suffix)(config).to(how.pop("dtype", torch.float32))
    model.eval().save_pretrained(path, **how)
    (path / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    if kind == "ctc":
        (path / "vocab.json").write_text(json.dumps(VOCABULARY))
        (path / "tokenizer_config.json").write_text(json.dumps(TOKENIZER))
    return model


def save_fairseq(path: Path, config: ModelConfig, kind: str, *, is_hubert: bool = False) -> None:
    """fairseq's layout with settings that ours have no place for; tensors by the table that its own code confirmed."""
    encoder = random_encoder(config)
    head = {
        "pretraining": lambda: prefixed("objective", random_objective(config).state_dict()),
        "ctc": lambda: prefixed("head", torch.nn.Linear(config.dim, 7).state_dict()),
        "encoder": dict,
    }[kind]()
    tensors = to_fairseq({**prefixed("encoder", encoder.state_dict()), **head})
    if is_hubert:
        prefix = "w2v_encoder.w2v_model." if kind == "ctc" else ""
        tensors[f"{prefix}label_embs_concat"] = torch.randn(504, 6)
        tensors |= {f"{prefix}final_proj.{k}": v for k, v in torch.nn.Linear(config.dim, 6).state_dict().items()}
    model = {
        "_name": "hubert" if is_hubert else "wav2vec2", "encoder_attention_heads": config.num_heads,
        "extractor_mode": "layer_norm" if config.feature_norm == "layer" else "default", "dropout": 0.25,
        "layer_norm_first": config.norm_order == "pre", "untie_final_proj": True,
        "conv_feature_layers": "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2",
    }  # fmt: skip
    task = {"_name": "audio_pretraining", "normalize": True, "sample_rate": 16000, "labels": "ltr"}
    if kind == "ctc":
        model = {"_name": "wav2vec_ctc", "w2v_args": {"model": model, "task": task}, "mask_prob": 0.5}
        (path.parent / "dict.ltr.txt").write_text("| 94802\nE 51860\nT 38431\n")
    torch.save({"args": None, "cfg": {"model": model, "task": task, "common": {"seed": 1}}, "model": tensors}, path)


def save_foreign(folder: Path, system: str, variant: str, kind: str) -> Path:
    """A checkpoint of a system with fresh weights of its own (fairseq: of ours under its names)."""
    path = place(folder, system)
    folder.mkdir(parents=True, exist_ok=True)
    if system == "transformers":
        save_transformers(path, variant, kind)
        return path
    config = random_config({"base": 0, "large": 3}[variant])
    if system == "fairseq":
        save_fairseq(path, config, kind)
        return path
    save_ours(folder / "shape", config, kind)
    document = files.read_model_dir(folder / "shape").document
    torch.manual_seed(6)
    theirs = (build_torchaudio if system == "torchaudio" else build_fairseq2)(document).state_dict()
    if system == "fairseq2" and kind == "pretraining":
        theirs["quantizer.num_updates"] = torch.tensor(1234)
    if system == "fairseq2" and kind == "encoder":
        theirs = {k: v for k, v in theirs.items() if not k.startswith(("quantizer", "final_"))}
    torch.save({"model": theirs} if system == "fairseq2" else theirs, path)
    if kind == "ctc":  # settings and symbols as a user writes them, the blank in the middle
        symbols = ["a", "b", "<pad>", "|", "'", "c", "<unk>"]
        path.with_suffix(".toml").write_text(
            f"[model]\nnum_heads = {config.num_heads}\n[ctc]\nsymbols = {json.dumps(symbols)}\n"
        )
    return path
