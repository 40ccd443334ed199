"""What pre-training is worth to a recogniser: who is held out, nested labels, equal budgets, tables by hand."""

import json
import os
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import asr

from audio_ssl.config import load_config
from audio_ssl.config.training import FinetuneConfig
from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.data.text import Vocabulary
from audio_ssl.model.encoder import build_encoder
from audio_ssl.model.files import save_model_dir
from audio_ssl.probe.split_lists import find_list, read_list
from benchmarks.cases import CASES
from benchmarks.report import BenchError
from experiment import asr_curves, asr_table, asr_tuning, held_out, labels, recognisers
from experiment.asr_curves import Point, by_cell, read_curve
from experiment.asr_table import Edits, resampled
from experiment.held_out import Person, deal, list_text, nested
from experiment.labels import Labels
from experiment.recognisers import Asked

LISTED = "speechocean762"


def rows(*told):
    """A manifest of (id, speaker, seconds)."""
    return Manifest.from_rows(
        [Utterance(name, f"{name}.wav", 0, round(8000 * s), 8000, text="a", speaker=who) for name, who, s in told],
        root=Path("/nowhere"),
    )  # fmt: skip


def test_of_ten_neighbours_two_are_test_and_one_is_valid():
    people = [Person(str(age), age, "f") for age in range(10, 22)]  # in a row by age
    parts = deal(reversed(people))
    assert list(parts) == [str(age) for age in range(10, 22)]
    assert list(parts.values()) == [
        "train", "train", "test", "train", "valid", "train", "train", "test", "train", "train", "train", "train",
    ]  # fmt: skip


def test_each_part_has_both_genders_and_all_ages():
    people = [Person(f"{g}{age}{i}", age, g) for g in "fm" for age in (6, 9, 20, 30) for i in range(10)]
    parts = deal(people)
    for part, share in (("train", 7), ("valid", 1), ("test", 2)):
        assert sum(parts[p.speaker] == part for p in people) == share * 8
        for gender in "fm":
            for age in (6, 9, 20, 30):
                found = [p for p in people if (p.gender, p.age, parts[p.speaker]) == (gender, age, part)]
                assert len(found) == share, (part, gender, age)


def test_the_list_that_is_kept_is_the_one_that_was_drawn():
    """Results of years hang on it: a change of this digest is a change of the experiment."""
    parts = read_list(find_list(LISTED))
    text = find_list(LISTED).read_bytes()
    assert held_out.hashlib.sha256(text).hexdigest() == (
        "d94cfd77433599a350cbe0b1dc5a05c545e1e40221a968d465926dc51027c045"
    )
    assert {part: list(parts.values()).count(part) for part in held_out.PARTS} == {"train": 87, "valid": 13, "test": 25}


@pytest.mark.corpora
@pytest.mark.skipif("AUDIO_SSL_CORPORA" not in os.environ, reason="AUDIO_SSL_CORPORA is not set")
def test_the_list_follows_from_the_rule():
    people = held_out.read_kaldi_people(Path(os.environ["AUDIO_SSL_CORPORA"]) / LISTED)
    kept = find_list(LISTED).read_text()
    assert list_text(people, title=kept.splitlines()[0].removeprefix("# ")) == kept


def test_rows_go_where_their_speaker_is():
    parts = {"a": "train", "b": "valid", "c": "test", "d": "train"}
    manifest = rows(("1", "a", 1), ("2", "c", 1), ("3", "b", 1), ("4", "a", 1))
    found = held_out.split(manifest, parts)
    assert {part: m.column("id") for part, m in found.items()} == {"train": ["1", "4"], "valid": ["3"], "test": ["2"]}
    with pytest.raises(BenchError, match="1 are not: e"):
        held_out.split(rows(("1", "a", 1), ("2", "e", 1)), parts)
    with pytest.raises(BenchError, match="none of test"):
        held_out.split(rows(("1", "a", 1), ("2", "b", 1)), parts)


