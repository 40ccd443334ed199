"""What CTC cannot learn from is found before training, by reason and row."""

import pytest
import torch

from audio_ssl.config import TextRules
from audio_ssl.data.manifest import Manifest
from audio_ssl.data.table import Utterance
from audio_ssl.data.text import Vocabulary
from audio_ssl.errors import ManifestError
from audio_ssl.geometry import ConvGeometry
from audio_ssl.train.transcripts import (
    EMPTY,
    TOO_LONG,
    rare_characters,
    read_transcripts,
    refuse_odd_share,
)

GEOMETRY = ConvGeometry((4,), (2,))  # n samples give (n - 4) // 2 + 1 frames


def manifest(tmp_path, *rows: tuple[int, str | None]) -> Manifest:
    utterances = [
        Utterance(f"u{i}", f"u{i}.wav", 0, num_samples, 100, text, None, None)
        for i, (num_samples, text) in enumerate(rows)
    ]
    return Manifest.from_rows(utterances, root=tmp_path)


def read(found: Manifest, vocabulary: Vocabulary):
    return read_transcripts(found, vocabulary, sample_rate_hz=100, geometry=GEOMETRY)


VOCABULARY = Vocabulary.from_texts(["abc d"], rules=TextRules())


def test_reasons_and_rows(tmp_path):
    found = manifest(
        tmp_path,
        (12, "ABC"),  # 5 frames for 3 labels
        (12, "aabbc"),  # 5 labels, 2 repeats: 7 frames needed, 5 there
        (12, "abcba"),  # exactly 5
        (12, None),
        (12, "   "),
    )
    transcripts = read(found, VOCABULARY)
    assert transcripts.refused == {TOO_LONG: [1], EMPTY: [3, 4]}
    assert transcripts.texts == ("abc", "aabbc", "abcba", "", "")
    labels, lengths = transcripts.of_rows((2, 0), torch.device("cpu"))
    a, b, c = (VOCABULARY.index[letter] for letter in "abc")
    assert labels.tolist() == [a, b, c, b, a, a, b, c]
    assert lengths.tolist() == [5, 3]


def test_characters_that_the_vocabulary_lacks_are_named_with_their_rows(tmp_path):
    transcripts = read(manifest(tmp_path, (90, "abc"), (90, "añb ñ")), VOCABULARY)
    assert len(transcripts.unknown) == 1
    assert "ñ" in transcripts.unknown[0]
    assert "2 times" in transcripts.unknown[0]
    assert "u1" in transcripts.unknown[0]


def test_too_many_unusable_rows_stop_the_run_with_names(tmp_path):
    found = manifest(tmp_path, (90, "abc"), (90, ""), (90, "a"), (6, "abc"))
    transcripts = read(found, VOCABULARY)
    refuse_odd_share(transcripts, found, max_share=0.5, where="data.train")
    with pytest.raises(ManifestError) as caught:
        refuse_odd_share(transcripts, found, max_share=0.49, where="data.train")
    for part in ("data.train", "2 of 4", EMPTY, TOO_LONG, "u1", "u3"):
        assert part in str(caught.value)


def test_rare_characters_stand_in_one_transcript_only():
    assert rare_characters(["abba", "ab", "zza q"]) == " qz"
