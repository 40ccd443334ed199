"""Bad input through the console script: told with what, where and what to do, and never a traceback.

What cannot be used is named and the rest goes on; what cannot go on ends with status 2 and leaves what was there.
"""

import contextlib
import hashlib
import json
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from console import BATCHES, ENVIRONMENT, MODEL, SCRIPT, audio_ssl, sets

from audio_ssl.config import PretrainConfig, find_config, load_config
from audio_ssl.interop.source import load_encoder
from audio_ssl.model.ctc import CTCModel
from audio_ssl.model.encoder import build_encoder
from audio_ssl.model.files import ctc_document, encoder_document, save_model_dir

HALF_HOUR_S, HALF_HOUR_FRAMES = 1800, 89_999  # (1800 s * 16 kHz - 400) // 320 + 1
NAME = "мой голос/こんにちは 世界 [red] 'a'"
REFUSED = {
    # file: reason, and what the detail must say
    "zero.wav": ("empty file", "zero bytes"),
    "text.wav": ("not audio", "Format not recognised"),
    "cut.flac": ("truncated", "the header promises 48000 samples"),
    "nan.wav": ("NaN or infinity", "first at sample 12345"),
    "short.wav": ("too short", "200 samples at 16000 Hz; a frame needs 0.025 s"),
    "\\xff name.wav": ("unreadable", "its path is not UTF-8"),
}
SYMBOLS = ("<pad>", "<unk>", "|", "a", "b")


