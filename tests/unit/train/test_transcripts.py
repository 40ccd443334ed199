"""What CTC cannot learn from is found before training, by reason and row."""

import torch

from audio_ssl.config import TextRules
from audio_ssl.data.manifest import Manifest
from audio_ssl.data.table import Utterance
from audio_ssl.data.text import Vocabulary
from audio_ssl.geometry import ConvGeometry
from audio_ssl.train.transcripts import EMPTY, TOO_LONG, read_transcripts

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


def test_how_labels_fit_their_audio_is_counted(tmp_path):
    fit = read(manifest(tmp_path, (12, "ABC"), (12, "aabbc"), (4, None)), VOCABULARY).fit
    assert fit.num_labels.tolist() == [3, 5, 0]
    assert fit.needs_frames.tolist() == [3, 7, 0]
    assert fit.num_frames.tolist() == [5, 5, 1]
