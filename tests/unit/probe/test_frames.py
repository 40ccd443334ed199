"""Frames on disk: what was computed, rounded a little, found again for the same audio and the same candidate alone."""

import os
import threading
from dataclasses import replace

import numpy as np
import pytest
import soundfile as sf
import torch

from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.errors import AudioError, ConfigError, ManifestError
from audio_ssl.geometry import ConvGeometry
from audio_ssl.inference.models import AudioNeeds
from audio_ssl.probe.candidates import Candidate, Opened, log_mel
from audio_ssl.probe.frames import frames_bytes, open_frames, stored_at
from audio_ssl.probe.items import Items

LENGTHS = (900, 2000, 1300)


def items_in(folder, lengths=LENGTHS):
    rows = []
    for i, length in enumerate(lengths):
        samples = np.random.default_rng(i).normal(scale=0.1, size=length).astype(np.float32)
        sf.write(folder / f"{i}.wav", samples, 16000, subtype="FLOAT")
        rows.append(Utterance(f"u{i}", f"{i}.wav", 0, length, 16000, speaker="s"))
    num = len(lengths)
    return Items(Manifest.from_rows(rows, root=folder), ("a",) * num, ("s",) * num, (None,) * num, ((),) * num)


class Counting:
    """Three layers of two numbers a frame of 400 samples every 320; counts what it is asked for."""

    def __init__(self, factor=1.0):
        self.factor, self.num_rows = factor, 0

    def __call__(self, waveforms, num_samples, *, is_full, time_stats=None):
        self.num_rows += len(waveforms)
        frames = waveforms.unfold(1, 400, 320)
        values = torch.stack((frames.mean(-1), frames.square().mean(-1)), dim=-1)  # (B, T, 2)
        return self.factor * torch.stack((values, 2 * values, values + 1), dim=1), (num_samples - 400) // 320 + 1


def counting(forward, digest="d"):
    geometry = ConvGeometry((400,), (320,))
    needs = AudioNeeds(16000, normalize=False, geometry=geometry)
    return Candidate("counting", "model", 16000, geometry, 3, 2, "fp32", digest, lambda _: Opened(forward, needs))


def expected(folder, item, factor=1.0):
    samples, _ = sf.read(folder / f"{item}.wav", dtype="float32")
    waveform = torch.from_numpy(samples)[None]
    return Counting(factor)(waveform, torch.tensor([len(samples)]), is_full=True)[0][0]


def test_frames_are_those_of_the_candidate_rounded_to_float16(tmp_path):
    items = items_in(tmp_path)
    seconds = []
    frames = open_frames(counting(Counting()), items, cache=tmp_path / "cache", on_progress=seconds.append)
    assert (frames.name, frames.num_layers, frames.dim, frames.hop_s, len(frames)) == ("counting", 3, 2, 0.02, 3)
    assert frames.num_frames.tolist() == [2, 6, 3]
    assert sum(seconds) == pytest.approx(sum(LENGTHS) / 16000)
    for item in range(3):
        exact = expected(tmp_path, item)
        assert frames.of(item).dtype == torch.float32
        torch.testing.assert_close(frames.of(item), exact.half().float(), rtol=0, atol=0)
        error = 100 * (frames.of(item) - exact).norm() / exact.norm()
        assert frames.error_percent[item] == pytest.approx(float(error), rel=1e-3)
        assert 0 < frames.error_percent[item] < 0.05
        mean, std = exact.mean(1), exact.std(1, correction=0)
        torch.testing.assert_close(frames.pooled()[item], torch.cat((mean, std), dim=-1), rtol=1e-6, atol=1e-7)


def test_a_layer_stands_alone(tmp_path):
    frames = open_frames(counting(Counting()), items_in(tmp_path), cache=tmp_path / "cache")
    second = frames.layer(1)
    assert second.num_layers == second.layer(0).num_layers == 1
    torch.testing.assert_close(second.of(2), frames.of(2)[1:2], rtol=0, atol=0)
    torch.testing.assert_close(second.layer(0).of(0), frames.of(0)[1:2], rtol=0, atol=0)
    torch.testing.assert_close(second.pooled(), frames.pooled()[:, 1:2], rtol=0, atol=0)
    with pytest.raises(ConfigError, match="must be 0 to 2, got 3"):
        frames.layer(3)
    with pytest.raises(ConfigError, match="must be 0 to 0, got 1"):
        second.layer(1)


