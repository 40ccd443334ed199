"""Hours of speech as one file through `audio-ssl extract`, with its memory watched (Linux). Prints one JSON object.

    AUDIO_SSL_CORPORA=... python tools/long_check.py                        2 hours, base
    AUDIO_SSL_CORPORA=... python tools/long_check.py --hours 0.05 --preset tiny_cpu

The recording is real speech, put together file by file; the model has base's size and random weights. The command runs
as users run it, in a process of its own. Exit status 1 where it takes --most-gib or more, 10 % more than it said
beforehand, or gives another number of frames than the recording's length.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

import soundfile as sf
import torch

sys.path.insert(0, str(Path(__file__).parent))
from audio_ssl.config import ModelConfig
from audio_ssl.data.waveform import resample
from audio_ssl.model.encoder import build_encoder
from audio_ssl.model.files import encoder_document, save_model_dir
from benchmarks.resident import watch

RATE = 16_000
SEED = 1


def main() -> int:
    """Measure; the exit status."""
    arguments = _parse()
    torch.manual_seed(SEED)
    config = ModelConfig(preset=arguments.preset)
    num_samples = round(arguments.hours * 3600 * RATE)
    with tempfile.TemporaryDirectory(prefix="long_check_", dir=arguments.work) as name:
        work = Path(name)
        write_recording(arguments.speech, work / "long.flac", num_samples)
        save_model_dir(work / "model", encoder_document(config), {"encoder": build_encoder(config)})
        places = [str(work / place) for place in ("model", "long.flac", "out")]
        watched = watch([sys.executable, "-m", "audio_ssl", "extract", *places, "--device", "cpu", *arguments.options])
        (line,) = [json.loads(text) for text in (work / "out/index.jsonl").read_text(encoding="utf-8").splitlines()]
    result = {
        "hours": arguments.hours, "preset": arguments.preset, "options": arguments.options,
        "threads": torch.get_num_threads(), "peak_rss_mib": round(watched.peak_mib, 1),
        "stated_mib": watched.stated_mib, "wall_s": round(watched.seconds, 1),
        "audio_s_per_s": round(num_samples / RATE / watched.seconds, 2), "num_frames": line["num_frames"],
        "window_error": line["window_error"],
    }  # fmt: skip
    print(json.dumps(result))
    is_whole = line["num_frames"] == config.geometry.num_frames(num_samples)
    is_stated = watched.stated_mib is not None and watched.peak_mib <= 1.1 * watched.stated_mib
    return 0 if is_whole and is_stated and watched.peak_mib < arguments.most_gib * 1024 else 1


def write_recording(speech: Path, path: Path, num_samples: int) -> None:
    """Real speech, file after file and over again, until it has so many samples at 16 kHz; one file at a time.

    Raises:
        SystemExit: there is none.
    """
    files = sorted(file for file in speech.rglob("*") if file.suffix in (".flac", ".wav"))
    if not files:
        raise SystemExit(f"error: {speech} must hold .flac or .wav files of speech; give a folder with --speech")
    left = num_samples
    with sf.SoundFile(path, "w", RATE, 1, "PCM_16") as recording:
        while left:
            for file in files:
                waveform, rate = sf.read(file, dtype="float32", always_2d=True)
                own = resample(waveform.mean(axis=1), from_hz=rate, to_hz=RATE)[:left]
                recording.write(own)
                left -= len(own)
                if not left:
                    return


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    corpora = os.environ.get("AUDIO_SSL_CORPORA")
    speech = Path(corpora) / "librispeech_mini" if corpora else Path(__file__).parents[1] / "manifests/demo"
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--preset", default="wav2vec2_base")
    parser.add_argument("--speech", type=Path, default=speech)
    parser.add_argument("--most-gib", type=float, default=4.0)
    parser.add_argument("--work", type=Path, help="where a folder for recording and frames is made; 1.5 GB for 2 hours")
    parser.add_argument("options", nargs="*", help="of extract, after --: for one -- --layer 6")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
