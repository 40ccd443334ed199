"""``extract --check-invariance``: what it looks at, what it says, and that it bites."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from torch import Tensor
from typer.testing import CliRunner, Result

from audio_ssl.cli.extract import extract
from audio_ssl.errors import AudioError, AudioSSLError, ConfigError
from audio_ssl.inference import invariance
from audio_ssl.inference.invariance import Finding, check_invariance, relative_difference
from audio_ssl.inference.layers import LayerForward, choose_layer
from audio_ssl.inference.models import Runtime
from audio_ssl.inference.source import ArraySource
from audio_ssl.inference.stream import StreamSettings
from audio_ssl.inference.surroundings import Clipped, all_surroundings
from audio_ssl.model.encoder import Encoder
from tests.unit.inference.conftest import CPU, noise, write_wav

app = typer.Typer()
app.command()(extract)
SETTINGS = StreamSettings(batch_s=8.0)
LENGTHS = (400, 16_001, 9_007, 31_999, 4_321)


def call(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if isinstance(result.exception, AudioSSLError):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def source_of(*lengths: int) -> ArraySource:
    return ArraySource([noise(n, seed=i) for i, n in enumerate(lengths)], sample_rate_hz=16_000)


def check(encoder: Encoder, *lengths: int, layer: str = "last", runtime: Runtime = CPU) -> invariance.Invariance:
    choice = choose_layer(layer, num_layers=encoder.num_layers)
    return check_invariance(encoder, source_of(*lengths), layer=choice, settings=SETTINGS, runtime=runtime)


class Leaky:
    """An encoder whose frames hang a little on something else."""

    def __init__(self, encoder: Encoder, choice: Any) -> None:
        self._forward = LayerForward(encoder, choice)

    def __call__(self, waveforms: Tensor, num_samples: Tensor, **settings: Any) -> tuple[Tensor, Tensor]:
        frames, num_frames = self._forward(waveforms, num_samples, **settings)
        return frames + self.leak(waveforms, frames), num_frames

    def leak(self, waveforms: Tensor, frames: Tensor) -> Tensor:
        raise NotImplementedError


class LeakOfMates(Leaky):
    def leak(self, waveforms: Tensor, frames: Tensor) -> Tensor:
        return 1e-4 * (waveforms.abs().mean() - waveforms.abs().mean(dim=1))[:, None, None] * frames.abs().max()


class LeakOfPadding(Leaky):
    def leak(self, waveforms: Tensor, frames: Tensor) -> Tensor:
        is_wide = (waveforms[:, -1] == 0).float()  # what is padded
        return 1e-3 * is_wide[:, None, None] * frames.abs().max()


class LeakOfPlace(Leaky):
    def leak(self, waveforms: Tensor, frames: Tensor) -> Tensor:
        return 1e-3 * torch.arange(len(frames))[:, None, None] * frames.abs().max()


def test_difference_by_hand() -> None:
    a = np.array([[1.0, -4.0], [0.0, 2.0]])
    assert relative_difference(a, a + 1.0) == 0.25
    assert relative_difference(np.stack([a, 0.1 * a]), np.stack([a, 0.1 * a + 0.1])) == pytest.approx(0.25)
    assert relative_difference(np.zeros((2, 2)), np.full((2, 2), 1e-9)) == pytest.approx(1e-3)  # not infinite
    assert relative_difference(a, a[:1]) == math.inf
    assert math.isnan(relative_difference(a, a * np.nan))


def test_the_worst_is_what_cannot_be_said() -> None:
    assert Finding("", {"a": 0.1, "b": math.nan, "c": 0.3}).worst[0] == "b"
    assert Finding("", {"a": 0.1, "c": 0.3}).worst == ("c", 0.3)


def test_every_kind_of_surroundings_is_looked_at(encoder: Encoder) -> None:
    result = check(encoder, *LENGTHS)
    assert [finding.what for finding in result.findings] == [
        "in the batches of extract", "in other orders", "short beside long", "beside silence and noise",
        "with more padding", "reading threads: 0", "reading threads: 1", "reading threads: 2", "reading threads: 4",
    ]  # fmt: skip
    for finding in result.findings:
        assert sorted(finding.differences) == [f"array {i}" for i in range(5)]
        assert finding.worst[1] <= 1e-5
    assert any(finding.worst[1] > 0 for finding in result.findings)  # something else was computed
    assert (result.failures, result.from_fp32, result.refused) == ({}, None, ())
    assert result.lengths_s == tuple(sorted(n / 16_000 for n in LENGTHS))


@pytest.mark.parametrize(
    ("leak", "found_by"),
    [
        (
            LeakOfMates,
            {"in the batches of extract", "in other orders", "short beside long", "beside silence and noise"},
        ),
        (LeakOfPadding, {"in the batches of extract", "short beside long", "with more padding"}),
        (LeakOfPlace, {"in other orders", "beside silence and noise"}),
    ],
)
def test_an_embedding_that_hangs_on_something_else_is_found(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch, leak: type[Leaky], found_by: set[str]
) -> None:
    monkeypatch.setattr(invariance, "LayerForward", leak)
    failures = check(encoder, *LENGTHS).failures
    assert found_by <= failures.keys()
    assert all(value > 1e-5 for differences in failures.values() for value in differences.values())


def test_a_lone_utterance_is_checked_too(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(check(encoder, 9_007).findings) == 6  # nobody is there to stand beside
    monkeypatch.setattr(invariance, "LayerForward", LeakOfMates)
    assert check(encoder, 9_007).failures.keys() == {"beside silence and noise"}


def test_at_most_eight_from_the_shortest_to_the_longest(encoder: Encoder) -> None:
    lengths = [400 + 160 * i for i in range(29)][::-1]
    result = check(encoder, 399, *lengths)  # the first gives no frame
    ranks = [0, 4, 8, 12, 16, 20, 24, 28]
    assert result.lengths_s == tuple((400 + 160 * rank) / 16_000 for rank in ranks)


def test_of_a_long_one_its_first_quarter_of_a_batch(encoder: Encoder) -> None:
    assert check(encoder, 8_000, 200_003, layer="1").lengths_s == (0.5, 2.0)
    clipped = Clipped(source_of(200_003, 77), 2.0)
    assert [clipped.num_samples(row) for row in range(len(clipped))] == [32_000, 77]


def test_bf16_is_stated_beside_fp32_and_promises_nothing(encoder: Encoder) -> None:
    result = check(encoder, *LENGTHS, layer="all", runtime=Runtime(torch.device("cpu"), "bf16"))
    assert result.from_fp32 is not None
    assert 1e-4 < result.from_fp32.worst[1] < 0.1
    assert result.failures == {}


def test_batches_go_in_as_said_and_come_back_in_order() -> None:
    seen: list[tuple[list[list[float]], list[int], bool]] = []

    def forward(waveforms: Tensor, num_samples: Tensor, *, is_full: bool) -> tuple[Tensor, Tensor]:
        seen.append((waveforms.tolist(), num_samples.tolist(), is_full))
        return waveforms[:, :1, None], num_samples

    waveforms, lengths = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 0.0]]), torch.tensor([2, 2, 1])
    for surroundings in all_surroundings([0, 1, 2], SETTINGS):
        for wrap in surroundings.wraps:
            frames, num_frames = wrap(forward)(waveforms, lengths, is_full=False)
            assert frames.flatten().tolist() == [1.0, 3.0, 5.0], surroundings.what
            assert num_frames.tolist() == [2, 2, 1], surroundings.what
    batches = [batch for batch, _, _ in seen]
    assert batches[1] == waveforms.flip(0).tolist()
    assert batches[2] == waveforms[[2, 0, 1]].tolist()
    assert batches[4] == [[0.0, 0.0], *waveforms.tolist(), [-1.0, 1.0]]
    assert [len(batch[0]) for batch in batches[5:7]] == [3, 3]
    assert [n for _, n, _ in seen][4] == [2, 2, 2, 1, 2]


def test_the_verb_writes_nothing_and_needs_no_place(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i, length in enumerate(LENGTHS):
        write_wav(tmp_path / f"speech/u{i}.wav", noise(length, seed=i))
    before = sorted(tmp_path.rglob("*"))
    output = call(model_dir, tmp_path / "speech", "--check-invariance", "--layer", "2").output
    assert "short beside long" in output
    assert "looked at 5 of 5 utterances, 0.03 to 2.00 s; nothing was written" in output
    assert "all the same to 1e-05" in output
    call(model_dir, tmp_path / "speech", tmp_path / "out", "--check-invariance")
    assert sorted(tmp_path.rglob("*")) == before
    monkeypatch.setattr(invariance, "LayerForward", LeakOfPlace)
    output = call(model_dir, tmp_path / "speech", "--check-invariance", code=1).output
    assert "fp32 must be the same to 1e-05; in other orders, it is not: u" in output
    with pytest.raises(ConfigError, match="OUT must be given"):
        call(model_dir, tmp_path / "speech")
    write_wav(tmp_path / "short/a.wav", noise(300))
    with pytest.raises(AudioError, match=r"of 1 there is none \(.*a\.wav: it must last 25 ms"):
        call(model_dir, tmp_path / "short/a.wav", "--check-invariance")