def test_what_is_there_is_not_computed_again(tmp_path):
    items, forward, seconds = items_in(tmp_path), Counting(), []
    for _ in range(2):
        open_frames(counting(forward), items, cache=tmp_path / "cache", on_progress=seconds.append)
    assert forward.num_rows == 3
    assert sum(seconds) == pytest.approx(2 * sum(LENGTHS) / 16000)
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".safetensors"]


def test_other_weights_audio_or_rows_are_computed(tmp_path):
    items = items_in(tmp_path)
    candidate = counting(Counting())
    place = stored_at(candidate, items, tmp_path)
    assert stored_at(replace(candidate, name="renamed"), items, tmp_path) == place
    assert stored_at(candidate, replace(items, labels=("b",) * 3), tmp_path) == place
    assert stored_at(counting(Counting(), "e"), items, tmp_path) != place
    assert stored_at(candidate, replace(items, manifest=items.manifest.select([1, 0, 2])), tmp_path) != place
    os.utime(tmp_path / "1.wav", ns=(5, 5))
    assert stored_at(candidate, items, tmp_path) != place


def test_numbers_beyond_float16_are_kept_in_float32(tmp_path):
    items, seconds = items_in(tmp_path), []
    candidate = counting(Counting(1e6))
    frames = open_frames(candidate, items, cache=tmp_path / "cache", on_progress=seconds.append)
    for item in range(3):
        torch.testing.assert_close(frames.of(item), expected(tmp_path, item, 1e6), rtol=0, atol=0)
    assert frames.error_percent.tolist() == [0, 0, 0]
    assert sum(seconds) == pytest.approx(sum(LENGTHS) / 16000)
    torch.testing.assert_close(frames.layer(2).of(1), frames.of(1)[2:], rtol=0, atol=0)


def test_a_probe_of_fewer_items_is_refused(tmp_path):
    cache, items = tmp_path / "cache", items_in(tmp_path, (900, 399, 700))
    with pytest.raises(AudioError, match=r"must last 25 ms or more .* counting, 1 do not: .*u1, 1\.wav"):
        open_frames(counting(Counting()), items, cache=cache)
    assert not cache.exists()
    items = items_in(tmp_path)
    (tmp_path / "1.wav").write_bytes(b"no audio")
    with pytest.raises(AudioError, match=r"counting of u1 \(.*1\.wav\)"):
        open_frames(counting(Counting()), items, cache=cache)
    assert not list(cache.glob("*.safetensors"))
    assert sum(path.stat().st_size for path in cache.iterdir()) == 0
    items = items_in(tmp_path)
    with pytest.raises(AudioError, match=r"row \d+ \(u., .\.wav\): the model gives NaN"):
        open_frames(counting(Counting(float("nan"))), items, cache=cache)
    assert open_frames(counting(Counting()), items, cache=cache).num_frames.tolist() == [2, 6, 3]


def test_two_who_ask_at_once_compute_once(tmp_path):
    items, forward, found = items_in(tmp_path), Counting(), []

    def ask():
        found.append(open_frames(counting(forward), items, cache=tmp_path / "cache").of(1))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert forward.num_rows == 3
    assert len(found) == 4
    assert all(torch.equal(one, found[0]) for one in found)
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".safetensors"]


def test_a_draft_that_a_kill_left_is_written_anew(tmp_path):
    items, candidate = items_in(tmp_path), counting(Counting())
    cache = tmp_path / "cache"
    cache.mkdir()
    stored_at(candidate, items, cache).with_suffix(".draft").write_bytes(b"x" * 100_000)
    frames = open_frames(candidate, items, cache=cache)
    torch.testing.assert_close(frames.of(0), expected(tmp_path, 0).half().float(), rtol=0, atol=0)


def test_a_damaged_file_is_named(tmp_path):
    items, candidate = items_in(tmp_path), counting(Counting())
    place = stored_at(candidate, items, tmp_path)
    place.write_bytes(b"\x08" + b"\0" * 30)
    with pytest.raises(ManifestError, match=f"{place.name} must be frames of a probe, it is damaged"):
        open_frames(candidate, items, cache=tmp_path)


def test_a_cache_that_cannot_be_written_is_told(tmp_path):
    items = items_in(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"must be writable with room for 0\.00 GiB.*--cache"):
        open_frames(counting(Counting()), items, cache=tmp_path / "file" / "cache")


def test_the_size_is_told_before(tmp_path):
    items = items_in(tmp_path)
    for candidate in (counting(Counting()), log_mel()):
        open_frames(candidate, items, cache=tmp_path / "cache")
        size = stored_at(candidate, items, tmp_path / "cache").stat().st_size
        assert 0 <= size - frames_bytes(candidate, items) < 1000  # the head
