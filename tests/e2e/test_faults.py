"""What goes wrong around a training run: it ends as docs/runbook.md says, and resumed it ends as if nothing had been.

Each fault is made inside of a real run of the command line, at a moment of its own; see faulty_runs.py.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from console import ENVIRONMENT, MODEL, sets
from test_bad_input import noise

from audio_ssl.cli import main
from audio_ssl.data.engine_fairseq2 import fairseq2_unavailable
from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.errors import PeerError
from audio_ssl.train.checkpoints import verify

IS_ROOT = os.geteuid() == 0
NUM_UPDATES, SAVE_EVERY, VALIDATE_EVERY = 6, 2, 3
RHYTHM = [
    f"run.num_updates={NUM_UPDATES}", f"run.save_every={SAVE_EVERY}", f"run.validate_every={VALIDATE_EVERY}",
    "run.log_every=1", "run.device=cpu", "data.batch_s=4", "data.micro_batch_s=2", "data.max_s=2",
]  # fmt: skip
MEASURED = re.compile(r"_per_s$|update_s$|checkpoint_s$|wait|time|memory|_gib$")


class Server:
    """Runs jobs of faulty_runs.py."""

    def __init__(self, folder: Path, process: subprocess.Popen[str]) -> None:
        self.folder, self.process, self.num_jobs = folder, process, 0

    def __call__(self, args: list[str], **job: object) -> tuple[list[int], str]:
        """Exit status of each rank, and what they said."""
        self.num_jobs += 1
        log = self.folder / f"said_{self.num_jobs}"
        self.process.stdin.write(json.dumps({"args": args, "log": str(log), **job}) + "\n")
        self.process.stdin.flush()
        statuses = json.loads(self.process.stdout.readline())
        return statuses, log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Twelve files to train on and two to validate on."""
    root = tmp_path_factory.mktemp("faults")
    root.chmod(0o755)
    for name, num_files in (("train", 12), ("valid", 2)):
        for i in range(num_files):
            noise(root / name / f"{name}{i:02}.wav", 1 + i / 30)
        samples = [round((1 + i / 30) * 16000) for i in range(num_files)]
        rows = [Utterance(f"{name}{i:02}", f"{name}{i:02}.wav", 0, n, 16000) for i, n in enumerate(samples)]
        Manifest.from_rows(rows, root=root / name).write(root / f"{name}.arrow")
    return root


@pytest.fixture(scope="module")
def server(folder) -> Iterator[Server]:
    with subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("faulty_runs.py"))],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT,
    ) as process:  # fmt: skip
        yield Server(folder, process)
        process.stdin.close()


def training(folder: Path, run_dir: Path, *settings: str) -> list[str]:
    data = [f"data.train=['{folder / 'train.arrow'}']", f"data.valid=['{folder / 'valid.arrow'}']"]
    args = ["pretrain", "pretrain/conv_tiny", "--resume", "auto"]
    return [*args, *sets(*MODEL, *RHYTHM, *data, f"run.dir={run_dir}", *settings)]


def weights(run_dir: Path) -> bytes:
    return (run_dir / "checkpoints" / f"step_{NUM_UPDATES:08d}" / "model.safetensors").read_bytes()


def rows(run_dir: Path) -> list[dict]:
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    found = [row for row in map(json.loads, lines) if "data_wait" not in row.values()]  # a guard's, of measured times
    return [{k: v for k, v in row.items() if not MEASURED.search(k)} for row in found]


def newest(run_dir: Path) -> int:
    """Update of the newest checkpoint, all of which must be whole; 0: there is none."""
    places = sorted(run_dir.glob("checkpoints/step_*"))
    for place in places:
        verify(place)
    return int(places[-1].name.removeprefix("step_")) if places else 0


@pytest.fixture(scope="module")
def straight(server, folder) -> Path:
    """A run in which nothing went wrong."""
    statuses, said = server(training(folder, folder / "straight"))
    assert statuses == [0], said
    assert "Traceback" not in said
    return folder / "straight"


