"""Where the utterances of ``evaluate`` come from: a recogniser at work on a manifest, or a file of transcripts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from audio_ssl.cli.inference import audio_progress, say

if TYPE_CHECKING:
    from audio_ssl.data.manifest import Manifest
    from audio_ssl.evaluate.scores import Facts
    from audio_ssl.evaluate.session import Session
    from audio_ssl.evaluate.text_rules import RuleName
    from audio_ssl.evaluate.utterance_file import LinesById
    from audio_ssl.inference.decoding import DecodeSettings
    from audio_ssl.inference.models import Recogniser
    from audio_ssl.inference.stream import StreamSettings


@dataclass(frozen=True)
class Running:
    """How recognisers run.

    Attributes:
        decode: of the decoder.
        stream: of batches.
        device: where they run.
        precision: of the forward pass.
    """

    decode: DecodeSettings
    stream: StreamSettings
    device: str
    precision: Literal["fp32", "bf16"]


@dataclass(frozen=True)
class How:
    """What all evaluations of a call share.

    Attributes:
        manifest: with transcripts.
        hypotheses: finished transcripts.
        rule: what texts go through.
        worst: utterances to show.
        seed: of the bootstrap.
        running: of recognisers; None for finished transcripts.
    """

    manifest: Path | None
    hypotheses: Path | None
    rule: RuleName
    worst: int
    seed: int
    running: Running | None


def opened(model: Path, how: How) -> Recogniser:
    """The recogniser on its device."""
    from audio_ssl.inference.models import open_recogniser, open_runtime

    assert how.running is not None
    runtime = open_runtime(how.running.device, how.running.precision)
    recogniser = open_recogniser(model)
    recogniser.model.to(runtime.device)
    return recogniser


def score(session: Session, how: How, recogniser: Recogniser | None) -> Manifest | None:
    """Put all utterances through the session; returns the manifest they are rows of."""
    from audio_ssl.evaluate.hypotheses import open_hypotheses

    if recogniser is not None:
        assert how.manifest is not None
        assert how.running is not None
        manifest = _manifest(session, how.manifest)
        _transcribe(session, how.running, recogniser, manifest)
        return manifest
    assert how.hypotheses is not None
    with open_hypotheses(how.hypotheses) as finished:
        if how.manifest is None:
            _score_lines(session, finished, how.hypotheses)
            return None
        manifest = _manifest(session, how.manifest)
        for row, utterance in enumerate(manifest):
            found = finished.get(utterance.id)
            if found is None:
                session.refuse(utterance.id, str(manifest.audio_path(row)), f"it has no line in {how.hypotheses}")
            else:
                session.add(utterance.id, utterance.text or "", found.hypothesis, facts=_facts(manifest, row))
        for name in finished.unused():
            session.refuse(name, str(how.hypotheses), f"no row with text in {how.manifest} has this id")
    return manifest


def _score_lines(session: Session, finished: LinesById, source: Path) -> None:
    for name, line in finished:
        if line.reference is None:
            session.refuse(name, str(source), "it has no reference: give a MANIFEST, or a `reference` in its line")
        else:
            session.add(name, line.reference, line.hypothesis, facts=line.facts)


def _transcribe(session: Session, how: Running, recogniser: Recogniser, manifest: Manifest) -> None:
    """As ``transcribe`` does it, row by row."""
    from audio_ssl.inference.decoding import build_decoder, decode_all
    from audio_ssl.inference.models import open_runtime
    from audio_ssl.inference.source import ManifestSource, Refusal
    from audio_ssl.inference.transcribe import Transcriber, groups_of

    session.check((utterance.id, utterance.text or "") for utterance in manifest)
    vocabulary = recogniser.vocabulary
    build_decoder(vocabulary, how.decode)  # what is wrong with its files is said before the work begins
    decode = partial(decode_all, vocabulary=vocabulary, settings=how.decode, workers=how.stream.num_threads)
    transcriber = Transcriber(
        recogniser, decode, how.stream, open_runtime(how.device, how.precision),
        joins_words=how.decode.lexicon is None,
    )  # fmt: skip
    source = ManifestSource(manifest)
    with audio_progress(say(), "evaluate", float(manifest.durations_s().sum())) as advance:
        for result in transcriber.run(source, groups_of(source, range(len(source))), on_progress=advance):
            if isinstance(result, Refusal):
                session.refuse(result.id, result.path, result.reason)
            else:
                row = result.row
                session.add(result.id, manifest[row].text or "", result.text, facts=_facts(manifest, row))


def _manifest(session: Session, source: Path) -> Manifest:
    """The rows whose text is known (an empty one is a known silence); the others are refused.

    Raises:
        ManifestError: no row has text.
    """
    import numpy as np

    from audio_ssl.errors import ManifestError
    from audio_ssl.inference.source import open_input

    opened = open_input(source)
    manifest = opened.manifest
    for refusal in opened.refused:
        session.refuse(refusal.id, refusal.path, refusal.reason)
    has_text = manifest.table.column("text").is_valid().to_numpy()
    if not has_text.any():
        raise ManifestError(
            f"{source} must have text to measure against, none of its {len(manifest)} rows has any; "
            "see `audio-ssl manifest build --help` for where transcripts are found"
        )
    for row in np.flatnonzero(~has_text).tolist():
        session.refuse(manifest[row].id, str(manifest.audio_path(row)), "it has no text")
    return manifest if has_text.all() else manifest.select(np.flatnonzero(has_text))


def _facts(manifest: Manifest, row: int) -> Facts:
    from audio_ssl.evaluate.scores import Facts

    utterance = manifest[row]
    seconds = utterance.num_samples / utterance.sample_rate
    return Facts(utterance.speaker, utterance.language, seconds, row)