def test_amounts_of_labels_are_nested_and_spread_over_all_speakers():
    manifest = rows(*((f"{who}{i}", who, 1 + i / 10) for who in "abcde" for i in range(6)))
    amounts = [nested(manifest, seconds) for seconds in (6.5, 13.0, 1000.0)]
    ids = [set(amount.column("id")) for amount in amounts]
    assert ids[0] < ids[1] < ids[2] == set(manifest.column("id"))
    for amount, seconds in zip(amounts, (6.5, 13.0, 1000), strict=True):
        assert amount.durations_s().sum() <= seconds
        counts = [amount.column("speaker").count(who) for who in "abcde"]
        assert max(counts) - min(counts) <= 1
    assert amounts[0].durations_s().sum() > 6.5 - 1.5  # the next row had no room
    # The order of the manifest is kept, and has no say in what is chosen.
    turned = manifest.select(list(range(len(manifest)))[::-1])
    assert set(nested(turned, 13.0).column("id")) == ids[1]
    assert amounts[1].column("id") == sorted(amounts[1].column("id"))


SHAPE = CASES["smoke"].model
SETTINGS = """
init_from = "elsewhere"
[ctc]
mask_prob = 0.3
[data]
train = ["other.arrow"]
batch_s = 30
[run]
dir = "other"
budget = "2h"
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A pre-trained model of the smallest shape."""
    folder = tmp_path_factory.mktemp("model")
    save_model_dir(folder / "model", {"kind": "encoder", "model": SHAPE.model_dump(mode="json")},
                   {"encoder": build_encoder(SHAPE)})  # fmt: skip
    return folder / "model"


@pytest.fixture
def config(tmp_path):
    (tmp_path / "mine.toml").write_text(SETTINGS)
    return str(tmp_path / "mine.toml")


def asked_for(model, config, **changes):
    return Asked(**{"model": model, "start": "pretrained", "labels": "1h", "config": config, "updates": 3} | changes)


def test_a_run_has_the_settings_of_file_and_words_and_the_experiment_s_own(tmp_path, model, config):
    data, out = Labels(tmp_path / "data"), tmp_path / "out"
    found = recognisers.settings_of(asked_for(model, config, seed=7, settings=("ctc.mask_prob=0.5",)), data, out)
    assert found.init_from == model
    assert found.model is None
    assert (found.ctc.mask_prob, found.data.batch_s, found.run.seed, found.run.device) == (0.5, 30, 7, "cpu")
    assert found.data.train == (tmp_path / "data" / "train_1h.arrow",)
    assert found.data.valid == (tmp_path / "data" / "valid.arrow",)
    assert found.run.dir == out
    assert found.run.budget is None
    fresh = recognisers.settings_of(asked_for(model, config, start="random"), data, out)
    assert fresh.init_from is None
    assert fresh.model == SHAPE
    (out / "again.toml").write_text(recognisers.dump_config(fresh))
    assert load_config(FinetuneConfig, out / "again.toml") == fresh  # what the training process reads


@pytest.mark.parametrize("setting", ["run.seed=3", "model.dim=8", "init_from=x", "data.valid=['x']", "run.budget=2h"])
def test_what_the_runs_share_cannot_be_set(tmp_path, model, config, setting):
    with pytest.raises(BenchError, match=f"{setting.partition('=')[0]} alone"):
        recognisers.settings_of(asked_for(model, config, settings=(setting,)), Labels(tmp_path), tmp_path / "out")


def test_equal_work_has_one_pace_whatever_it_starts_from(tmp_path, model, config):
    def digest(threads=1, **changes):
        found = recognisers.settings_of(asked_for(model, config, **changes), Labels(tmp_path), tmp_path / "out")
        return recognisers.work_digest(found, SHAPE.model_dump(mode="json"), threads=threads)

    same = digest()
    assert digest(start="random", seed=9) == same
    assert digest(settings=("optim.lr=0.1", "run.validate_every=7", "ctc.freeze_encoder_updates=9")) == same
    for other in (
        "ctc.freeze_feature_encoder=false",
        "dropouts.dropout=0.5",
        "data.batch_s=25",
        "optim.optimizer=muon",
        "run.precision=fp32",
    ):
        assert digest(settings=(other,)) != same, other
    assert digest(threads=2) != same
    assert digest(labels="all") != same


