"""What a run's model makes of a few utterances: codes in use, context beside targets under a mask, transcripts.

Everything here may be gone when a report is written: the checkpoint, the manifest, the audio. What is gone becomes a
note, and the report goes on without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from audio_ssl.checkpoint import load_strict, with_prefix
from audio_ssl.config import DataConfig, Wav2Vec2Config, validate_config
from audio_ssl.data.audio import load_waveform
from audio_ssl.data.cache import configure_cache
from audio_ssl.data.manifest import Manifest
from audio_ssl.data.text import collapse
from audio_ssl.data.vocabulary import vocabulary_in
from audio_ssl.data.waveform import normalize
from audio_ssl.errors import AudioError, AudioSSLError
from audio_ssl.evaluate.error_rate import EditCounts, count_edits
from audio_ssl.evaluate.report.run_folder import RunFolder
from audio_ssl.interop.source import read_model
from audio_ssl.model.encoder import Encoder
from audio_ssl.model.files import ModelFiles, ctc_from, encoder_from
from audio_ssl.objective.inspection import code_counts, compare
from audio_ssl.objective.registry import build_objective
from audio_ssl.rng import torch_generator
from audio_ssl.tensors import Batch

NUM_UTTERANCES = 24  # evenly over the manifest
MAX_SECONDS = 150.0  # of all of them: what a CPU encodes in seconds, with a base model in a minute
SHOWN_SECONDS = 5.0  # the utterance to be drawn is the one nearest to it
NUM_TRANSCRIPTS = 8


@dataclass(frozen=True)
class Utterance:
    """Audio of a manifest row.

    Attributes:
        name: its id.
        waveform: (S,) float32 at the model's rate, not normalised.
        text: its transcript, None where it is not known.
    """

    name: str
    waveform: NDArray[np.float32]
    text: str | None


@dataclass(frozen=True)
class MaskedUtterance:
    """An utterance with what the model predicts of it.

    Attributes:
        name: its id.
        waveform: (S,) float32.
        sample_rate_hz: of the waveform.
        hop_samples: between the starts of neighbouring frames.
        is_masked: (T,) bool.
        similarity: (T, T) float32 cosines of context (row) and targets (column).
    """

    name: str
    waveform: NDArray[np.float32]
    sample_rate_hz: int
    hop_samples: int
    is_masked: NDArray[np.bool_]
    similarity: NDArray[np.float32]


@dataclass(frozen=True)
class Transcript:
    """What was said and what was recognised, greedily."""

    name: str
    reference: str
    hypothesis: str
    characters: EditCounts


@dataclass
class Examples:
    """What could be computed.

    Attributes:
        weights: name of the checkpoint, empty where there is none.
        source: where the audio comes from, in words.
        seconds: of audio.
        num_utterances: that were read.
        code_counts: (G, V), frames that chose each entry of each group.
        masked: an utterance to be drawn.
        transcripts: of a recogniser.
        notes: what is missing, for people.
    """

    weights: str = ""
    source: str = ""
    seconds: float = 0.0
    num_utterances: int = 0
    code_counts: NDArray[np.float64] | None = None
    masked: MaskedUtterance | None = None
    transcripts: tuple[Transcript, ...] = ()
    notes: list[str] = field(default_factory=list)


def look(run: RunFolder) -> Examples:
    """Run the best checkpoint (else the newest, else ``model/``) on some of ``data.valid``, else ``data.train``."""
    found = Examples()
    try:
        files = _read_weights(run, found)
        if files is None:
            return found
        if files.kind == "ctc":
            _transcribe(files, run, found)
        elif files.kind == "pretraining":
            _inspect(files, run, found)
    except (AudioSSLError, OSError) as error:
        found.notes.append(f"what the model makes of audio cannot be shown: {error}")
    return found


def _read_weights(run: RunFolder, found: Examples) -> ModelFiles | None:
    names = [c.name for c in run.checkpoints if c.is_best] + [c.name for c in run.checkpoints if c.is_newest]
    places = [run.path / "checkpoints" / name for name in dict.fromkeys(names)] + [run.path / "model"]
    for place in places:
        if not place.is_dir():
            continue
        try:
            files = read_model(place)
        except (AudioSSLError, OSError) as error:
            found.notes.append(f"a checkpoint cannot be read: {error}")
            continue
        found.weights = place.name
        return files
    found.notes.append("there is no checkpoint that can be read, so what the model makes of audio is not shown")
    return None


def _inspect(files: ModelFiles, run: RunFolder, found: Examples) -> None:
    encoder = encoder_from(files)
    config = validate_config(Wav2Vec2Config, files.document["objective"], source=str(files.path))
    objective = build_objective(config, latent_dim=encoder.latent_dim, dim=encoder.dim)
    load_strict(objective, with_prefix(files.tensors, "objective."), source=files.path)
    objective.eval()
    utterances = _utterances(run, encoder, found)
    if not utterances:
        return
    generator = torch_generator(0, "report")
    counts = [code_counts(objective, encoder, _batch(u, encoder), generator=generator) for u in utterances]
    found.code_counts = torch.stack(counts).sum(0).double().numpy()
    shown = min(utterances, key=lambda u: abs(len(u.waveform) / encoder.sample_rate_hz - SHOWN_SECONDS))
    comparison = compare(objective, encoder, _batch(shown, encoder), generator=generator)
    found.masked = MaskedUtterance(
        shown.name, shown.waveform, encoder.sample_rate_hz, encoder.geometry.hop_samples,
        comparison.is_masked.numpy(), comparison.similarity.numpy(),
    )  # fmt: skip


def _transcribe(files: ModelFiles, run: RunFolder, found: Examples) -> None:
    model = ctc_from(files)
    vocabulary = vocabulary_in(files.document["ctc"], source=files.path)
    transcripts = []
    for utterance in _utterances(run, model.encoder, found, num=NUM_TRANSCRIPTS, with_text=True):
        batch = _batch(utterance, model.encoder)
        with torch.no_grad():
            log_probs, _ = model(batch.waveforms, batch.num_samples, is_full=True)
        hypothesis = vocabulary.decode_ids(collapse(log_probs[0].argmax(-1).tolist()))
        reference = vocabulary.normalize(utterance.text or "")
        edits = count_edits(reference, hypothesis, unit="character")
        transcripts.append(Transcript(utterance.name, reference, hypothesis, edits))
    found.transcripts = tuple(transcripts)


def _utterances(
    run: RunFolder, encoder: Encoder, found: Examples, *, num: int = NUM_UTTERANCES, with_text: bool = False
) -> list[Utterance]:
    """A few rows that are long enough, evenly over the manifest, cropped as in validation."""
    data = validate_config(DataConfig, dict(run.config.get("data", {})), source=f"{run.path / 'config.toml'} [data]")
    split, paths = ("validation", data.valid) if data.valid else ("training", data.train)
    _require(paths)
    configure_cache(data.cache_dir, data.cache_gib)
    manifest = Manifest.concat([Manifest.read(path) for path in paths])
    rate = encoder.sample_rate_hz
    lengths = manifest.num_samples_at(rate)
    shortest = max(encoder.geometry.receptive_field_samples, round(data.min_s * rate))
    is_usable = lengths >= shortest
    if with_text:
        is_usable &= np.array([bool(text) for text in manifest.column("text")])
    if not is_usable.any():
        text = " and has text" * with_text
        raise AudioError(f"no row of {', '.join(map(str, paths))} is as long as {shortest / rate:.2f} s{text}")
    rows = _spread(np.flatnonzero(is_usable), num)
    utterances, faults = _read(manifest, rows, rate_hz=rate, longest=round(data.max_s * rate))
    if faults:
        found.notes.append(f"{len(faults)} of the utterances to be shown cannot be read, such as: {faults[0]}")
    found.num_utterances = len(utterances)
    found.seconds = sum(len(u.waveform) for u in utterances) / rate
    found.source = f"{split} manifest{'s' * (len(paths) > 1)} {', '.join(path.name for path in paths)}"
    return utterances


def _require(paths: Sequence[Path]) -> None:
    for path in paths:
        if not path.exists():
            hint = "" if path.is_absolute() else "; it is relative: run the report where the run was started"
            raise AudioError(f"the manifest {path} is not there{hint}")


def _spread(rows: NDArray[np.int64], num: int) -> list[int]:
    places = np.linspace(0, len(rows) - 1, min(num, len(rows)))
    chosen: list[int] = rows[places.round().astype(np.int64)].tolist()
    return chosen


def _read(manifest: Manifest, rows: Sequence[int], *, rate_hz: int, longest: int) -> tuple[list[Utterance], list[str]]:
    """Audio of rows until there is enough, and what is wrong with those that cannot be read."""
    utterances: list[Utterance] = []
    faults: list[str] = []
    num_left = round(MAX_SECONDS * rate_hz)
    for row in rows:
        if num_left <= 0:
            break
        try:
            known = manifest[row]
            waveform = load_waveform(manifest, row, sample_rate_hz=rate_hz)[:longest]
        except (AudioSSLError, OSError) as error:
            faults.append(str(error))
            continue
        utterances.append(Utterance(known.id, waveform, known.text))
        num_left -= len(waveform)
    return utterances, faults


def _batch(utterance: Utterance, encoder: Encoder) -> Batch:
    waveform = normalize(utterance.waveform) if encoder.normalize_waveform else utterance.waveform
    samples = torch.from_numpy(np.ascontiguousarray(waveform))[None]  # (S,) -> (1, S)
    return Batch(samples, torch.tensor([samples.shape[1]]), (0,), is_full=True)
