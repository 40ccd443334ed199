"""A folder of tones, low and high, by three voices: a task that every spectrum solves."""

from pathlib import Path

import numpy as np
import soundfile as sf

RATE = 16_000
TASK = """kind = "{kind}"
title = "low or high"
[data]
root = "tones"
speaker_from = "(?P<speaker>[a-z]+)_"
[labels]
pattern = "_(?P<label>[a-z]+)_"
[split]
kind = "{split}"
"""


def write_tones(folder: Path, *, num: int = 4, kind: str = "classify", split: str = "leave_one_speaker_out") -> Path:
    """``num`` tones of 0.3 s of each voice and label below ``folder``, and the task's file."""
    rng = np.random.default_rng(3)
    times = np.arange(round(0.3 * RATE)) / RATE
    (folder / "tones").mkdir(parents=True, exist_ok=True)
    for who, high in (("ann", 1500), ("bob", 1700), ("cat", 1900)):
        for label, hz in (("low", high / 5), ("high", high)):
            for i in range(num):
                tone = 0.2 * np.sin(2 * np.pi * hz * (1 + 0.02 * i) * times) + 0.02 * rng.standard_normal(len(times))
                sf.write(folder / "tones" / f"{who}_{label}_{i}.wav", tone, RATE)
    file = folder / f"{kind}.toml"
    file.write_text(TASK.format(kind=kind, split=split))
    return file