def fake_training(folder_of, *, seconds):
    """What a run leaves, where an update takes so long after the first half."""

    def finetune(settings, *, threads):
        found = load_config(FinetuneConfig, settings)
        folder_of.append(found.run.dir)
        num = found.run.num_updates
        lines = [
            {"split": "train", "update": u, "processor_update_s": 50.0 if u <= num // 2 else seconds, "update_s": 99.0}
            for u in range(10, num + 1, 10)
        ]
        (found.run.dir / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))

    return finetune


def test_minutes_become_updates_by_one_measurement_for_both_starts(tmp_path, model, config, monkeypatch):
    made = []
    monkeypatch.setattr(recognisers, "finetune", fake_training(made, seconds=0.5))
    for start in recognisers.STARTS:
        asked = asked_for(model, config, start=start, updates=None, minutes=2.0)
        recognisers.train(asked, Labels(tmp_path), tmp_path / start)
        assert recognisers.read_header(tmp_path / start)["length"]["updates"] == 240  # 120 s of 0.5 s
        assert load_config(FinetuneConfig, tmp_path / start / "asked.toml").run.num_updates == 240
    assert [folder.name[:5] for folder in made] == ["pace_", "pretr", "rando"]
    assert not made[0].exists()
    with pytest.raises(BenchError, match="room for an update"):
        recognisers.train(asked_for(model, config, updates=None, minutes=0.001), Labels(tmp_path), tmp_path / "short")


def test_an_update_is_priced_as_a_late_one(tmp_path, model, config, monkeypatch):
    seen = []

    def finetune(settings, *, threads):
        seen.append(load_config(FinetuneConfig, settings))
        fake_training([], seconds=0.5)(settings, threads=threads)

    monkeypatch.setattr(recognisers, "finetune", finetune)
    settings = ("ctc.freeze_encoder_updates=10000", "ctc.freeze_feature_encoder=5000", "run.validate_every=7")
    asked = asked_for(model, config, settings=settings, updates=None, minutes=2.0)
    recognisers.train(asked, Labels(tmp_path), tmp_path / "out")
    probe, run = seen
    assert (probe.run.num_updates, probe.ctc.freeze_encoder_updates, probe.ctc.freeze_feature_encoder) == (200, 50, 50)
    assert probe.data.valid == ()
    assert (run.ctc.freeze_encoder_updates, run.ctc.freeze_feature_encoder, run.run.num_updates) == (10000, 5000, 240)


def test_a_run_goes_on_as_it_was_asked_for_or_not_at_all(tmp_path, model, config, monkeypatch):
    made = []
    monkeypatch.setattr(recognisers, "finetune", fake_training(made, seconds=1.0))
    asked, out = asked_for(model, config), tmp_path / "run"
    recognisers.train(asked, Labels(tmp_path), out)
    recognisers.train(asked, Labels(tmp_path), out)  # it has left no model: it was stopped
    assert len(made) == 2
    (out / "model").mkdir()
    recognisers.train(asked, Labels(tmp_path), out)
    assert len(made) == 2
    with pytest.raises(BenchError, match=r"its (seed, labels|labels, seed) differ"):
        recognisers.train(asked_for(model, config, seed=2, labels="all"), Labels(tmp_path), out)


