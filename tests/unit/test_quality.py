"""Wall-clock to quality: clock, schedule and crossing by hand; probes on noise and on leaked labels; one run of all."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import quality

from audio_ssl.config import DataConfig, ModelConfig, OptimConfig, PretrainConfig, RunConfig, Wav2Vec2Config
from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.errors import AudioError, CheckpointError
from audio_ssl.interop.huggingface import from_huggingface
from audio_ssl.model.encoder import build_encoder
from audio_ssl.probe import regression
from audio_ssl.tensors import Batch, is_valid_mask
from benchmarks.cases import CASES
from benchmarks.peers import Transformers
from benchmarks.report import BenchError
from experiment import curves, phones, probes, training
from experiment.budget import Budget, TrainingClock, point_shares, rate_at
from experiment.corpora import Prepared
from experiment.digits import Task, leave_one_speaker_out, t_interval
from experiment.features import of_encoder
from experiment.learners import refuse_settings_without_place
from experiment.training import Judge, train

SMOKE = CASES["smoke"].model


class Time:
    """A clock of the test's own."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_the_clock_counts_only_while_it_runs():
    time = Time()
    clock = TrainingClock(time)
    time.now += 5  # before the start
    clock.start()
    time.now += 7
    assert clock.elapsed_s == 7
    clock.start()
    time.now += 4
    clock.stop()
    time.now += 1000
    clock.stop()
    assert clock.elapsed_s == 11
    clock.start()
    time.now += 2
    assert clock.elapsed_s == 13


def test_a_budget_is_of_minutes_or_of_audio():
    assert Budget(2.0).share(elapsed_s=30, audio_s=9999) == 0.25
    assert Budget(2.0, "audio hours").share(elapsed_s=9999, audio_s=1800) == 0.25
    assert Budget(2.0).share(elapsed_s=121, audio_s=0) == 1


def test_points_lie_closer_at_the_start_and_end_with_the_budget():
    assert point_shares(3) == pytest.approx((1 / 30, math.sqrt(1 / 30), 1))
    assert point_shares(12)[-1] == 1
    assert point_shares(1) == (1,)


def test_the_rate_follows_the_share_of_the_budget():
    optim = OptimConfig(lr=1.0, warmup_share=0.2)
    rates = [rate_at(share, optim) for share in (0, 0.1, 0.2, 0.6, 1.0)]
    assert rates == pytest.approx([0, 0.5, 1, 0.5, 0], abs=1e-5)


class FakeLearner:
    """Takes 10 s an update."""

    optim = OptimConfig(lr=1.0, warmup_share=0.0)
    case = CASES["smoke"]

    def __init__(self, time):
        self.time, self.rates, self.widths = time, [], []

    def step(self, precision, batch, *, rate):
        self.time.now += 10
        self.rates.append(rate)
        self.widths.append(batch.waveforms.shape[1])


class FakeUpdates:
    """Passes of two updates: 1 s and 3 s of audio; each fetch waits 1 s."""

    def __init__(self, time):
        self.time = time

    def epoch(self, epoch, first):
        for width in (16000, 48000):
            self.time.now += 1
            yield (Batch(torch.zeros(1, width), torch.tensor([width]), (0,), is_full=True),)


def drive(budget, num_points=3):
    time = Time()
    learner, points = FakeLearner(time), []

    def on_point(spent):
        time.now += 500  # validation
        points.append((spent.elapsed_s, spent.updates, spent.audio_s))

    train(learner, FakeUpdates(time), precision="fp32", budget=budget, num_points=num_points, on_point=on_point,
          clock=TrainingClock(time))  # fmt: skip
    return learner, points


def test_validation_is_off_the_clock_and_waiting_for_data_on_it():
    learner, points = drive(Budget(0.7))  # 42 s; an update takes 11 s: points due at 1.4 s, 7.7 s and 42 s
    assert points == [(0.0, 0, 0.0), (11.0, 1, 1.0), (44.0, 4, 8.0)]
    assert learner.rates == pytest.approx([1, 1 - 11 / 42, 1 - 22 / 42, 1 - 33 / 42], abs=1e-5)
    assert learner.widths == [16000, 48000, 16000, 48000]


