"""Who is put beside whom, the tables in letters, and the probe as JSON."""

import json
from dataclasses import replace

import numpy as np
import pytest

from audio_ssl.inference.layer_weights import read_layer_weights
from audio_ssl.probe.document import outcome_document, weights_document, write_document, write_layer_weights
from audio_ssl.probe.doubts import doubts
from audio_ssl.probe.frame_labels import METRIC
from audio_ssl.probe.outcome import Measured, Outcome, best_layer, rows_of
from audio_ssl.probe.scores import Result
from audio_ssl.probe.tables import layer_table, markdown, task_table
from tests.unit.probe.outcomes import CANDIDATES, asked, candidate, outcome, score

HITS = {
    "log-mel": (5, 5, 5), "log-mel, 140 ms": (6, 6, 6), "MFCC": (3, 3, 3), "random weights, a": (4, 4, 4),
    "random weights, b": (9, 9, 9), "first": (8, 7, 9),
}  # fmt: skip
MODEL = CANDIDATES[-1]


def test_a_model_is_put_beside_the_better_log_mel_and_its_own_shape_at_random_weights():
    (row,) = [row for row in rows_of(outcome(HITS)) if row.gains]
    assert row.measured.candidate is MODEL
    assert {name: against for name, (against, _) in row.gains.items()} == {
        "log-mel": "log-mel, 140 ms", "random weights": "random weights, a",
    }  # fmt: skip
    assert row.gains["log-mel"][1].value == pytest.approx(0.2)
    assert row.gains["random weights"][1].value == pytest.approx(0.4)
    assert row.gains["random weights"][1].is_sure


def test_where_less_is_better_the_better_log_mel_is_that_of_fewer_errors():
    found = outcome(HITS | {"first": (3, 3, 3)}, metric="error_rate")
    (row,) = [row for row in rows_of(found) if row.gains]
    against, gain = row.gains["log-mel"]
    assert (against, gain.value) == ("log-mel", pytest.approx(0.2))


def test_a_metric_without_value_is_no_rival():
    found = outcome({"log-mel": (np.nan,) * 3, "log-mel, 140 ms": (6, 6, 6), "first": (8, 8, 8)})
    (row,) = [row for row in rows_of(found) if row.gains]
    assert row.gains["log-mel"][0] == "log-mel, 140 ms"


def test_the_table_in_markdown():
    found = outcome(
        {"log-mel": (5, 5, 5), "random weights, a": (4, 4, 4), "first": (8, 8, 8)}, warnings=("odd",), notes=("lost",)
    )
    assert markdown([found]).splitlines() == [
        "## letters: letters, speakers held out",
        "",
        "| features | accuracy % | 95 % | over log-mel | over random weights |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| log-mel | 50.0 |  |  |  |",
        "| random weights, a | 40.0 |  |  |  |",
        "| first | 80.0 |  | +30.0 | +40.0 |",
        "",
        "32 items of 4 speakers, 2.00 h; train 2, test 30; chance 50.0 %; over log-mel: log-mel; over random weights: "
        "random weights, a; more is better; 95 % over speakers and seeds; ✓: 0 is left out.",
        "",
        "- warning: odd",
        "- note: lost",
    ]  # fmt: skip


def test_a_difference_is_shown_with_its_interval_and_a_mark_where_it_is_sure():
    table = task_table(outcome(HITS))
    cells = dict(zip(table.headings, table.rows[-1], strict=True))
    assert cells["over random weights"].startswith("+40.0 (+")
    assert cells["over random weights"].endswith(") ✓")
    worse = task_table(outcome(HITS | {"first": (4, 7, 1)}))
    assert worse.rows[-1][3].startswith("-20.0 (-")
    assert "✓" not in worse.rows[-1][3]


def test_heads_have_a_column_where_there_are_several_and_others_are_told():
    found = outcome({"log-mel": (5, 5, 5), "first": (8, 8, 8)})
    measured = [
        replace(one, results=(
            replace(one.results[0], others={"nats a phone": score((1, 2, 3), metric="nats")}),
            Result("mlp", score((6, 6, 6))),
        ))
        for one in found.measured
    ]  # fmt: skip
    table = task_table(replace(found, measured=tuple(measured)))
    assert table.headings == ("features", "head", "accuracy %", "95 %", "over log-mel", "nats a phone")
    assert table.num_names == 2
    assert [row[:3] for row in table.rows] == [
        ("log-mel", "linear", "50.0"), ("first", "linear", "80.0"),
        ("log-mel", "mlp", "60.0"), ("first", "mlp", "60.0"),
    ]  # fmt: skip
    assert [row[-1] for row in table.rows] == ["0.200", "0.200", "", ""]
    assert table.rows[3][4] == "+0.0"


