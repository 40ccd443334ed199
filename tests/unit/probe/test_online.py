"""The small probe of a run: the same figures as the large one on the same items, and every fault before the start."""

from pathlib import Path

import numpy as np
import pytest
import torch

from audio_ssl.config import OnlineProbeConfig
from audio_ssl.data.scan import scan
from audio_ssl.errors import ConfigError
from audio_ssl.model.encoder import build_encoder
from audio_ssl.model.files import encoder_document, save_model_dir
from audio_ssl.probe import online
from audio_ssl.probe.candidates import log_mel, of_model
from audio_ssl.probe.classify import run as classify
from audio_ssl.probe.frames import open_frames
from audio_ssl.probe.items import as_rows
from audio_ssl.probe.subset import spread_labels, spread_rows, subset
from audio_ssl.probe.tasks import open_task
from audio_ssl.train.distributed import World
from audio_ssl.train.probing import Probing
from tests.unit.evaluate.runs import MODEL
from tests.unit.probe.corpora import items_of
from tests.unit.probe.in_memory import fold_of
from tests.unit.probe.tones import write_tones

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return write_tones(tmp_path_factory.mktemp("online")).parent


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(3)
    return build_encoder(MODEL)


def opened(corpus, run_dir, *, task="classify.toml", manifests=(), model=MODEL, init_from=None, **settings):
    config = OnlineProbeConfig(tasks=(str(corpus / task),), corpora=corpus, **settings)
    return online.open_online_probe(config, model, CPU, run_dir=run_dir, manifests=manifests, init_from=init_from)


def test_figures_are_those_of_the_whole_probe_on_the_same_items(corpus, encoder, tmp_path):
    save_model_dir(tmp_path / "model", encoder_document(MODEL), {"encoder": encoder})
    found = opened(corpus, tmp_path / "run")
    found.prepare(lambda _: None)
    figures = found(encoder.state_dict())
    task = open_task(corpus / "classify.toml", corpora=corpus)
    for candidate, value in (
        (of_model(tmp_path / "model"), figures["classify_accuracy"]),
        (log_mel(20.0), figures["classify_accuracy_log_mel"]),
    ):
        frames = open_frames(candidate, task.items, cache=tmp_path / "frames")
        (result,) = classify(frames, task.items, task.folds, task=task.task, seeds=(1,), heads=("linear",))
        assert value == result.score.value
    assert figures["tasks"]["classify"]["chance"] == 0.5
    assert figures["tasks"]["classify"]["num_items"] == 24
    assert figures["classify_accuracy_log_mel"] > 0.9


def test_one_layer_is_that_layer(corpus, encoder, tmp_path):
    found = opened(corpus, tmp_path, layer=1, max_items=12)
    candidate = found._live(encoder.state_dict())
    items, _ = subset(*pair(corpus), spread_rows(*pair(corpus), 12))
    frames = online.hold(candidate, items, device=CPU, keeps_clips=True, settings=online._SETTINGS)
    assert (frames.num_layers, len(frames.pooled()), len(items)) == (1, 12, 12)
    assert "layer 1" in "".join(found.describe())
    whole = opened(corpus, tmp_path)._live(encoder.state_dict())
    every = online.hold(whole, items, device=CPU, keeps_clips=True, settings=online._SETTINGS)
    torch.testing.assert_close(every.layer(1).of(5), frames.of(5))
    torch.testing.assert_close(every.layer(1).pooled(), frames.pooled())
    torch.testing.assert_close(frames.of(5).mean(1), frames.pooled()[5, :, : MODEL.dim], atol=2e-3, rtol=1e-2)


def pair(corpus):
    task = open_task(corpus / "classify.toml", corpora=corpus)
    return task.items, task.folds


def test_log_mel_is_measured_once(corpus, encoder, tmp_path, monkeypatch):
    said = []
    opened(corpus, tmp_path).prepare(said.append)
    assert len(said) == 1
    assert "log-mel" in said[0]
    monkeypatch.setattr(online, "hold", lambda *_, **__: pytest.fail("computed again"))
    opened(corpus, tmp_path).prepare(said.append)
    assert said[0].split(" (")[0] == said[1].split(" (")[0]


def test_opening_writes_nothing_and_weights_are_copied(corpus, encoder, tmp_path):
    found = opened(corpus, tmp_path / "run", max_items=12)
    assert not (tmp_path / "run").exists()
    found.prepare(lambda _: None)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    encoder.train()
    found(encoder.state_dict())
    assert encoder.training
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in encoder.parameters() if p.is_floating_point())


def test_frames_that_are_not_finite_are_told(corpus, encoder, tmp_path):
    found = opened(corpus, tmp_path, max_items=12)
    found.prepare(lambda _: None)
    broken = {name: torch.full_like(value, torch.nan) for name, value in encoder.state_dict().items()}
    with pytest.raises(ConfigError, match=r"probe\.tasks: classify cannot be measured .*not finite"):
        found(broken)


def test_a_task_that_cannot_choose_among_layers_is_told_by_the_first_probe(corpus, encoder, tmp_path, caplog):
    """Log-mel has one layer and is measured; of one training speaker there is nobody to find."""
    task = write_tones(corpus, kind="retrieve", split="speakers")
    with task.open("a") as file:
        file.write("shares = { train = 0.34, test = 0.66 }\n")
    found = opened(corpus, tmp_path, task=task.name, max_items=12)
    found.prepare(lambda _: None)
    probing = Probing(1, encoder, World(0, 1, CPU), found)
    with pytest.raises(ConfigError, match=r"^probe\.tasks: retrieve cannot .*one of which must be chosen"):
        probing.measure(is_first=True)
    assert probing.measure() is None
    assert "the run goes on: probe.tasks: retrieve" in caplog.text