def test_a_budget_of_audio_ends_with_the_audio():
    learner, points = drive(Budget(5 / 3600, "audio hours"))
    assert [point[1:] for point in points] == [(0, 0.0), (1, 1.0), (3, 5.0)]
    assert learner.rates == pytest.approx([1, 1 - 1 / 5, 1 - 4 / 5], abs=1e-5)


@pytest.mark.parametrize(
    ("target", "minutes"), [(5.0, 0.0), (4.5, 0.5), (3.0, 2.0), (2.0, 3.0), (1.9, None)]
)  # fmt: skip
def test_a_curve_reaches_a_value_on_the_line_between_its_points(target, minutes):
    assert curves.minutes_to_reach(target, minutes=[0, 1, 3, 4], values=[5, 4, 2, 3]) == minutes


def write_run(folder, system, losses, accuracies):
    folder.mkdir()
    header = {"system": system, "config": {"objective": {"num_distractors": 100}}}
    (folder / "run.json").write_text(json.dumps(header))
    for i, (loss, accuracy) in enumerate(zip(losses, accuracies, strict=True)):
        row = {"elapsed_s": 60.0 * i, "updates": 10 * i, "audio_h": 0.1 * i}
        row |= {"contrastive_loss": loss, "accuracy": accuracy, "code_perplexity": 99.0}
        with (folder / "curve.jsonl").open("a") as lines:
            lines.write(json.dumps(row) + "\n")


