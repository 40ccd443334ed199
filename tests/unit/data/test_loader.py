"""The loader's promises: batches depend on the plan alone, bad rows are named and replaced, threads end."""

import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch

from audio_ssl.data import collate as collate_module
from audio_ssl.data import loader as loader_module
from audio_ssl.data.collate import Draft, collate
from audio_ssl.data.engine_fairseq2 import fairseq2_unavailable
from audio_ssl.data.loader import Loader
from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.data.rows import BadRows, Reading, RowSettings, read_row
from audio_ssl.data.scan import scan
from audio_ssl.data.waveform import normalize
from audio_ssl.errors import AudioSSLError, MissingExtraError, TrainingError
from audio_ssl.rng import numpy_generator

MICRO_BATCHES = [(3, 0), (6,), (1, 5, 2), (4, 4)]
ENGINES = ["threads", "fairseq2"]


def engine_or_skip(engine: str) -> str:
    if engine == "fairseq2" and fairseq2_unavailable() is not None:
        pytest.skip(f"fairseq2: {fairseq2_unavailable()}")
    return engine


def make(manifest: Manifest, **settings) -> Loader:
    return Loader(manifest, **{"sample_rate_hz": 16000, "normalize": False, "engine": "threads", **settings})


@pytest.fixture
def mixed(tmp_path: Path, write_audio) -> Manifest:
    """Seven rows: three rates, stereo, a segment, and a lossy file."""
    kinds = [(16000, {}), (8000, {}), (22050, {"channels": 2}), (16000, {}), (48000, {}), (16000, {}), (16000, {})]
    rows = []
    for i, (rate, kind) in enumerate(kinds):
        name = f"u{i}.ogg" if i == 6 else f"u{i}.flac"
        write_audio(tmp_path / name, rate // 2 + 997 * i, rate=rate, seed=i, **kind)
        start = 1001 if i == 3 else 0
        rows.append(Utterance(f"u{i}", name, start, rate // 2 + 997 * i - start, rate))
    return Manifest.from_rows(rows, root=tmp_path)


@pytest.fixture
def two_torch_threads() -> Iterator[None]:
    """Two threads for the test's own operations, whatever the machine has."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def same(a: list, b: list) -> bool:
    return len(a) == len(b) and all(
        x.rows == y.rows and torch.equal(x.num_samples, y.num_samples) and torch.equal(x.waveforms, y.waveforms)
        for x, y in zip(a, b, strict=True)
    )


def test_batches_hold_the_rows_padded_with_zeros(corpus: Manifest):
    (batch,) = make(corpus, num_workers=0).batches([(5, 2)])
    assert batch.rows == (5, 2)
    assert batch.num_samples.tolist() == [16000, 11200]
    assert batch.waveforms.shape == (2, 16000)
    import soundfile as sf

    for i, row in enumerate((5, 2)):
        expected = sf.read(corpus.audio_path(row), dtype="float32")[0]
        np.testing.assert_array_equal(batch.waveforms[i, : len(expected)].numpy(), expected)
        assert not batch.waveforms[i, len(expected) :].any()


def test_normalisation_sees_the_real_samples_of_its_row(mixed: Manifest):
    plain, normal = (list(make(mixed, normalize=n, max_samples=7001).batches(MICRO_BATCHES)) for n in (False, True))
    for a, b in zip(plain, normal, strict=True):
        for i, length in enumerate(a.num_samples.tolist()):
            expected = normalize(a.waveforms[i, :length].numpy())
            np.testing.assert_array_equal(b.waveforms[i, :length].numpy(), expected)
            assert not b.waveforms[i, length:].any()


@pytest.mark.parametrize("num_workers", [1, 3])
@pytest.mark.parametrize("engine", ENGINES)
def test_engines_and_workers_change_nothing(mixed: Manifest, engine: str, num_workers: int):
    settings = {"normalize": True, "max_samples": 7001, "seed": 5}
    reference = list(make(mixed, num_workers=0, **settings).batches(MICRO_BATCHES, epoch=2))
    other = make(mixed, num_workers=num_workers, engine=engine_or_skip(engine), **settings)
    assert same(reference, list(other.batches(MICRO_BATCHES, epoch=2)))


def test_lengths_are_those_that_a_plan_was_made_from(mixed: Manifest):
    planned = np.minimum(mixed.num_samples_at(16000), 7001)
    for batch in make(mixed, max_samples=7001).batches(MICRO_BATCHES):
        assert batch.num_samples.tolist() == planned[list(batch.rows)].tolist()


def test_random_crops_differ_by_epoch_and_row_and_come_back(corpus: Manifest):
    loader = make(corpus, max_samples=3001, seed=1)
    first, again, other = (list(loader.batches([(6, 5)], epoch=e)) for e in (0, 0, 1))
    assert same(first, again)
    assert not same(first, other)
    alone = list(loader.batches([(5,)], epoch=0))
    assert torch.equal(alone[0].waveforms[0], first[0].waveforms[1])  # whatever else is in the batch


def test_a_crop_is_a_part_of_the_row(corpus: Manifest):
    (whole,) = make(corpus).batches([(6,)])
    starts = set()
    for epoch in range(10):
        (crop,) = make(corpus, max_samples=3001).batches([(6,)], epoch=epoch)
        windows = whole.waveforms[0].unfold(0, 3001, 1)  # (S,) -> (S - 3000, 3001)
        hits = (windows == crop.waveforms[0]).all(dim=1).nonzero().flatten().tolist()
        assert len(hits) == 1
        starts.update(hits)
    assert len(starts) > 7
    (start,) = make(corpus, max_samples=3001, crop="start").batches([(6,)])
    assert torch.equal(start.waveforms[0], whole.waveforms[0, :3001])


def test_a_crop_reaches_both_ends_of_its_row(corpus: Manifest):
    loader = make(corpus, max_samples=7999)  # row 0 has 8000 samples: a crop starts at 0 or 1
    (whole,) = make(corpus).batches([(0,)])
    crops = [next(iter(loader.batches([(0,)], epoch=e))).waveforms[0] for e in range(20)]
    assert {int(torch.equal(crop, whole.waveforms[0, 1:])) for crop in crops} == {0, 1}


@pytest.mark.parametrize(("engine", "num_workers"), [("threads", 0), ("threads", 3), ("fairseq2", 2)])
def test_a_row_that_comes_again_in_an_epoch_is_cropped_anew(corpus: Manifest, engine: str, num_workers: int):
    settings = {"max_samples": 3001, "seed": 3, "engine": engine_or_skip(engine), "num_workers": num_workers}
    entries = [(6, 5), (6 + 7, 6 + 3 * 7, 5 + 7), (6 + 10**7 * 7,)]  # row + copy * 7
    batches = list(make(corpus, **settings).batches(entries, epoch=2))
    assert [batch.rows for batch in batches] == [(6, 5), (6, 6, 5), (6,)]
    whole = {row: make(corpus).batches([(row,)]).send(None).waveforms[0] for row in (5, 6)}
    for batch, copies in zip(batches, ((0, 0), (1, 3, 1), (10**7,)), strict=True):
        for row, copy, waveform in zip(batch.rows, copies, batch.waveforms, strict=True):
            names = (2, row) if copy == 0 else (2, row, copy)
            offset = numpy_generator(3, "crop", *names).integers(0, len(whole[row]) - 3001 + 1)
            assert torch.equal(waveform, whole[row][offset : offset + 3001])


def test_a_crop_at_another_rate_is_where_the_draw_says(tmp_path: Path, write_audio):
    write_audio(tmp_path / "a.wav", 48_000, rate=48_000)
    manifest = Manifest.from_rows([Utterance("a", "a.wav", 0, 48_000, 48_000)], root=tmp_path)
    (whole,) = make(manifest).batches([(0,)])
    for epoch in range(5):
        (crop,) = make(manifest, max_samples=4001, seed=3).batches([(0,)], epoch=epoch)
        offset = numpy_generator(3, "crop", epoch, 0).integers(0, 16_000 - 4001 + 1)
        expected = whole.waveforms[0, offset : offset + 4001]
        # the resampler sees no neighbours at a crop's edges
        np.testing.assert_allclose(crop.waveforms[0, 50:-50], expected[50:-50], atol=1e-5)


def test_crops_at_other_rates_stay_inside_their_segment(tmp_path: Path, write_audio):
    write_audio(tmp_path / "a.wav", 9000, rate=8000)
    manifest = Manifest.from_rows([Utterance("a", "a.wav", 500, 8000, 8000)], root=tmp_path)
    settings = RowSettings(sample_rate_hz=16000, normalize=False, max_samples=15997)
    for epoch in range(30):
        waveform = read_row(manifest, 0, settings=settings, epoch=epoch).waveform
        assert isinstance(waveform, np.ndarray)
        assert len(waveform) == 15997


@pytest.fixture
def half_bad(corpus: Manifest) -> Manifest:
    """Rows 1 and 2 are broken, row 4 is gone."""
    corpus.audio_path(1).write_bytes(b"")
    corpus.audio_path(2).write_text("no audio")
    corpus.audio_path(4).unlink()
    return corpus


@pytest.mark.parametrize("engine", ENGINES)
def test_a_batch_goes_on_without_its_bad_rows(half_bad: Manifest, engine: str, caplog: pytest.LogCaptureFixture):
    loader = make(half_bad, engine=engine_or_skip(engine))
    with caplog.at_level(logging.WARNING):
        batches = list(loader.batches([(0, 1, 3), (1, 2), (5, 4), (4,)]))
    # (1, 2): the next readable row after 1 is 3; (4,): after 4 is 5
    assert [b.rows for b in batches] == [(0, 3), (3,), (5,), (5,)]
    assert batches[0].num_samples.tolist() == [8000, 12800]
    assert len(loader.bad_rows) == 3
    assert (loader.bad_rows.num_asked, loader.bad_rows.num_bad) == (8 + 3, 5 + 1)  # stand-ins: 2 bad, 3 good; 5 bad
    messages = [r.getMessage() for r in caplog.records]
    assert len(messages) == 3
    assert "u1, s1/u1.flac" in messages[0]
    assert "zero bytes" in messages[0]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_bad_row_that_comes_again_is_counted_each_time_and_named_once(half_bad: Manifest, engine: str):
    loader = make(half_bad, engine=engine_or_skip(engine), max_samples=3001, seed=3)
    batches = list(loader.batches([(1, 1 + 7, 0 + 7), (2 + 7,), (4 + 2 * 7, 4)], epoch=1))
    assert [b.rows for b in batches] == [(0,), (3,), (5,)]
    assert (loader.bad_rows.num_asked, loader.bad_rows.num_bad) == (6 + 2, 5)
    assert [name.split(" (")[1] for name in loader.bad_rows.reasons] == [
        f"u{i}, s{i % 3}/u{i}.flac)" for i in (1, 2, 4)
    ]
    # the row that stands in for a copy is cropped as that copy of itself would be
    for batch, copy in zip(batches[1:], (1, 2), strict=True):
        (alone,) = make(half_bad, max_samples=3001, seed=3).batches([(batch.rows[0] + copy * 7,)], epoch=1)
        assert torch.equal(batch.waveforms, alone.waveforms)


def test_the_stand_in_comes_from_the_usable_rows(half_bad: Manifest):
    loader = make(half_bad, usable_rows=np.array([6, 4, 0]))
    assert [b.rows for b in loader.batches([(1,), (6, 0), (4,)])] == [(6,), (6, 0), (6,)]


def test_without_replacing_a_batch_of_bad_rows_is_left_out(half_bad: Manifest):
    loader = make(half_bad, replace=False)
    assert [b.rows for b in loader.batches([(1, 2), (0,), (4,), (6, 4)])] == [(0,), (6,)]
    assert loader.bad_rows.num_bad == 4


def test_too_many_bad_rows_stop_the_run_with_names(half_bad: Manifest):
    loader = make(half_bad, max_bad_share=0.3)
    with pytest.raises(TrainingError, match=r"at most 30\.0% of the rows") as caught:
        list(loader.batches([(0, 1, 2, 3, 4, 5, 6)] * 10))
    # rows 1, 2 and 4 of each round of seven; the first bad one after 20 rows is row 1 of the fourth round
    assert "10 of the 23 asked for so far" in str(caught.value)
    assert "u1.flac" in str(caught.value)
    assert "zero bytes" in str(caught.value)
    list(make(half_bad, max_bad_share=0.5).batches([(0, 1, 2, 3, 4, 5, 6)] * 10))


def test_a_manifest_without_any_readable_row_stops(corpus: Manifest):
    for i in range(7):
        corpus.audio_path(i).write_bytes(b"")
    with pytest.raises(TrainingError, match="at least one row must be readable"):
        list(make(corpus).batches([(0,)]))


def test_rows_too_short_and_not_finite_are_bad_rows(bad_folder: Path):
    rows = [
        Utterance("short", "short.wav", 0, 200, 16000),
        Utterance("nan", "nan.wav", 0, 16000, 16000),
        Utterance("cut", "cut.flac", 0, 48000, 16000),
        Utterance("good", "good.wav", 0, 16000, 16000),
    ]
    loader = make(Manifest.from_rows(rows, root=bad_folder))
    (batch,) = loader.batches([(0, 1, 2, 3)])
    assert batch.rows == (3,)
    reasons = list(loader.bad_rows.reasons.values())
    assert "too short: 200 samples" in reasons[0]
    assert "sample 12345 is nan" in reasons[1]
    assert "cut.flac" in reasons[2]


def test_what_a_scan_accepts_can_be_loaded(bad_folder: Path):
    manifest = scan(bad_folder).manifest
    loader = make(manifest, max_samples=16000, normalize=True)
    batches = list(loader.batches([tuple(range(len(manifest)))]))
    assert batches[0].rows == tuple(range(6))
    assert len(loader.bad_rows) == 0
    assert torch.isfinite(batches[0].waveforms).all()


@pytest.mark.parametrize("engine", ENGINES)
def test_closing_ends_the_threads(corpus: Manifest, engine: str):
    loader = make(corpus, engine=engine_or_skip(engine), num_workers=3)
    before = threading.active_count()
    batches = loader.batches([(0, 1), (2, 3)] * 50)
    next(batches)
    batches.close()
    assert threading.active_count() == before
    assert [b.rows for b in loader.batches([(0,), (1,)])] == [(0,), (1,)]


@pytest.mark.parametrize("engine", ENGINES)
def test_reading_leaves_the_threads_of_kernels_alone(
    corpus: Manifest, monkeypatch: pytest.MonkeyPatch, engine: str, two_torch_threads: None
):
    """A team of threads for each reader makes every later operation of the process slower."""
    seen: list[tuple[int, int]] = []

    def counted(*args, **settings) -> Reading:
        seen.append((threading.get_ident(), torch.get_num_threads()))
        return read_row(*args, **settings)

    monkeypatch.setattr(loader_module, "read_row", counted)
    list(make(corpus, engine=engine_or_skip(engine), num_workers=2).batches([(0, 1), (2,)]))
    assert {ident for ident, _ in seen}.isdisjoint({threading.get_ident()})
    assert {number for _, number in seen} == {1}
    assert torch.get_num_threads() == 2
    with ThreadPoolExecutor(1) as pool:  # threads of others begin as before
        assert pool.submit(torch.get_num_threads).result() == 2


def test_reading_in_line_keeps_the_threads(corpus: Manifest, two_torch_threads: None):
    list(make(corpus, num_workers=0).batches([(0,)]))
    assert torch.get_num_threads() == 2


def test_no_more_is_read_ahead_than_asked_for(corpus: Manifest, monkeypatch: pytest.MonkeyPatch):
    asked: list[int] = []

    def counted(manifest: Manifest, row: int, **settings) -> Reading:
        asked.append(row)
        return read_row(manifest, row, **settings)

    monkeypatch.setattr(loader_module, "read_row", counted)
    batches = make(corpus, num_workers=2, prefetch=3).batches([(i % 7,) for i in range(50)])
    next(batches)
    batches.close()
    assert len(asked) <= 4


@pytest.mark.parametrize(("engine", "num_workers"), [("threads", 0), ("threads", 2), ("fairseq2", 2)])
def test_an_epoch_without_end_is_taken_as_it_is_read(corpus: Manifest, engine: str, num_workers: int):
    asked = count()
    endless = ((i % 7,) for i in asked)
    batches = make(corpus, engine=engine_or_skip(engine), num_workers=num_workers, prefetch=3).batches(endless)
    assert [next(batches).rows for _ in range(5)] == [(0,), (1,), (2,), (3,), (4,)]
    time.sleep(0.2)  # for those who would run ahead
    batches.close()
    assert (
        next(asked) <= 5 + 2 * (2 * 1 + 3) + 1
    )  # yielded; of each worker two queues and three on their way; one dealt


@pytest.mark.parametrize("engine", ENGINES)
def test_a_batch_of_no_rows_gets_one_wherever_it_stands(corpus: Manifest, engine: str):
    batches = make(corpus, engine=engine_or_skip(engine), num_workers=2).batches([(), (3,), (), (5, 6), ()])
    assert [batch.rows for batch in batches] == [(1,), (3,), (1,), (5, 6), (1,)]


@pytest.mark.parametrize(("engine", "num_workers"), [("threads", 0), ("threads", 2), ("fairseq2", 2)])
def test_a_decoder_that_breaks_names_the_row(
    corpus: Manifest, monkeypatch: pytest.MonkeyPatch, engine: str, num_workers: int
):
    def broken(*_: object, **__: object) -> None:
        raise MemoryError("out of it")

    monkeypatch.setattr("audio_ssl.data.rows.load_segment", broken)
    with pytest.raises(AudioSSLError, match=r"u2, s2/u2\.flac\) cannot be read: MemoryError: out of it"):
        list(make(corpus, engine=engine_or_skip(engine), num_workers=num_workers).batches([(2,)]))


@pytest.mark.usefixtures("never_hangs")
@pytest.mark.parametrize(("engine", "num_workers"), [("threads", 0), ("threads", 2), ("fairseq2", 2)])
def test_a_fault_that_nobody_foresaw_ends_loading_with_row_and_place(
    corpus: Manifest, monkeypatch: pytest.MonkeyPatch, engine: str, num_workers: int
):
    """Batches before it come; nothing waits, and no thread stays."""

    def broken(waveform: np.ndarray, *, out: np.ndarray) -> np.ndarray:
        return normalize(waveform, out=out) if len(waveform) != 12800 else waveform / {}  # row 3

    monkeypatch.setattr("audio_ssl.data.rows.normalize", broken)
    engine = engine_or_skip(engine)
    before = threading.active_count()
    loader = make(corpus, engine=engine, num_workers=num_workers, prefetch=2, normalize=True)
    batches = loader.batches([(0, 1), (2,), (3, 4), (5,)])
    assert [next(batches).rows, next(batches).rows] == [(0, 1), (2,)]
    said = r"u3, s0/u3\.flac\): unforeseen TypeError: .*test_loader\.py:\d+\)"
    with pytest.raises(AudioSSLError, match=said) as caught:
        next(batches)
    assert isinstance(caught.value.__cause__, TypeError)
    assert list(batches) == []
    assert threading.active_count() == before


def test_without_fairseq2_auto_means_threads(corpus: Manifest, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("audio_ssl.data.engine_fairseq2.fairseq2_unavailable", lambda: "ImportError: no fairseq2")
    assert make(corpus, engine="auto").engine == "threads"
    with pytest.raises(MissingExtraError, match=r"no fairseq2\); install `audio_ssl\[fairseq2\]`"):
        make(corpus, engine="fairseq2")


def test_a_count_of_bad_rows_goes_on_in_the_next_loader(half_bad: Manifest):
    bad_rows = BadRows(max_share=1.0)
    for _ in range(2):
        list(make(half_bad, bad_rows=bad_rows).batches([(0, 1)]))
    assert (bad_rows.num_asked, bad_rows.num_bad, len(bad_rows)) == (4, 2, 1)


@pytest.fixture
def dirty_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """New tensors hold NaN instead of what happens to be there."""
    monkeypatch.setattr(torch, "empty", lambda *shape: torch.full(shape, float("nan")))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_rows_are_read_into_the_memory_of_their_batch(mixed: Manifest, dirty_memory: None, num_workers: int):
    """Whatever was there, and whether or not a row is resampled, mixed down or padded."""
    settings = {"normalize": True, "max_samples": 7001, "width_multiple": 1000}
    copied = list(make(mixed, num_workers=0, normalize=True, width_multiple=1000).batches(MICRO_BATCHES))
    assert not any(torch.isnan(batch.waveforms).any() for batch in copied)
    placed = list(make(mixed, num_workers=num_workers, **settings).batches(MICRO_BATCHES))
    for batch in placed:
        for i, (row, length) in enumerate(zip(batch.rows, batch.num_samples.tolist(), strict=True)):
            alone = read_row(mixed, row, settings=RowSettings(16000, normalize=True, max_samples=7001), epoch=0)
            np.testing.assert_array_equal(batch.waveforms[i, :length], alone.waveform)
            assert not batch.waveforms[i, length:].any()


def test_rows_that_could_be_read_are_not_copied(mixed: Manifest, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(collate_module, "collate", None)
    for normalized in (False, True):
        loader = make(mixed, num_workers=0, normalize=normalized, max_samples=7001)
        assert [batch.rows for batch in loader.batches(MICRO_BATCHES)] == MICRO_BATCHES


def test_a_bad_row_leaves_no_gap_in_the_memory_of_its_batch(half_bad: Manifest, dirty_memory: None):
    (batch,) = make(half_bad, max_samples=7001).batches([(1, 0, 1, 0)])
    (alone,) = make(half_bad, max_samples=7001).batches([(1, 1) if batch.rows[0] == 1 else (0, 0)])
    assert torch.equal(batch.waveforms, alone.waveforms)
    assert batch.rows == alone.rows


def test_tasks_hold_every_row_once_in_order():
    draft = Draft(tuple(range(11)), torch.zeros(11, 3))
    for number, sizes in ((1, [11]), (2, [5, 5, 1]), (4, [2, 2, 2, 2, 2, 1]), (64, [1] * 11)):
        tasks = draft.tasks(number)
        assert [len(task) for task in tasks] == sizes
        assert [row for task in tasks for row, _ in task] == list(range(11))
    assert Draft((), None).tasks(2) == []


def test_fairseq2_reads_in_as_many_threads_as_asked_for(corpus: Manifest, monkeypatch: pytest.MonkeyPatch):
    """Where the rows are slow to read: all threads at once, and no more."""
    running, most, lock = 0, 0, threading.Lock()

    def slow(*args, **settings) -> Reading:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        with lock:
            running -= 1
        return read_row(*args, **settings)

    monkeypatch.setattr(loader_module, "read_row", slow)
    loader = make(corpus, engine=engine_or_skip("fairseq2"), num_workers=5)
    assert [batch.rows for batch in loader.batches([(i % 7, 1) for i in range(20)])] == [(i % 7, 1) for i in range(20)]
    assert most == 5


def test_collate_keeps_rows_and_lengths():
    batch = collate([(7, np.ones(3, dtype=np.float32)), (2, np.ones(5, dtype=np.float32))])
    assert batch.waveforms.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert batch.num_samples.dtype == torch.int64
    assert (batch.rows, batch.num_samples.tolist()) == ((7, 2), [3, 5])


@pytest.mark.parametrize(("lengths", "width", "is_full"), [((3, 5), 7, False), ((7, 7), 7, True), ((5, 8), 14, False)])
def test_batches_are_padded_to_a_multiple_and_say_whether_they_are_full(lengths, width, is_full):
    rows = [(i, np.ones(n, dtype=np.float32)) for i, n in enumerate(lengths)]
    batch = collate(rows, width_multiple=7)
    assert batch.waveforms.shape == (2, width)
    assert batch.waveforms.sum(1).tolist() == list(lengths)
    assert batch.is_full is is_full
