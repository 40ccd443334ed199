"""Splitting by speaker and by file, figures about a manifest, and the check against the files."""

from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.data.partition import split_rows
from audio_ssl.data.summary import LENGTH_EDGES_S, find_faults, summarize
from audio_ssl.errors import ConfigError, ManifestError

SHARES = {"train": 0.8, "valid": 0.1, "test": 0.1}


def speakers(num_speakers: int, *, seed: int = 0) -> Manifest:
    generator = np.random.default_rng(seed)
    rows = [
        Utterance(f"{s}-{i}", f"{s}/{i}.wav", 0, int(generator.integers(8000, 90_000)), 16000, speaker=f"spk{s}")
        for i in range(11)
        for s in range(num_speakers)
    ]
    return Manifest.from_rows(rows, root="/audio")


def test_no_speaker_is_in_two_parts_and_hours_come_near():
    manifest = speakers(41)
    parts = split_rows(manifest, parts=SHARES)
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(len(manifest)))
    names = {part: {manifest[int(i)].speaker for i in rows} for part, rows in parts.items()}
    assert not names["train"] & names["valid"]
    assert not (names["train"] | names["valid"]) & names["test"]
    seconds = manifest.durations_s()
    for part, share in SHARES.items():
        assert seconds[parts[part]].sum() / seconds.sum() == pytest.approx(share, abs=0.02)
        assert (np.diff(parts[part]) > 0).all()


def test_the_seed_decides():
    manifest = Manifest.from_rows(
        [Utterance(str(i), f"{i}.wav", 0, 100, 100, speaker=str(i)) for i in range(31)], root="/audio"
    )
    first, again, other = (split_rows(manifest, parts=SHARES, seed=s)["valid"].tolist() for s in (1, 1, 2))
    assert first == again
    assert first != other


def test_every_part_gets_a_speaker():
    parts = split_rows(speakers(3), parts={"train": 0.98, "valid": 0.01, "test": 0.01})
    assert sorted(len(rows) for rows in parts.values()) == [11, 11, 11]


def test_segments_of_one_file_stay_together():
    rows = [Utterance(f"{f}-{i}", f"{f}.wav", 100 * i, 100, 100) for f in range(20) for i in range(5)]
    manifest = Manifest.from_rows(rows, root="/audio")
    parts = split_rows(manifest, parts={"a": 0.5, "b": 0.5}, by="none")
    files = [{manifest[int(i)].path for i in rows} for rows in parts.values()]
    assert not files[0] & files[1]
    assert [len(f) for f in files] == [10, 10]


def test_what_cannot_be_split_is_refused():
    manifest = speakers(2)
    with pytest.raises(ManifestError, match="at least as many speakers as parts, got 2 and 3"):
        split_rows(manifest, parts=SHARES)
    for parts in ({}, {"a": 0.5, "b": 0.4}, {"a": 1.5, "b": -0.5}):
        with pytest.raises(ConfigError, match="must be > 0 and add up to 1"):
            split_rows(manifest, parts=parts)
    rows = [Utterance(str(i), f"{i}.wav", 0, 9, 9, speaker="x" if i % 3 else None) for i in range(7)]
    with pytest.raises(ManifestError, match="3 of 7 have none") as caught:
        split_rows(Manifest.from_rows(rows, root="/audio"), parts={"a": 1.0})
    assert "(6, 6.wav)" in str(caught.value)


def test_figures_by_hand():
    rows = [
        Utterance("a", "a.wav", 0, 16000, 16000, "one", "anna", "en"),
        Utterance("b", "a.wav", 16000, 48000, 16000, " ", "anna", "en"),
        Utterance("c", "c.wav", 0, 56000, 8000, None, "ben"),
        Utterance("d", "d.wav", 0, 200, 8000, "zwei", None, "de"),
    ]
    summary = summarize(Manifest.from_rows(rows, root="/audio"))
    assert (summary.num_rows, summary.num_files) == (4, 3)
    assert summary.hours == pytest.approx((1 + 3 + 7 + 0.025) / 3600)
    assert summary.hours_by_rate == {
        8000: (2, pytest.approx(7.025 / 3600)),
        16000: (2, pytest.approx(4 / 3600)),
    }
    assert dict(zip(LENGTH_EDGES_S, summary.length_counts, strict=False)) == {
        **dict.fromkeys(LENGTH_EDGES_S[:-1], 0),
        0.0: 1,
        1.0: 1,
        2.0: 1,
        4.0: 1,
    }
    assert list(summary.hours_by_speaker) == ["ben", "anna"]
    assert summary.hours_by_speaker["anna"] == pytest.approx(4 / 3600)
    assert summary.num_without_speaker == 1
    assert summary.languages == {"en": 2, "unknown": 1, "de": 1}
    assert (summary.num_texts, summary.num_empty_texts, summary.num_characters) == (2, 1, 8)
    assert summary.length_quantiles_s[0] == 0.025
    assert summary.length_quantiles_s[-1] == 7


def test_faults_are_found_row_by_row(corpus: Manifest, tmp_path: Path):
    assert find_faults(corpus, decode=True) == ()
    corpus.audio_path(1).unlink()
    corpus.audio_path(2).write_bytes(b"")
    sf.write(corpus.audio_path(3), np.ones(12800, dtype=np.float32) / 2, 8000)
    sf.write(corpus.audio_path(4), np.ones(14399, dtype=np.float32) / 2, 16000)
    content = corpus.audio_path(5).read_bytes()
    corpus.audio_path(5).write_bytes(content[: len(content) * 2 // 3])
    content = corpus.audio_path(6).read_bytes()
    corpus.audio_path(6).write_bytes(content[:9000] + bytes(2000) + content[11000:])
    faults = find_faults(corpus)
    assert [fault.partition(": ")[0] for fault in faults] == [corpus.describe(i) for i in (1, 2, 3, 4, 5)]
    assert "no file" in faults[0]
    assert "empty file: zero bytes" in faults[1]
    assert "sample_rate must be the file's 8000, got 16000" in faults[2]
    assert "start + num_samples must be <= the file's 14399, got 14400" in faults[3]
    assert "truncated" in faults[4]
    decoded = find_faults(corpus, decode=True)
    assert decoded[:5] == faults
    assert corpus.describe(6) in decoded[5]
