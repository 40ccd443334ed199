"""transformers directories: reading every layout that its versions wrote, writing one that all of them open."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from audio_ssl.checkpoint import load_tensors, read_files, save_tensors, write_files, write_json
from audio_ssl.data.vocabulary import vocabulary_in
from audio_ssl.errors import CheckpointError
from audio_ssl.interop.foreign import Foreign, Imported
from audio_ssl.interop.huggingface import (
    TERMS,
    config_to_huggingface,
    family_in,
    has_mask_embedding,
    kind_in,
    model_values,
    objective_values,
    pairs_for,
    to_huggingface,
)
from audio_ssl.interop.huggingface_tokenizer import SPECIAL, TOKENIZER, VOCABULARY, tokenizer_files
from audio_ssl.interop.origin import Origin
from audio_ssl.interop.pt_file import only_tensors, read_pt
from audio_ssl.interop.settings import require_context_of_all
from audio_ssl.interop.sidecar import own_sections
from audio_ssl.interop.symbols import BLANK, SEPARATOR, UNKNOWN, head_in_order, restorable_symbols
from audio_ssl.model.files import ModelFiles

CONFIG = "config.json"
_OURS = "audio_ssl.json"  # our document, for the settings that theirs have no place for; transformers passes over it
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_PREPROCESSOR, _PROCESSOR = "preprocessor_config.json", "processor_config.json"
_ADDED = "added_tokens.json"
_SETTINGS = (CONFIG, _PREPROCESSOR, _PROCESSOR, VOCABULARY, TOKENIZER, SPECIAL, _ADDED)


def read_huggingface(directory: Path) -> Foreign:
    """A ``Wav2Vec2*`` or ``Hubert*`` directory: weights whole or in shards, safetensors or ``.bin``.

    Raises:
        CheckpointError: files missing or unreadable, or another architecture.
    """
    settings = {name: _read_json(directory / name) for name in _SETTINGS if (directory / name).exists()}
    config = settings.get(CONFIG, {})
    family = family_in(config, source=directory / CONFIG)
    weights = weight_files(directory)
    tensors = _read_weights(weights)
    kind = kind_in(tensors)
    if kind == "encoder":
        bare = {name: name.removeprefix(f"{family}.") for name in tensors}
        tensors = {name if bare[name] in tensors else bare[name]: tensor for name, tensor in tensors.items()}
    extractor = settings.get(_PREPROCESSOR) or settings.get(_PROCESSOR, {}).get("feature_extractor") or {}
    if not isinstance(extractor, dict):
        raise CheckpointError(f"{directory / _PROCESSOR}: feature_extractor must be an object, got {extractor!r:.80}")
    document = read_files(directory, _read_json(directory / _OURS)) if (directory / _OURS).exists() else {}
    own = own_sections(document, source=directory / _OURS)
    model = {**own["model"], **model_values(config)}
    model["normalize_waveform"] = extractor.get("do_normalize", model["normalize_waveform"])
    model["sample_rate_hz"] = extractor.get("sampling_rate", 16_000)
    symbols = _read_symbols(settings, directory) if kind == "ctc" else None
    if kind == "ctc" and "sentencepiece" in own["ctc"]:  # its rows are in our order
        symbols = own["ctc"].get("symbols")
    return Foreign(
        directory, weights, tensors, pairs_for(kind, family), Origin("transformers", family, settings, symbols),
        model=model, objective={**own["objective"], **objective_values(config)},
        ctc=own["ctc"], terms=TERMS,
    )  # fmt: skip


def weight_files(directory: Path) -> tuple[Path, ...]:
    """The files that hold a directory's tensors.

    Raises:
        CheckpointError: there are none, or an index names one that is not there or not in this directory.
    """
    for name in _WEIGHTS:
        if (directory / name).is_file():
            return (directory / name,)
        index = directory / f"{name}.index.json"
        if index.is_file():
            return _shards(index)
    raise CheckpointError(
        f"{directory} must hold the weights of its {CONFIG}: {' or '.join(_WEIGHTS)}, whole or in shards with an "
        "index; download them too"
    )


def _shards(index: Path) -> tuple[Path, ...]:
    weight_map = _read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} must hold a weight_map from tensors to files")
    paths = []
    for name in sorted({str(name) for name in weight_map.values()}):
        if Path(name).name != name:
            raise CheckpointError(f"{index} must name files of its own directory, got {name!r}")
        if not (index.parent / name).is_file():
            raise CheckpointError(f"{index} names {name}, which must be beside it but is not; download every shard")
        paths.append(index.parent / name)
    return tuple(paths)


def _read_weights(paths: tuple[Path, ...]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for path in paths:
        tensors |= load_tensors(path) if path.suffix == ".safetensors" else only_tensors(read_pt(path), source=path)
    return tensors


def _read_symbols(settings: Mapping[str, Any], directory: Path) -> list[str] | None:
    """Symbol of each row, the special ones under our names; None without a vocabulary."""
    tokenizer = {**settings.get(SPECIAL, {}), **settings.get(TOKENIZER, {})}
    try:
        vocabulary = _rows_by_text(settings, tokenizer)
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{directory}: {VOCABULARY}, {_ADDED} and added_tokens_decoder in {TOKENIZER} must give a row, a number, "
            f"to each symbol, but {error}; correct them or download them again"
        ) from error
    if not vocabulary:
        return None
    names = {_text(tokenizer.get(key)) or ours: ours for key, ours in (
        ("pad_token", BLANK), ("unk_token", UNKNOWN), ("word_delimiter_token", SEPARATOR),
    )}  # fmt: skip
    symbol_of = {
        row: names.get(symbol, f"<row {row}>" if symbol in names.values() else symbol)  # its pad is not "<pad>"
        for symbol, row in vocabulary.items()
    }
    blank = settings[CONFIG].get("pad_token_id")
    if blank is not None and (not isinstance(blank, int) or symbol_of.get(blank, BLANK) != BLANK):
        found = repr(symbol_of[blank]) if isinstance(blank, int) else "no number"
        raise CheckpointError(
            f"{directory / CONFIG}: pad_token_id must be the row of the blank, but {blank!r:.80} is {found} in "
            f"{VOCABULARY}; correct whichever of the two is wrong"
        )
    return [symbol_of.get(row, f"<row {row}>") for row in range(min(max(symbol_of) + 1, 1_000_000))]


def _rows_by_text(settings: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> dict[str, int]:
    """The row of each symbol, from every file that may add one.

    Raises:
        ValueError, TypeError, AttributeError: something else stands there.
    """
    vocabulary = {**settings.get(VOCABULARY, {}), **settings.get(_ADDED, {})}
    if any(isinstance(rows, dict) for rows in vocabulary.values()):  # one vocabulary a language
        vocabulary = dict(vocabulary.get(str(tokenizer.get("target_lang")), {}))
    if not vocabulary:
        return {}
    added = tokenizer.get("added_tokens_decoder") or {}
    vocabulary |= {_text(token): row for row, token in added.items() if _text(token) not in vocabulary}
    return {str(text): int(row) for text, row in vocabulary.items()}


def _text(token: Any) -> str | None:
    """A token's text, whichever way a version wrote it."""
    text = token.get("content") if isinstance(token, dict) else token
    return None if text is None else str(text)


