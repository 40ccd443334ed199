"""Labels of stored embeddings and of audio: what is written, in which order, and what is refused beforehand."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.errors import AudioError, ConfigError, ManifestError
from audio_ssl.inference.extract import Extractor, ExtractSettings
from audio_ssl.inference.layers import choose_layer
from audio_ssl.inference.source import OpenedInput, open_input
from audio_ssl.inference.stream import StreamSettings
from audio_ssl.inference.units import assign as assign_module
from audio_ssl.inference.units.assign import AssignSummary, AudioLabels, StoredLabels, assign
from audio_ssl.inference.units.codebook import Units, save_units
from audio_ssl.inference.units.stored import StoredFrames
from audio_ssl.inference.windows import WindowSettings
from audio_ssl.model.encoder import Encoder
from tests.unit.inference.conftest import CPU, noise, write_wav
from tests.unit.inference.units.conftest import SHARED, blobs, write_embeddings

ORIGIN = {key: SHARED[key] for key in ("model_hash", "layer", "normalized", "model_rate_hz", "hop_s", "first_centre_s")}
LENGTHS = (16_000, 7_333, 48_001, 400, 24_000)


def make_units(folder: Path, centroids: np.ndarray, **origin: Any) -> Units:
    return save_units(folder, centroids.astype(np.float32), {**ORIGIN, **origin, "fit": {}})


def random_units(folder: Path, *, num_units: int = 13, dim: int = 7, seed: int = 0, **origin: Any) -> Units:
    generator = np.random.default_rng(seed)
    return make_units(folder, generator.standard_normal((num_units, dim)) * (30 if dim == 7 else 1), **origin)


def stored_labels(units: Units, folder: Path, out: Path, **options: Any) -> AssignSummary:
    stored = StoredFrames(folder, layer=units.document["layer"])
    return assign(units, StoredLabels(units, stored, torch.device("cpu")), out, **options)


def brute_force(frames: np.ndarray, units: Units) -> list[int]:
    exact = ((frames[:, None].astype(np.float64) - units.centroids) ** 2).sum(axis=2)
    return exact.argmin(axis=1).tolist()


def as_fairseq_reads(folder: Path, name: str, *, label_rate: float) -> list[tuple[str, int, list[int]]]:
    """Audio path, samples and label indices of each utterance, with the checks of fairseq's HuBERT data set."""
    symbols = {}
    for line in (folder / "dict.km.txt").read_text().splitlines():
        symbol, count = line.rsplit(" ", 1)
        assert int(count) > 0
        assert symbol not in symbols
        symbols[symbol] = len(symbols)
    root, *rows = (folder / f"{name}.tsv").read_text().splitlines()
    labels = [line.rstrip() for line in (folder / f"{name}.km").read_text().split("\n")[:-1]]
    assert len(labels) == len(rows), "number of labels does not match"
    found = []
    for row, line in zip(rows, labels, strict=True):
        path, num_samples = row.strip().split("\t")
        tokens = [symbols[symbol] for symbol in line.split()]  # a KeyError is fairseq's silent unk
        assert abs(int(num_samples) / 16_000 - len(tokens) / label_rate) <= 0.1
        assert tokens  # collater_frm_label cuts a batch to its shortest labels
        found.append((str(Path(root) / path), int(num_samples), tokens))
    return found


def test_km_files_are_what_hubert_training_reads(tmp_path: Path) -> None:
    frames, _ = blobs(9)
    units = random_units(tmp_path / "u")
    summary = stored_labels(units, write_embeddings(tmp_path / "e", frames), tmp_path / "labels/train.km")
    found = as_fairseq_reads(tmp_path / "labels", "train", label_rate=1 / 0.02)
    assert found == [
        (f"/speech/u{i}.wav", 320 * len(part) + 80, brute_force(part, units)) for i, part in enumerate(frames)
    ]
    assert (tmp_path / "labels/dict.km.txt").read_text() == "".join(f"{k} 1\n" for k in range(13))
    assert summary.statistics["units_used"] < 13  # and all are in the dictionary
    assert sorted(path.name for path in (tmp_path / "labels").iterdir()) == [
        "dict.km.txt", "train.km", "train.km.stats.json", "train.tsv",
    ]  # fmt: skip


