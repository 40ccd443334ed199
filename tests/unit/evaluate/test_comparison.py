"""Paired comparison of two systems: who takes part, who wins, and what must be the same."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from audio_ssl.errors import ManifestError
from audio_ssl.evaluate.comparison import Comparer
from audio_ssl.evaluate.intervals import difference
from audio_ssl.evaluate.scores import Facts, score_utterance
from audio_ssl.evaluate.utterance_file import LinesById, report_lines

WORDS = "one two three four five six"


def baseline(path: Path, hypotheses: dict[str, str], reference: str = WORDS) -> LinesById:
    path.write_text(
        "".join(json.dumps({"id": i, "reference": reference, "hypothesis": h}) + "\n" for i, h in hypotheses.items())
    )
    return report_lines(path)


def test_the_better_one_wins(tmp_path: Path) -> None:
    with baseline(tmp_path / "a", {f"u{i}": "one two x four y six" for i in range(30)}) as lines:
        comparer = Comparer(lines, "runs/a")
        for i in range(30):
            comparer.add(score_utterance(f"u{i}", WORDS, "one two x four five six" if i % 3 else WORDS))
        found = comparer.result()
    assert (found.winner, found.num_utterances) == ("here", 30)
    assert (found.words.baseline.errors, found.words.here.errors) == (60, 20)
    assert found.words.difference.value == pytest.approx(-40 / 180)
    assert found.words.difference == difference(Counter({(2, 1, 6): 20, (2, 0, 6): 10}))
    # every utterance is one segment: four lies alone between the errors
    assert (found.matched_pairs.num_segments, found.matched_pairs.mean) == (30, pytest.approx(40 / 30))
    assert found.matched_pairs.p_value < 1e-6


def test_speakers_are_blocks_and_turning_the_systems_turns_the_outcome(tmp_path: Path) -> None:
    texts = {f"u{i}": (WORDS if i % 4 else "x") for i in range(24)}
    others = {f"u{i}": (WORDS if i % 3 else "one two") for i in range(24)}
    results = []
    for number, (first, second) in enumerate([(texts, others), (others, texts)]):
        with baseline(tmp_path / str(number), first) as lines:
            comparer = Comparer(lines, "a")
            for i, name in enumerate(second):
                comparer.add(score_utterance(name, WORDS, second[name], facts=Facts(f"s{i % 5}" if i < 20 else None)))
            results.append(comparer.result())
    one, two = results
    assert one.words.over == "speakers"
    assert set(one.words.differences) == {"speakers", "utterances"}
    assert one.words.difference.value == pytest.approx(-two.words.difference.value)
    assert one.matched_pairs.z == pytest.approx(-two.matched_pairs.z)
    blocks: Counter[tuple[int, ...]] = Counter()
    sums = [[0, 0, 0] for _ in range(5)]
    for i in range(24):
        both = 0 if i % 4 else 6, 0 if i % 3 else 4, 6
        if i < 20:
            sums[i % 5] = [a + b for a, b in zip(sums[i % 5], both, strict=True)]
        else:
            blocks[both] += 1
    blocks.update(map(tuple, sums))
    assert one.words.difference == difference(blocks)


def test_a_draw_has_no_winner(tmp_path: Path) -> None:
    with baseline(tmp_path / "a", {f"u{i}": WORDS if i % 2 else "x" for i in range(20)}) as lines:
        comparer = Comparer(lines, "a")
        for i in range(20):
            comparer.add(score_utterance(f"u{i}", WORDS, "x" if i % 2 else WORDS))
        found = comparer.result()
    assert found.winner is None
    assert found.words.difference.value == 0.0


@pytest.mark.parametrize(("num", "winner"), [(5, None), (6, "here")])
def test_fewer_than_six_blocks_have_no_winner(tmp_path: Path, num: int, winner: str | None) -> None:
    with baseline(tmp_path / "a", {f"u{i}": "" for i in range(num)}) as lines:
        comparer = Comparer(lines, "a")
        for i in range(num):
            comparer.add(score_utterance(f"u{i}", WORDS, WORDS))
        assert comparer.result().winner == winner


def test_what_one_side_lacks_is_counted_and_takes_no_part(tmp_path: Path) -> None:
    with baseline(tmp_path / "a", {"u": WORDS, "v": WORDS, "w": WORDS}) as lines:
        comparer = Comparer(lines, "a")
        comparer.check_reference("w", WORDS)  # a look is no use of it
        comparer.add(score_utterance("u", WORDS, ""))
        comparer.add(score_utterance("x", WORDS, ""))
        found = comparer.result()
    assert (found.num_utterances, found.num_only_here, found.num_only_in_baseline) == (1, 1, 2)
    assert found.words.here.reference_length == 6
    assert found.words.difference is None  # one utterance
    assert found.winner is None


def test_other_references_are_refused(tmp_path: Path) -> None:
    with baseline(tmp_path / "a", {"u": WORDS}) as lines:
        comparer = Comparer(lines, "a")
        comparer.check_reference("unknown", "One")
        for act in (
            lambda: comparer.check_reference("u", "One"),
            lambda: comparer.add(score_utterance("u", "One", "One")),
        ):
            with pytest.raises(ManifestError, match="--text plain"):
                act()


def test_the_utterances_that_changed_most(tmp_path: Path) -> None:
    heard = {f"u{i}": " ".join(WORDS.split()[: i % 7]) for i in range(14)}
    with baseline(tmp_path / "a", heard) as lines:
        comparer = Comparer(lines, "a")
        for name in heard:
            comparer.add(score_utterance(name, WORDS, "one two three"))
        found = comparer.result()
    assert [(u.id, u.baseline_errors, u.errors) for u in found.most_better] == [
        ("u0", 6, 3), ("u7", 6, 3), ("u1", 5, 3), ("u8", 5, 3), ("u2", 4, 3),
    ]  # fmt: skip
    assert [u.id for u in found.most_worse] == ["u6", "u13", "u5", "u12", "u4"]
    assert found.most_better[0].baseline == ""
