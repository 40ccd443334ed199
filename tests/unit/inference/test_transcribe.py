"""Transcripts: input order, the same alone as in a batch, windows stitched, and word times within the utterance."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audio_ssl.errors import AudioError
from audio_ssl.inference import transcribe as transcribe_module
from audio_ssl.inference.decoding import GreedyDecoder, passages
from audio_ssl.inference.models import Recogniser
from audio_ssl.inference.source import ManifestSource, Refusal, open_input
from audio_ssl.inference.stream import StreamSettings
from audio_ssl.inference.transcribe import align_source, log_probs_of, transcribe_source
from audio_ssl.inference.windows import WindowSettings
from tests.unit.inference.conftest import CPU, array_source, noise, write_wav

LENGTHS = (9_001, 30_011, 5_003, 17_777)
WAVEFORMS = [noise(length, seed=i) for i, length in enumerate(LENGTHS)]


def run(source: Any, recogniser: Recogniser, *, batch_s: float = 4.0, max_s: float = 10.0, **flags: Any) -> Any:
    return transcribe_source(
        source, recogniser=recogniser, decoder=GreedyDecoder(recogniser.vocabulary),
        settings=StreamSettings(batch_s, WindowSettings(max_s, 1.0)), runtime=CPU, **flags,
    )  # fmt: skip


def test_order_is_kept_and_a_batch_changes_nothing(recogniser: Recogniser) -> None:
    batched, refused = run(array_source(WAVEFORMS, sample_rate_hz=16_000), recogniser, batch_s=20.0)
    assert refused == []
    assert [t.row for t in batched] == [0, 1, 2, 3]
    alone = [run(array_source([w], sample_rate_hz=16_000), recogniser)[0][0].text for w in WAVEFORMS]
    assert [t.text for t in batched] == alone
    assert len(set(alone)) == 4  # or order would show nothing


def test_log_probs_of_windows_are_stitched_to_every_frame(recogniser: Recogniser) -> None:
    source = array_source([noise(100_003)], sample_rate_hz=16_000)
    settings = StreamSettings(5.0, WindowSettings(2.0, 1.0))
    (result,) = log_probs_of(source, [0], recogniser=recogniser, settings=settings, runtime=CPU)
    assert not isinstance(result, Refusal)
    row, log_probs = result
    assert (row, log_probs.shape) == (0, (312, 7))
    np.testing.assert_allclose(np.exp(log_probs).sum(axis=-1), 1.0, rtol=1e-5)


def test_word_times_lie_within_the_utterance(recogniser: Recogniser) -> None:
    transcripts, _ = run(array_source(WAVEFORMS, sample_rate_hz=16_000), recogniser, times=True)
    for transcript, length in zip(transcripts, LENGTHS, strict=True):
        words = transcript.to_document()["words"]
        assert " ".join(word["text"] for word in words) == transcript.text
        edges = [edge for word in words for edge in (word["start_s"], word["end_s"])]
        assert edges == sorted(edges)
        assert edges[0] >= 0
        assert edges[-1] <= length / 16_000


def test_passages_change_neither_text_nor_times(recogniser: Recogniser, monkeypatch: pytest.MonkeyPatch) -> None:
    # Emissions say "cat ab" over and over; read in passages of 20 frames they give the words and times of one piece.
    symbols = [3 if k == "a" else recogniser.vocabulary.index[k] for k in "cat|ab|" * 9 + "cat"]
    log_probs = np.full((len(symbols), 7), -6.0, dtype=np.float32)
    log_probs[np.arange(len(symbols)), symbols] = -0.02
    source = array_source([noise(320 * len(symbols) + 80)], sample_rate_hz=16_000)
    decoder = GreedyDecoder(recogniser.vocabulary)
    whole = transcribe_module._read(log_probs, source, 0, recogniser, decoder, times=True)
    monkeypatch.setattr(transcribe_module, "passages", partial(passages, max_frames=20))
    cut = transcribe_module._read(log_probs, source, 0, recogniser, decoder, times=True)
    assert cut == whole
    assert whole.text == "cat ab " * 9 + "cat"
    assert whole.words is not None
    assert [w.start_s for w in whole.words[:3]] == pytest.approx([0.0025, 0.0825, 0.1425])


def test_a_bad_file_is_named_and_the_rest_goes_on(recogniser: Recogniser, tmp_path: Path) -> None:
    for i, waveform in enumerate(WAVEFORMS):
        write_wav(tmp_path / f"u{i}.wav", waveform)
    opened = open_input(tmp_path)
    (tmp_path / "u1.wav").write_bytes(b"no longer audio")
    seconds: list[float] = []
    transcripts, refused = run(ManifestSource(opened.manifest), recogniser, on_progress=seconds.append)
    assert [t.id for t in transcripts] == ["u0", "u2", "u3"]
    assert [(r.id, r.row) for r in refused] == [("u1", 1)]
    assert sum(seconds) == pytest.approx(sum(LENGTHS) / 16_000)
    with pytest.raises(AudioError, match=r"u1 .*--strict stops here"):
        run(ManifestSource(opened.manifest), recogniser, strict=True)


def test_a_manifest_of_another_tool_is_an_input(tmp_path: Path) -> None:
    write_wav(tmp_path / "u.wav", WAVEFORMS[0])
    (tmp_path / "m.jsonl").write_text('{"audio_filepath": "u.wav", "offset": 0.01, "duration": 0.02}\n')
    (row,) = open_input(tmp_path / "m.jsonl").manifest
    assert (row.id, row.start, row.num_samples) == ("u", 160, 320)


def test_a_text_that_does_not_fit_its_audio_is_named(recogniser: Recogniser) -> None:
    source = array_source([noise(5_000), noise(5_000)], sample_rate_hz=16_000)
    alignments, refused = align_source(
        source, ["cab", "abc" * 99], recogniser=recogniser, settings=StreamSettings(), runtime=CPU
    )
    assert [a.id for a in alignments] == ["array 0"]
    assert [word.text for word in alignments[0].words] == ["cab"]
    assert "the audio must have 297 frames or more" in refused[0].reason
