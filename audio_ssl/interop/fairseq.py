"""fairseq: ``.pt`` checkpoints of its wav2vec 2.0 and CTC models, read without running their code.

Settings come from ``cfg`` (newer files) or ``args`` (older ones); what they lack is told from shapes. The dictionary
of a CTC model is ``dict.ltr.txt`` beside the file, one symbol and count a line, or inside it.
"""

from __future__ import annotations

import argparse
import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from audio_ssl.checkpoint import read_files, write_files
from audio_ssl.errors import CheckpointError
from audio_ssl.interop.dictionary import DICTIONARY, SPECIAL_ROWS, head_symbols
from audio_ssl.interop.foreign import Foreign, Imported
from audio_ssl.interop.names import Pair, pairs_of, to_theirs
from audio_ssl.interop.origin import Origin
from audio_ssl.interop.pt_file import only_tensors, save_pt
from audio_ssl.interop.settings import kind_of, require_context_of_all, require_fixed_eps, require_projection
from audio_ssl.interop.sidecar import own_sections
from audio_ssl.interop.symbols import head_in_order, restorable_symbols

_MAX_REPEATS = 100  # conv layers; a file must not be able to fill the memory
_FINE_TUNED = "w2v_encoder.w2v_model."
_LABELS = ("label_embs_concat", "final_proj.*")  # HuBERT's prediction of units
_MODEL_KEYS = (
    ("conv_bias", "conv_bias"), ("dim", "encoder_embed_dim"), ("num_layers", "encoder_layers"),
    ("num_heads", "encoder_attention_heads"), ("ffn_dim", "encoder_ffn_embed_dim"), ("pos_conv_kernel", "conv_pos"),
    ("pos_conv_groups", "conv_pos_groups"), ("feature_grad_scale", "feature_grad_mult"),
    ("feature_dropout", "dropout_input"), ("dropout", "dropout"), ("attention_dropout", "attention_dropout"),
    ("activation_dropout", "activation_dropout"), ("layer_drop", "encoder_layerdrop"),
)  # fmt: skip
_OBJECTIVE_KEYS = (
    ("mask_prob", "mask_prob"), ("mask_span_frames", "mask_length"), ("num_distractors", "num_negatives"),
    ("logit_temperature", "logit_temp"), ("num_groups", "latent_groups"), ("num_entries", "latent_vars"),
    ("target_dropout", "dropout_features"),
)  # fmt: skip
# What fairseq's loader wants of every checkpoint: the state of a training run that it would resume.
_RECORDS: dict[str, Any] = {
    "args": None, "criterion": None, "task_state": {}, "extra_state": {}, "last_optimizer_state": None,
    "optimizer_history": [
        {"criterion_name": "", "optimizer_name": "FairseqAdam", "lr_scheduler_state": {}, "num_updates": 0}
    ],
}  # fmt: skip


