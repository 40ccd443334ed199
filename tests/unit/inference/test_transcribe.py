"""Transcripts: input order, the same alone as in a batch, windows stitched, and word times within the utterance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audio_ssl.errors import AudioError
from audio_ssl.inference.align import Alignment
from audio_ssl.inference.align_source import align_source
from audio_ssl.inference.decoding import GreedyDecoder
from audio_ssl.inference.models import Recogniser
from audio_ssl.inference.source import ManifestSource, Refusal, open_input
from audio_ssl.inference.stream import StreamSettings
from audio_ssl.inference.transcribe import Transcriber, groups_of, log_probs_of, one_by_one, transcribe_source
from audio_ssl.inference.transcripts import PassageText, Transcript
from audio_ssl.inference.windows import WindowSettings
from tests.unit.inference.conftest import CPU, array_source, noise, write_wav
from tests.unit.inference.spelled import Counted, spelled, speller

LENGTHS = (9_001, 30_011, 5_003, 17_777)
WAVEFORMS = [noise(length, seed=i) for i, length in enumerate(LENGTHS)]


def run(source: Any, recogniser: Recogniser, *, batch_s: float = 4.0, max_s: float = 10.0, **flags: Any) -> Any:
    results = list(transcribe_source(
        source, recogniser=recogniser, decode=one_by_one(GreedyDecoder(recogniser.vocabulary)),
        settings=StreamSettings(batch_s, WindowSettings(max_s, 1.0)), runtime=CPU, **flags,
    ))  # fmt: skip
    refused = [result for result in results if isinstance(result, Refusal)]
    return [result for result in results if not isinstance(result, Refusal)], refused


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


def transcriber(**changes: Any) -> Transcriber:
    recogniser = speller()
    decode = one_by_one(GreedyDecoder(recogniser.vocabulary))
    settings = changes.pop("settings", StreamSettings())
    return Transcriber(recogniser, decode, settings, CPU, times=True, **changes)


def test_passages_change_neither_text_nor_times() -> None:
    # Audio says "cat ab" over and over; read in passages of 20 frames it gives the words and times of one piece.
    source = array_source([spelled("cat|ab|" * 9 + "cat")], sample_rate_hz=16_000)
    (whole,) = transcriber().run(source, [[0]])
    (cut,) = transcriber(max_frames=20).run(source, [[0]])
    assert cut == whole
    assert isinstance(whole, Transcript)
    assert whole.text == "cat ab " * 9 + "cat"
    assert whole.words is not None
    # the separator's frame between two words may be given to either, by its loudness
    assert [w.start_s for w in whole.words[:3]] == pytest.approx([0.0025, 0.0825, 0.1425], abs=0.0201)


def test_a_word_that_goes_on_over_a_cut_is_one_word() -> None:
    source = array_source([spelled("abcabcabc" * 5)], sample_rate_hz=16_000)  # nowhere to cut
    (whole,) = transcriber().run(source, [[0]])
    (cut,) = transcriber(max_frames=20).run(source, [[0]])
    assert isinstance(cut, Transcript)
    assert cut == whole
    assert cut.words is not None
    assert [(w.text, w.start_s, w.end_s) for w in cut.words] == [("abcabcabc" * 5, 0.0025, pytest.approx(0.9025))]
    (parted,) = transcriber(max_frames=20, joins_words=False).run(source, [[0]])  # the words of a lexicon
    assert isinstance(parted, Transcript)
    assert parted.text.replace(" ", "") == "abcabcabc" * 5
    assert " " in parted.text


def test_windows_and_passages_of_a_long_recording_give_the_text_of_one_pass() -> None:
    text = " ".join("".join("abct"[d % 4] for d in divmod(i, 4)) for i in range(1, 160))
    frames = "-".join("-" + "-".join(word) + "|" for word in text.split())
    source = array_source([spelled(frames)], sample_rate_hz=16_000)
    (whole,) = transcriber().run(source, [[0]])
    windows = StreamSettings(4.0, WindowSettings(2.0, 0.6))
    (cut,) = transcriber(settings=windows, max_frames=60).run(source, [[0]])
    assert cut == whole
    assert isinstance(whole, Transcript)
    assert whole.text == text


class Kept:
    """A journal in memory."""

    def __init__(self, known: Sequence[PassageText] = ()) -> None:
        self.passages = list(known)

    def known(self, row: int) -> Sequence[PassageText]:
        return list(self.passages)

    def add(self, row: int, passage: PassageText) -> None:
        self.passages.append(passage)


@pytest.mark.parametrize("num_known", [1, 5, 10])
def test_what_is_known_of_a_recording_is_not_computed_again(num_known: int) -> None:
    source = array_source([spelled("-".join("-a-b|-c-a-t|" * 60))], sample_rate_hz=16_000)  # 28.8 s
    how = transcriber(settings=StreamSettings(2.0, WindowSettings(2.0, 0.6)), max_frames=120)
    counted, journal = Counted(how.recogniser.model), Kept()
    how = replace(how, recogniser=replace(how.recogniser, model=counted))
    (whole,) = how.run(source, [[0]], journal=journal)
    all_calls, counted.calls = counted.calls, 0
    assert [p.is_last for p in journal.passages] == [False] * (len(journal.passages) - 1) + [True]
    seconds: list[float] = []
    known = journal.passages[:num_known]
    (again,) = how.run(source, [[0]], journal=Kept(known), on_progress=seconds.append)
    assert again == whole
    # a window is 98 frames, every 69
    assert counted.calls <= all_calls - known[-1].stop_frame // 69 + 2
    assert sum(seconds) == pytest.approx(source.num_samples(0) / 16_000)
    counted.calls = 0
    assert list(how.run(source, [[0]], journal=journal)) == [whole]
    assert counted.calls == 0


def test_results_come_in_input_order_before_the_next_group_is_asked_for(recogniser: Recogniser) -> None:
    source = array_source([WAVEFORMS[i % 4] for i in range(9)], sample_rate_hz=16_000)
    asked, seen = [], []

    def groups() -> Iterator[list[int]]:
        for group in groups_of(source, range(9), seconds=3.0):
            asked.append(group)
            yield group

    decode = one_by_one(GreedyDecoder(recogniser.vocabulary))
    for result in Transcriber(recogniser, decode, StreamSettings(), CPU).run(source, groups()):
        assert isinstance(result, Transcript)
        seen.append((result.row, len(asked)))
    assert asked == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]  # 3.9 s, 3.9 s, and what is left
    # the last of a group is given out at the latest when one of the next is decoded
    assert [row for row, _ in seen] == list(range(9))
    assert all(known <= group + 2 for (row, known), group in zip(seen, [0] * 4 + [1] * 4 + [2], strict=True))


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
    aligned, refused = align_source(
        source, ["cab", "abc" * 99].__getitem__, recogniser=recogniser, settings=StreamSettings(), runtime=CPU
    )
    assert isinstance(aligned, Alignment)
    assert [word.text for word in aligned.words] == ["cab"]
    assert isinstance(refused, Refusal)
    assert "the audio must have 297 frames or more" in refused.reason
