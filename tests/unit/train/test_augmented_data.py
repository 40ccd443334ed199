"""Training data with augmentation: validation stays as it is, and a plan counts on the longest result."""

from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch

from audio_ssl.config import AugmentConfig, DataConfig, MixtureConfig, TextRules
from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.data.text import Vocabulary, min_ctc_frames
from audio_ssl.geometry import ConvGeometry
from audio_ssl.train.datasets import open_training_data
from audio_ssl.train.distributed import World
from audio_ssl.train.transcripts import read_transcripts
from audio_ssl.train.updates import open_updates

RATE = 16000
LENGTHS = (16_000, 20_000, 30_001, 31_999, 17_003, 24_000, 40_000)


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    rows = []
    for i, length in enumerate(LENGTHS):
        sf.write(tmp_path / f"{i}.wav", 0.1 * generator.standard_normal(length), RATE)
        rows.append(Utterance(f"u{i}", f"{i}.wav", 0, length, RATE, text="ab"))
    Manifest.from_rows(rows, root=tmp_path).write(tmp_path / "speech.tsv")
    return tmp_path / "speech.tsv"


def opened(speech: Path, augment: AugmentConfig | None, *, is_train: bool = True, labels: bool = True):
    config = DataConfig(train=(speech,), max_s=2.0, batch_s=4.0, micro_batch_s=4.0, engine="threads", num_workers=2)
    return config, open_training_data(
        config.train, config, sample_rate_hz=RATE, normalize=True, min_samples=400, seed=3, is_train=is_train,
        augment=augment, label_samples=np.full(7, 400) if labels else None,
    )  # fmt: skip


def test_validation_sees_no_augmentation(speech: Path):
    every = AugmentConfig(speed=(0.9,), mix_prob=1, band_limit_hz=(3000,), band_limit_prob=1)
    for labels in (True, False):
        (_, plain), (_, augmented) = (opened(speech, a, is_train=False, labels=labels) for a in (None, every))
        assert plain.num_samples.tolist() == augmented.num_samples.tolist()
        pairs = zip(*(d.loader.batches(d.eval_batches(4.0)) for d in (plain, augmented)), strict=True)
        assert all(torch.equal(a.waveforms, b.waveforms) for a, b in pairs)


def test_cropped_rows_keep_their_planned_lengths(speech: Path):
    _, plain = opened(speech, None, labels=False)
    config, data = opened(speech, AugmentConfig(speed=(0.9, 1.1)), labels=False)
    assert data.num_samples.tolist() == plain.num_samples.tolist() == [min(n, 32_000) for n in LENGTHS]
    for (batch,) in open_updates(data, config, seed=3, world=World(0, 1, torch.device("cpu"))).epoch(0, 0):
        assert batch.num_samples.tolist() == [min(LENGTHS[row], 32_000) for row in batch.rows]


def test_labelled_rows_change_their_length_within_the_budget(speech: Path):
    config, data = opened(speech, AugmentConfig(speed=(0.9, 1.1)))
    # row 6 is longer than max_s; at 0.9 rows 2 and 3 would be
    assert data.num_samples.tolist() == [17_778, 22_223, 30_001, 31_999, 18_893, 26_667]
    assert data.hours == pytest.approx(sum(LENGTHS[:6]) / RATE / 3600)
    heard: dict[int, set[int]] = {}
    updates = open_updates(data, config, seed=3, world=World(0, 1, torch.device("cpu")))
    for epoch in range(8):
        for micro_batches in updates.epoch(epoch, 0):
            for batch in micro_batches:
                assert batch.num_samples.max() * len(batch.rows) <= 4 * RATE
                for row, length in zip(batch.rows, batch.num_samples.tolist(), strict=True):
                    heard.setdefault(row, set()).add(length)
    assert heard[0] == {17_778, 14_546}  # ceil(16000 / 0.9), ceil(16000 / 1.1)
    assert heard[3] == {29_090}


@pytest.mark.parametrize("labels", [True, False])
def test_shares_of_a_mixture_are_of_audio_at_its_own_speed_after_cropping(speech: Path, labels: bool):
    config, data = opened(speech, AugmentConfig(speed=(0.9, 1.1)), labels=labels)
    mixed = config.model_copy(update={"mixture": MixtureConfig(temperature=1)})
    mixture = open_updates(data, mixed, seed=3, world=World(0, 1, torch.device("cpu"))).mixture
    # labels: row 6 is left out, for it is longer than max_s; without them it is cropped
    lengths = [*LENGTHS[:6]] if labels else [*LENGTHS[:6], 32_000]
    assert mixture.num_samples.tolist() == data.own_samples().tolist() == lengths
    assert [(s.name, s.pass_samples, s.quota_samples) for s in mixture.sources] == [
        ("speech", sum(lengths), sum(lengths))
    ]


def test_validation_is_never_mixed(speech: Path):
    config, _ = opened(speech, None)
    mixed = config.model_copy(update={"mixture": MixtureConfig(weights={"no such source": 1})})
    valid = open_training_data(
        mixed.train, mixed, sample_rate_hz=RATE, normalize=True, min_samples=400, seed=3, is_train=False
    )
    assert sorted(row for batch in valid.eval_batches(4.0) for row in batch) == list(range(7))


def test_the_samples_that_labels_need(tmp_path: Path):
    geometry = ConvGeometry((4,), (2,))
    texts = ("abc", "aabbc", None)
    rows = [Utterance(f"u{i}", f"{i}.wav", 0, 99, 100, text=text) for i, text in enumerate(texts)]
    manifest = Manifest.from_rows(rows, root=tmp_path)
    vocabulary = Vocabulary.from_texts(["abc"], rules=TextRules())
    transcripts = read_transcripts(manifest, vocabulary, sample_rate_hz=100, geometry=geometry)
    assert transcripts.min_samples.tolist() == [8, 16, 0]  # 3 frames; 5 labels and 2 repeats: 7 frames
    for labels, samples in zip(transcripts.labels[:2], (8, 16), strict=True):
        needed = min_ctc_frames(labels.tolist())
        assert geometry.num_frames(samples) == needed
        assert geometry.num_frames(samples - 1) == needed - 1
