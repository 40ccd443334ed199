"""kill -9 at any moment of a transcription: the next run ends with the bytes of one that nobody disturbed."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from audio_ssl.data.manifest import Manifest, Utterance
from tests.unit.inference.conftest import noise, write_wav

LONG = 110_000  # 343 frames: windows of 2 s, and passages of 60 frames at most

Run = Callable[..., list[int]]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    """Seven rows: a long one, one too short, and one without its file."""
    root = tmp_path_factory.mktemp("killed")
    lengths = [9_000, 12_345, LONG, 300, 20_000, 11_000, 14_000]
    rows = []
    for i, length in enumerate(lengths):
        write_wav(root / f"u{i}.wav", noise(length, seed=i))
        rows.append(Utterance(f"u{i}" if i else "first/u0", f"u{i}.wav", 0, length, 16_000))
    (root / "u5.wav").unlink()
    Manifest.from_rows(rows, root=root).write(root / "list.tsv")
    return root / "list.tsv"


@pytest.fixture(scope="module")
def run(ctc_dir, manifest) -> Iterator[Run]:
    """Transcribe in as many processes as there are ranks; the exit status of each."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.unit.inference.killed_transcripts", str(ctc_dir), str(manifest)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as server:  # fmt: skip

        def call(out: Path, *, ranks=1, kill_at_change=None, form="jsonl", into_folder=False, settings=None):
            out.parent.mkdir(exist_ok=True)
            job = {"out": str(out), "ranks": ranks, "kill_at_change": kill_at_change, "format": form}
            server.stdin.write(json.dumps(job | {"into_folder": into_folder, "settings": settings or {}}) + "\n")
            server.stdin.flush()
            return json.loads(server.stdout.readline())

        yield call
        server.stdin.close()


def tree(out: Path) -> dict[str, bytes]:
    files = [path for path in sorted(out.rglob("*")) if path.is_file()]
    return {str(path.relative_to(out)): path.read_bytes().replace(bytes(out), b"OUT") for path in files}


@pytest.fixture(scope="module")
def whole(run: Run, tmp_path_factory) -> dict[str, bytes]:
    """What a run that nobody disturbs leaves behind."""
    place = tmp_path_factory.mktemp("whole") / "place"
    assert run(place / "t.jsonl") == [0]
    found = tree(place)
    assert set(found) == {"t.jsonl", "t.jsonl.errors.jsonl"}
    lines = [json.loads(line) for line in found["t.jsonl"].splitlines()]
    assert [line["id"] for line in lines] == ["first/u0", "u1", "u2", "u4", "u6"]
    assert len(lines[2]["words"]) > 20
    refused = [json.loads(line) for line in found["t.jsonl.errors.jsonl"].splitlines()]
    assert [line["id"] for line in refused] == ["u3", "u5"]
    return found


def changes_of(run: Run, place: Path, **more) -> list[list[str]]:
    assert run(place / "t.jsonl", kill_at_change=[10**6], **more) == [0]
    return [json.loads(line) for line in Path(f"{place}.log0").read_text().splitlines()]


def test_a_kill_at_any_change_of_the_disk(run: Run, whole, tmp_path) -> None:
    steps = changes_of(run, tmp_path / "log")
    passages = [i for i, (event, path, *_) in enumerate(steps) if event == "open" and "/passages/" in path]
    assert len(passages) >= 6  # of the long recording
    for point in sorted({*range(0, len(steps), 20), passages[0], passages[3], passages[3] + 1, len(steps) - 1}):
        place = tmp_path / str(point)
        assert run(place / "t.jsonl", kill_at_change=[point]) == [-signal.SIGKILL]
        assert set(tree(place)) & {"t.jsonl"} == set() or tree(place)["t.jsonl"] == whole["t.jsonl"]
        assert run(place / "t.jsonl") == [0]
        assert tree(place) == whole


def test_what_was_done_of_a_long_recording_is_not_done_again(run: Run, whole, tmp_path) -> None:
    steps = changes_of(run, tmp_path / "log")
    passages = [i for i, (event, path, *_) in enumerate(steps) if event == "open" and "/passages/" in path]
    run(tmp_path / "p/t.jsonl", kill_at_change=[passages[4]])
    (journal,) = (tmp_path / "p/.t.jsonl.work/passages").iterdir()
    known = [json.loads(line) for line in journal.read_text().splitlines()]
    assert len(known) == 4
    journal.write_text(journal.read_text().replace(known[1]["text"], "what an earlier run has read", 1) + '{"first')
    assert run(tmp_path / "p/t.jsonl") == [0]
    text = json.loads((tmp_path / "p/t.jsonl").read_text().splitlines()[2])["text"]
    expected = json.loads(whole["t.jsonl"].splitlines()[2])["text"]
    assert text == expected.replace(known[1]["text"], "what an earlier run has read", 1) != expected


@pytest.mark.parametrize("ranks", [1, 3])
def test_ranks_do_together_what_one_does_also_when_killed(run: Run, whole, tmp_path, ranks: int) -> None:
    rng = np.random.default_rng(ranks)
    for _ in range(3):
        codes = run(tmp_path / "p/t.jsonl", ranks=2, kill_at_change=rng.integers(0, 60, 2).tolist())
        assert set(codes) <= {0, -signal.SIGKILL}
    assert run(tmp_path / "p/t.jsonl", ranks=ranks) == [0] * ranks
    found = tree(tmp_path / "p")
    is_left = any(name.startswith(".t.jsonl.work/") for name in found)
    assert is_left == (ranks > 1)  # one that comes late sees by it that all is done
    assert {name: content for name, content in found.items() if not name.startswith(".")} == whole
    assert run(tmp_path / "p/t.jsonl") == [0]
    assert tree(tmp_path / "p") == whole


def test_a_file_a_recording_survives_kills_too(run: Run, tmp_path) -> None:
    assert run(tmp_path / "w/out", form="srt", into_folder=True) == [0]
    whole = tree(tmp_path / "w")
    names = {"first/u0.srt", "u1.srt", "u2.srt", "u4.srt", "u6.srt"}
    own = {".lock", "transcripts.json", "index.jsonl", "errors.jsonl"}
    assert set(whole) == {f"out/{name}" for name in names | own}
    rng = np.random.default_rng(3)
    for trial in range(2):
        place = tmp_path / f"p{trial}"
        for _ in range(2):
            run(place / "out", ranks=2, form="srt", into_folder=True, kill_at_change=rng.integers(0, 60, 2).tolist())
        assert run(place / "out", ranks=2, form="srt", into_folder=True) == [0, 0]
        assert tree(place) == whole
    (place / "out/u1.srt").unlink()
    assert run(place / "out", form="srt", into_folder=True) == [0]
    assert tree(place) == whole


def test_what_was_made_otherwise_is_not_gone_on_with(run: Run, tmp_path) -> None:
    run(tmp_path / "p/t.jsonl", kill_at_change=[40], settings={"decoder": "greedy"})
    assert run(tmp_path / "p/t.jsonl", settings={"decoder": "beam"}) == [1]
    assert "decoder is 'greedy', now it is 'beam'" in (tmp_path / "p.error").read_text()