def test_a_model_that_has_heard_a_held_out_speaker_is_refused(tmp_path, capsys):
    data, run = Labels(tmp_path), tmp_path / "run"
    heard = tmp_path / "heard.arrow"
    for path, names in ((data.valid, "v"), (data.test, "t"), (heard, "abt"), (data.unlabelled, "ab")):
        rows(*((name, name, 1) for name in names)).write(path)
    (run / "model").mkdir(parents=True)
    labels.refuse_heard(run, data)
    assert "not known" in capsys.readouterr().err
    (run / "config.toml").write_text(f"[data]\ntrain = ['{heard}']\n")
    for place in (run, run / "model", run / "checkpoints" / "000005"):
        with pytest.raises(BenchError, match=r"1 of their recordings, such as .*t\.wav"):
            labels.refuse_heard(place, data)
    (run / "config.toml").write_text(f"[data]\ntrain = ['{data.unlabelled}']\n")
    labels.refuse_heard(run, data)
    assert not capsys.readouterr().err


def made_run(folder, valid, *, labels="1h", start="random", seed=1, device="cpu"):
    """A run's folder with figures: ``valid`` is of (update, cer)."""
    folder.mkdir(parents=True)
    header = {"labels": labels, "start": start, "seed": seed, "device": device, "minutes": 2.0}
    (folder / "asr.json").write_text(json.dumps(header))
    lines = [
        {"split": "train", "update": 1},  # a process has no speed yet: counted as the next ones
        {"split": "train", "update": 10, "processor_update_s": 6.0, "update_s": 600.0},
        {"split": "train", "update": 30, "processor_update_s": 3.0, "update_s": 300.0},
        {"split": "guard", "update": 30, "message": "careful"},
    ]
    lines += [{"split": "valid", "update": update, "cer": cer, "wer": cer / 2} for update, cer in valid]
    text = "".join(f"{json.dumps(line)}\n" for line in sorted(lines, key=lambda line: line["update"]))
    (folder / "metrics.jsonl").write_text(text + '{"split": "tra')  # cut off by a kill
    return folder


def test_a_curve_is_told_on_the_budget_s_clock(tmp_path):
    curve = read_curve(made_run(tmp_path / "run", [(10, 0.9), (30, 0.5)]))
    assert curve.points == (Point(10, 1.0, 0.9, 0.45), Point(30, 2.0, 0.5, 0.25))
    assert (curve.minutes, curve.updates, curve.best.update) == (2.0, 30, 30)
    on_gpu = read_curve(made_run(tmp_path / "gpu", [(30, 0.5)], device="cuda"))
    assert on_gpu.minutes == 200.0
    assert read_curve(made_run(tmp_path / "flat", [(10, 0.5), (30, 0.5)])).best.update == 10  # as training keeps it
    with pytest.raises(BenchError, match="a validation at least"):
        read_curve(made_run(tmp_path / "none", []))