def test_items_keep_their_shares_of_parts_labels_and_speakers():
    told = [(f"{who}{label}{i}.wav", who, label) for who in "abc" for label in "xy" for i in range(10)]
    items = items_of(told)
    fold = fold_of(range(20, 60), range(20))
    rows = spread_rows(items, [fold], 12)
    kept = [told[row][1:] for row in rows.tolist()]
    assert sorted(kept) == sorted([(who, label) for who in "abc" for label in "xy"] * 2)
    fewer, (moved,) = subset(items, [fold], rows)
    assert (len(fewer), moved.test.tolist(), moved.train.tolist()) == (12, [0, 1, 2, 3], list(range(4, 12)))
    assert spread_rows(items, [fold], 60).tolist() == list(range(60))
    assert np.array_equal(rows, np.sort(rows))


def test_rows_of_labels_meet_across_sides_before_a_label_has_a_third():
    """a: five of side 0, one of 1; b: three of 0, three of 1; c: four of 0 alone; d: one."""
    labels = np.array([0] * 6 + [1] * 6 + [2] * 4 + [3])
    sides = np.array([0] * 5 + [1] + [0, 0, 0, 1, 1, 1] + [0] * 4 + [0])
    rows = as_rows(range(100, 117))
    for most, expected in ((4, [2, 2, 0, 0]), (7, [2, 2, 2, 1]), (9, [3, 3, 2, 1]), (12, [4, 4, 3, 1])):
        chosen = spread_labels(rows, labels, sides, most=most) - 100
        assert (np.bincount(labels[chosen], minlength=4) == expected).all()
        assert (np.diff(chosen) > 0).all()
        assert all(len(set(sides[chosen][labels[chosen] == label])) == 2 for label in (0, 1))
    assert spread_labels(rows, labels, sides, most=17) is rows
    voices = np.arange(100) // 2  # of half of all voices both, and not those that come first
    chosen = voices[spread_labels(as_rows(range(100)), voices, np.arange(100), most=50)]
    assert (len(np.unique(chosen)), len(chosen)) == (25, 50)
    assert chosen.max() > 40


def test_what_the_run_hears_is_told(corpus, tmp_path):
    manifest = tmp_path / "heard.arrow"
    scan(corpus / "tones", speaker_from="(?P<speaker>[a-z]+)_").manifest.write(manifest)
    lines = list(opened(corpus, tmp_path, manifests=[manifest]).describe())
    assert any("this run heard 24 of 24 test recordings, and 3 of their 3 speakers" in line for line in lines)
    assert not any("heard" in line for line in opened(corpus, tmp_path).describe())
    lines = list(opened(corpus, tmp_path, init_from=tmp_path / "base").describe())
    assert any("base heard in training is not known" in line for line in lines)


@pytest.mark.parametrize(
    ("task", "settings", "said"),
    [
        ("none.toml", {}, "must be a TOML file or one of the shipped tasks"),
        ("recognise.toml", {}, "heads learn for minutes"),
        ("elsewhere.toml", {}, "must hold a folder elsewhere"),
        ("classify.toml", {"max_items": 2}, "without items"),
    ],
)
def test_what_cannot_be_measured_is_told_before_the_start_by_its_setting(corpus, tmp_path, task, settings, said):
    text = (corpus / "classify.toml").read_text()
    words = 'kind = "recognise"\n[labels]\ntable = "words"\n[split]\nkind = "speakers"'
    (corpus / "recognise.toml").write_text(
        f'title = "words"\n{words}\n[data]\nroot = "tones"\nspeaker_from = "(?P<speaker>[a-z]+)_"\n'
    )
    (corpus / "tones" / "words").write_text(
        "".join(f"{path.stem} a b\n" for path in sorted((corpus / "tones").glob("*.wav")))
    )
    (corpus / "elsewhere.toml").write_text(text.replace('"tones"', '"elsewhere"'))
    with pytest.raises(ConfigError) as caught:
        opened(corpus, tmp_path, task=task, **settings)
    assert str(caught.value).startswith("probe.tasks: ")
    assert said in str(caught.value)
    assert "probe.corpora" in str(caught.value)


def test_one_name_twice_is_refused(corpus, tmp_path):
    config = OnlineProbeConfig(tasks=(str(corpus / "classify.toml"),) * 2, corpora=corpus)
    with pytest.raises(ConfigError, match="different names, got classify twice"):
        online.open_online_probe(config, MODEL, CPU, run_dir=tmp_path, manifests=[])


def test_frames_without_room_are_refused(corpus, tmp_path, monkeypatch):
    write_tones(corpus, kind="abx", split="speakers")
    # 24 items of about 14 frames; one has 48 numbers of the encoder and 1120 of log-mel with its neighbours, of 2 bytes
    monkeypatch.setattr(online, "MOST_HELD_BYTES", 24 * 14 * 2 * 600)
    with pytest.raises(ConfigError, match=r"probe\.max_items .* GiB of log-mel, 140 ms; lower it$"):
        opened(corpus, tmp_path, task="abx.toml", layer=1)
    wide = MODEL.model_copy(update={"dim": 480})  # three layers of it
    with pytest.raises(ConfigError, match=r"probe\.max_items .* of the encoder; lower it, or take one probe\.layer"):
        opened(corpus, tmp_path, task="abx.toml", model=wide)