def assert_goes_on(server: Server, straight: Path, run_dir: Path) -> str:
    """The resumed run ends with the weights of the one in which nothing went wrong; what it said."""
    statuses, said = server(training(server.folder, run_dir))
    assert statuses == [0], said
    assert "Traceback" not in said
    assert weights(run_dir) == weights(straight)
    assert rows(run_dir) == rows(straight)
    for name in ("model.safetensors", "config.toml"):
        assert (run_dir / "model" / name).read_bytes() == (straight / "model" / name).read_bytes()
    assert (run_dir / "checkpoints" / "best.json").read_text() == (straight / "checkpoints" / "best.json").read_text()
    assert not [path for path in run_dir.rglob("*") if path.suffix in (".tmp", ".old")]
    return said


SIGNALS = {
    # what arrives when: exit status, updates that are saved
    "SIGTERM while the data is opened": (["at_opening", None], ["SIGTERM"], -15, 0),
    "SIGTERM before the first update": (["at_update", 0], ["SIGTERM"], 143, 1),
    "SIGTERM twice": (["at_update", 2], ["SIGTERM", "SIGTERM"], 143, 3),
    "SIGTERM in a validation": (["at_validation", 3], ["SIGTERM"], 143, 4),
    "SIGTERM while a checkpoint is written": (["at_change", r"\.step_0*2\."], ["SIGTERM"], 143, None),
    "SIGTERM in the last update, before its validation": (["at_update", 5], ["SIGTERM"], 143, 6),
    "SIGTERM in the last validation": (["at_validation", 6], ["SIGTERM"], 0, 6),
    "SIGHUP": (["at_update", 2], ["SIGHUP"], 129, 3),
    "Ctrl-C": (["at_update", 2], ["SIGINT"], 130, 3),
    "Ctrl-C twice": (["at_update", 3], ["SIGINT", "SIGINT"], 130, 3),
    "Ctrl-C twice while a checkpoint is written": (["at_change", r"\.step_0*4\."], ["SIGINT", "SIGINT"], 130, None),
}


@pytest.mark.parametrize("name", SIGNALS)
def test_a_signal_at_any_moment_ends_the_run_and_loses_nothing(server, folder, straight, tmp_path, name):
    when, sent, status, saved = SIGNALS[name]
    statuses, said = server(training(folder, tmp_path / "run"), when=when, what=["signals", *sent])
    assert statuses == [status], said
    assert "Traceback" not in said
    assert saved is None or newest(tmp_path / "run") == saved
    if status > 128 and len(set(sent)) == len(sent):
        assert "everything is saved in" in said
        assert "--resume auto" in said
    assert_goes_on(server, straight, tmp_path / "run")


def test_nohup_keeps_its_promise(server, folder, straight, tmp_path):
    job = {"at_start": [["ignore_hangup"]], "when": ["at_update", 2], "what": ["signals", "SIGHUP"]}
    statuses, said = server(training(folder, tmp_path / "run"), **job)
    assert statuses == [0], said
    assert rows(tmp_path / "run") == rows(straight)


def test_a_signal_to_one_rank_ends_both_and_loses_nothing(server, folder, tmp_path):
    done = server(training(folder, tmp_path / "whole"), ranks=2)
    assert done[0] == [0, 0], done[1]
    job = {"when": ["at_update", 2], "what": ["signals", "SIGTERM"], "ranks": 2, "faulty_rank": 1}
    statuses, said = server(training(folder, tmp_path / "run"), **job)
    assert statuses == [143, 143], said
    assert "Traceback" not in said
    assert newest(tmp_path / "run") in (4, 5)  # ranks go by the votes of the update before
    statuses, said = server(training(folder, tmp_path / "run"), ranks=2)
    assert statuses == [0, 0], said
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


def test_a_run_goes_on_when_nobody_reads_what_it_says(server, folder, straight, tmp_path):
    job = {"at_start": [["speak_into_a_pipe"]], "when": ["at_update", 2], "what": ["hang_up"]}
    statuses, _ = server(training(folder, tmp_path / "run"), **job)
    assert statuses == [0]
    assert rows(tmp_path / "run") == rows(straight)
    assert weights(tmp_path / "run") == weights(straight)


def test_a_terminal_that_is_closed_ends_the_run_and_loses_nothing(server, folder, straight, tmp_path):
    job = {"at_start": [["sit_at_a_terminal"]], "when": ["at_update", 2], "what": ["hang_up"]}
    statuses, _ = server(training(folder, tmp_path / "run"), **job)
    assert statuses == [129]
    assert newest(tmp_path / "run") == 3
    assert_goes_on(server, straight, tmp_path / "run")


