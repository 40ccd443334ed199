"""Alignment of log-probabilities whose answer is known, and the files that it is written to."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

from audio_ssl.config import ModelConfig
from audio_ssl.data.text import Vocabulary, min_ctc_frames
from audio_ssl.errors import ManifestError
from audio_ssl.inference import align as align_module
from audio_ssl.inference.align import Alignment, FrameClock, TimedToken, _torchaudio_spans, align
from audio_ssl.inference.timed_formats import to_ctm, to_document, to_textgrid
from audio_ssl.inference.viterbi import best_spans
from tests.unit.inference.conftest import SYMBOLS
from tests.unit.inference.test_decode import BLANK, SPACE, A, B, C, T, emission, sure

VOCABULARY = Vocabulary(SYMBOLS)
CLOCK = FrameClock(ModelConfig().geometry, 16_000)


def aligned(text: str, log_probs: np.ndarray, duration_s: float = 1.0) -> Alignment:
    return align("utt", text, log_probs, vocabulary=VOCABULARY, clock=CLOCK, duration_s=duration_s)


def test_a_frame_stands_for_one_hop_around_its_centre() -> None:
    # frame 0 covers samples 0 to 400: its centre is 12.5 ms, and 20 ms around it begin at 2.5 ms
    assert CLOCK.edge_s(0) == pytest.approx(0.0025)
    assert CLOCK.edge_s(7) == pytest.approx(0.1425)


def test_times_by_hand() -> None:
    # frames: 0 blank | 1-2 c | 3 a | 4 blank | 5 t | 6-7 separator | 8 a | 9 blank
    found = aligned("Cat  a", sure(BLANK, C, C, A, BLANK, T, SPACE, SPACE, A, BLANK))
    assert found.text == "cat a"
    times = [(w.text, w.start_s, w.end_s) for w in found.words]
    assert times == [("cat", 0.0225, 0.1225), ("a", 0.1625, 0.1825)]
    characters = [(c.text, c.start_s, c.end_s) for c in found.characters]
    assert characters == [
        ("c", 0.0225, 0.0625), ("a", 0.0625, 0.0825), ("t", 0.1025, 0.1225), ("a", 0.1625, 0.1825),
    ]  # fmt: skip
    assert found.confidence == pytest.approx(0.94, abs=1e-4)


def test_confidence_is_the_geometric_mean_of_its_symbols() -> None:
    found = aligned("ca", emission({C: 0.9}, {A: 0.4, B: 0.5}))
    assert [c.confidence for c in found.characters] == pytest.approx([0.9, 0.4], abs=1e-5)
    assert found.words[0].confidence == pytest.approx((0.9 * 0.4) ** 0.5, abs=1e-5)


def test_separators_before_and_after_the_text_are_silence() -> None:
    found = aligned("ab", sure(SPACE, SPACE, A, B, SPACE))
    assert [(w.start_s, w.end_s) for w in found.words] == [(0.0425, 0.0825)]
    assert found.confidence == pytest.approx(0.94, abs=1e-4)


def test_a_pause_that_is_all_separator_ends_the_word_before_it() -> None:
    # every frame of the pause is as sure as the next: ways of equal worth must not lead off the best path
    log_probs = np.full((9, len(SYMBOLS)), -30.0, dtype=np.float32)
    for t, symbol in enumerate([A, SPACE, SPACE, SPACE, SPACE, B, B, SPACE, C]):
        log_probs[t, symbol] = 0.0
    found = aligned("a b c", log_probs)
    assert [(w.start_s, w.end_s) for w in found.words] == [(0.0025, 0.0225), (0.1025, 0.1425), (0.1625, 0.1825)]
    assert found.confidence == pytest.approx(1.0)


def test_repeated_letters_have_their_own_frames() -> None:
    found = aligned("bb", sure(B, B, BLANK, B))
    assert [(c.start_s, c.end_s) for c in found.characters] == [(0.0025, 0.0425), (0.0625, 0.0825)]


@pytest.mark.parametrize("seed", range(5))
def test_the_path_is_the_best_of_all_paths(seed: int) -> None:
    rng = np.random.default_rng(seed)
    log_probs = np.log(rng.dirichlet(np.ones(len(SYMBOLS)), size=7)).astype(np.float32)
    labels = [C, A, T]
    # silence may be blank or separator
    heard = log_probs.copy()
    heard[:, BLANK] = np.log(np.exp(log_probs[:, BLANK]) + np.exp(log_probs[:, SPACE]))

    def collapsed(path: tuple[int, ...]) -> list[int]:
        return [k for k, _ in itertools.groupby(path) if k != BLANK]

    paths = [p for p in itertools.product([BLANK, C, A, T], repeat=7) if collapsed(p) == labels]
    best = max(paths, key=lambda p: sum(heard[t, s] for t, s in enumerate(p)))
    expected = [
        (CLOCK.edge_s(best.index(s)), CLOCK.edge_s(7 - best[::-1].index(s))) for s in labels
    ]  # each letter comes once
    found = [(c.start_s, c.end_s) for c in aligned("cat", log_probs).characters]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_times_end_with_the_utterance() -> None:
    found = aligned("ca", sure(C, A), duration_s=0.03)
    assert [(c.start_s, c.end_s) for c in found.characters] == [(0.0025, 0.0225), (0.0225, 0.03)]


def test_texts_that_cannot_be_aligned_are_named() -> None:
    with pytest.raises(ManifestError, match=r"utt: the text must be spelled .* it has 'd' 'z'"):
        aligned("dazd", sure(A, A, A, A))
    with pytest.raises(ManifestError, match="utt: the audio must have 3 frames or more for this text, it has 2"):
        aligned("bb", sure(B, B))
    with pytest.raises(ManifestError, match="must be shorter to be aligned at once"):
        aligned("ab" * 500_000, np.zeros((1_000_000, 1), dtype=np.float32))
    assert aligned("", sure(A)).words == ()


ALIGNMENT = Alignment(
    id="speaker 1/u1", text='a "b"', duration_s=1.0, confidence=0.5,
    words=(TimedToken("a", 0.1, 0.2, 0.75), TimedToken('"b"', 0.2, 0.9, 0.25)),
    characters=(TimedToken("a", 0.1, 0.2, 0.75), TimedToken("b", 0.5, 0.5, 0.1)),
)  # fmt: skip


def test_ctm() -> None:
    assert to_ctm(ALIGNMENT.id, ALIGNMENT.words) == (
        'speaker_1/u1 1 0.100 0.100 a 0.750\nspeaker_1/u1 1 0.200 0.700 "b" 0.250\n'
    )


def test_textgrid_tiles_its_tiers() -> None:
    text = to_textgrid(1.0, {"words": ALIGNMENT.words, "characters": ALIGNMENT.characters})
    words, characters = text.split("item [2]:")
    pattern = r'xmin = (\S+)\n\s+xmax = (\S+)\n\s+text = "(.*)"'
    assert re.findall(pattern, words) == [
        ("0", "0.1", ""), ("0.1", "0.2", "a"), ("0.2", "0.9", '""b""'), ("0.9", "1", ""),
    ]  # fmt: skip
    assert re.findall(pattern, characters) == [("0", "0.1", ""), ("0.1", "0.2", "a"), ("0.2", "1", "")]
    assert "intervals: size = 4" in words
    assert text.startswith('File type = "ooTextFile"\nObject class = "TextGrid"\n\nxmin = 0\nxmax = 1\n')


def test_json_has_the_rule_of_its_times() -> None:
    document = to_document(ALIGNMENT, CLOCK)
    assert document["chunks"] == [{"text": "a", "timestamp": [0.1, 0.2]}, {"text": '"b"', "timestamp": [0.2, 0.9]}]
    assert document["time_rule"] == "frame t stands for 0.02 s around 0.0125 + 0.02 t seconds"
    assert document["words"][1] == {"text": '"b"', "start_s": 0.2, "end_s": 0.9, "confidence": 0.25}


@pytest.mark.parametrize("seed", range(30))
def test_the_path_through_hours_is_that_of_torchaudio(seed: int) -> None:
    rng = np.random.default_rng(seed)
    num_frames, num_labels = int(rng.integers(1, 60)), int(rng.integers(1, 30))
    labels = rng.integers(1, 5, num_labels).tolist()
    num_frames = max(num_frames, min_ctc_frames(labels))
    log_probs = np.log(rng.dirichlet(np.ones(5), size=num_frames))
    assert best_spans(log_probs, labels, blank=0, block_frames=7) == _torchaudio_spans(labels, log_probs)


def test_a_long_text_is_aligned_beyond_the_lattice_of_torchaudio(monkeypatch: pytest.MonkeyPatch) -> None:
    symbols = [C, BLANK, A, T, BLANK, SPACE, BLANK, B, BLANK, B, SPACE] * 300
    log_probs = sure(*symbols[:-1])
    whole = aligned("cat bb " * 300, log_probs, duration_s=66.0)
    monkeypatch.setattr(align_module, "MAX_LATTICE_CELLS", 0)
    assert aligned("cat bb " * 300, log_probs, duration_s=66.0) == whole
    assert [(w.text, w.start_s, w.end_s) for w in whole.words[-2:]] == [
        ("cat", 65.7825, 65.8625),
        ("bb", 65.9225, 65.9825),
    ]