def test_plot_tells_when_each_run_reaches_the_reference(tmp_path, capsys, unpinned):
    write_run(tmp_path / "theirs", "transformers", [4.6, 4.5, 4.4, 4.3, 4.2], [0.0, 0.1, 0.2, 0.3, 0.4])
    write_run(tmp_path / "ours", "audio_ssl", [4.6, math.nan, 4.0], [0.0, 0.9, 0.5])
    write_run(tmp_path / "poor", "audio_ssl", [4.6, 4.5], [0.0, 0.1])
    runs = [str(tmp_path / name) for name in ("theirs", "ours", "poor")]
    picture = tmp_path / "quality.png"
    assert quality.main(["plot", *runs, "--reach", "theirs", "--out", str(picture), "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert all(list(line) == ["bench", "case", "metric", "value", "unit"] for line in lines)
    values = {(line["case"], line["metric"]): line["value"] for line in lines}
    assert values["theirs", "minutes_to_reach"] == values["theirs", "minutes"] == 4
    assert values["ours", "minutes_to_reach"] == pytest.approx(2 * 0.4 / 0.6)  # the point that is NaN is none
    assert values["ours", "ratio_to_reach"] == pytest.approx(3)
    assert values["ours", "minutes_to_reach_accuracy"] == pytest.approx(1.6)
    assert ("poor", "minutes_to_reach") not in values
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert quality.main(["plot", *runs, "--reach", "nobody", "--out", str(picture)]) == 2
    assert "theirs, ours, poor" in capsys.readouterr().err


# --- probes


def noise_features(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def spread_task(num, speakers):
    return Task(torch.arange(num) % 10, tuple(speakers[i // 10 % len(speakers)] for i in range(num)), 10)


def test_digits_of_noise_are_guessed_at_chance():
    result = leave_one_speaker_out(noise_features(450, 2, 7), spread_task(450, "abc"))
    assert 0.05 < result.accuracy < 0.15
    assert result.interval[0] < result.accuracy < result.interval[1]


def test_a_label_that_leaks_into_one_layer_is_found_there():
    task = spread_task(330, "abc")
    features = noise_features(330, 3, 11)
    features[:, 1, :10] = 5 * torch.nn.functional.one_hot(task.labels, 10)
    result = leave_one_speaker_out(features, task)
    assert result.of_speaker == {"a": 1.0, "b": 1.0, "c": 1.0}
    assert result.layer_weights[1] > 0.5


def test_a_speaker_is_tested_without_his_own_labels():
    task = spread_task(400, "abcd")
    odd = torch.tensor([speaker == "d" for speaker in task.speakers])
    told = torch.nn.functional.one_hot(task.labels + 10 * odd, 20)  # d tells by channels that nobody else uses
    result = leave_one_speaker_out(told[:, None].float(), task)
    assert result.of_speaker == {"a": 1.0, "b": 1.0, "c": 1.0, "d": 0.1}


def test_intervals_are_students():
    low, high = t_interval([0.2, 0.4, 0.6])  # mean .4, deviation .2, t(2) = 4.303
    assert (low, high) == pytest.approx((0.4 - 4.303 * 0.2 / math.sqrt(3), 0.4 + 4.303 * 0.2 / math.sqrt(3)), abs=1e-4)
    assert t_interval([0.5]) == (-math.inf, math.inf)


def spoken(num, *, leak):
    """Utterances of 2 to 6 phones, three frames each and a frame of silence after it."""
    generator = np.random.default_rng(1)
    found = []
    for i in range(num):
        said = generator.integers(1, 6, size=2 + i % 5)
        frames = generator.normal(size=(4 * len(said), 2, 6)).astype(np.float32)
        if leak:
            columns = np.column_stack([said, said, said, np.zeros_like(said)]).ravel()
            frames[:, 0] = 3 * np.eye(6)[columns]
        found.append(phones.Utterance(torch.from_numpy(frames).bfloat16(), tuple(f"P{p}" for p in said), f"s{i % 7}"))
    return found


def test_phones_of_noise_are_not_heard_and_leaked_ones_are(monkeypatch):
    monkeypatch.setattr(phones, "SEEDS", (1, 2))
    monkeypatch.setattr(phones, "NUM_EPOCHS", 60)
    told = spoken(160, leak=True)
    result = phones.probe(told[:120], told[120:])
    assert result.error_rate == 0
    assert result.nats < 0.1
    assert result.layer_weights[0] > 0.6
    unheard = spoken(160, leak=False)
    result = phones.probe(unheard[:120], unheard[120:])
    assert 0.7 < result.error_rate < 1.3
    assert result.interval[0] < result.error_rate < result.interval[1]
    assert set(result.of_seed) == {1, 2}
    assert result.nats > 1


def test_phones_are_learned_from_every_nth_row(tmp_path):
    manifest = Manifest.from_rows([Utterance(f"u{i}", f"{i}.wav", 0, 16000, 16000) for i in range(11)], root=tmp_path)
    assert phones.train_rows(manifest, hours=4 / 3600) == [0, 3, 6, 9]
    assert phones.train_rows(manifest, hours=1.0) == list(range(11))


# --- systems


def test_weights_come_back_from_transformers_as_they_went():
    pytest.importorskip("transformers")
    config = PretrainConfig(
        model=SMOKE, objective=Wav2Vec2Config(), data=DataConfig(train=("x",)), run=RunConfig(dir="x")
    )
    tensors = training.build_module(config, None).state_dict()
    peer = Transformers(CASES["smoke"], trains=True)
    peer.take(tensors)
    back = peer.tensors()
    assert set(back) == set(tensors)
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())
    with pytest.raises(CheckpointError, match="stray"):
        from_huggingface({"stray.weight": torch.zeros(1)})


def test_transformers_masks_and_contrasts_within_the_rows_of_a_padded_batch(monkeypatch):
    pytest.importorskip("transformers")
    peer = Transformers(CASES["smoke"], trains=True)
    num_samples = torch.tensor([16000, 6000])
    waveforms = noise_features(2, 16000) * is_valid_mask(num_samples, 16000)
    seen = {}
    forward = peer.module.forward

    def spy(waveforms, attention_mask, **rest):
        seen.update(rest, attention_mask=attention_mask)
        return forward(waveforms, attention_mask, **rest)

    monkeypatch.setattr(peer.module, "forward", spy)
    for _ in range(5):
        loss = peer.loss(Batch(waveforms, num_samples, (0, 1), is_full=False))
        assert torch.isfinite(loss)
        assert seen["attention_mask"].sum(1).tolist() == [16000, 6000]
        is_valid = is_valid_mask(SMOKE.geometry.num_frames(num_samples), 49)
        is_masked = seen["mask_time_indices"]
        assert is_masked.any(1).all()
        assert not is_masked[~is_valid].any()
        negatives = seen["sampled_negative_indices"][is_masked]
        assert is_masked.flatten()[negatives.flatten()].all()
    peer.loss(Batch(waveforms, num_samples, (0, 1), is_full=True))
    assert seen["attention_mask"] is None


def test_settings_that_transformers_lacks_are_refused():
    def config(penalty, **changes):
        return PretrainConfig(
            model=ModelConfig(preset="small", **changes),
            objective=Wav2Vec2Config(feature_penalty_weight=penalty, diversity_weight=0.7),
            data=DataConfig(train=("x",)),
            run=RunConfig(dir="x"),
        )

    refuse_settings_without_place(config(0.0))
    with pytest.raises(BenchError, match=r"feature_grad_scale must be 1.0, got 0.5; objective.feature_penalty_weight"):
        refuse_settings_without_place(config(10.0, feature_grad_scale=0.5))


# --- everything


@pytest.fixture
def unpinned(monkeypatch):
    """The tests' own process keeps its threads, its processors and its allocator."""
    monkeypatch.setattr(quality, "pin", lambda threads, *, keep_kernels: None)


def write_audio(path, seconds, rate, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(seed).normal(scale=0.1, size=int(seconds * rate))
    sf.write(path, samples.astype(np.float32), rate)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """Two corpora of noise: 5 speakers x 3 sentences with phones, and 3 speakers x 10 digits at 8 kHz."""
    root = tmp_path_factory.mktemp("corpora")
    lines = {"wav.scp": [], "text": [], "utt2spk": [], "text-phone": []}
    for speaker in range(5):
        for i in range(3):
            name = f"{speaker:02}{i}"
            write_audio(root / f"speechocean762/wav/{name}.wav", 0.9 + 0.1 * i, 16000, speaker * 10 + i)
            lines["wav.scp"].append(f"{name} wav/{name}.wav")
            lines["text"].append(f"{name} WE")
            lines["utt2spk"].append(f"{name} spk{speaker}")
            lines["text-phone"] += [f"{name}.0\tW_B IY0_E", f"{name}.1\tAO{i}_S"]
    for name, rows in lines.items():
        (root / "speechocean762" / name).write_text("".join(f"{row}\n" for row in rows))
    for speaker in ("ann", "bob", "cy"):
        for digit in range(10):
            write_audio(root / f"fsdd/{digit}_{speaker}_0.wav", 0.31, 8000, digit)
    return root


TINY = [
    "model.conv_dims=[16,16,16,16,16,16,16]", "model.dim=32", "model.num_layers=2", "model.num_heads=2",
    "model.ffn_dim=64", "model.pos_conv_kernel=16", "model.pos_conv_groups=4", "data.batch_s=4",
    "data.micro_batch_s=4", "data.max_s=4", "data.min_s=0.2", "data.num_workers=0", "run.precision=fp32",
]  # fmt: skip


def test_from_corpora_to_curves_and_probes(corpora, tmp_path, monkeypatch, capsys, unpinned):
    pytest.importorskip("transformers")
    kept = []
    monkeypatch.setattr(training, "keep_freed_memory", lambda: kept.append("kept"))
    monkeypatch.setattr(phones, "NUM_EPOCHS", 1)
    monkeypatch.setattr(phones, "SEEDS", (1,))
    monkeypatch.setattr(regression, "MAX_ITERATIONS", 3)
    data = tmp_path / "data"
    assert quality.main(["data", "--corpora", str(corpora), "--out", str(data)]) == 0
    parts = {
        name: set(Manifest.read(data / f"split/{name}.arrow").column("speaker")) for name in ("train", "valid", "test")
    }
    assert sum(map(len, parts.values())) == len(set().union(*parts.values())) == 5
    unlabelled = Manifest.read(data / "unlabelled.arrow").column("speaker")
    assert set(unlabelled) == parts["train"] | {"ann", "bob", "cy"}
    overrides = [word for value in TINY for word in ("--set", value)]
    for system in ("audio_ssl", "transformers"):
        words = ["--system", system, "--audio-hours", "0.005", "--points", "3", "--data", str(data), *overrides]
        assert quality.main(["train", *words, "--out", str(tmp_path / system)]) == 0
    assert kept == ["kept", "kept"]
    ours, theirs = (
        [json.loads(line) for line in (tmp_path / system / "curve.jsonl").read_text().splitlines()]
        for system in ("audio_ssl", "transformers")
    )
    keys = ["elapsed_s", "updates", "audio_h", "contrastive_loss", "accuracy", "code_perplexity"]
    assert all(list(row) == keys for row in (*ours, *theirs))
    assert ours[0] == theirs[0]  # equal weights at the start, and the same validation
    assert [row["audio_h"] for row in ours] == [row["audio_h"] for row in theirs]  # the same batches
    assert ours[-1]["audio_h"] >= 0.005
    assert ours[-1]["contrastive_loss"] != theirs[-1]["contrastive_loss"] != theirs[0]["contrastive_loss"]
    assert quality.main(["train", *words, "--out", str(tmp_path / "transformers")]) == 2
    assert "must hold no run" in capsys.readouterr().err

    out = tmp_path / "probes.json"
    models = [str(tmp_path / "audio_ssl"), str(tmp_path / "transformers" / "model")]
    assert quality.main(["probe", *models, "--data", str(data), "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert list(found) == ["log-mel", "log-mel, 140 ms", "random weights", "audio_ssl", "transformers"]
    assert set(found["log-mel"]["digits"]["of_speaker"]) == {"ann", "bob", "cy"}
    assert len(found["audio_ssl"]["phones"]["layer_weights"]) == 3
    assert found["audio_ssl"] != found["random weights"] != found["transformers"]


def test_the_judge_draws_the_same_masks_for_all_weights(corpora, tmp_path, unpinned):
    data = tmp_path / "data"
    assert quality.main(["data", "--corpora", str(corpora), "--out", str(data)]) == 0
    config = PretrainConfig(
        model=SMOKE, data=DataConfig(train=(data / "unlabelled.arrow",), valid=(data / "split/valid.arrow",)),
        run=RunConfig(dir=tmp_path / "run", seed=2),
    )  # fmt: skip
    judge = Judge(config, "fp32")
    first = judge.tensors()
    other = {name: tensor + 0.1 * torch.rand_like(tensor) for name, tensor in first.items()}
    once = judge.measure(first, 3)
    assert judge.measure(other, 3) != once
    assert judge.measure(first, 3) == once


def test_bad_input_is_told_in_a_line(corpora, tmp_path, capsys, unpinned):
    where = ["--data", str(tmp_path), "--out", str(tmp_path / "run")]
    assert quality.main(["train", "--system", "audio_ssl", "--minutes", "1", *where]) == 2
    assert "must hold what `quality.py data` makes" in capsys.readouterr().err
    assert quality.main(["data", "--corpora", str(tmp_path), "--out", str(tmp_path / "data")]) == 2
    assert "has no speechocean762" in capsys.readouterr().err
    assert quality.main(["data", "--corpora", str(corpora), "--out", str(tmp_path)]) == 0
    several = ["--set", "data.batch_s=120"]
    assert quality.main(["train", "--system", "audio_ssl", "--minutes", "1", *where, *several]) == 2
    assert "data.batch_s must be <= data.micro_batch_s, got 120 and 60" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        quality.main(["train", "--system", "audio_ssl", "--minutes", "0", *where])
    (tmp_path / "pair").mkdir()
    short = Manifest.from_rows([Utterance("u", "u.wav", 0, 100, 16000)], root=tmp_path / "pair")
    write_audio(tmp_path / "pair" / "u.wav", 100 / 16000, 16000, 1)
    features = of_encoder("tiny", build_encoder(SMOKE))
    with pytest.raises(AudioError, match=r"tiny of u \(.*u\.wav\): it must last"):
        list(features.of(short, [0]))
    with pytest.raises(BenchError, match="different names"):
        probes.run([tmp_path / "a", tmp_path / "b" / ".." / "a"], Prepared(tmp_path), tmp_path / "x.json")
