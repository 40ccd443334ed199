"""Mixtures: shares as asked, every row of a source as often as any other, the same from the same seed."""

from collections import Counter
from itertools import count
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audio_ssl.config import MixtureConfig
from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.data.mixture import Mixture, Source, open_mixture, shares_by_temperature, shares_by_weight
from audio_ssl.data.plan import PlanSettings, plan
from audio_ssl.data.table import SCHEMA
from audio_ssl.errors import ConfigError
from audio_ssl.rng import numpy_generator

RATE = 16000
TAGS = ("en", "sv", None)
# lengths of the rows of each source, and its weight
SOURCES = st.lists(
    st.tuples(st.lists(st.integers(10, 50), min_size=1, max_size=12), st.floats(0.5, 5)), min_size=1, max_size=3
)


def spoken(*languages: str | None, lengths: list[int] | None = None, root: Path = Path("/audio")) -> Manifest:
    """A row a language, in this order."""
    lengths = lengths or [100] * len(languages)
    pairs = zip(languages, lengths, strict=True)
    rows = [Utterance(f"u{i}", f"{i}.wav", 0, n, RATE, language=tag) for i, (tag, n) in enumerate(pairs)]
    return Manifest.from_rows(rows, root=root)


def opened(manifest: Manifest, *, rows: list[int] | None = None, seed: int = 1, **config) -> Mixture:
    chosen = np.arange(len(manifest), dtype=np.uint32) if rows is None else np.array(rows, dtype=np.uint32)
    lengths = manifest.num_samples_at(RATE)[chosen].astype(np.int32)
    return open_mixture(manifest, MixtureConfig(**config), rows=chosen, num_samples=lengths, seed=seed)


def mixed(parts: list[tuple[list[int], float]], *, seed: int = 1) -> Mixture:
    """Rows of the sources in turn, so that each source's are spread over the manifest."""
    rows = [(i, length) for i, (lengths, _) in enumerate(parts) for length in lengths]
    rows = [rows[i] for i in np.random.default_rng(len(rows)).permutation(len(rows))]
    manifest = spoken(*(f"l{i}" for i, _ in rows), lengths=[length for _, length in rows])
    return opened(manifest, seed=seed, by="language", weights={f"l{i}": w for i, (_, w) in enumerate(parts)})


def counted(mixture: Mixture, epoch: int) -> Counter[int]:
    return Counter(mixture.epoch(epoch)[0].tolist())


def by_hand(mixture: Mixture, source_idx: int, num_epochs: int) -> list[Counter[int]]:
    """The rule in words: go through the stream row by row; a row is of the epoch in which it starts."""
    source = mixture.sources[source_idx]
    epochs: list[Counter[int]] = [Counter() for _ in range(num_epochs)]
    position = 0
    for number in count():
        generator = numpy_generator(mixture.seed, "mixture", source_idx, number)
        for place in generator.permutation(source.places).tolist():
            epoch = position // source.quota_samples
            if epoch >= num_epochs:
                return epochs
            epochs[epoch][place] += 1
            position += int(mixture.num_samples[place])
    raise AssertionError


def test_shares_follow_hours_to_the_power_of_one_over_the_temperature():
    # by hand: sqrt(1) : sqrt(3) = 1 : 1.7320508; 1 / 2.7320508 = 0.3660254
    assert shares_by_temperature([1, 3], 2) == pytest.approx([0.3660254, 0.6339746], abs=1e-7)
    assert shares_by_temperature([1, 3], 1) == [0.25, 0.75]
    assert shares_by_temperature([1, 3], 1e9) == pytest.approx([0.5, 0.5])
    assert shares_by_temperature([10**15, 8 * 10**15, 27 * 10**15], 3) == pytest.approx([1 / 6, 2 / 6, 3 / 6])


def test_weights_are_relative():
    assert shares_by_weight([2, 1, 1]) == [0.5, 0.25, 0.25]
    assert shares_by_weight([1e308, 1e308]) == [0.5, 0.5]


