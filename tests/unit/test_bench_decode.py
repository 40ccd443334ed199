"""The benchmark of decoding: who is compared with whom, utterances that are kept apart, and one run of minute size."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import bench

from audio_ssl.inference.decoding.arpa import read_arpa
from benchmarks import decoding
from benchmarks.decoding import SAME_ERRORS, best_peer
from benchmarks.heard import make_up

TIMES = {"ours": (1.0,), "quick": (2.0,), "middle": (4.0,), "slow": (8.0,)}


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ((0.10, 0.12, 0.10, 0.05), "middle"),  # the quickest has more errors than ours
        ((0.10, 0.10 + 0.9 * SAME_ERRORS, 0.10, 0.05), "quick"),  # not by more than is called the same
        ((0.10, 0.14, 0.13, 0.12), "slow"),  # all have more: the one with the fewest
        ((0.10, 0.12, 0.12, 0.13), "quick"),
    ],
)
def test_ours_meets_the_fastest_peer_that_is_no_worse(rates, expected):
    assert best_peer(TIMES, dict(zip(TIMES, rates, strict=True)), ours="ours", peers=list(TIMES)[1:]) == expected
    assert best_peer(TIMES, {"ours": 0.1}, ours="ours", peers=[]) is None


def test_weights_are_found_on_other_sentences_than_those_that_are_timed(tmp_path):
    task, again = make_up(tmp_path, 5), make_up(tmp_path, 5)
    assert not set(task.tuning.references) & set(task.timed.references)
    assert len(set(task.tuning.references)) == len(set(task.timed.references)) == 5
    assert task.timed.references == again.timed.references
    assert all((a == b).all() for a, b in zip(task.timed.log_probs, again.timed.log_probs, strict=True))
    spoken, known = " ".join(task.timed.references).split(), set(task.lexicon.read_text().split())
    assert known.issuperset(spoken)
    assert known > set(read_arpa(task.lm).words) - {"<s>", "</s>", "<unk>"}  # some are in the decoded sentences alone


def test_every_decoder_is_timed_and_has_its_errors_counted(capsys, monkeypatch):
    monkeypatch.setattr(bench, "pin", lambda threads, *, keep_kernels: None)
    monkeypatch.setattr(decoding, "TRIALS", 2)
    assert bench.main(["decode", "--json", "--repeats", "1", "--files", "2"]) == 0
    captured = capsys.readouterr()
    rows = [json.loads(line) for line in captured.out.splitlines()]
    for case in ("lexicon, made up", "open, made up"):
        for name in ("ours", "ours, 2 threads"):
            found = {row["metric"]: row["value"] for row in rows if row["case"] == f"{case}, {name}"}
            assert found["speed"] > 0
            assert 0 <= found["wer"] < 0.5
        assert f"{case}: ratio_best_peer is over " in captured.err or "left out" in captured.err