def test_runs_of_a_cell_have_different_seeds(tmp_path):
    told = [("1h", "random", 2), ("10min", "random", 1), ("1h", "pretrained", 1), ("1h", "random", 1)]
    curves = [
        read_curve(made_run(tmp_path / str(i), [(30, 0.5)], labels=labels, start=start, seed=seed))
        for i, (labels, start, seed) in enumerate(told)
    ]
    cells = by_cell(curves)
    assert list(cells) == [("10min", "random"), ("1h", "pretrained"), ("1h", "random")]
    assert [curve.header["seed"] for curve in cells["1h", "random"]] == [1, 2]
    asr_curves.plot(curves, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000
    with pytest.raises(BenchError, match="different seeds"):
        by_cell([*curves, curves[0]])


def test_intervals_are_over_speakers_and_seeds():
    # Two speakers of unlike length: of 2 draws, (a, a), (b, b), and twice (a, b), with rates 0.1, 0.5 and 0.4.
    edits = Edits(np.array([[1.0, 15.0]]), np.array([[10.0, 30.0]]))
    assert edits.rate == 0.4
    drawn = resampled(edits, seeds_of="x", num=20_000)
    values, counts = np.unique(drawn.round(9), return_counts=True)
    assert values.tolist() == [0.1, 0.4, 0.5]
    assert counts / 20_000 == pytest.approx([0.25, 0.5, 0.25], abs=0.015)
    # Seeds that differ widen it: speakers are alike here, so all that is left is the draw of two seeds.
    seeds = Edits(np.array([[2.0, 2.0], [6.0, 6.0]]), np.full((2, 2), 10.0))
    values, counts = np.unique(resampled(seeds, seeds_of="x", num=20_000).round(9), return_counts=True)
    assert values.tolist() == [0.2, 0.4, 0.6]
    assert counts / 20_000 == pytest.approx([0.25, 0.5, 0.25], abs=0.015)


def test_both_starts_meet_the_same_speakers():
    """A difference that every speaker shows is certain, however much the speakers differ."""
    base = np.array([[1.0, 30.0, 5.0, 60.0]])
    lengths = np.full((1, 4), 100.0)
    better, worse = Edits(base, lengths), Edits(base + 10, lengths)
    gap = resampled(worse, seeds_of="random") - resampled(better, seeds_of="pretrained")
    assert gap == pytest.approx(np.full_like(gap, 0.1))


def test_a_table_by_hand(tmp_path):
    curves, scores = [], {}
    for start, errors in (("pretrained", [2.0, 4.0]), ("random", [6.0, 8.0])):
        for seed in (1, 2):
            folder = made_run(tmp_path / f"{start}{seed}", [(10, 0.7 - 0.1 * seed), (30, 0.3)], start=start, seed=seed)
            curves.append(read_curve(folder))
            scores[folder] = {rate: Edits(np.array(errors) + seed, np.array([10.0, 30.0])) for rate in ("cer", "wer")}
    told = asr_table.document(curves, scores, part="test", words=["--decoder", "beam"])
    assert told["decoding"] == "--decoder beam"
    assert (told["num_speakers"], told["num_characters"]) == (2, 40)
    assert [(c["start"], c["seeds"], c["cer"]["rate"]) for c in told["cells"]] == [
        ("pretrained", [1, 2], 18 / 80), ("random", [1, 2], 34 / 80),
    ]  # fmt: skip
    (found,) = told["comparisons"]
    assert found["cer"]["random_minus_pretrained"] == pytest.approx(16 / 80)
    assert found["cer"]["share_of_draws_not_better"] == 0.0
    low, high = found["cer"]["interval_95"]
    # Draws of a speaker twice: 4 / 10 and 4 / 30 without seeds; these add or take 1 error a speaker on either side.
    assert 0.03 < low < 16 / 80 < high <= 0.5
    assert found["valid_cer_of_random"] == 0.3
    assert found["minutes_to_reach_it_pretrained"] == [2.0, 2.0]
    assert told["runs"][0]["best_update"] == 30
    assert asr_table.table(told).row_count == 2


def test_an_utterance_without_transcript_ends_the_table(tmp_path, model, monkeypatch):
    rows(("1", "a", 1), ("2", "b", 1)).write(tmp_path / "test.arrow")
    monkeypatch.setattr(asr_table, "hypotheses", lambda *_, **__: {"1": "a"})
    monkeypatch.setattr(
        asr_table, "open_recogniser", lambda _: SimpleNamespace(vocabulary=Vocabulary(("<pad>", "<unk>", "|", "a")))
    )
    with pytest.raises(BenchError, match="1 have none: \\['2'\\]"):
        asr_table.score(tmp_path, tmp_path / "test.arrow", words=(), device="cpu", threads=1)
    monkeypatch.setattr(asr_table, "hypotheses", lambda *_, **__: {"1": "b b", "2": ""})
    found = asr_table.score(tmp_path, tmp_path / "test.arrow", words=(), device="cpu", threads=1)
    assert found["wer"].errors.tolist() == [2.0, 1.0]  # against "a": replaced and added, left out
    assert found["cer"].lengths.tolist() == [1.0, 1.0]


def test_a_grid_and_what_is_drawn_from_it():
    points = asr_tuning.grid(["optim.lr=[1e-3, 0.1]", "optim.optimizer=['muon', 'adamw']"])
    assert points == [
        ("optim.lr=0.001", 'optim.optimizer="muon"'), ("optim.lr=0.001", 'optim.optimizer="adamw"'),
        ("optim.lr=0.1", 'optim.optimizer="muon"'), ("optim.lr=0.1", 'optim.optimizer="adamw"'),
    ]  # fmt: skip
    assert asr_tuning.drawn(points, None, seed=1) == points
    three = asr_tuning.drawn(points, 3, seed=1)
    assert asr_tuning.drawn(points, 2, seed=1) == three[:2]
    assert len(set(three)) == 3
    for word in ("optim.lr", "optim.lr=3", "optim.lr=[]", "optim.lr=[1"):
        with pytest.raises(BenchError, match="--try must read"):
            asr_tuning.grid([word])


def test_the_best_settings_on_valid_become_a_configuration(tmp_path, model, config, monkeypatch):
    rates = {"0.001": [0.6, 0.5], "0.01": [0.9, 0.3], "0.1": [0.4, 0.4]}

    def finetune(settings, *, threads):
        found = load_config(FinetuneConfig, settings)
        lines = [{"split": "train", "update": 3, "processor_update_s": 1.0}]
        lines += [
            {"split": "valid", "update": i + 1, "cer": cer, "wer": 1.0}
            for i, cer in enumerate(rates[f"{found.optim.lr:g}"])
        ]
        (found.run.dir / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        (found.run.dir / "model").mkdir()

    monkeypatch.setattr(recognisers, "finetune", finetune)
    data = Labels(tmp_path)
    points = asr_tuning.grid(["optim.lr=[0.001, 0.01, 0.1]"])
    best = asr_tuning.tune(asked_for(model, config), data, tmp_path / "tuned", points=points)
    assert best.best.cer == 0.3
    trials = json.loads((tmp_path / "tuned" / "trials.json").read_text())
    assert [trial["valid_cer"] for trial in trials] == [0.5, 0.3, 0.4]
    again = recognisers.settings_of(
        asked_for(model, str(tmp_path / "tuned" / "tuned.toml"), start="random"), data, tmp_path / "out"
    )
    assert again.optim.lr == 0.01
    assert again.model == SHAPE
    assert "init_from" not in tomllib.loads((tmp_path / "tuned" / "tuned.toml").read_text())


def test_the_command_makes_every_run_and_says_what_is_missing(tmp_path, model, config, monkeypatch, capsys):
    made = []
    monkeypatch.setattr(recognisers, "train", lambda asked, data, out: made.append((asked, out)))
    monkeypatch.setattr(labels, "refuse_heard", lambda *_: None)
    words = ["train", str(model), "--start", "pretrained", "random", "--labels", "10min", "all", "--seed", "1", "2"]
    words += ["--data", str(tmp_path), "--out", str(tmp_path / "runs"), "--minutes", "2", "--config", config]
    assert asr.main(words) == 2
    assert "train_10min.arrow is missing" in capsys.readouterr().err
    for path in (
        *map(Labels(tmp_path).train, labels.AMOUNTS),
        *(tmp_path / f"{n}.arrow" for n in ("valid", "test", "unlabelled")),
    ):
        path.touch()
    assert asr.main([*words, "--set", "optim.lr=1", "--threads", "2"]) == 0
    assert len(made) == 8
    assert {out.name for _, out in made} == {
        f"{amount}_{start}_seed{seed}" for amount in ("10min", "all") for start in recognisers.STARTS for seed in (1, 2)
    }
    asked, out = made[-1]
    assert out.name == f"{asked.labels}_{asked.start}_seed{asked.seed}"
    assert (asked.minutes, asked.settings, asked.threads, asked.device) == (2.0, ("optim.lr=1",), 2, "cpu")
