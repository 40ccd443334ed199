"""One forward pass of a checkpoint in the peer that it belongs to, for a conversion's check of itself.

Every runner gives ``frames`` (B, T, D), for a recogniser ``logits`` (B, T, A) and for a pre-training model, where the
peer has the parts, ``context`` and ``targets`` (B, T, f): projected frames and projected quantized latents, unmasked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audio_ssl.checkpoint import load_strict, with_prefix
from audio_ssl.config import Wav2Vec2Config
from audio_ssl.interop.foreign import Imported
from audio_ssl.interop.huggingface import CLASSES
from audio_ssl.interop.peers import build_fairseq2, build_torchaudio
from audio_ssl.interop.pt_file import read_pt
from audio_ssl.model.files import ctc_from, encoder_from
from audio_ssl.objective.registry import build_objective

Outputs = dict[str, Tensor]


def run_ours(model: Imported, waveforms: Tensor, num_samples: Tensor) -> Outputs:
    """Our own modules, with the columns of logits in the source's order of symbols.

    Args:
        model: read from the checkpoint that the peer runs.
        waveforms: (B, S) float32, zero beyond a row's samples.
        num_samples: (B,) int64.
    """
    files = model.files
    recogniser = ctc_from(files) if files.kind == "ctc" else None
    encoder = recogniser.encoder if recogniser else encoder_from(files)
    latents, num_frames = encoder.feature_encoder(waveforms, num_samples)
    features, normed_latents = encoder.feature_projection(latents)
    frames = encoder.context_network(features, num_frames).frames
    outputs = {"frames": frames}
    if recogniser:
        symbols = files.document["ctc"]["symbols"]
        rows = model.origin.symbols if model.origin and model.origin.symbols else symbols
        outputs["logits"] = recogniser.head(frames)[..., [symbols.index(symbol) for symbol in rows]]
    if files.kind == "pretraining":
        settings = Wav2Vec2Config(**files.document["objective"])
        objective = build_objective(settings, latent_dim=encoder.latent_dim, dim=encoder.dim).eval()
        load_strict(objective, with_prefix(files.tensors, "objective."), source=files.path)
        is_counted = torch.ones(normed_latents[..., 0].numel(), dtype=torch.bool)
        quantized = objective.quantizer(
            normed_latents.flatten(0, 1), is_counted=is_counted, temperature=1.0, generator=torch.Generator()
        )
        if objective.decoder is None:  # no peer has one
            outputs["context"] = objective.context_projection(frames)
        outputs["targets"] = objective.target_projection(quantized.vectors).view(*frames.shape[:2], -1)
    return outputs


def run_transformers(path: Path, model: Imported, waveforms: Tensor, num_samples: Tensor) -> Outputs:
    """The transformers class of a directory; a group-norm model runs without attention mask, as it must there.

    Raises:
        ImportError: transformers is not installed.
    """
    import transformers

    family = "hubert" if model.origin and model.origin.family == "hubert" else "wav2vec2"
    name = CLASSES[family][model.files.kind]  # type: ignore[index]
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        theirs = getattr(transformers, name).from_pretrained(path, local_files_only=True).float().eval()
    finally:
        transformers.logging.set_verbosity(verbosity)
        transformers.logging.enable_progress_bar()
    is_valid = torch.arange(waveforms.shape[1]) < num_samples[:, None]
    mask = is_valid.long() if model.files.model.feature_norm == "layer" else None
    base = theirs if model.files.kind == "encoder" else getattr(theirs, family)
    output = base(waveforms, attention_mask=mask)
    outputs = {"frames": output.last_hidden_state}
    if model.files.kind == "ctc":
        outputs["logits"] = theirs.lm_head(output.last_hidden_state)
    if model.files.kind == "pretraining":
        outputs["context"] = theirs.project_hid(output.last_hidden_state)
        outputs["targets"] = theirs.project_q(theirs.quantizer(output.extract_features)[0])
    return outputs


def run_torchaudio(path: Path, model: Imported, waveforms: Tensor, num_samples: Tensor) -> Outputs:
    """Torchaudio's ``Wav2Vec2Model`` with a state dict, or with the one inside a ``HuBERTPretrainModel``'s.

    Raises:
        ImportError: torchaudio is not installed, or not for this torch.
    """
    theirs: Any = build_torchaudio(_with_rows(model))
    prefix = model.origin.settings.get("prefix", "") if model.origin else ""
    names = theirs.state_dict()
    tensors = {name.removeprefix(prefix): tensor for name, tensor in read_pt(path).items()}
    theirs.load_state_dict({name: tensor for name, tensor in tensors.items() if not prefix or name in names})
    latents, num_frames = theirs.feature_extractor(waveforms, num_samples)
    frames = theirs.encoder(latents, num_frames)
    return {"frames": frames, **({"logits": theirs.aux(frames)} if theirs.aux is not None else {})}


def run_fairseq2(path: Path, model: Imported, waveforms: Tensor, num_samples: Tensor) -> Outputs:
    """fairseq2's wav2vec2 or wav2vec2_asr model with a checkpoint.

    Raises:
        ImportError: fairseq2 is not installed, or not for this torch.
    """
    theirs: Any = build_fairseq2(_with_rows(model))
    from fairseq2.nn import BatchLayout

    content = read_pt(path)
    tensors = content.get("model", content)
    # An encoder alone has no projections; its peer's fresh ones take no part.
    theirs.load_state_dict(tensors, strict=model.files.kind != "encoder")
    layout = BatchLayout.of(waveforms, num_samples.tolist())
    normed_latents, layout, _ = theirs.encoder_frontend.extract_features(waveforms, layout)
    features, _ = theirs.encoder_frontend.process_features(normed_latents, layout)
    frames = theirs.encoder(features, layout)
    outputs = {"frames": frames}
    if model.files.kind == "ctc":
        outputs["logits"] = theirs.final_proj(frames)
    if model.files.kind == "pretraining":
        outputs["context"] = theirs.final_proj(frames)
        with torch.compiler.set_stance("force_eager"):  # its quantizer compiles itself anew in every call
            outputs["targets"] = theirs.final_target_proj(theirs.quantizer(normed_latents).quantized_vectors)
    return outputs


def _with_rows(model: Imported) -> Mapping[str, Any]:
    """The model's document with as many symbols as the source's head has rows."""
    document = dict(model.files.document)
    if model.origin and model.origin.symbols:
        document["ctc"] = {**document["ctc"], "symbols": list(model.origin.symbols)}
    return document


Runner = Callable[[Path, Imported, Tensor, Tensor], Outputs]
RUNNERS: dict[str, Runner] = {
    "transformers": run_transformers,
    "torchaudio": run_torchaudio,
    "fairseq2": run_fairseq2,
}