def noise(path: Path, seconds: float, rate: int = 16000, *, channels: int = 1, subtype: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = 0.1 * np.random.default_rng(len(path.name)).standard_normal((round(seconds * rate), channels))
    sf.write(path, samples.astype(np.float32), rate, subtype=subtype)


def truncate(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


@pytest.fixture
def refused(say) -> Callable[..., str]:
    """The console script's entry point in this process (which has torch already), for what ends with status 2."""

    def call(*args: str | Path) -> str:
        said = say(*args, status=2)
        assert "error: " in said
        return said

    return call


def tree(folder: Path) -> dict[str, str]:
    """Every file below a folder and a hash of what it holds."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("bad_input")


@pytest.fixture(scope="module")
def bad(work) -> Path:
    """The folder of the issue: five files that are odd but usable, six that are not."""
    folder = work / "bad"
    noise(folder / "good.wav", 2)
    noise(folder / "narrow.wav", 2, 8000)
    noise(folder / "wide.wav", 2, 48000, channels=2)
    noise(folder / f"{NAME}.wav", 2)
    with sf.SoundFile(folder / "half_hour.flac", "w", samplerate=8000, channels=1, subtype="PCM_16") as file:
        minute = np.random.default_rng(7).integers(-8, 9, 60 * 8000).astype(np.int16)
        for _ in range(HALF_HOUR_S // 60):
            file.write(minute)
    (folder / "zero.wav").touch()
    (folder / "text.wav").write_text("this is no sound\n" * 99)
    noise(folder / "cut.flac", 3)
    truncate(folder / "cut.flac")
    samples = np.full(32000, 0.1, dtype=np.float32)
    samples[12345] = np.nan
    sf.write(folder / "nan.wav", samples, 16000, subtype="FLOAT")
    noise(folder / "short.wav", 200 / 16000)
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff name.wav")).write_bytes((folder / "good.wav").read_bytes())
    Path(os.fsdecode(os.fsencode(folder) + b"/notes.m\xff")).write_text("not audio, and not called so")
    return folder


@pytest.fixture(scope="module")
def models(work) -> dict[str, Path]:
    """Two encoders of one shape and a recogniser, with random weights."""
    settings = load_config(
        PretrainConfig,
        find_config("pretrain/conv_tiny"),
        [*MODEL, "model.conv_dims=[8,8,8,8,8,8,8]", "data.train=['x']", "run.dir=x"],
    ).model
    places = {name: work / name for name in ("encoder", "other", "recogniser")}
    torch.manual_seed(3)
    for name in ("encoder", "other"):
        save_model_dir(places[name], encoder_document(settings), {"encoder": build_encoder(settings)})
    model = CTCModel(build_encoder(settings), len(SYMBOLS))
    document = ctc_document(settings, symbols=SYMBOLS)
    save_model_dir(places["recogniser"], document, {"encoder": model.encoder, "head": model.head})
    return places


@pytest.fixture(scope="module")
def speech(work, say) -> Path:
    """Thirty files of a second or two, all good, with their manifest."""
    for i in range(30):
        noise(work / "speech" / f"u{i:02}.flac", 1 + i / 30)
    say("manifest", "build", work / "speech", "-o", work / "speech.arrow")
    return work / "speech.arrow"


def training(manifest: Path, run_dir: Path, *settings: str, verb: str = "pretrain") -> list[str]:
    shape = {"pretrain": ["pretrain/conv_tiny", *sets(*MODEL)], "finetune": ["finetune/small"]}[verb]
    data = [f"data.train=['{manifest}']", f"run.dir={run_dir}", "run.num_updates=4", "run.log_every=1"]
    return [verb, *shape, *sets(*BATCHES, *data, "run.save_every=1", *settings)]


def test_a_scan_names_each_file_that_stays_out_with_its_reason_and_count(work, bad, say):
    said = say("manifest", "build", bad, "-o", work / "bad.arrow")
    assert "wrote 5 rows, 0.50 h of audio" in said
    assert "6 files refused" in said
    lines = (work / "bad.arrow.refused.tsv").read_text(encoding="utf-8").splitlines()
    listed = {path.replace("\\\\", "\\"): (reason, detail) for path, reason, detail in (x.split("\t") for x in lines)}
    assert listed.pop("path") == ("reason", "detail")
    assert listed.keys() == REFUSED.keys()
    for path, (reason, detail) in REFUSED.items():
        assert listed[path][0] == reason
        assert detail in listed[path][1]
        assert [line for line in said.splitlines() if reason in line and " 1 " in line and path in line]
    assert "all refused files, with reasons: " in said
    assert "not audio by their names, skipped: 1 .m\\xff" in said
    assert "1 rows are longer than 20 s (the longest has 1800.0 s: half_hour.flac)" in said
    assert "manifest segment" in said
    assert "all 5 rows agree with their files" in say("manifest", "validate", work / "bad.arrow")
    said = say("manifest", "stats", work / "bad.arrow")
    assert all(text in said for text in ("5 rows in 5 files, 0.50 h", "8000 Hz", "16000 Hz", "48000 Hz"))
    assert "[red] 'a'" in say("manifest", "show", work / "bad.arrow")


def test_a_folder_without_usable_audio_is_told_apart_from_one_without_audio(work, models, refused):
    (work / "empty").mkdir()
    out = work / "none.arrow"
    for args in (["manifest", "build", work / "empty", "-o", out], ["extract", models["encoder"], work / "empty", out]):
        assert f"{work / 'empty'} must hold audio files, but holds nothing" in refused(*args)
    (work / "useless").mkdir()
    (work / "useless" / "a.wav").touch()
    said = refused("manifest", "build", work / "useless", "-o", out)
    assert "must hold at least one usable audio file; refused: 1 empty file; see " in said
    assert not out.exists()


def measured(*args: str | Path) -> tuple[str, int]:
    """What the console script says, and its peak memory in bytes."""
    process = subprocess.Popen(
        [str(SCRIPT), *map(str, args)], env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    text = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stdout.close()
    assert process.returncode == 0, text
    assert "Traceback" not in text
    return text, usage.ru_maxrss * 1024


def test_extraction_goes_on_lists_what_it_refuses_and_bounds_its_memory(work, bad, models, refused):
    out, windows = work / "embeddings", ["--max-s", "20", "--batch-s", "20", "--device", "cpu"]
    said, peak = measured("extract", models["encoder"], bad, out, *windows)
    assert "warning: 6 without a result" in said
    assert f"all are listed in {out / 'errors.jsonl'}" in said
    assert "5 utterances" in said
    rows = [json.loads(line) for line in (out / "errors.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {row["id"]: row["reason"].split(":")[0] for row in rows} == {k: v[0] for k, v in REFUSED.items()}
    index = {row["id"]: row for row in map(json.loads, (out / "index.jsonl").read_text().splitlines())}
    assert {name: row["num_frames"] for name, row in index.items()} == {
        "good": 99, "narrow": 99, "wide": 99, NAME: 99, "half_hour": HALF_HOUR_FRAMES,
    }  # fmt: skip
    for row in index.values():
        frames = np.load(out / row["file"], mmap_mode="r", allow_pickle=False)
        assert frames.shape == (row["num_frames"], 48)
        assert np.isfinite(frames[::97]).all()
    (work / "one").mkdir()
    noise(work / "one" / "a.wav", 20)
    _, least = measured("extract", models["encoder"], work / "one", work / "embeddings_one", *windows)
    # its waveform alone is 115 MB at 16 kHz; the 17 MB of the file that is being written count in part
    assert peak - least < 75e6
    said = refused("extract", models["other"], work / "one", work / "embeddings_one", *windows)
    assert "holds embeddings made otherwise (embeddings.json): model_hash is" in said
    assert "Choose another output folder" in said


def test_transcription_names_every_file_without_a_result(bad, models, work, say, refused):
    (work / "six").mkdir()
    for i in range(6):
        (work / "six" / f"{i}.wav").touch()
    noise(work / "six" / "good.wav", 1)
    said = say("transcribe", models["recogniser"], work / "six", "--device", "cpu")
    assert "warning: 6 without a result" in said
    assert all(f"{i}.wav: empty file: zero bytes" in said for i in range(6))
    said = refused("transcribe", models["recogniser"], bad / "zero.wav", "--device", "cpu")
    assert "zero.wav must be readable audio: the file is empty (zero bytes)" in said


@pytest.fixture(scope="module")
def spoilt(work, say) -> Path:
    """A manifest of thirty files, three of which go bad after the scan."""
    for i in range(30):
        noise(work / "spoilt" / f"u{i:02}.flac", 1 + i / 30)
    say("manifest", "build", work / "spoilt", "-o", work / "spoilt.arrow")
    (work / "spoilt" / "u03.flac").unlink()
    truncate(work / "spoilt" / "u07.flac")
    (work / "spoilt" / "u11.flac").write_text("overwritten")
    return work / "spoilt.arrow"


SPOILT = {
    "row 4 (u03, u03.flac)": "there is no such file",
    "row 8 (u07, u07.flac)": "must decode to the end",
    "row 12 (u11, u11.flac)": "Format not recognised",
}


def test_files_that_go_bad_after_the_scan_are_named_and_training_goes_on(work, spoilt, say):
    said = say(*training(spoilt, work / "run_spoilt", "data.max_bad_share=0.3", "run.num_updates=6"))  # a pass is 5
    for row, reason in SPOILT.items():
        assert [line for line in said.splitlines() if row in line and reason in line]
    assert "3 utterances could not be read and were left out" in said
    assert (work / "run_spoilt" / "model").is_dir()
    said = say("manifest", "validate", spoilt, status=2)
    assert "3 rows do not" in said
    assert all(row in said for row in SPOILT)


def test_more_bad_files_than_allowed_stop_the_run(work, spoilt, say):
    run_dir = work / "run_stopped"
    said = say(*training(spoilt, run_dir, "data.max_bad_share=0.01", "run.num_updates=40"), status=2)
    assert "at most 1.0% of the rows may be unreadable (data.max_bad_share), but" in said
    assert "audio-ssl manifest validate" in said
    assert any(row in said for row in SPOILT)
    for checkpoint in (run_dir / "checkpoints").glob("step_*"):
        load_encoder(checkpoint)


def test_a_manifest_whose_audio_was_moved_is_refused_at_once(work, models, say, refused):
    noise(work / "before" / "a.wav", 1)
    say("manifest", "build", work / "before", "-o", work / "moved.tsv")
    (work / "before").rename(work / "after")
    for args in (
        ["manifest", "validate", work / "moved.tsv"],
        ["extract", models["encoder"], work / "moved.tsv", work / "embeddings_moved"],
        training(work / "moved.tsv", work / "run_moved"),
    ):
        said = refused(*args)
        assert f"moved.tsv is about audio under {work / 'before'}, but there is no such folder" in said
        assert "Move it back" in said
    assert "1 rows in 1 files" in say("manifest", "stats", work / "moved.tsv")


def transcribed(folder: Path, texts: list[str], say: Callable[..., str]) -> Path:
    """A manifest of one-second files with these texts."""
    lines = ["path\ttext"]
    for i, text in enumerate(texts):
        noise(folder / f"t{i:02} [red].wav", 1)
        lines.append(f"t{i:02} [red].wav\t{text}")
    (folder / "transcripts.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    say("manifest", "build", folder, "-o", folder.with_suffix(".tsv"))
    return folder.with_suffix(".tsv")


def test_odd_transcripts_are_told_before_training(work, models, say, refused):
    train = transcribed(work / "texts", ["ab ba"] * 16 + ["a" * 60, "ab" * 200, "", "  "], say)
    valid = transcribed(work / "texts_valid", ["ab", "a[b ñ", "ba"], say)
    settings = [f"init_from={models['encoder']}", f"data.valid=['{valid}']", "run.num_updates=1"]
    settings += ["preflight.refuse_same_audio_share=1"]  # the same noise is in all files
    args = training(train, work / "run_texts", *settings, "preflight.refuse_unusable_share=0.2", verb="finetune")
    before, _, after = say(*args).partition("effective batch")
    assert after
    assert "left out 2 (transcript needs more frames than its audio has): t16 [red], t17 [red]" in before
    assert "left out 2 (empty transcript): t18 [red], t19 [red]" in before
    (unknown,) = (line for line in before.splitlines() if line.startswith("warning: data.valid: 2 characters"))
    assert "'[' (U+005B LEFT SQUARE BRACKET) 1 times, 'ñ' (U+00F1 LATIN SMALL LETTER N WITH TILDE) 1 times" in unknown
    assert "(t01 [red], t01 [red].wav) '[' 'ñ'" in unknown
    found = json.loads((work / "run_texts" / "preflight.json").read_text(encoding="utf-8"))
    rows = {notice["check"]: [row["id"] for row in notice["rows"]] for notice in found["notices"]}
    assert (rows["too_long"], rows["empty"]) == (["t16 [red]", "t17 [red]"], ["t18 [red]", "t19 [red]"])

    args = training(train, work / "run_texts_refused", *settings, verb="finetune")
    said = refused(*args)
    limit = "(preflight.refuse_unusable_share = 0.1)"
    assert f"data.train: 2 of 20 rows have no transcript, and are left out {limit}: " in said
    assert f"have a transcript that needs more frames than their audio has; they are left out {limit}: " in said
    assert "(t16 [red], t16 [red].wav)" in said
    assert f"every row is in {work / 'run_texts_refused' / 'preflight.json'}" in said
    assert not list((work / "run_texts_refused").glob("checkpoints/*"))


def test_compiling_on_a_cpu_is_refused(work, speech, refused):
    said = refused(*training(speech, work / "run_compiled", "run.compile=true", "run.device=cpu"))
    assert "run.compile must be false on a CPU, got true" in said


def test_transcripts_that_are_all_missing_are_told(work, models, speech, refused):
    said = refused(*training(speech, work / "run_no_text", f"init_from={models['encoder']}", verb="finetune"))
    assert f"{speech} must have transcripts in the column `text`" in said


@pytest.mark.parametrize("place", ["below a file", "no permission for anybody"])
def test_a_run_folder_that_cannot_be_written_is_told(work, speech, place, refused):
    (work / "file").touch()
    run_dir = work / "file" / "run" if place == "below a file" else Path("/proc/run")
    said = refused(*training(speech, run_dir))
    assert f"run.dir {run_dir} must be a folder that can be written" in said


def limited(num_bytes: int) -> Callable[[], None]:
    """Makes a child's writes fail beyond so many bytes a file, as a full disk or a quota does."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))


def test_a_checkpoint_that_cannot_be_written_leaves_the_earlier_ones(work, speech, say):
    run_dir = work / "run_full"
    say(*training(speech, run_dir, "run.num_updates=2"))
    before = tree(run_dir / "checkpoints")
    said = audio_ssl(*training(speech, run_dir), "--resume", "auto", status=2, preexec_fn=limited(100_000))
    assert f"{run_dir / 'checkpoints' / 'step_00000003'} must be writable with room to spare" in said
    assert "Earlier checkpoints are intact" in said
    assert "--resume auto" in said
    assert tree(run_dir / "checkpoints") == before
    load_encoder(run_dir)


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 24 MB of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(place)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command here")
    if done.returncode:
        pytest.skip(f"this user cannot mount a file system: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(disk: Path, *, leave: int) -> None:
    free = os.statvfs(disk)
    with (disk / "filler").open("wb") as file, contextlib.suppress(OSError):
        file.write(bytes(max(0, free.f_bavail * free.f_frsize - leave)))


def test_a_disk_that_fills_up_ends_the_run_and_keeps_its_checkpoints(small_disk, speech):
    run_dir = small_disk / "run"
    args = training(speech, run_dir, "run.num_updates=100000", "run.keep_last=1")
    process = subprocess.Popen([str(SCRIPT), *args], env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    wait_for((run_dir / "checkpoints" / "latest.json").is_file, process)
    fill(small_disk, leave=0)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2, said
    assert "Traceback" not in said
    error = said[said.index("error: ") :]
    assert "No space left on device" in error or "must have room for its checkpoints" in error  # as the moment is
    assert str(run_dir) in error
    checkpoints = list((run_dir / "checkpoints").glob("step_*"))
    assert checkpoints
    for checkpoint in checkpoints:
        load_encoder(checkpoint)


def test_a_full_disk_is_told_before_training_and_by_extraction(small_disk, speech, models, tmp_path, refused):
    fill(small_disk, leave=400_000)
    said = refused(*training(speech, small_disk / "run"))
    assert "must have room for its checkpoints" in said
    assert "free space, lower run.keep_last, or give another run.dir" in said
    # 1.2 MB in windows, written through a map into the file, where a full disk could kill the process (SIGBUS)
    noise(tmp_path / "long.wav", 125)
    out = small_disk / "embeddings"
    said = audio_ssl("extract", models["encoder"], tmp_path / "long.wav", out, "--device", "cpu", status=2)
    assert f"{out} must be writable with room to spare" in said
    assert "run the same command again" in said
    assert not [path for path in out.rglob("*") if path.suffix in (".npy", ".tmp")]


def wait_for(is_done: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not is_done():
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < deadline, "waited for two minutes"
        time.sleep(0.02)


def test_a_second_process_is_refused_and_the_first_goes_on(work, speech, refused):
    run_dir = work / "run_busy"
    args = training(speech, run_dir, "run.num_updates=100000", "run.save_every=50")
    first = subprocess.Popen([str(SCRIPT), *args], env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    metrics = run_dir / "metrics.jsonl"
    wait_for(lambda: metrics.is_file() and bool(metrics.read_text()), first)
    for resume in ("never", "auto"):
        said = refused(*args, "--resume", resume)
        assert f"run.dir {run_dir} is in use by another process (pid {first.pid})" in said
        assert "give another run.dir" in said
    lines = len(metrics.read_text().splitlines())
    wait_for(lambda: len(metrics.read_text().splitlines()) > lines, first)
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=60)
    assert first.returncode == 128 + signal.SIGTERM


def test_a_model_argument_that_is_no_model_says_what_it_is(work, models, bad, speech, refused):
    (work / "truncated").mkdir()
    for name in ("config.toml", "model.safetensors"):
        (work / "truncated" / name).write_bytes((models["encoder"] / name).read_bytes())
    truncate(work / "truncated" / "model.safetensors")
    (work / "foreign").mkdir()
    (work / "foreign" / "model.safetensors").write_bytes(b"")
    (work / "foreign" / "config.toml").write_text("kind = ['odd']\nformat_version = 1\nmodel = 3\n")
    good = bad / "good.wav"
    for model, message in {
        work / "nowhere": "must be a model directory",
        speech: "must be a whole torch file",
        bad: "there is no model in it",
        work / "truncated": "model.safetensors must be a whole safetensors file",
        work / "foreign": "must have a [model] section and a kind out of",
    }.items():
        said = refused("extract", model, good, work / "embeddings_none")
        assert str(model) in said
        assert message in said
    said = refused("transcribe", models["encoder"], good)
    assert f"{models['encoder']} must be a recogniser" in said
    assert "audio-ssl finetune" in said
    said = refused(*training(speech, work / "run_none", f"init_from={bad}", verb="finetune"))
    assert f"{bad} must be a model directory" in said
    assert not (work / "embeddings_none").exists()
