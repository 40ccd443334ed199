"""fairseq: ``.pt`` checkpoints of its wav2vec 2.0 and CTC models, read without running their code.

Settings come from ``cfg`` (newer files) or ``args`` (older ones); what they lack is told from shapes. The dictionary
of a CTC model is ``dict.ltr.txt`` beside the file, one symbol and count a line.
"""

from __future__ import annotations

import argparse
import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from audio_ssl.checkpoint import with_prefix
from audio_ssl.errors import CheckpointError
from audio_ssl.interop.directory import Conversion, Foreign, write_foreign
from audio_ssl.interop.names import pairs_of, to_ours, to_theirs
from audio_ssl.interop.pt_file import only_tensors, read_pt, write_pt
from audio_ssl.interop.settings import kind_of
from audio_ssl.interop.symbols import BLANK, arrange_head
from audio_ssl.model.files import read_model_dir

_MAX_REPEATS = 100  # conv layers; a file must not be able to fill the memory
DICTIONARY = "dict.ltr.txt"
_FINE_TUNED = "w2v_encoder.w2v_model."
# Rows 0 to 3 of every fairseq head; it calls them <s> (the CTC blank), <pad>, </s>, <unk>. As transformers, we call the
# blank <pad>.
_SPECIAL_ROWS = (BLANK, "<s>", "</s>", "<unk>")
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


def to_fairseq(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors under fairseq's names; rows of a head as they are (:func:`export_fairseq` moves them)."""
    kind = kind_of(tensors)
    norm = "layer" if "encoder.feature_encoder.layers.1.norm.weight" in tensors else "group"
    pairs = pairs_of("fairseq", (norm, "post", kind), prefix=_FINE_TUNED if kind == "ctc" else "")
    return to_theirs(tensors, pairs, source="the model")


def from_fairseq(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of fairseq under our names, with rows of a head as they are.

    Raises:
        CheckpointError: naming every tensor that is none of wav2vec 2.0's.
    """
    kind = "ctc" if "w2v_encoder.proj.weight" in tensors else "pretraining"
    norm = "layer" if any(name.endswith("conv_layers.1.2.1.weight") for name in tensors) else "group"
    pairs = pairs_of("fairseq", (norm, "post", kind), prefix=_FINE_TUNED if kind == "ctc" else "")
    return to_ours(tensors, pairs, source="the fairseq model")


def export_fairseq(model_dir: Path, out: Path) -> Conversion:
    """Write a checkpoint in fairseq's format; for CTC also its dictionary beside it, and the rows in its order.

    Raises:
        CheckpointError: not a model of ours, or ``out`` exists or cannot be written.
    """
    files = read_model_dir(model_dir)
    tensors, symbols = files.tensors, files.document.get("ctc", {}).get("symbols")
    if symbols:
        letters = [s for s in symbols if s not in _SPECIAL_ROWS]
        head = arrange_head(with_prefix(tensors, "head."), have=symbols, want=[*_SPECIAL_ROWS, *letters])
        tensors = {**tensors, **{f"head.{k}": v for k, v in head.items()}}
    theirs = to_fairseq(tensors)
    write_pt(out, {"model": theirs, "cfg": _settings_for(files.document), "args": None})
    if symbols:
        text = "".join(f"{letter} 1\n" for letter in letters)
        (out.parent / DICTIONARY).write_text(text, encoding="utf-8")
    return Conversion(out, files.kind, len(theirs))


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
    task = {"_name": "audio_pretraining", "normalize": model["normalize_waveform"]}
    task |= {"sample_rate": model["sample_rate_hz"]}
    if document["kind"] == "ctc":
        return {"model": {"_name": "wav2vec_ctc", "w2v_args": {"model": settings, "task": task}}, "task": task}
    return {"model": settings, "task": task}


def import_fairseq(path: Path, out_dir: Path, *, overrides: Mapping[str, Any] | None = None) -> Conversion:
    """Write our model directory from a fairseq checkpoint.

    Args:
        path: the ``.pt`` file; ``dict.ltr.txt`` beside it for a CTC model.
        out_dir: a directory that does not exist yet.
        overrides: values of ``ModelConfig`` that win, for what the file does not say.

    Raises:
        CheckpointError: unreadable, tensors that do not fit, or a head without dictionary.
    """
    content = read_pt(path)
    if not isinstance(content.get("model"), dict):
        raise CheckpointError(f'{path} must be a fairseq checkpoint: a dictionary with the tensors under "model"')
    settings, task = _settings_in(content)
    model = {ours: settings[theirs] for ours, theirs in _MODEL_KEYS if theirs in settings}
    if "extractor_mode" in settings:
        model["feature_norm"] = "layer" if settings["extractor_mode"] == "layer_norm" else "group"
    if "layer_norm_first" in settings:
        model["norm_order"] = "pre" if settings["layer_norm_first"] else "post"
    if isinstance(settings.get("conv_feature_layers"), str):
        model["conv_strides"] = [layer[2] for layer in parse_conv_layers(settings["conv_feature_layers"])]
    model |= {
        ours: task[k]
        for ours, k in (("normalize_waveform", "normalize"), ("sample_rate_hz", "sample_rate"))
        if k in task
    }
    objective = {ours: settings[theirs] for ours, theirs in _OBJECTIVE_KEYS if theirs in settings}
    tensors = from_fairseq(only_tensors(content["model"], source=path))
    foreign = Foreign(path, tensors, model, objective, _read_dictionary(path.parent / DICTIONARY))
    return write_foreign(foreign, out_dir, overrides=overrides or {})


def _settings_in(content: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The encoder's settings and the task's, from wherever this version of fairseq put them."""
    config, arguments = content.get("cfg"), content.get("args")
    if isinstance(config, dict):
        model, task = config.get("model") or {}, config.get("task") or {}
    elif isinstance(arguments, argparse.Namespace):
        model = task = vars(arguments)
    else:
        return {}, {}
    inner = model.get("w2v_args")  # the pre-trained model's settings inside a fine-tuned file
    if isinstance(inner, argparse.Namespace):
        return vars(inner), {**vars(inner), **task}
    if isinstance(inner, dict) and inner:
        return inner.get("model") or {}, {**(inner.get("task") or {}), **task}
    return dict(model), dict(task)


def parse_conv_layers(text: str) -> list[tuple[int, int, int]]:
    """Read fairseq's ``[(512, 10, 5)] + [(512, 3, 2)] * 4`` as data: lists, sums and repeats, nothing else.

    Raises:
        CheckpointError: anything else stands there.
    """

    def value(node: ast.expr) -> Any:
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return value(node.left) + value(node.right)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
            layers, repeats = value(node.left), value(node.right)
            if repeats not in range(_MAX_REPEATS):
                raise ValueError("repeats")
            return layers * repeats
        return ast.literal_eval(node)

    try:
        return [
            (int(dim), int(kernel), int(stride)) for dim, kernel, stride in value(ast.parse(text, mode="eval").body)
        ]
    except (SyntaxError, ValueError, TypeError) as error:
        raise CheckpointError(f"conv_feature_layers must be a list of (dim, kernel, stride), got {text!r}") from error


def _read_dictionary(path: Path) -> list[str] | None:
    """Symbol of each row of a CTC head; None without a dictionary."""
    if not path.exists():
        return None
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} must be a readable fairseq dictionary: {error}") from error
    return [*_SPECIAL_ROWS, *(line.rsplit(" ", 1)[0] for line in lines if line.strip())]