def to_fairseq(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors under fairseq's names; rows of a head as they are (:func:`write_fairseq` moves them)."""
    kind = kind_of(tensors)
    norm = "layer" if "encoder.feature_encoder.layers.1.norm.weight" in tensors else "group"
    pairs = pairs_of("fairseq", (norm, "post", kind), prefix=_FINE_TUNED if kind == "ctc" else "")
    return to_theirs(tensors, pairs)


def _is_ctc(tensors: Mapping[str, Tensor]) -> bool:
    return any(name.startswith("w2v_encoder.") for name in tensors)


def _pairs_in(tensors: Mapping[str, Tensor]) -> list[Pair]:
    kind = "ctc" if _is_ctc(tensors) else "pretraining"
    norm = "layer" if any(name.endswith("conv_layers.1.2.1.weight") for name in tensors) else "group"
    return pairs_of("fairseq", (norm, "post", kind), prefix=_FINE_TUNED if kind == "ctc" else "")


def read_fairseq(path: Path, content: Mapping[str, Any]) -> Foreign:
    """A fairseq checkpoint of wav2vec 2.0 or HuBERT, pre-trained or fine-tuned with CTC.

    Args:
        path: the ``.pt`` file; ``dict.ltr.txt`` beside it for a CTC model that does not hold its dictionary.
        content: what it holds.

    Raises:
        CheckpointError: no tensors under "model", or a dictionary or settings that cannot be read.
    """
    if not isinstance(content.get("model"), dict):
        raise CheckpointError(f'{path} must be a fairseq checkpoint: a dictionary with the tensors under "model"')
    tensors = only_tensors(content["model"], source=path)
    own = own_sections(read_files(path.parent, _section(content, "audio_ssl", path)), source=path)
    settings, task = _settings_in(content, path)
    is_hubert = any("label_embs" in name for name in tensors) or "hubert" in str(settings.get("_name"))
    is_ctc = _is_ctc(tensors)
    symbols = head_symbols(path, content) if is_ctc else None
    kept = {key: content[key] for key in ("cfg", "args") if key in content}
    return Foreign(
        path, (path,), tensors, _pairs_in(tensors),
        Origin("fairseq", "hubert" if is_hubert else "wav2vec2", kept, symbols),
        not_ours=tuple(f"{_FINE_TUNED if is_ctc else ''}{name}" for name in _LABELS) if is_hubert else (),
        model={**_model_values(settings, task, path), **own["model"]},
        objective={**_objective_values(settings), **own["objective"]},
        ctc=own["ctc"], terms=dict(_MODEL_KEYS),
    )  # fmt: skip


def _model_values(settings: Mapping[str, Any], task: Mapping[str, Any], path: Path) -> dict[str, Any]:
    model = {ours: settings[theirs] for ours, theirs in _MODEL_KEYS if theirs in settings}
    if "extractor_mode" in settings:
        model["feature_norm"] = "layer" if settings["extractor_mode"] == "layer_norm" else "group"
    if "layer_norm_first" in settings:
        model["norm_order"] = "pre" if settings["layer_norm_first"] else "post"
    if isinstance(settings.get("conv_feature_layers"), str):
        layers = parse_conv_layers(settings["conv_feature_layers"], source=path)
        model["conv_strides"] = [stride for _, _, stride in layers]
    renamed = (("normalize_waveform", "normalize"), ("sample_rate_hz", "sample_rate"))
    return model | {ours: task[theirs] for ours, theirs in renamed if theirs in task}


def _objective_values(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {ours: settings[theirs] for ours, theirs in _OBJECTIVE_KEYS if theirs in settings}


def write_fairseq(model: Imported, out: Path) -> tuple[int, tuple[str, ...]]:
    """Write a checkpoint in fairseq's format; for CTC also its dictionary beside it, and the rows in its order.

    Args:
        model: any model; one that came from fairseq gets its own settings, rows and labels back.
        out: the ``.pt`` file. Its key "audio_ssl", which fairseq passes over, holds our settings.

    Returns:
        Number of tensors written, and names of ours that have no place there (none).

    Raises:
        CheckpointError: its model has no place for a part of ours.
        OSError: it cannot be written.
    """
    files, origin = model.files, model.origin
    require_fixed_eps(files.model.layer_norm_eps, path=files.path, system="fairseq")
    require_projection(files.model.latent_dim, files.model.dim, path=files.path, system="fairseq")
    require_context_of_all(files.tensors, path=files.path, system="fairseq")
    tensors, symbols = files.tensors, files.document.get("ctc", {}).get("symbols")
    rows = restorable_symbols(origin, system="fairseq", symbols=symbols)
    if symbols:
        rows = rows or [*SPECIAL_ROWS, *(s for s in symbols if s not in SPECIAL_ROWS)]
        tensors = head_in_order(tensors, have=symbols, want=rows)
        text = "".join(f"{letter} 1\n" for letter in rows[len(SPECIAL_ROWS) :])
        (out.parent / DICTIONARY).write_text(text, encoding="utf-8")
    theirs = to_fairseq(tensors)
    settings: dict[str, Any] = {"cfg": _settings_for(files.document)}
    if origin is not None and origin.system == "fairseq":
        theirs, settings = {**theirs, **origin.tensors}, dict(origin.settings)
        if isinstance(settings.get("args"), dict):  # older versions of fairseq look for this class
            settings["args"] = argparse.Namespace(**settings["args"])
    own = write_files(out.parent, files.document, prefix=f"{out.stem}.")
    save_pt(out, {"model": theirs, **_RECORDS, **settings, "audio_ssl": own})
    return len(theirs), ()


def _settings_for(document: Mapping[str, Any]) -> dict[str, Any]:
    model, objective = document["model"], document.get("objective", {})
    layers = zip(model["conv_dims"], model["conv_kernels"], model["conv_strides"], strict=True)
    settings = {theirs: model[ours] for ours, theirs in _MODEL_KEYS}
    settings |= {"_name": "wav2vec2", "conv_feature_layers": str(list(layers)), "quantize_targets": True}
    settings |= {"extractor_mode": "layer_norm" if model["feature_norm"] == "layer" else "default"}
    settings |= {"layer_norm_first": model["norm_order"] == "pre", "activation_fn": "gelu"}
    settings |= {theirs: objective[ours] for ours, theirs in _OBJECTIVE_KEYS if ours in objective}
    if objective:
        temperature = [objective["gumbel_start"], objective["gumbel_end"], objective["gumbel_decay"]]
        settings |= {"final_dim": objective["target_dim"], "latent_dim": objective["code_dim"]}
        settings |= {"latent_temp": temperature}
    normalize, data = model["normalize_waveform"], "."
    task = {"_name": "audio_pretraining", "data": data, "normalize": normalize, "sample_rate": model["sample_rate_hz"]}
    if document["kind"] == "ctc":
        # Its loader looks for the dictionary in ``data``, which its users name anew where they load.
        outer = {"_name": "wav2vec_ctc", "data": data, "normalize": normalize}
        outer |= {"w2v_args": {"model": settings, "task": task}}
        return {"model": outer, "task": {**task, "_name": "audio_finetuning", "labels": "ltr"}}
    return {"model": settings, "task": task}


def _settings_in(content: Mapping[str, Any], path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The encoder's settings and the task's, from wherever this version of fairseq put them."""
    config = _section(content, "cfg", path)
    if config:
        model, task = _section(config, "model", path), _section(config, "task", path)
    else:
        model = task = _section(content, "args", path)
    if _is_ctc(content["model"]):
        # The settings outside are those of fine-tuning; the sizes among them are defaults, not the encoder's.
        inner = _section(model, "w2v_args", path)
        is_split = isinstance(inner.get("model"), dict)  # newer files; in older ones model and task are one
        model, inner_task = (inner["model"], _section(inner, "task", path)) if is_split else (inner, inner)
        task = {**_said(inner_task), **_said(task)}
    return _said(model), _said(task)


def _said(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that have a value: neither None nor omegaconf's marks for missing and for elsewhere."""
    unsaid = ("???", "${")
    return {k: v for k, v in settings.items() if v is not None and not (isinstance(v, str) and v.startswith(unsaid))}


def _section(values: Mapping[str, Any], key: str, path: Path) -> dict[str, Any]:
    """A section of settings; empty where there is none."""
    found = values.get(key) or {}
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: {key} must be a section of settings, got {found!r:.80}; remove or correct it")
    return found


def parse_conv_layers(text: str, *, source: Path | str = "settings") -> list[tuple[int, int, int]]:
    """Read fairseq's ``[(512, 10, 5)] + [(512, 3, 2)] * 4`` as data: lists, sums and repeats, nothing else.

    Raises:
        CheckpointError: anything else stands there.
    """

    def value(node: ast.expr) -> Any:
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return value(node.left) + value(node.right)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
            layers, repeats = value(node.left), value(node.right)
            if repeats not in range(_MAX_REPEATS) or len(layers) * repeats > _MAX_REPEATS:
                raise ValueError("repeats")
            return layers * repeats
        return ast.literal_eval(node)

    try:
        return [
            (int(dim), int(kernel), int(stride)) for dim, kernel, stride in value(ast.parse(text, mode="eval").body)
        ]
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise CheckpointError(
            f"{source}: conv_feature_layers must be a list of (dim, kernel, stride), got {text!r:.200}"
        ) from error