def test_layers_have_a_table_of_their_own():
    found = outcome(
        HITS, layers={"first": [(5, 5, 5), (8, 8, 8), (7, 7, 7)], "random weights, b": [(1, 1, 1), (2, 2, 2)]}
    )
    table = layer_table(found)
    assert table.headings == ("layer", "random weights, b", "first")
    assert table.rows == (("0", "10.0", "50.0"), ("1", "20.0", "80.0"), ("2", "", "70.0"))
    assert layer_table(outcome(HITS)) is None


@pytest.mark.parametrize(
    ("result", "layer"),
    [
        (Result("linear", score((1, 1, 1)), layer_weights=(0.2, 0.5, 0.3)), 1),
        (Result("cosine", score((1, 1, 1)), layer=2), 2),
        (Result("cosine", score((1, 1, 1))), 2),
    ],
)
def test_pictures_are_of_the_layer_that_was_chosen_or_weighs_most(result, layer):
    assert best_layer(Measured(MODEL, (result,))) == layer


def test_the_document_holds_every_difference_and_no_nan(tmp_path):
    found = outcome(HITS | {"MFCC": (np.nan,) * 3}, weights={"first": (0.25, 0.25, 0.5)}, layers={"first": [(5, 5, 6)]})
    write_document(Outcome((found,), CANDIDATES, (1, 2, 3), 12.5), tmp_path / "out" / "probe.json")
    document = json.loads((tmp_path / "out" / "probe.json").read_text(), parse_constant=pytest.fail)
    assert (document["schema"], document["schema_version"], document["seeds"]) == ("audio_ssl.probe", 1, [1, 2, 3])
    (task,) = document["tasks"]
    assert task["settings"]["kind"] == "classify"
    assert task["folds"]["split"]["test"] == {"num_items": 30, "hours": 1.5, "num_speakers": 3}
    own = {result["candidate"]: result for result in task["results"]}
    linear = own["first"]["heads"]["linear"]
    assert linear["value"] == pytest.approx(0.8)
    assert linear["of_block"] == {"ann": 0.8, "bob": 0.7, "cy": 0.9}
    assert linear["interval_95"][0] < 0.8 < linear["interval_95"][1]
    assert linear["layer_weights"] == [0.25, 0.25, 0.5]
    assert set(linear["gain_over"]) == set(HITS) - {"first"}
    assert linear["gain_over"]["log-mel"]["value"] == pytest.approx(0.3)
    assert linear["gain_over"]["MFCC"] == {"value": None, "interval_95": None, "is_sure": False}
    assert own["MFCC"]["heads"]["linear"]["value"] is None
    assert [layer["value"] for layer in own["first"]["layers"]] == [pytest.approx(16 / 30)]
    assert own["first"]["control"] is None
    assert [c["role"] for c in document["candidates"]][-1] == "model"
    assert "resamples" not in json.dumps(document)


def test_learned_sums_of_models_are_files_that_extract_reads(tmp_path):
    weights = {"first": (0.2, 0.3, 0.5), "random weights, a": (0.2, 0.3, 0.5), "log-mel": (1.0,)}
    found = Outcome((outcome(HITS, weights=weights),), CANDIDATES, (1,), 0.0)
    (path,) = write_layer_weights(found, tmp_path)
    assert path == tmp_path / "letters_first_linear.json"
    read = read_layer_weights(path)
    assert read.values == (0.2, 0.3, 0.5)
    assert (read.layer_norm, read.model_hash) == (True, "00ff")


def test_weights_of_float32_still_sum_to_1(tmp_path):
    weights = tuple(float(w) for w in np.full(13, 1 / 13, dtype=np.float32))
    (tmp_path / "w.json").write_text(json.dumps(weights_document(weights, None)))
    assert len(read_layer_weights(tmp_path / "w.json").values) == 13


def test_everything_right_is_told_and_so_are_few_speakers(tmp_path):
    one = asked(tmp_path)
    perfect = outcome(HITS | {"MFCC": (10, 10, 10)})
    told = doubts(one.items, one.folds, perfect.measured, chance=0.5)
    assert told[0].startswith("MFCC: every test item is right")
    assert told[1].startswith("there are 3 speakers")
    assert len(told) == 2
    lower = outcome(HITS | {"MFCC": (0, 0, 0)}, metric="error_rate")
    assert doubts(one.items, one.folds, lower.measured, chance=None)[0].startswith("MFCC: every")
    frames = outcome(HITS | {"MFCC": (10, 10, 10)}, metric=METRIC)
    assert doubts(one.items, one.folds, frames.measured, chance=0.5)[0].startswith("MFCC: every")


def test_unknown_speakers_are_told(tmp_path):
    one = asked(tmp_path)
    items = replace(one.items, are_speakers=False)
    assert doubts(items, one.folds, outcome(HITS).measured, chance=0.5)[-1].startswith("speakers are not known")


def test_document_is_made_of_plain_values():
    found = Outcome((outcome(HITS),), (candidate("only"),), (1,), 0.0)
    json.dumps(outcome_document(found), allow_nan=False)