def test_text_has_ids_and_runs_with_their_lengths_lose_nothing(tmp_path: Path) -> None:
    frames, _ = blobs(3, num_utterances=5)
    folder, units = write_embeddings(tmp_path / "e", frames), random_units(tmp_path / "u", num_units=4)
    stored_labels(units, folder, tmp_path / "a.txt")
    stored_labels(units, folder, tmp_path / "b.txt", dedup=True)
    plain = [line.split("\t") for line in (tmp_path / "a.txt").read_text().splitlines()]
    runs = [line.split("\t") for line in (tmp_path / "b.txt").read_text().splitlines()]
    assert [line[0] for line in plain] == [line[0] for line in runs] == [f"u{i}" for i in range(5)]
    for (_, labels), (_, own, lengths), part in zip(plain, runs, frames, strict=True):
        assert list(map(int, labels.split())) == brute_force(part, units)
        assert " ".join(np.repeat(own.split(), list(map(int, lengths.split())))) == labels
        assert all(a != b for a, b in zip(own.split(), own.split()[1:], strict=False))


def test_figures_by_hand(tmp_path: Path) -> None:
    # 0 0 0 1 | 1 1 2 2 of units 0..3, and 8 frames * 320 + 2 * 80 samples
    units = make_units(tmp_path / "u", np.eye(4))
    frames = [np.eye(4, dtype=np.float32)[row] for row in ([0, 0, 0, 1], [1, 1, 2, 2])]
    figures = stored_labels(units, write_embeddings(tmp_path / "e", frames), tmp_path / "a.txt").statistics
    document = json.loads((tmp_path / "a.txt.stats.json").read_text())
    assert document == {"units_hash": units.hash, "labels": "a.txt", "deduplicated": False, **figures}
    entropy = 2 * 3 / 8 * np.log2(8 / 3) + 2 / 8 * 2
    audio_s = 2720 / 16_000
    assert (figures["frames_of_unit"], figures["runs_of_unit"]) == ([3, 3, 2, 0], [1, 2, 1, 0])
    assert (figures["utterances"], figures["frames"], figures["units"]) == (2, 8, 4)
    assert (figures["units_used"], figures["unused"]) == (3, [3])
    assert figures["audio_s"] == pytest.approx(audio_s)
    assert figures["perplexity"] == pytest.approx(2**entropy)
    assert figures["mean_run_frames"] == 2.0
    assert figures["mean_run_s"] == pytest.approx(0.04)
    assert figures["bits_per_s"] == pytest.approx(entropy * 8 / audio_s)
    assert figures["bits_per_s_deduplicated"] == pytest.approx(1.5 * 4 / audio_s)


