"""What s3prl 0.4.18 takes from torchaudio and torchaudio 2.9 no longer has, put back for this process.

s3prl's hub and its downstream tasks import these names; without them nothing of s3prl starts beside the torch that this
project needs. Reading is soundfile's. Of sox's effects there are those of the SUPERB tasks but for ``silence`` (speaker
verification, ASV), which is refused.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import soundfile as sf
import torch
import torchaudio
from torch import Tensor


@dataclass(frozen=True)
class AudioMetaData:
    """What ``torchaudio.info`` told."""

    sample_rate: int
    num_frames: int
    num_channels: int


def restore_torchaudio() -> None:
    """Put back what is missing; a torchaudio that has it all stays as it is."""
    if hasattr(torchaudio, "set_audio_backend"):
        return
    torchaudio.set_audio_backend = lambda *_: None
    torchaudio.load = load
    torchaudio.info = info
    effects: Any = ModuleType("torchaudio.sox_effects")
    effects.apply_effects_tensor, effects.apply_effects_file = apply_effects_tensor, apply_effects_file
    sys.modules["torchaudio.sox_effects"] = torchaudio.sox_effects = effects


def load(path: Any, frame_offset: int = 0, num_frames: int = -1, **_: Any) -> tuple[Tensor, int]:
    """(channels, S) float32 and the rate."""
    samples, rate = sf.read(str(path), frames=num_frames, start=frame_offset, dtype="float32", always_2d=True)
    return torch.from_numpy(samples.T).contiguous(), int(rate)


def info(path: Any, **_: Any) -> AudioMetaData:
    """A file's header."""
    found = sf.info(str(path))
    return AudioMetaData(found.samplerate, found.frames, found.channels)


def apply_effects_file(path: Any, effects: Sequence[Sequence[str]], **_: Any) -> tuple[Tensor, int]:
    """:func:`load`, then :func:`apply_effects_tensor`."""
    return apply_effects_tensor(*load(path), effects)


def apply_effects_tensor(waveform: Tensor, rate: int, effects: Sequence[Sequence[str]], **_: Any) -> tuple[Tensor, int]:
    """Run ``channels 1``, ``rate`` and ``gain`` in turn.

    Raises:
        ValueError: any other effect.
    """
    for name, *arguments in effects:
        if (name, arguments) == ("channels", ["1"]):
            waveform = waveform.mean(0, keepdim=True)
        elif name == "rate" and len(arguments) == 1:
            wanted = int(arguments[0])
            waveform, rate = torchaudio.functional.resample(waveform, rate, wanted), wanted
        elif name == "gain" and len(arguments) == 1:
            waveform = waveform * 10 ** (float(arguments[0]) / 20)
        else:
            raise ValueError(
                f"the effect {' '.join([name, *arguments])!r} must be one of channels 1, rate and gain: torchaudio "
                f"{torchaudio.__version__} has no sox any more; prepare the audio of this task without it"
            )
    return waveform, rate
