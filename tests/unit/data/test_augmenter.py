"""Augmentation through the loader: what is drawn, from which generator, and what happens to helpers that are bad."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch

from audio_ssl.config import AugmentConfig
from audio_ssl.data import rows as rows_module
from audio_ssl.data.audio import load_waveform
from audio_ssl.data.augment import augmenter as augmenter_module
from audio_ssl.data.augment import effects
from audio_ssl.data.augment.augmenter import longest_results
from audio_ssl.data.engine_fairseq2 import fairseq2_unavailable
from audio_ssl.data.loader import Loader
from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.data.waveform import normalize, resample
from audio_ssl.errors import ConfigError, ManifestError, TrainingError
from audio_ssl.rng import numpy_generator
from tests.unit.data.conftest import noise

RATE = 16000
MICRO_BATCHES = [(3, 0), (6,), (1, 5, 2), (4, 4)]
SEED = 5


def make(manifest: Manifest, augment: AugmentConfig | None, **settings) -> Loader:
    defaults = {"sample_rate_hz": RATE, "normalize": False, "engine": "threads", "num_workers": 0, "seed": SEED}
    return Loader(manifest, augment=augment, **{**defaults, **settings})


def only(loader: Loader, row: int = 0, epoch: int = 0) -> np.ndarray:
    (batch,) = loader.batches([(row,)], epoch=epoch)
    return batch.waveforms[0, : int(batch.num_samples[0])].numpy()


def power_db(waveform: np.ndarray) -> float:
    return 10 * np.log10(np.mean(waveform.astype(np.float64) ** 2))


def write_manifest(folder: Path, samples: Sequence[np.ndarray | None], *, rate: int = RATE) -> Path:
    """A manifest of float WAV files; None is a file that is not there."""
    folder.mkdir(parents=True)
    found = []
    for i, waveform in enumerate(samples):
        if waveform is not None:
            sf.write(folder / f"{i}.wav", waveform, rate, subtype="FLOAT")
        found.append(Utterance(f"{folder.name}{i}", f"{i}.wav", 0, 16000 if waveform is None else len(waveform), rate))
    Manifest.from_rows(found, root=folder).write(folder / "all.tsv")
    return folder / "all.tsv"


@pytest.fixture
def noises(tmp_path: Path) -> Path:
    """A long one, a short one, and a third."""
    return write_manifest(tmp_path / "noise", [noise(30_011, seed=71), noise(2003, seed=72), noise(9001, seed=73)])


@pytest.fixture
def rooms(tmp_path: Path) -> Path:
    decay = np.exp(-np.arange(4000) / 600).astype(np.float32)
    return write_manifest(tmp_path / "rooms", [noise(4000, seed=s) * decay for s in (81, 82, 83)])


@pytest.fixture
def everything(noises: Path, rooms: Path) -> AugmentConfig:
    return AugmentConfig(
        speed=(0.9, 1.0, 1.1), reverb=(rooms,), reverb_prob=0.5, mix_prob=0.5, noise=(noises,), noise_prob=0.5,
        gain_db=(-6, 6), band_limit_hz=(3400, 6000), band_limit_prob=0.5,
        codecs=("ulaw", "alaw", "gsm", "opus"), codec_prob=0.5,
    )  # fmt: skip


@pytest.mark.parametrize(("engine", "num_workers"), [("threads", 1), ("threads", 4), ("fairseq2", 1), ("fairseq2", 4)])
def test_engines_and_workers_change_nothing(corpus: Manifest, everything, engine: str, num_workers: int):
    if engine == "fairseq2" and fairseq2_unavailable() is not None:
        pytest.skip(f"fairseq2: {fairseq2_unavailable()}")
    settings = {"normalize": True, "max_samples": 9001}
    reference = make(corpus, everything, **settings)
    other = make(corpus, everything, engine=engine, num_workers=num_workers, **settings)
    for epoch in range(3):
        pairs = zip(
            reference.batches(MICRO_BATCHES, epoch=epoch), other.batches(MICRO_BATCHES, epoch=epoch), strict=True
        )
        for a, b in pairs:
            assert (a.rows, a.num_samples.tolist()) == (b.rows, b.num_samples.tolist())
            assert torch.equal(a.waveforms, b.waveforms)
    assert reference.bad_rows.num_asked == other.bad_rows.num_asked


def test_rows_differ_by_epoch_row_and_seed_and_come_back(corpus: Manifest, everything):
    loader = make(corpus, everything)
    first, again = (only(loader, 5, epoch=1) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, only(loader, 5, epoch=2))
    assert not np.array_equal(first, only(make(corpus, everything, seed=SEED + 1), 5, epoch=1))
    (both,) = loader.batches([(3, 5)], epoch=1)
    np.testing.assert_array_equal(both.waveforms[1].numpy()[: len(first)], first)  # whatever else is in the batch


def test_a_row_that_comes_again_in_an_epoch_is_changed_anew(
    corpus: Manifest, everything, monkeypatch: pytest.MonkeyPatch
):
    drawn: dict[tuple[int, ...], set[str]] = {}

    def watched(seed: int, purpose: str, *indices: int):
        drawn.setdefault(indices, set()).add(purpose)
        return numpy_generator(seed, purpose, *indices)

    monkeypatch.setattr(rows_module, "numpy_generator", watched)
    monkeypatch.setattr(augmenter_module, "numpy_generator", watched)
    loader = make(corpus, everything, max_samples=9001)
    first, again, other = (only(loader, entry, epoch=3) for entry in (5, 5 + 2 * 7, 5 + 4 * 7))  # row + copy * 7
    assert len({waveform.tobytes() for waveform in (first, again, other)}) == 3
    np.testing.assert_array_equal(again, only(loader, 5 + 2 * 7, epoch=3))
    kinds = {f"augment/{kind}" for kind in ("speed", "reverb", "mix", "noise", "gain", "band_limit", "codec")}
    assert drawn == {indices: {"crop", *kinds} for indices in ((3, 5), (3, 5, 2), (3, 5, 4))}


def test_lengths_are_those_that_a_plan_was_made_from(corpus: Manifest, everything):
    planned = np.minimum(corpus.num_samples_at(RATE), 9001)
    for epoch in range(5):
        for batch in make(corpus, everything, max_samples=9001).batches(MICRO_BATCHES, epoch=epoch):
            assert batch.num_samples.tolist() == planned[list(batch.rows)].tolist()


@pytest.mark.parametrize("augment", [None, AugmentConfig(), AugmentConfig(noise=(Path("not.there"),))])
def test_off_draws_nothing_and_changes_nothing(corpus: Manifest, augment, monkeypatch: pytest.MonkeyPatch):
    drawn = []

    def watched(seed: int, purpose: str, *indices: int):
        drawn.append(purpose)
        return numpy_generator(seed, purpose, *indices)

    monkeypatch.setattr(rows_module, "numpy_generator", watched)
    monkeypatch.setattr(augmenter_module, "numpy_generator", watched)
    loader = make(corpus, augment, normalize=True, max_samples=9001)
    assert loader._augmenter is None
    for row in range(7):
        whole = load_waveform(corpus, row, sample_rate_hz=RATE)
        spare = max(0, len(whole) - 9001)
        start = int(numpy_generator(SEED, "crop", 3, row).integers(0, spare + 1)) if spare else 0
        np.testing.assert_array_equal(only(loader, row, epoch=3), normalize(whole[start : start + 9001]))
    assert set(drawn) == {"crop"}


ALONE = {
    "speed": {"speed": (0.9,)}, "reverb": {"reverb_prob": 1.0}, "mix": {"mix_prob": 1.0}, "noise": {"noise_prob": 1.0},
    "band_limit": {"band_limit_hz": (3000,), "band_limit_prob": 1.0}, "codec": {"codecs": ("gsm",), "codec_prob": 1.0},
}  # fmt: skip


@pytest.mark.parametrize("kind", ALONE)
def test_each_kind_changes_rows_and_no_draw_of_another(corpus: Manifest, noises: Path, rooms: Path, kind: str):
    """With a gain drawn after it, the gain is the same whether the kind is on or not."""
    alone = AugmentConfig(noise=(noises,), reverb=(rooms,), **ALONE[kind])
    with_gain = alone.model_copy(update={"gain_db": (-20.0, 20.0)})
    plain, changed = only(make(corpus, None), 2), only(make(corpus, alone), 2)
    assert not np.array_equal(plain, changed)
    gain = only(make(corpus, AugmentConfig(gain_db=(-20.0, 20.0))), 2)
    gain_db = power_db(gain) - power_db(plain)
    assert gain_db == pytest.approx(numpy_generator(SEED, "augment/gain", 0, 2).uniform(-20, 20), abs=1e-3)
    if kind != "codec":  # it comes after the gain, and is not linear
        assert power_db(only(make(corpus, with_gain), 2)) - power_db(changed) == pytest.approx(gain_db, abs=1e-3)


def test_the_order_is_that_of_the_settings(corpus: Manifest, noises: Path, rooms: Path):
    """Each drawn with certainty: the effects one by one give the same."""
    config = AugmentConfig(
        reverb=(rooms,), reverb_prob=1, noise=(noises,), noise_prob=1, noise_snr_db=(0, 0), gain_db=(3, 3),
        band_limit_hz=(5000,), band_limit_prob=1, codecs=("alaw",), codec_prob=1,
    )  # fmt: skip
    reverbed = only(make(corpus, AugmentConfig(reverb=(rooms,), reverb_prob=1)), 1)
    got = only(make(corpus, config), 1)
    noisy = only(
        make(corpus, config.model_copy(update={"gain_db": (0.0, 0.0), "band_limit_prob": 0, "codec_prob": 0})), 1
    )
    assert power_db(reverbed) - power_db(noisy - reverbed) == pytest.approx(0, abs=1e-3)
    expected = effects.change_gain(noisy, gain_db=3)
    expected = effects.limit_band(expected, cutoff_hz=5000, sample_rate_hz=RATE)
    np.testing.assert_array_equal(got, effects.through_codec(expected, codec="alaw", sample_rate_hz=RATE))


def test_probabilities_are_shares_of_the_rows(corpus: Manifest):
    loader = make(corpus, AugmentConfig(band_limit_hz=(3000,), band_limit_prob=0.3))
    plain = only(make(corpus, None), 0)
    changed = sum(not np.array_equal(only(loader, 0, epoch=e), plain) for e in range(200))
    assert 40 <= changed <= 80  # 60 expected, 6.5 the standard deviation


def test_faster_speech_is_a_longer_stretch_of_the_row(corpus: Manifest):
    whole = load_waveform(corpus, 6, sample_rate_hz=RATE)  # 17600 samples
    for epoch in range(5):
        got = only(make(corpus, AugmentConfig(speed=(1.1,)), max_samples=9001), 6, epoch)
        part = 9901  # of 9900 come 9000
        start = int(numpy_generator(SEED, "crop", epoch, 6).integers(0, 17600 - part + 1))
        expected = resample(whole[start : start + part], from_hz=11, to_hz=10)
        np.testing.assert_array_equal(got, expected[:9001])


def test_slower_speech_is_a_shorter_stretch_of_the_row(corpus: Manifest):
    whole = load_waveform(corpus, 0, sample_rate_hz=RATE)  # 8000 samples, of which 7200 make 8000
    starts = set()
    for epoch in range(5):
        start = int(numpy_generator(SEED, "crop", epoch, 0).integers(0, 801))
        got = only(make(corpus, AugmentConfig(speed=(0.9,))), 0, epoch)
        np.testing.assert_array_equal(got, resample(whole[start : start + 7200], from_hz=9, to_hz=10))
        starts.add(start)
    assert len(starts) > 2


def test_speeds_that_do_not_fit_are_not_drawn(corpus: Manifest):
    loader = make(corpus, AugmentConfig(speed=(1.1, 2.0)), max_samples=9001)
    plain = make(corpus, None, max_samples=9001)
    # row 0 has 8000 samples and stays as it is; row 6 has 17600: enough for 1.1 (9901), not for 2.0 (18001)
    np.testing.assert_array_equal(only(loader, 0), only(plain, 0))
    slow = make(corpus, AugmentConfig(speed=(1.1,)), max_samples=9001)
    for epoch in range(6):
        np.testing.assert_array_equal(only(loader, 6, epoch), only(slow, 6, epoch))


def test_every_fitting_speed_is_drawn(corpus: Manifest):
    loader = make(corpus, AugmentConfig(speed=(0.9, 1.0, 1.1)), max_samples=9001)
    drawn = [loader._augmenter.speed(6, epoch=e, num_samples=17600) for e in range(300)]
    for speed in (0.9, 1.0, 1.1):
        assert 70 <= drawn.count(speed) <= 130


def test_labelled_rows_stay_whole_at_any_speed(corpus: Manifest):
    whole = load_waveform(corpus, 2, sample_rate_hz=RATE)  # 11200 samples
    config = AugmentConfig(speed=(0.9, 1.1))
    needs = np.zeros(7, dtype=np.int64)
    seen = set()
    for epoch in range(12):
        got = only(make(corpus, config, max_samples=17600, min_row_samples=needs), 2, epoch)
        up, down = {12445: (10, 9), 10182: (10, 11)}[len(got)]  # ceil(11200 / 0.9), ceil(11200 / 1.1)
        np.testing.assert_array_equal(got, resample(whole, from_hz=down, to_hz=up))
        seen.add(len(got))
    assert seen == {12445, 10182}
    needs[2] = 10183  # its labels do not fit the faster one
    shorter = {len(only(make(corpus, config, max_samples=17600, min_row_samples=needs), 2, e)) for e in range(12)}
    assert shorter == {12445}
    longer = {len(only(make(corpus, config, max_samples=12444, min_row_samples=needs), 2, e)) for e in range(12)}
    assert longer == {11200}  # neither fits: its own speed


def test_a_plan_counts_on_the_slowest_speed_that_fits():
    lengths = np.array([900, 1000, 901, 10])
    assert longest_results(lengths, (0.9, 1.0, 1.1), max_samples=1000).tolist() == [1000, 1000, 901, 12]
    assert longest_results(lengths, (1.1,), max_samples=1000).tolist() == lengths.tolist()
    assert longest_results(lengths, (0.5, 0.95), max_samples=1000).tolist() == [948, 1000, 949, 20]


def test_noise_is_a_random_stretch_at_its_snr(corpus: Manifest, noises: Path):
    config = AugmentConfig(noise=(noises,), noise_prob=1, noise_snr_db=(3.0, 17.0))
    plain = only(make(corpus, None), 3)  # 12800 samples
    sources = [sf.read(noises.parent / f"{i}.wav", dtype="float32")[0] for i in range(3)]
    seen = {0: set(), 1: set(), 2: set()}
    for epoch in range(40):
        added = only(make(corpus, config), 3, epoch) - plain
        generator = numpy_generator(SEED, "augment/noise", epoch, 3)
        generator.random()
        snr_db = generator.uniform(3.0, 17.0)
        assert power_db(plain) - power_db(added) == pytest.approx(snr_db, abs=1e-3)
        source, place = _found(added, sources)
        seen[source].add(place)
    assert min(map(len, seen.values())) > 4  # each source, at many places


def _found(added: np.ndarray, sources: list[np.ndarray]) -> tuple[int, int]:
    """Which source, looped, the noise comes from, and where it starts there."""
    for i, source in enumerate(sources):
        looped = np.tile(source, 2 + len(added) // len(source)) if len(source) < len(added) else source
        if len(looped) < len(added):
            continue
        head = np.correlate(looped[: len(source) + 200], added[:200] / np.linalg.norm(added[:200]), "valid")
        start = int(np.abs(head).argmax())
        window = looped[start : start + len(added)]
        if len(window) == len(added) and np.corrcoef(window, added)[0, 1] > 0.9999:
            return i, start
    raise AssertionError("the noise is a stretch of no source")


def test_noise_at_another_rate_is_resampled(corpus: Manifest, tmp_path: Path):
    tone = (0.5 * np.sin(2 * np.pi * 1000 * np.arange(48000) / 48000)).astype(np.float32)
    path = write_manifest(tmp_path / "tones", [tone], rate=48000)
    plain = only(make(corpus, None), 0)
    added = only(make(corpus, AugmentConfig(noise=(path,), noise_prob=1)), 0) - plain
    assert np.abs(np.fft.rfft(added * np.hanning(8000))).argmax() == 500  # bins of 2 Hz


def test_mixing_lays_another_row_over_half_at_most(corpus: Manifest):
    config = AugmentConfig(mix_prob=1, mix_snr_db=(2.0, 2.0))
    waveforms = [load_waveform(corpus, row, sample_rate_hz=RATE) for row in range(7)]
    spans, others = [], set()
    for epoch in range(60):
        added = only(make(corpus, config), 4, epoch) - waveforms[4]  # 14400 samples
        where = np.flatnonzero(added)
        first, last = int(where[0]), int(where[-1])
        spans.append(last + 1 - first)
        if spans[-1] < 400:
            continue
        piece = added[first : last + 1]
        scores = {row: np.abs(np.correlate(waveforms[row], piece[:300], "valid")).max() for row in range(7) if row != 4}
        others.add(max(scores, key=scores.get))
    assert max(spans) <= 7200
    assert max(spans) > 6000
    assert np.mean(spans) == pytest.approx(3600, rel=0.25)
    assert others == {0, 1, 2, 3, 5, 6}


def test_mixing_comes_at_its_snr(corpus: Manifest, tmp_path: Path):
    """Rows of one level each: then the stretch has the level of its row."""
    square = np.sign(np.sin(np.arange(20_000) * 0.3 + 0.1)).astype(np.float32)
    manifest = Manifest.read(write_manifest(tmp_path / "squares", [0.5 * square, 0.01 * square]))
    config = AugmentConfig(mix_prob=1, mix_snr_db=(-5.0, 5.0))
    for epoch in range(10):
        added = only(make(manifest, config), 0, epoch) - 0.5 * square
        generator = numpy_generator(SEED, "augment/mix", epoch, 0)
        generator.random()
        snr_db = generator.uniform(-5.0, 5.0)
        assert power_db(0.5 * square) - power_db(added[added != 0]) == pytest.approx(snr_db, abs=1e-3)


def test_only_rows_that_take_part_are_mixed_in(corpus: Manifest):
    corpus.audio_path(1).unlink()
    loader = make(corpus, AugmentConfig(mix_prob=1), usable_rows=[0, 2, 5])
    for epoch in range(30):
        only(loader, 2, epoch)
    assert loader.bad_rows.num_bad == 0
    assert loader.bad_rows.num_asked == 60


@pytest.fixture
def bad_noises(tmp_path: Path) -> Path:
    """Gone, silent, holding NaN; and one that is good."""
    broken = noise(9001)
    broken[:] = np.nan
    return write_manifest(tmp_path / "bad", [None, np.zeros(9001, dtype=np.float32), broken, noise(9001, seed=9)])


@pytest.mark.parametrize("kind", ["noise", "reverb"])
def test_bad_helpers_are_named_and_the_next_takes_their_place(
    corpus: Manifest, bad_noises: Path, kind: str, caplog: pytest.LogCaptureFixture
):
    config = AugmentConfig(**{kind: (bad_noises,), f"{kind}_prob": 1})
    loader = make(corpus, config, num_workers=2)
    with caplog.at_level(logging.WARNING):
        batches = list(loader.batches([(0, 1)] * 6))
        batches += loader.batches([(2, 3, 4, 5, 6)])
    assert all(batch.num_samples.numel() in (2, 5) for batch in batches)
    assert len(loader.bad_rows) == 3
    reasons = loader.bad_rows.reasons
    said = [next(reason for name, reason in reasons.items() if f"bad{i}, {i}.wav" in name) for i in range(3)]
    assert "there is no such file" in said[0]
    assert "silent" in said[1]
    assert "finite" in said[2]
    assert all("all.tsv:" in name for name in reasons)
    assert sum("cannot read" in record.getMessage() for record in caplog.records) == 3
    assert loader.bad_rows.num_asked == 17 + 17 + loader.bad_rows.num_bad


def test_too_many_bad_helpers_stop_the_run(corpus: Manifest, bad_noises: Path):
    loader = make(corpus, AugmentConfig(noise=(bad_noises,), noise_prob=1), max_bad_share=0.2)
    with pytest.raises(TrainingError, match=r"data\.max_bad_share"):
        list(loader.batches([(0, 1, 2, 3)] * 20))


def test_a_row_without_any_readable_helper_is_bad(corpus: Manifest, tmp_path: Path):
    path = write_manifest(tmp_path / "gone", [None] * 3)
    loader = make(corpus, AugmentConfig(noise=(path,), noise_prob=1))
    with pytest.raises(TrainingError, match=r"no noise can be read for it: tried 3, the last was .*gone") as caught:
        list(loader.batches([(0,)]))
    assert "at least one row must be readable" in str(caught.value)


def test_a_response_that_is_a_recording_is_refused(corpus: Manifest, tmp_path: Path, rooms: Path):
    path = write_manifest(tmp_path / "long", [noise(31 * 800)], rate=800)
    loader = make(corpus, AugmentConfig(reverb=(path, rooms), reverb_prob=1))
    for epoch in range(12):
        only(loader, 0, epoch)
    assert list(loader.bad_rows.reasons.values()) == ["an impulse response must last 30 s at most, got 31 s"]


def test_mixing_skips_a_bad_row_and_names_it(corpus: Manifest):
    corpus.audio_path(3).write_bytes(b"")
    loader = make(corpus, AugmentConfig(mix_prob=1))
    for epoch in range(20):
        only(loader, 2, epoch)
    ((name, reason),) = loader.bad_rows.reasons.items()
    assert "u3.flac" in name
    assert "zero bytes" in reason


def test_a_row_is_never_mixed_into_itself(corpus: Manifest):
    corpus.audio_path(3).write_bytes(b"")
    loader = make(corpus, AugmentConfig(mix_prob=1), usable_rows=[2, 3])
    with pytest.raises(TrainingError, match=r"no other utterance can be read for it: tried 1, .*u3\.flac"):
        only(loader, 2)


@pytest.mark.parametrize(
    ("config", "settings", "said"),
    [
        (
            {"band_limit_hz": (3000, 8000), "band_limit_prob": 1}, {},
            r"augment\.band_limit_hz must be below 8000 Hz, half of the model's rate, got 8000",
        ),
        (
            {"codecs": ("gsm",), "codec_prob": 0.5}, {"sample_rate_hz": 4000},
            r"augment\.codec_prob must be 0 where the model's rate is below 8000 Hz, .* got 0\.5 and 4000 Hz",
        ),
        ({"gain_db": (-3, 3)}, {"normalize": True}, r"augment\.gain_db must be left out where the model normalises"),
        ({"mix_prob": 0.1}, {"usable_rows": [3]}, r"augment\.mix_prob must be 0 where a single row takes part"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_are_refused(corpus: Manifest, config, settings, said):
    with pytest.raises(ConfigError, match=said):
        make(corpus, AugmentConfig(**config), **settings)


def test_a_gain_before_a_codec_is_heard_by_models_that_normalise(corpus: Manifest):
    make(corpus, AugmentConfig(gain_db=(-3, 3), codecs=("ulaw",), codec_prob=0.1), normalize=True)


def test_manifests_are_opened_at_the_start(corpus: Manifest, tmp_path: Path, noises: Path):
    with pytest.raises(ManifestError, match=r"absent\.tsv"):
        make(corpus, AugmentConfig(noise=(tmp_path / "absent.tsv",), noise_prob=0.1))
    Manifest.from_rows([Utterance("a", "a.wav", 0, 400, RATE)], root=tmp_path / "moved").write(tmp_path / "m.tsv")
    with pytest.raises(ManifestError, match="no such folder"):
        make(corpus, AugmentConfig(reverb=(tmp_path / "m.tsv",), reverb_prob=0.1))
    Manifest.from_rows([], root=tmp_path).write(tmp_path / "empty.arrow")
    with pytest.raises(ConfigError, match=r"empty\.arrow must hold at least one row to augment with"):
        make(corpus, AugmentConfig(reverb=(tmp_path / "empty.arrow",), reverb_prob=0.1))