def test_what_has_no_labels_is_named_and_both_files_leave_it_out(tmp_path: Path) -> None:
    frames, _ = blobs(3, num_utterances=6)
    folder, units = write_embeddings(tmp_path / "e", frames), random_units(tmp_path / "u")
    np.save(folder / "u1.npy", frames[1] * np.nan)
    (folder / "u3.npy").unlink()
    lines = [json.loads(line) for line in (folder / "index.jsonl").read_text().splitlines()]
    lines[4]["num_samples"] += 320  # one frame more than the embeddings have
    (folder / "index.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    never = {"id": "short", "path": "/speech/short.wav", "reason": "it must last 25 ms"}
    (folder / "errors.jsonl").write_text(json.dumps(never) + "\n")
    summary = stored_labels(units, folder, tmp_path / "l/t.km")
    named = [json.loads(line) for line in (tmp_path / "l/t.km.errors.jsonl").read_text().splitlines()]
    assert [one["id"] for one in named] == [one.id for one in summary.refused] == ["short", "u1", "u3", "u4"]
    assert named[0] == never
    assert "finite" in named[1]["reason"]
    assert "u3.npy" in named[2]["reason"]
    count = len(frames[4])
    assert named[3]["reason"] == f"its {320 * count + 400} samples must give {count + 1} labels, there are {count}"
    found = as_fairseq_reads(tmp_path / "l", "t", label_rate=50)
    assert [row[0] for row in found] == [f"/speech/u{i}.wav" for i in (0, 2, 5)]
    assert [row[2] for row in found] == [brute_force(frames[i], units) for i in (0, 2, 5)]
    with pytest.raises(AudioError, match=r"short.*--strict stops here"):
        stored_labels(units, folder, tmp_path / "strict/t.km", strict=True)
    (folder / "errors.jsonl").unlink()
    with pytest.raises(AudioError, match=r"u1.*--strict stops here"):
        stored_labels(units, folder, tmp_path / "strict/t.km", strict=True)
    assert not list((tmp_path / "strict").iterdir())


def test_where_nothing_has_labels_nothing_is_written(tmp_path: Path) -> None:
    folder = write_embeddings(tmp_path / "e", [np.full((5, 7), np.nan, np.float32)])
    summary = stored_labels(random_units(tmp_path / "u"), folder, tmp_path / "l/t.txt")
    assert (summary.statistics["utterances"], len(summary.refused)) == (0, 1)
    assert not list((tmp_path / "l").iterdir())


@pytest.mark.parametrize(
    ("out", "options", "named"),
    [
        ("t.npy", {}, r"OUT must end in .txt .* or .km"),
        ("t.km", {"dedup": True}, "--dedup must go to a .txt file"),
        ("there.km", {}, "there.km must not be there yet"),
        ("other.km", {}, "other.tsv must not be there yet"),
    ],
)
def test_places_that_do_not_do_are_refused(tmp_path: Path, out: str, options: dict[str, bool], named: str) -> None:
    for name in ("there.km", "other.tsv"):
        (tmp_path / name).write_text("mine")
    folder, units = write_embeddings(tmp_path / "e", blobs(2)[0]), random_units(tmp_path / "u")
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(ConfigError, match=named):
        stored_labels(units, folder, tmp_path / out, **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert (tmp_path / "other.tsv").read_text() == "mine"


def test_a_folder_of_km_files_is_for_one_codebook(tmp_path: Path) -> None:
    folder, units = write_embeddings(tmp_path / "e", blobs(2)[0]), random_units(tmp_path / "u")
    stored_labels(units, folder, tmp_path / "l/train.km")
    stored_labels(units, folder, tmp_path / "l/valid.km")
    with pytest.raises(ConfigError, match=r"dict.km.txt must be that of these 11 units"):
        stored_labels(random_units(tmp_path / "u2", num_units=11), folder, tmp_path / "l/test.km")
    with pytest.raises(ConfigError, match=r"train.km is of units .* choose another folder"):
        stored_labels(random_units(tmp_path / "u3", seed=1), folder, tmp_path / "l/test.km")
    stored_labels(random_units(tmp_path / "u4", seed=1), folder, tmp_path / "l/test.txt")  # ids tell these apart


def test_what_a_format_cannot_say_is_refused_before_the_work(tmp_path: Path) -> None:
    units = random_units(tmp_path / "u")
    for i, (change, out, named) in enumerate(
        (
            ({"start": 7}, "t.km", "is a segment of a file"),
            ({"sample_rate": 8_000}, "t.km", r"must be at the model's 16000 Hz.*\n.*u2: 8000 Hz"),
            ({"offset": 0, "num_bytes": 99}, "t.km", "lies in a shard"),
            ({"id": "a\tb"}, "t.txt", r"no tab, line break.*\n.*'a\\tb'"),
        )
    ):
        folder = write_embeddings(tmp_path / f"e{i}", blobs(2)[0])
        lines = [json.loads(line) for line in (folder / "index.jsonl").read_text().splitlines()]
        lines[2] |= change
        (folder / "index.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        with pytest.raises(ManifestError, match=named):
            stored_labels(units, folder, tmp_path / out)
        assert not (tmp_path / out).exists()


@pytest.mark.parametrize(
    "change", [{"model_hash": "h2"}, {"layer": "3"}, {"hop_s": 0.04}, {"normalized": False}, {"model_rate_hz": 8_000}]
)
def test_units_of_other_frames_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    units = random_units(tmp_path / "u")
    with pytest.raises(
        ConfigError, match=next(iter(change)) if "layer" not in change else "e must hold layer 2, it holds layer 3"
    ):
        stored_labels(units, write_embeddings(tmp_path / "e", blobs(2)[0], change), tmp_path / "t.txt")


def test_long_recordings_are_labelled_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, units = write_embeddings(tmp_path / "e", blobs(3)[0]), random_units(tmp_path / "u")
    stored_labels(units, folder, tmp_path / "whole.txt")
    monkeypatch.setattr(assign_module, "READ_FRAMES", 17)
    stored_labels(units, folder, tmp_path / "parts.txt")
    assert (tmp_path / "whole.txt").read_text() == (tmp_path / "parts.txt").read_text()


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    for i, length in enumerate(LENGTHS):
        write_wav(tmp_path / "speech" / f"u{i}.wav", noise(length, seed=i))
    return tmp_path / "speech"


def origin_of(encoder: Encoder, layer: str) -> dict[str, Any]:
    return {"layer": layer, "model_hash": "h1", "normalized": encoder.normalize_waveform}


def audio_labels(
    units: Units, encoder: Encoder, opened: OpenedInput, out: Path, *, max_s: float = 60.0, **options: Any
) -> AssignSummary:
    settings = StreamSettings(2.0, WindowSettings(max_s, 0.5))
    labelled = AudioLabels(units, encoder, "h1", opened, settings=settings, runtime=CPU, scratch=out.parent)
    return assign(units, labelled, out, **options)


@pytest.mark.parametrize("form", ["npy", "matrix", "safetensors", "parquet", "kaldi"])
def test_audio_gives_the_labels_of_its_embeddings_in_input_order(
    encoder: Encoder, speech: Path, tmp_path: Path, form: str
) -> None:
    layer = choose_layer("all", num_layers=encoder.num_layers)
    settings = ExtractSettings(layer, format=form, stream=StreamSettings(2.0, WindowSettings(60.0, 0.5)))
    Extractor(encoder, "h1", settings, CPU).to_folder(open_input(speech), tmp_path / "e")
    units = random_units(tmp_path / "u", dim=16, **origin_of(encoder, "2"))
    stored_labels(units, tmp_path / "e", tmp_path / "stored/t.km")
    audio_labels(units, encoder, open_input(speech), tmp_path / "audio/t.km")
    found = as_fairseq_reads(tmp_path / "audio", "t", label_rate=50)
    assert found == as_fairseq_reads(tmp_path / "stored", "t", label_rate=50)
    assert [(path, n, len(labels)) for path, n, labels in found] == [
        (str(speech / f"u{i}.wav"), n, count)
        for i, (n, count) in enumerate(zip(LENGTHS, (49, 22, 149, 1, 74), strict=True))
    ]
    assert len({label for _, _, labels in found for label in labels}) > 3


def test_a_fairseq_manifest_comes_back_beside_its_labels(encoder: Encoder, speech: Path, tmp_path: Path) -> None:
    rows = "".join(f"u{i}.wav\t{LENGTHS[i]}\n" for i in (4, 0, 2))
    (tmp_path / "train.tsv").write_text(f"{speech}\n{rows}")
    units = random_units(tmp_path / "u", dim=16, **origin_of(encoder, "last"))
    audio_labels(units, encoder, open_input(tmp_path / "train.tsv"), tmp_path / "labels/train.km")
    assert (tmp_path / "labels/train.tsv").read_text() == f"{speech}\n{rows}"
    assert [len(row[2]) for row in as_fairseq_reads(tmp_path / "labels", "train", label_rate=50)] == [74, 49, 149]


def test_long_audio_is_labelled_by_windows(encoder: Encoder, tmp_path: Path) -> None:
    # layer 0 is local, so windows give the frames of the whole
    path = write_wav(tmp_path / "long.wav", noise(100_003, seed=8))
    units = random_units(tmp_path / "u", dim=16, **origin_of(encoder, "0"))
    audio_labels(units, encoder, open_input(path), tmp_path / "whole.txt")
    audio_labels(units, encoder, open_input(path), tmp_path / "cut.txt", max_s=2.0)
    whole, cut = ((tmp_path / name).read_text().split("\t")[1].split() for name in ("whole.txt", "cut.txt"))
    assert len(whole) == len(cut) == encoder.geometry.num_frames(100_003)
    assert np.mean(np.array(whole) == np.array(cut)) > 0.99
    assert sorted(path.name for path in tmp_path.iterdir() if path.name[0] == ".") == []


def test_audio_that_cannot_be_labelled_is_named(encoder: Encoder, speech: Path, tmp_path: Path) -> None:
    rows = [
        Utterance("gone", "gone.wav", 0, 8_000, 16_000),
        Utterance("good", "u0.wav", 0, 16_000, 16_000),
        Utterance("short", "u3.wav", 0, 399, 16_000),
        Utterance("last", "u1.wav", 0, 7_333, 16_000),
    ]
    opened = OpenedInput(Manifest.from_rows(rows, root=speech))
    units = random_units(tmp_path / "u", dim=16, **origin_of(encoder, "2"))
    summary = audio_labels(units, encoder, opened, tmp_path / "t.txt")
    assert [refusal.id for refusal in summary.refused] == ["gone", "short"]
    ids = [line.split("\t")[0] for line in (tmp_path / "t.txt").read_text().splitlines()]
    assert ids == ["good", "last"]
    assert summary.statistics["audio_s"] == pytest.approx((16_000 + 7_333) / 16_000)


def test_a_model_that_gives_nan_is_named(encoder: Encoder, speech: Path, tmp_path: Path) -> None:
    spoilt = copy.deepcopy(encoder)
    with torch.no_grad():
        next(iter(spoilt.context_network.parameters())).fill_(torch.nan)
    units = random_units(tmp_path / "u", dim=16, **origin_of(encoder, "2"))
    summary = audio_labels(units, spoilt, open_input(speech), tmp_path / "t.txt", max_s=2.0)
    assert [refusal.id for refusal in summary.refused] == [f"u{i}" for i in range(5)]  # each once, also with windows
    assert {refusal.reason for refusal in summary.refused} == {"the model gives NaN or infinity for it"}


def test_other_models_and_learned_sums_are_refused(encoder: Encoder, speech: Path, tmp_path: Path) -> None:
    opened = open_input(speech)
    other = random_units(tmp_path / "u", dim=16, **(origin_of(encoder, "2") | {"model_hash": "h9"}))
    with pytest.raises(ConfigError, match=r"MODEL must give the frames.*model_hash is 'h1', that of the units is 'h9'"):
        audio_labels(other, encoder, opened, tmp_path / "t.txt")
    learned = random_units(tmp_path / "w", dim=16, **origin_of(encoder, "weighted-1234abcd"))
    with pytest.raises(ConfigError, match="weighted-1234abcd, a learned sum of layers; label embeddings of it"):
        audio_labels(learned, encoder, opened, tmp_path / "t.txt")
    assert not (tmp_path / "t.txt").exists()


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    folder, units = write_embeddings(tmp_path / "e", blobs(2)[0]), random_units(tmp_path / "u")
    monkeypatch.setattr(assign_module.LabelFiles, "write", full)
    with pytest.raises(OSError, match="No space"):
        stored_labels(units, folder, tmp_path / "l/t.km")
    assert not list((tmp_path / "l").iterdir())


def test_counts_that_are_off_are_never_written(tmp_path: Path) -> None:
    class Off(StoredLabels):
        def _label(self, row: int) -> np.ndarray:
            labels = super()._label(row)
            return labels[:-1] if row == 2 else labels

    folder, units = write_embeddings(tmp_path / "e", blobs(2)[0]), random_units(tmp_path / "u")
    summary = assign(units, Off(units, StoredFrames(folder), torch.device("cpu")), tmp_path / "t.txt")
    assert [refusal.id for refusal in summary.refused] == ["u2"]


def test_the_dimension_must_be_that_of_the_units(tmp_path: Path) -> None:
    units = random_units(tmp_path / "u", dim=5)
    with pytest.raises(ConfigError, match=r"must hold frames of 5 numbers as .*, it has 7"):
        stored_labels(units, write_embeddings(tmp_path / "e", blobs(2)[0]), tmp_path / "t.txt")