@pytest.mark.parametrize("years", [1, -1])
def test_a_clock_that_jumps_changes_nothing(server, folder, straight, tmp_path, years):
    statuses, said = server(training(folder, tmp_path / "run"), when=["at_update", 2], what=["jump", years])
    assert statuses == [0], said
    assert rows(tmp_path / "run") == rows(straight)
    names = [sorted(str(p.relative_to(run)) for p in run.rglob("*")) for run in (tmp_path / "run", straight)]
    assert names[0] == names[1]
    for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines():
        for name in filter(MEASURED.search, json.loads(line)):
            assert 0 <= json.loads(line)[name] < 1e6, line


THREADS = [("threads", 0, "MemoryError"), ("threads", 2, "MemoryError"), ("fairseq2", 2, "ZeroDivisionError")]


@pytest.mark.parametrize(("engine", "workers", "kind"), THREADS)
def test_a_thread_that_fails_as_nobody_foresaw_ends_the_run_with_the_row(
    server, folder, straight, tmp_path, engine, workers, kind
):
    if engine == "fairseq2" and fairseq2_unavailable() is not None:
        pytest.skip("fairseq2 cannot be imported here")
    settings = [f"data.engine={engine}", f"data.num_workers={workers}"]
    job = {"when": ["at_update", 1], "what": ["break_decoder", kind, "train07"]}
    statuses, said = server(training(folder, tmp_path / "run", *settings), **job)
    assert statuses == [2], said
    assert "Traceback" not in said
    assert "train07, train07.wav) cannot be read" in said
    assert f"{kind}: a decoder's own failure" in said
    assert_goes_on(server, straight, tmp_path / "run")


def test_audio_that_vanishes_ends_the_run_and_loses_nothing(server, folder, straight, tmp_path):
    away = ["rename", str(folder / "train"), str(folder / "elsewhere")]
    settings = ["data.num_workers=1", "data.micro_batch_s=2", "run.num_updates=100"]
    statuses, said = server(training(folder, tmp_path / "run", *settings), when=["at_update", 2], what=away)
    (folder / "elsewhere").rename(folder / "train")
    assert statuses == [2], said
    assert "Traceback" not in said
    assert "may be unreadable (data.max_bad_share)" in said or "at least one row must be readable" in said
    newest(tmp_path / "run")


def test_a_manifest_that_vanishes_is_missed_at_the_next_start_only(server, folder, straight, tmp_path):
    manifest = tmp_path / "train.arrow"
    Manifest.read(folder / "train.arrow").write(manifest)
    args = training(folder, tmp_path / "run", f"data.train=['{manifest}']")
    statuses, said = server(args, when=["at_update", 2], what=["remove", str(manifest)])
    assert statuses == [0], said
    assert rows(tmp_path / "run") == rows(straight)
    statuses, said = server(args)
    assert statuses == [2]
    assert "Traceback" not in said
    assert str(manifest) in said


@pytest.mark.parametrize("kind", ["nothing", "a folder", "no text", "no permission"])
def test_a_configuration_that_cannot_be_read_is_told(server, folder, tmp_path, kind):
    config = tmp_path / "run.toml"
    if kind == "a folder":
        config.mkdir()
    elif kind != "nothing":
        config.write_bytes(b"\xff\xfe\x00" if kind == "no text" else b"")
    faults = []
    if kind == "no permission":
        config.chmod(0)
        faults = [["become_nobody"]] if IS_ROOT else []
    statuses, said = server(["pretrain", str(config)], at_start=faults)
    assert statuses == [2], said
    assert "Traceback" not in said
    assert "run.toml" in said