def test_temperature_is_of_the_hours_that_take_part():
    manifest = spoken(*["en"] * 5, *["sv"] * 2, lengths=[100, 100, 100, 500, 500, 100, 500])
    mixture = opened(manifest, rows=[0, 1, 2, 5], by="language", temperature=2)
    assert [(s.name, s.pass_samples, s.quota_samples) for s in mixture.sources] == [("en", 300, 254), ("sv", 100, 146)]
    assert [s.places.tolist() for s in mixture.sources] == [[0, 1, 2], [3]]  # among the rows that take part
    assert [s.times for s in mixture.sources] == [254 / 300, 1.46]


@given(SOURCES, st.integers(0, 30))
def test_an_epoch_holds_the_shares_within_an_utterance(parts, epoch: int):
    mixture = mixed(parts)
    weights = [w for _, w in parts]
    total = sum(sum(lengths) for lengths, _ in parts)
    heard = counted(mixture, epoch)
    for source, (lengths, weight) in zip(mixture.sources, parts, strict=True):
        samples = sum(heard[place] * int(mixture.num_samples[place]) for place in source.places.tolist())
        assert abs(source.quota_samples - weight / sum(weights) * total) < 0.5 + 1e-9
        assert abs(samples - source.quota_samples) < max(lengths)


@given(SOURCES, st.integers(1, 12))
def test_every_row_of_a_source_is_heard_as_often_as_any_other(parts, num_epochs: int):
    mixture = mixed(parts)
    heard: Counter[int] = Counter()
    for epoch in range(num_epochs):
        heard += counted(mixture, epoch)
        for source in mixture.sources:
            counts = [heard[place] for place in source.places.tolist()]
            assert max(counts) - min(counts) <= 1
            passes = (epoch + 1) * source.quota_samples // source.pass_samples
            assert {passes, passes + 1} >= set(counts)


@given(SOURCES, st.integers(0, 2**40))
def test_epochs_are_the_stream_cut_by_hand(parts, seed: int):
    mixture = mixed(parts, seed=seed)
    expected = [
        sum(epochs, Counter()) for epochs in zip(*(by_hand(mixture, i, 4) for i in range(len(parts))), strict=True)
    ]
    assert [counted(mixture, epoch) for epoch in range(4)] == expected


@given(SOURCES, st.integers(0, 9))
def test_copies_number_the_occurrences_of_a_row(parts, epoch: int):
    places, copies = mixed(parts).epoch(epoch)
    pairs = list(zip(places.tolist(), copies.tolist(), strict=True))
    assert pairs == [(place, copy) for place, n in sorted(Counter(places.tolist()).items()) for copy in range(n)]
    assert len(set(pairs)) == len(pairs)


@given(SOURCES, st.integers(0, 9), st.integers(1, 4))
def test_a_plan_over_an_epoch_is_a_partition_of_it(parts, epoch: int, world: int):
    mixture = mixed(parts)
    places, _ = mixture.epoch(epoch)
    sizes = PlanSettings(batch_samples=120, micro_batch_samples=60)
    plans = [
        plan(mixture.num_samples[places], settings=sizes, seed=1, epoch=epoch, rank=rank, world=world)
        for rank in range(world)
    ]
    heard = [place for p in plans for update in p for batch in update for place in batch]
    assert len(heard) == len(set(heard)) == len(places) - plans[0].num_left_out
    assert plans[0].num_left_out < world


def test_epochs_are_the_same_from_the_same_seed_and_differ_otherwise():
    parts = [([10] * 40, 1.0), ([10] * 40, 3.0)]
    assert counted(mixed(parts), 3) == counted(mixed(parts), 3)
    others = [counted(mixed(parts, seed=seed), epoch) for seed, epoch in ((1, 3), (1, 4), (2, 3))]
    assert len({tuple(sorted(other.items())) for other in others}) == 3


def test_the_passes_of_each_source_have_orders_of_their_own():
    sources = (
        Source("a", np.arange(40, dtype=np.uint32), 400, 200),
        Source("b", np.arange(40, 80, dtype=np.uint32), 400, 200),
    )
    heard = counted(Mixture(sources, np.full(80, 10), 1), 0)
    of_a, of_b = ({place - first for place in heard if first <= place < first + 40} for first in (0, 40))
    assert len(of_a) == len(of_b) == 20
    assert of_a != of_b
    assert {place - 40 for place in counted(Mixture(sources, np.full(80, 10), 1), 2) if place >= 40} != of_b


