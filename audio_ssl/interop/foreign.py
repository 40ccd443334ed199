"""What every reader shares: a foreign checkpoint as found, and its way to a checked model of ours, in memory."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audio_ssl.checkpoint import with_prefix
from audio_ssl.config import ModelConfig, Wav2Vec2Config, validate_config
from audio_ssl.config.model import OF_FRONT_END
from audio_ssl.data.vocabulary import rules_in
from audio_ssl.errors import CheckpointError, ConfigError
from audio_ssl.interop.names import Pair, match_theirs, their_name
from audio_ssl.interop.origin import Origin
from audio_ssl.interop.report import KeyReport
from audio_ssl.interop.settings import GUESSED, infer_model, infer_objective, kind_of
from audio_ssl.interop.shapes import compare_shapes, expected_shapes, refuse_absurd
from audio_ssl.interop.symbols import (
    arrange_head,
    check_symbols,
    head_in_order,
    our_symbols,
    restorable_symbols,
    rules_for,
)
from audio_ssl.model.files import ModelFiles, ctc_document, encoder_document, pretraining_document

_MASK = "encoder.mask_embedding"


@dataclass(frozen=True)
class Foreign:
    """A foreign checkpoint as its reader found it.

    Attributes:
        path: for messages.
        weights: the files that hold its tensors.
        tensors: every tensor, under its name there.
        pairs: (ours, theirs), the names of a model of its kind.
        not_ours: patterns of its names (as a shell's) that no model of ours needs.
        model: what it says of ``ModelConfig``; the rest is told from shapes.
        objective: the same for ``Wav2Vec2Config``.
        ctc: our own ``[ctc]`` section, where the checkpoint carries it: the order of symbols, and the text rules
            (else seen from its letters).
        terms: setting of ``ModelConfig`` -> what the system calls it, for messages.
        origin: what the way back needs; its symbols are those of the head's rows.
    """

    path: Path
    weights: tuple[Path, ...]
    tensors: Mapping[str, Tensor]
    pairs: Sequence[Pair]
    origin: Origin
    not_ours: tuple[str, ...] = ()
    model: Mapping[str, Any] = field(default_factory=dict)
    objective: Mapping[str, Any] = field(default_factory=dict)
    ctc: Mapping[str, Any] = field(default_factory=dict)
    terms: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Imported:
    """A model read from any format.

    Attributes:
        files: the model as one of ours; its tensors keep the source's precision.
        report: what became of each tensor.
        origin: None for a model that was ours from the start.
    """

    files: ModelFiles
    report: KeyReport = field(default_factory=KeyReport)
    origin: Origin | None = None


def settle(foreign: Foreign, overrides: Mapping[str, Any]) -> Imported:
    """Make a foreign checkpoint one of ours, strictly: every tensor has its place and its shape.

    Args:
        foreign: the checkpoint.
        overrides: values of ``ModelConfig`` that win over what it says and over what shapes tell.

    Raises:
        CheckpointError: tensors missing, left over or misshapen (all named), or no symbols for a head.
        ConfigError: the resulting settings are not valid.
    """
    kept = {k: v for k, v in foreign.tensors.items() if any(fnmatchcase(k, p) for p in foreign.not_ours)}
    matched = match_theirs({k: v for k, v in foreign.tensors.items() if k not in kept}, foreign.pairs)
    tensors, filled = dict(matched.tensors), ()
    report = KeyReport(
        converted={theirs: ours for ours, theirs in matched.old_names.items()},
        unexpected=matched.strays,
        kept=tuple(kept),
    )
    known = {**foreign.model, **overrides}
    model = _settle_model(tensors, known, report, foreign)
    if _MASK not in tensors:
        # Published recognisers lack it. Zero is what a frame that is masked in fine-tuning then becomes.
        tensors[_MASK], filled = torch.zeros(model.dim), (_MASK,)  # type: ignore[assignment]
    document = _settle_document(foreign, tensors, model)
    shapes = expected_shapes(document, source=foreign.path)
    faults = compare_shapes(tensors, shapes, name_there=lambda name: their_name(name, foreign.pairs))
    guessed = tuple(f"{key} = {getattr(model, key)}" for key in GUESSED if key not in known)
    report = replace(report, missing=faults[0], misshapen=faults[1], filled=filled, guessed=guessed)
    report.refuse_faults(foreign.path)
    files = ModelFiles(foreign.path, document, tensors, foreign.weights)
    return Imported(files, report, replace(foreign.origin, tensors=kept))


def _settle_model(
    tensors: Mapping[str, Tensor], known: Mapping[str, Any], report: KeyReport, foreign: Foreign
) -> ModelConfig:
    try:
        inferred = infer_model(tensors)
    except KeyError as error:
        unsaid = {"preset", "feature_grad_scale", "front_end", "context_stride", "block_conv_kernel", "adapter_dim"}
        unsaid |= {*OF_FRONT_END["mel"]}
        if not set(known) >= set(ModelConfig.model_fields) - unsaid:
            replace(report, missing=(their_name(error.args[0], foreign.pairs),)).refuse_faults(foreign.path)
        inferred = {}
    try:
        model = validate_config(ModelConfig, {**inferred, **known}, source=f"settings of {foreign.path}")
    except ConfigError as error:
        named = [our for our in foreign.terms if our != foreign.terms[our] and re.search(rf"\b{our}\b", str(error))]
        theirs = "; ".join(f"{our} is {foreign.terms[our]} there" for our in named)
        raise ConfigError(f"{error}\n  ({theirs})" if theirs else str(error)) from None
    if report.unexpected and model.num_layers > len(tensors):
        report.refuse_faults(foreign.path)
    refuse_absurd(model, tensors, source=foreign.path)
    return model


def _settle_document(foreign: Foreign, tensors: dict[str, Tensor], model: ModelConfig) -> dict[str, Any]:
    kind = kind_of(tensors)
    if kind == "pretraining":
        values = {**infer_objective(tensors), **foreign.objective}
        return pretraining_document(
            model, validate_config(Wav2Vec2Config, values, source=f"settings of {foreign.path}")
        )
    if kind == "ctc":
        symbols = _settle_head(foreign, tensors)
        has_rules = not {"text", "lowercase"}.isdisjoint(foreign.ctc)
        rules = rules_in(foreign.ctc, source=foreign.path) if has_rules else rules_for(symbols)
        return ctc_document(model, symbols=symbols, rules=rules, sentencepiece=foreign.ctc.get("sentencepiece"))
    return encoder_document(model)


def _settle_head(foreign: Foreign, tensors: dict[str, Tensor]) -> list[str]:
    """Order the head's rows our way, in place; give their symbols."""
    weight, theirs = tensors.get("head.weight"), foreign.origin.symbols
    if weight is None or weight.dim() != 2:
        name = their_name("head.weight", foreign.pairs)
        raise CheckpointError(f"{foreign.path} must hold {name} of two dimensions (symbols, width); copy it whole")
    for symbols in (theirs, foreign.ctc.get("symbols")):
        check_symbols(symbols, source=foreign.path)
    if theirs is None or len(theirs) != weight.shape[0]:
        found = "none" if theirs is None else f"{len(theirs)}"
        raise CheckpointError(
            f"{foreign.path} must come with the {weight.shape[0]} symbols of its head, got {found}; put its vocabulary "
            "beside it (vocab.json, dict.ltr.txt, or the .toml that `audio-ssl convert` writes)"
        )
    symbols = our_symbols(theirs)
    had = foreign.ctc.get("symbols") or symbols
    if set(had) <= set(symbols) and had[0] == symbols[0]:  # rows that only its system needs are left out again
        symbols = list(had)
    head = with_prefix(tensors, "head.")
    if {name: tensor.shape[:1] for name, tensor in head.items()} == dict.fromkeys(("weight", "bias"), weight.shape[:1]):
        head = arrange_head(head, have=theirs, want=symbols)  # else it is refused for its shapes
    tensors.update({f"head.{k}": v for k, v in head.items()})
    return symbols


def with_rows_of_origin(model: Imported, *, system: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A model's document and tensors for a format that writes rows of a head as they are.

    A recogniser that goes back to the system that it came from gets its rows in the order that it came with.
    """
    document, tensors = dict(model.files.document), dict(model.files.tensors)
    symbols = document.get("ctc", {}).get("symbols")
    rows = restorable_symbols(model.origin, system=system, symbols=symbols)
    if rows is not None:
        tensors = head_in_order(tensors, have=symbols, want=rows)
        document["ctc"] = {**document["ctc"], "symbols": list(rows)}
    return document, tensors
