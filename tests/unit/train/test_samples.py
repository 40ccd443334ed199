"""Hypotheses that people see: the worst, the median, the best, and the same ones each time; they go where texts go."""

import io
import json
from types import SimpleNamespace

import jiwer
import pytest
import torch
from rich.console import Console

from audio_ssl.config import TextRules
from audio_ssl.data.text import Vocabulary
from audio_ssl.tensors import Batch
from audio_ssl.train.ctc_validation import CTCValidation
from audio_ssl.train.distributed import World
from audio_ssl.train.record import RunRecord
from audio_ssl.train.samples import chosen, decoded_rows
from audio_ssl.train.sinks import JsonLines, TensorBoard, scalars

REFERENCES = ("ab", "abcd", "abcdefgh", "abc", "abcdef")
HYPOTHESES = ("ab", "abxy", "", "abcabc", "abcdex")
ROWS = (11, 7, 5, 3, 2)


def test_character_errors_of_each_row_are_jiwers():
    found = decoded_rows(ROWS, REFERENCES, HYPOTHESES)
    assert [(d.row, d.cer) for d in found] == [(11, 0.0), (7, 0.5), (5, 1.0), (3, 1.0), (2, pytest.approx(1 / 6))]
    assert [d.cer for d in found] == [
        pytest.approx(jiwer.cer(r, h)) for r, h in zip(REFERENCES, HYPOTHESES, strict=True)
    ]


def test_the_worst_the_median_and_the_best_are_chosen_and_two_by_length():
    found = chosen(decoded_rows(ROWS, REFERENCES, HYPOTHESES))
    # by error: 3 and 5 (equal, the lower number first), 7, 2, 11; by length: 11, 3, 7, 2, 5
    assert [(which, d.row) for which, d in found] == [("worst and fixed", 3), ("median", 7), ("best", 11), ("fixed", 2)]


def test_the_fixed_ones_stay_whatever_the_model_says():
    for hypotheses in (HYPOTHESES, ("",) * 5, tuple(reversed(HYPOTHESES))):
        found = chosen(decoded_rows(ROWS, REFERENCES, hypotheses))
        assert {d.row for which, d in found if "fixed" in which} == {3, 2}


def test_one_row_is_all_of_them():
    assert [(which, d.row) for which, d in chosen(decoded_rows([4], ["ab"], ["b"]))] == [
        ("worst and median and best and fixed", 4)
    ]


def validation(references, hypotheses) -> tuple[dict, str]:
    vocabulary = Vocabulary.from_texts([*references, *hypotheses], rules=TextRules())
    labels = [vocabulary.encode(text) for text in hypotheses]
    frames = [[frame for label in ids for frame in (label, 0)] or [0] for ids in labels]  # a blank after each
    scores = torch.zeros(len(frames), max(map(len, frames)), len(vocabulary))
    for row, ids in enumerate(frames):
        scores[row, range(len(ids)), ids] = 1.0
    rows, lengths = tuple(range(len(frames))), torch.tensor([len(ids) for ids in frames])
    loader = SimpleNamespace(batches=lambda *_, **__: [Batch(torch.zeros(len(rows), 1), lengths, rows)])
    manifest = [SimpleNamespace(id=f"[u{row}]") for row in rows]
    data = SimpleNamespace(eval_batches=lambda _: [rows], loader=loader, manifest=manifest)
    console = Console(file=io.StringIO(), width=80)
    world = World(0, 1, torch.device("cpu"))
    found = CTCValidation(
        lambda *_: (scores, lengths), data, vocabulary, references, micro_batch_s=1.0, world=world, console=console
    )(0)
    return found, console.file.getvalue()


def test_validation_gives_and_says_them():
    figures, said = validation(REFERENCES, HYPOTHESES)
    assert figures["empty_share"] == pytest.approx(0.2)
    assert figures["cer"] == pytest.approx(jiwer.cer(list(REFERENCES), list(HYPOTHESES)))
    assert [(s["which"], s["id"]) for s in figures["samples"]] == [
        ("worst", "[u2]"), ("median", "[u1]"), ("best", "[u0]"), ("fixed", "[u3]"), ("fixed", "[u4]"),
    ]  # fmt: skip
    assert "  worst, CER 100.0%, [u2]\n    reference:  abcdefgh\n    hypothesis: \n" in said
    assert "each of" not in said


@pytest.mark.parametrize(("answer", "words"), [("", "is empty"), ("a", "is 'a'")])
def test_one_answer_for_everything_is_said(answer, words):
    _, said = validation(("ab", "a b", "ca"), (answer,) * 3)
    assert f"  each of 3 hypotheses {words}: normal at first" in said


ROW = {"update": 9, "split": "valid", "cer": 0.5, "samples": [
    {"which": "worst and fixed", "id": "u1", "cer": 0.5, "reference": "ab", "hypothesis": "b"}]}  # fmt: skip


def test_texts_go_to_the_record_and_to_tensorboard_and_figures_to_metrics(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    record, metrics = RunRecord(tmp_path / "events.jsonl"), JsonLines(tmp_path / "m.jsonl", keep_until=0)
    (tmp_path / "events.jsonl").touch()  # the run has begun
    board = TensorBoard(tmp_path / "board", keep_until=0)
    for sink in (record, metrics, board):
        sink.write(ROW)
    board.close()
    (event,) = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert (event["event"], event["update"], event["samples"]) == ("samples", 9, ROW["samples"])
    assert json.loads((tmp_path / "m.jsonl").read_text()) == {"update": 9, "split": "valid", "cer": 0.5}
    found = EventAccumulator(str(tmp_path / "board"))
    found.Reload()
    assert sorted(found.Tags()["tensors"]) == ["valid/fixed/text_summary", "valid/worst/text_summary"]
    assert scalars(ROW) == {"valid/cer": 0.5}