def write_huggingface(model: Imported, out: Path) -> tuple[int, tuple[str, ...]]:
    """Write a directory that transformers' ``from_pretrained`` and ``pipeline`` open, tokenizer and all.

    Args:
        model: any model; one that came from transformers gets its own settings back.
        out: an existing, empty directory.

    Returns:
        Number of tensors written, and names of ours that have no place there.

    Raises:
        CheckpointError: its model has no place for a part of ours.
        OSError: it cannot be written.
    """
    files, origin = model.files, model.origin
    require_context_of_all(files.tensors, path=files.path, system="transformers")
    symbols = files.document.get("ctc", {}).get("symbols")
    rows = restorable_symbols(origin, system="transformers", symbols=symbols)
    comes_back = origin is not None and origin.system == "transformers" and (rows is not None or symbols is None)
    own: Mapping[str, Any] = origin.settings if origin and comes_back else {}
    family = origin.family if origin and files.kind != "pretraining" else "wav2vec2"
    config = config_to_huggingface(files.document, family=family, base=own.get(CONFIG))
    if CONFIG not in own:
        config["torch_dtype"] = str(next(iter(files.tensors.values())).dtype).removeprefix("torch.")
    tensors = dict(files.tensors)
    if rows:
        tensors = head_in_order(tensors, have=symbols, want=rows)
    dropped = () if has_mask_embedding(config) else ("encoder.mask_embedding",)
    theirs = to_huggingface({k: v for k, v in tensors.items() if k not in dropped}, family=family)
    save_tensors(out / _WEIGHTS[0], theirs)
    texts: dict[str, Any] = {**_processor(files), **own} if own else _describe(files)
    write_json(out / _OURS, write_files(out, files.document))
    for name, value in {**texts, CONFIG: config, _PREPROCESSOR: _preprocessor(files, texts)}.items():
        write_json(out / name, value)
    return len(theirs), dropped


def _describe(files: ModelFiles) -> dict[str, Any]:
    """What stands beside the weights of a model that did not come from transformers."""
    if files.kind != "ctc":
        return {}
    return {**tokenizer_files(vocabulary_in(files.document["ctc"], source=files.path)), **_processor(files)}


def _processor(files: ModelFiles) -> dict[str, Any]:
    return {_PROCESSOR: {"processor_class": "Wav2Vec2Processor"}} if files.kind == "ctc" else {}


def _preprocessor(files: ModelFiles, texts: Mapping[str, Any]) -> dict[str, Any]:
    fresh = {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "padding_side": "right",
        "padding_value": 0.0,
        # transformers' group norm takes padding in; its published models of this kind are run without a mask
        "return_attention_mask": files.model.feature_norm == "layer",
        # what AutoProcessor opens: without a tokenizer it must not look for one
        "processor_class": "Wav2Vec2Processor" if files.kind == "ctc" else "Wav2Vec2FeatureExtractor",
    }
    own = texts.get(_PREPROCESSOR) or texts.get(_PROCESSOR, {}).get("feature_extractor") or fresh
    return {**own, "sampling_rate": files.model.sample_rate_hz, "do_normalize": files.model.normalize_waveform}


def _read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        CheckpointError: unreadable, or not an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} must be a readable JSON file: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} must hold a JSON object, got {type(value).__name__}")
    return value
