"""The console script does the whole job: manifest, pretrain, kill, resume, extract, finetune, evaluate.

The installed one in a process of its own where that is the point, its entry point in this process elsewhere.
"""

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from console import BATCHES, ENVIRONMENT, MODEL, SCRIPT, audio_ssl, sets
from safetensors.numpy import load_file

DEMO = Path(__file__).parents[2] / "manifests" / "demo"


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """Eight files of two voices of each split, with their transcripts."""
    folder = tmp_path_factory.mktemp("e2e")
    for split in ("pretrain", "valid"):
        lines = (DEMO / split / "transcripts.tsv").read_text(encoding="utf-8").splitlines()
        voices = sorted({line.split("\t")[1] for line in lines[1:]})[:2]
        kept = [line for v in voices for line in [x for x in lines[1:] if x.split("\t")[1] == v][:8]]
        for line in kept:
            target = folder / "speech" / split / line.split("\t")[0]
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(DEMO / split / line.split("\t")[0], target)
        table = "\n".join([lines[0], *kept]) + "\n"
        (folder / "speech" / split / "transcripts.tsv").write_text(table, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def manifests(work, say) -> dict[str, Path]:
    made = {split: work / f"{split}.arrow" for split in ("pretrain", "valid")}
    for split, path in made.items():
        say("manifest", "build", work / "speech" / split, "-o", path)
    return made


def pretrain_args(manifests, run_dir: Path, *more: str) -> list[str | Path]:
    data = [f"data.train=['{manifests['pretrain']}']", f"data.valid=['{manifests['valid']}']", f"run.dir={run_dir}"]
    rhythm = ["run.num_updates=24", "run.log_every=4", "run.save_every=4", "run.validate_every=12"]
    return ["pretrain", "pretrain/conv_tiny", *sets(*MODEL, *BATCHES, *data, *rhythm), *more]


@pytest.fixture(scope="module")
def pretrained(work, manifests) -> Path:
    """A run that was killed without warning and resumed."""
    run_dir = work / "killed"
    args = [str(SCRIPT), *map(str, pretrain_args(manifests, run_dir))]
    process = subprocess.Popen(args, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(run_dir.glob("checkpoints/step_0000000[48]/state/progress.json")):
        assert time.monotonic() < deadline, "no checkpoint within two minutes"
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (run_dir / "model").exists()
    said = audio_ssl(*pretrain_args(manifests, run_dir, "--resume", "auto"))
    assert "resumed from update" in said
    return run_dir


def test_a_killed_and_resumed_run_equals_an_uninterrupted_one_to_the_last_bit(work, manifests, pretrained):
    straight = work / "straight"
    said = audio_ssl(*pretrain_args(manifests, straight))
    assert "effective batch" in said
    assert "planned: 24 updates" in said
    ours = load_file(pretrained / "checkpoints" / "step_00000024" / "model.safetensors")
    theirs = load_file(straight / "checkpoints" / "step_00000024" / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)

    def losses(run_dir: Path):
        rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
        return [(row["split"], row["update"], row["loss"], row.get("grad_norm")) for row in rows]

    assert losses(pretrained) == losses(straight)


def test_several_masks_and_visible_frames_alone_train_a_model_like_any_other(work, manifests, say):
    run_dir = work / "visible"
    cheaper = sets("objective.num_masks=4", "objective.encode=visible", "run.num_updates=4", "run.log_every=2")
    said = say(*pretrain_args(manifests, run_dir, *cheaper))
    assert "planned: 4 updates" in said
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert {row["split"] for row in rows} == {"train", "valid"}
    assert all(np.isfinite(row["loss"]) and 0.45 < row["masked_share"] < 0.55 for row in rows)
    tensors = load_file(run_dir / "model" / "model.safetensors")
    assert tensors["objective.decoder.layers.3.weight"].shape == (384, 24, 7)
    say("extract", run_dir, manifests["valid"], work / "of_visible", "--layer", "1", "--device", "cpu")
    said = say("convert", run_dir, work / "of_visible_hf", "--to", "transformers", status=2)
    assert "objective.encode must be" in said


def test_a_run_folder_in_use_or_used_is_not_overwritten(manifests, pretrained, say):
    said = say(*pretrain_args(manifests, pretrained), status=2)
    assert "already holds a run" in said
    assert "--resume auto" in said


def test_another_shape_cannot_be_resumed(manifests, pretrained, say):
    said = say(*pretrain_args(manifests, pretrained, "--resume", "auto", *sets("model.num_layers=3")), status=2)
    assert "model.num_layers (checkpoint: 2, now: 3)" in said


def test_sigterm_saves_and_ends_with_the_signals_status(work, manifests):
    run_dir = work / "stopped"
    args = [str(SCRIPT), *map(str, pretrain_args(manifests, run_dir, *sets("run.num_updates=100000")))]
    process = subprocess.Popen(args, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not (run_dir / "metrics.jsonl").is_file() or not (run_dir / "metrics.jsonl").read_text():
        assert process.poll() is None
        time.sleep(0.05)
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "everything is saved in" in said
    assert list(run_dir.glob("checkpoints/step_*/state/progress.json"))


def test_embeddings_are_written_once(work, manifests, pretrained, say):
    out = work / "embeddings"
    say("extract", pretrained, manifests["valid"], out, "--layer", "1", "--device", "cpu")
    index = [json.loads(line) for line in (out / "index.jsonl").read_text().splitlines()]
    assert len(index) == 16
    for row in index:
        frames = np.load(out / row["file"], allow_pickle=False)
        assert frames.shape == (row["num_frames"], 48)
        assert np.isfinite(frames).all()
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.npy")}
    say("extract", pretrained, manifests["valid"], out, "--layer", "1", "--device", "cpu")
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*.npy")}


def test_a_recogniser_is_trained_scored_and_used(work, manifests, pretrained, say):
    run_dir = work / "recogniser"
    data = [f"data.train=['{manifests['pretrain']}']", f"data.valid=['{manifests['valid']}']", f"run.dir={run_dir}"]
    rhythm = ["run.num_updates=6", "run.log_every=2", "run.save_every=3", "run.validate_every=3"]
    said = say("finetune", "finetune/small", *sets(f"init_from={pretrained}", *BATCHES, *data, *rhythm))
    assert "vocabulary:" in said
    assert "hypothesis:" in said
    moved = work / "elsewhere"
    shutil.copytree(run_dir / "model", moved)  # self-contained: nothing else of the run is needed
    report = work / "report.json"
    said = say("evaluate", moved, manifests["valid"], "-o", report, "--device", "cpu")
    assert "CER" in said
    assert "WER" in said
    scores = json.loads(report.read_text())
    assert scores
    text = audio_ssl("transcribe", moved, work / "speech" / "valid", "--device", "cpu")
    assert text


@pytest.mark.parametrize(
    "verb",
    [["manifest"], ["manifest", "build"], ["manifest", "validate"], ["manifest", "stats"], ["manifest", "split"],
     ["pretrain"], ["finetune"], ["extract"], ["transcribe"], ["align"], ["evaluate"], ["convert"], ["doctor"]],
    ids=" ".join,
)  # fmt: skip
def test_help_reads(verb, say):
    assert_help(say(*verb, "--help"))


def test_help_of_the_installed_script_reads():
    assert_help(audio_ssl("--help"))


def assert_help(said: str) -> None:
    assert "Usage:" in said
    assert len(said.splitlines()) > 8


def test_every_config_fault_is_told_at_once_without_a_traceback(work):
    said = audio_ssl(
        "pretrain", "pretrain/conv_tiny", *sets("optim.lrr=1", "run.num_updates=0", "data.train=3"), status=2
    )
    assert "`optim.lrr` is not a setting (did you mean `optim.lr`?)" in said
    assert "`run.num_updates` must be" in said
    assert "`data.train` must be" in said


def test_doctor_finds_a_working_installation(say):
    said = say("doctor")
    for part in ("torch", "soundfile", "librosa", "fairseq2"):
        assert part in said