def test_a_source_alone_is_heard_once_an_epoch():
    mixture = mixed([([7, 11, 13], 0.3)])
    assert [counted(mixture, epoch) for epoch in range(3)] == [Counter({0: 1, 1: 1, 2: 1})] * 3


def test_temperature_one_leaves_every_row_once_an_epoch():
    manifest = spoken(*TAGS * 50, lengths=[n + 1 for n in range(150)])
    mixture = opened(manifest, by="language", temperature=1)
    assert [counted(mixture, epoch) for epoch in (0, 77)] == [Counter(range(150))] * 2


def test_languages_are_found_in_every_piece_of_the_table():
    pieces = [spoken("sv", None, "de").table, spoken("", "sv", "unknown").table, spoken(None).table]
    manifest = Manifest(pa.concat_tables(pieces), root=Path("/audio"))
    mixture = opened(manifest, by="language", temperature=1)
    assert [(s.name, s.places.tolist()) for s in mixture.sources] == [
        ("de", [2]), ("sv", [0, 4]), ("unknown", [1, 3, 5, 6])
    ]  # fmt: skip


def test_languages_are_found_without_a_python_string_a_row(monkeypatch: pytest.MonkeyPatch):
    """Millions of rows: neither a list of the column nor a row as an object is made."""
    manifest = spoken(*TAGS * 30)
    for name in ("column", "__getitem__", "__iter__"):
        monkeypatch.delattr(Manifest, name)
    assert [len(s.places) for s in opened(manifest, by="language", temperature=1).sources] == [30, 30, 30]