DAMAGES = {
    "truncated": ("model.safetensors", lambda path: path.write_bytes(path.read_bytes()[:-100])),
    "a bit flipped": ("model.safetensors", lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\x01")),
    "missing": ("config.toml", Path.unlink),
    "progress empty": ("state/progress.json", lambda path: path.write_bytes(b"")),
    "checksums missing": ("SHA256SUMS", Path.unlink),
    "folder empty": ("", lambda path: (shutil.rmtree(path), path.mkdir())),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_is_used(server, straight, tmp_path, name):
    run_dir = tmp_path / "run"
    shutil.copytree(straight, run_dir)
    shutil.rmtree(run_dir / "model")
    file, damage = DAMAGES[name]
    damage(run_dir / "checkpoints" / "step_00000006" / file)
    said = assert_goes_on(server, straight, run_dir)
    assert "step_00000006 is damaged and passed over" in said
    assert "resumed from update 4" in said
    assert rows(run_dir) == rows(straight)


def test_without_any_whole_checkpoint_each_is_named(server, folder, straight, tmp_path):
    run_dir = tmp_path / "run"
    shutil.copytree(straight, run_dir)
    places = sorted(run_dir.glob("checkpoints/step_*"))
    for place in places:
        (place / "model.safetensors").write_bytes(b"")
    statuses, said = server(training(folder, run_dir))
    assert statuses == [2]
    assert "Traceback" not in said
    assert "no checkpoint of this run can be read" in said
    assert all(place.name in said for place in places)


def test_a_damaged_best_checkpoint_is_stood_in_for(server, folder, straight, tmp_path):
    run_dir = tmp_path / "run"
    shutil.copytree(straight, run_dir)
    best = json.loads((run_dir / "checkpoints" / "best.json").read_text())["name"]
    others = [path.name for path in run_dir.glob("checkpoints/step_*") if path.name != best]
    weights_file = run_dir / "checkpoints" / best / "model.safetensors"
    weights_file.write_bytes(weights_file.read_bytes()[:-1] + b"\x01")
    shutil.rmtree(run_dir / "model")
    statuses, said = server(training(folder, run_dir))
    assert statuses == [0], said
    assert f"{best} is damaged" in said
    assert (run_dir / "model" / "model.safetensors").read_bytes() == (
        run_dir / "checkpoints" / max(others) / "model.safetensors"
    ).read_bytes() or best == max(others)


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 16 MB of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(place)]
    if not IS_ROOT or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user cannot mount a file system")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


FULL = {
    "settings": ["at_change", r"/\.config\.toml\."],
    "metrics": ["at_update", 1],
    "a checkpoint": ["at_change", r"/\.step_00000004\."],
    "progress": ["at_change", r"/\.step_00000004\..*progress"],
    "best": ["at_change", r"/\.best\.json\."],
    "model": ["at_change", r"/\.model\."],
}


@pytest.mark.parametrize("name", FULL)
def test_a_disk_that_is_full_at_any_moment_costs_no_data(server, folder, straight, small_disk, name):
    run_dir = small_disk / "run"
    statuses, said = server(training(folder, run_dir), when=FULL[name], what=["fill", str(small_disk)])
    assert statuses == [2], said
    assert "Traceback" not in said
    error = said[said.index("error: ") :]
    assert str(run_dir) in error
    assert "No space left" in error or "must have room" in error
    assert "--resume auto" in error
    newest(run_dir)
    (small_disk / "filler").unlink()
    assert_goes_on(server, straight, run_dir)


@pytest.mark.skipif(not IS_ROOT, reason="only root may mount")
@pytest.mark.parametrize("when", [["at_once", None], ["at_update", 3]])
def test_a_folder_that_becomes_read_only_is_told_and_costs_no_data(server, folder, straight, tmp_path, when):
    run_dir = tmp_path / "run"
    (run_dir / "checkpoints").mkdir(parents=True)
    place = run_dir if when[0] == "at_once" else run_dir / "checkpoints"
    job = {"at_start": [["have_own_mounts"]], "when": when, "what": ["make_read_only", str(place)]}
    statuses, said = server(training(folder, run_dir), **job)
    if "Operation not permitted" in said:
        pytest.skip("mount namespaces are not allowed here")
    assert statuses == [2], said
    assert "Traceback" not in said
    assert "Read-only file system" in said
    assert str(run_dir) in said
    assert newest(run_dir) == (0 if when[0] == "at_once" else 2)
    assert_goes_on(server, straight, run_dir)


@pytest.mark.parametrize(("raised", "status"), [(PeerError("rank 3 is gone"), 75), (KeyboardInterrupt(), 130)])
def test_other_exit_statuses(monkeypatch, capsys, raised, status):
    def fail():
        raise raised

    monkeypatch.setattr(main, "app", fail)
    with pytest.raises(SystemExit) as ended:
        main.run()
    assert ended.value.code == status
    assert str(raised) in capsys.readouterr().err