def written(folder: Path, name: str, *languages: str | None) -> Path:
    """Rows whose ids are unique to the file."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [Utterance(f"{name}-{i}", f"{name}-{i}.wav", 0, 100, RATE, language=tag) for i, tag in enumerate(languages)]
    Manifest.from_rows(rows, root=folder).write(path)
    return path


def joined(*paths: Path) -> Manifest:
    return Manifest.concat([Manifest.read(path) for path in paths])


def test_manifests_are_named_after_their_files(tmp_path: Path):
    manifest = joined(written(tmp_path, "b.tsv", None, None, None), written(tmp_path, "a.v2.arrow", "en"))
    mixture = opened(manifest, weights={"a.v2": 1, "b": 3})
    assert [(s.name, s.places.tolist(), s.quota_samples) for s in mixture.sources] == [
        ("b", [0, 1, 2], 300), ("a.v2", [3], 100)
    ]  # fmt: skip


def test_one_manifest_is_one_source(tmp_path: Path):
    assert [s.name for s in opened(joined(written(tmp_path, "a.tsv", "en", "sv")), temperature=2).sources] == ["a"]


def test_manifests_of_one_name_are_told_apart_by_their_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    paths = [written(tmp_path, name, "en") for name in ("x/en/train.tsv", "x/sv/train.tsv", "y/sv/more.tsv")]
    assert [s.name for s in opened(joined(*paths), temperature=2).sources] == ["en/train", "sv/train", "sv/more"]
    paths.append(written(tmp_path, "y/sv/train.tsv", "en"))
    names = ["x/en/train", "x/sv/train", "y/sv/more", "y/sv/train"]
    assert [s.name for s in opened(joined(*paths), temperature=2).sources] == names
    monkeypatch.chdir(tmp_path / "x")
    relative = [Path("en/train.tsv"), Path("sv/../sv/train.tsv"), Path("../y/sv/more.tsv"), Path("../y/sv/train.tsv")]
    assert [s.name for s in opened(joined(*relative), temperature=2).sources] == names


def test_manifests_that_differ_in_their_extension_alone_are_refused(tmp_path: Path):
    paths = [written(tmp_path, name, "en") for name in ("a.tsv", "a.arrow", "b.tsv")]
    with pytest.raises(
        ConfigError, match=r"differ in more than their extension, got .*a\.tsv, .*a\.arrow: rename them"
    ):
        opened(joined(*paths), temperature=2)


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        (
            {"en": 1, "unknown": 2},
            r"data\.mixture\.weights must name each source by language \(en, sv, unknown\), got sv not named$",
        ),
        ({"en": 1, "sv": 1, "swe": 1}, r"\(en, sv, unknown\), got unknown not named; swe not among them$"),
        ({"en": 1, "sv": 1, "unknown": 1, "de": 1, "fr": 2}, r"got de, fr not among them$"),
        ({}, r"got en, sv, unknown not named$"),
        ({"en": 1, "sv": 1, "unknown": 1e-9}, r"the share of unknown must be at least a sample of an epoch's 300"),
    ],
)
def test_weights_that_do_not_fit_are_refused(weights, said: str):
    with pytest.raises(ConfigError, match=said):
        opened(spoken(*TAGS), by="language", weights=weights)


def test_a_source_without_usable_rows_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"sv must hold at least one usable utterance, got none; take its rows out"):
        opened(spoken(*TAGS), rows=[0, 2], by="language", temperature=2)
    manifest = joined(written(tmp_path, "a.tsv", "en"), written(tmp_path, "b.tsv"))
    with pytest.raises(ConfigError, match=r"b must hold .*, got none; leave it out of data\.train"):
        opened(manifest, weights={"a": 1, "b": 1})


def test_every_fault_is_told_at_once():
    with pytest.raises(ConfigError, match=r"(?s)got en, unknown not named.*sv must hold"):
        opened(spoken(*TAGS), rows=[0, 2], by="language", weights={"sv": 1})


def test_what_is_said_of_the_sources():
    hour = 3600 * RATE
    manifest = spoken("en", "sv", lengths=[18 * hour, hour])
    said = opened(manifest, by="language", weights={"en": 9, "sv": 11}).describe(RATE)
    # 19 h an epoch: 9 / 20 of them are 8.55 h, 0.475 times 18 h; 11 / 20 are 10.45 h
    assert said.splitlines()[:3] == [
        "mixture, 19.00 h an epoch:",
        "  en: 18.00 h, 45.0% of an epoch, 0.475 times",
        "  sv: 1.00 h, 55.0% of an epoch, 10.4 times",
    ]
    assert "warning: an epoch repeats every utterance of these sources more than 10 times: sv (10.4 times)" in said
    assert "warning" not in opened(manifest, by="language", weights={"en": 11, "sv": 9}).describe(RATE)


def test_the_name_of_a_mixture_tells_its_shares_and_who_is_in_which_source():
    given_ = {"by": "language", "weights": {"en": 1, "sv": 2}}
    names = [
        opened(spoken("en", "en", "sv", "sv"), **given_),
        opened(spoken("en", "sv", "en", "sv"), **given_),
        opened(spoken("en", "en", "sv", "sv"), by="language", weights={"en": 2, "sv": 1}),
        opened(spoken("en", "en", "sv", "sv", lengths=[101, 99, 100, 100]), **given_),
    ]
    assert len({m.fingerprint for m in names}) == 4
    assert opened(spoken("en", "en", "sv", "sv"), **given_).fingerprint == names[0].fingerprint


def test_many_rows_are_mixed_whole():
    """More rows than fit 16 bits, positions beyond 32 bits."""
    num_rows = 70_001
    column = pa.array(np.where(np.arange(num_rows) % 7 == 0, "sv", "en"))
    table = pa.table({f.name: column if f.name == "language" else pa.nulls(num_rows, f.type) for f in SCHEMA})
    lengths = np.random.default_rng(0).integers(16_000, 320_000, num_rows).astype(np.int32)
    config = MixtureConfig(by="language", weights={"en": 1, "sv": 1})
    rows = np.arange(num_rows, dtype=np.uint32)
    mixture = open_mixture(Manifest(table, root=Path("/audio")), config, rows=rows, num_samples=lengths, seed=1)
    heard = np.bincount(mixture.epoch(1000)[0], minlength=num_rows)
    is_sv = rows % 7 == 0
    assert int(lengths.sum()) > 2**32
    assert np.dot(heard[is_sv], lengths[is_sv]) / np.dot(heard, lengths) == pytest.approx(0.5, abs=1e-4)
    assert set(heard[is_sv]) == {3, 4, 5}  # 3.5 passes: the end of one, three, and the start of the next
