"""The verbs over a list of segments whose recordings went bad: each is told by its row, and never with a traceback."""

import faulthandler
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from console import BATCHES, MODEL, sets

from audio_ssl.config import PretrainConfig, find_config, load_config
from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.data.manifest_io import write_table
from audio_ssl.data.table import table_from_rows
from audio_ssl.model.encoder import build_encoder
from audio_ssl.model.files import encoder_document, save_model_dir
from tests.unit.data.bad_recordings import BAD, RATE, listed_rows, recording

KINDS = [kind for kind in BAD if kind != "locked"]
SMALL = [*MODEL, "model.conv_dims=[8,8,8,8,8,8,8]"]


@pytest.fixture(autouse=True)
def never_hangs() -> Iterator[None]:
    faulthandler.dump_traceback_later(300, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    settings = load_config(
        PretrainConfig, find_config("pretrain/conv_tiny"), [*SMALL, "data.train=['x']", "run.dir=x"]
    ).model
    place = tmp_path_factory.mktemp("model") / "encoder"
    torch.manual_seed(3)
    save_model_dir(place, encoder_document(settings), {"encoder": build_encoder(settings)})
    return place


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """A list over one recording of each bad kind and enough good ones, and why each row cannot be read."""
    root = tmp_path_factory.mktemp("spoilt")
    names = {kind: f"{kind.replace(' ', '_')}/{BAD[kind].file}" for kind in KINDS}
    rows = listed_rows(root, list(names.values()))
    for i in range(60):
        recording(root / f"more{i % 5}.flac", seed=i % 5)
        rows.append(Utterance(f"more{i}", f"more{i % 5}.flac", 400 * i, 24000, RATE))
    Manifest.from_rows(rows, root=root).write(root / "list.tsv")
    Manifest.from_rows(rows, root=root).write(root / "list.arrow")
    reasons = {}
    for kind, name in names.items():
        BAD[kind].do(root / name)
        reasons |= {f"{name}#{i}": kind for i in range(4) if i not in BAD[kind].good}
    return root, reasons


def test_validate_names_every_row_that_its_file_does_not_bear_out(spoilt, say):
    root, _ = spoilt
    for extension, line in (("tsv", ":4 ("), ("arrow", " row 2 (")):
        said = say("manifest", "validate", root / f"list.{extension}", "--decode", status=2)
        assert f"list.{extension}{line}empty/a.flac#0, empty/a.flac): empty file: zero bytes" in said
        headline = next(x for x in said.splitlines() if "rows do not" in x)
        # a whole file is looked at before its rows: of one that ends too early, or has a NaN, no segment is well
        untold = sum(4 - len(BAD[kind].good) if not BAD[kind].scan_reason else 4 for kind in KINDS)
        assert f"but {untold} rows do not" in headline
        assert not [x for x in said.splitlines() if "(good" in x or "(more" in x]


def test_pretraining_goes_on_over_good_rows_and_names_the_bad_ones(spoilt, say, tmp_path, caplog):
    root, reasons = spoilt
    run_of = [*sets(*SMALL, *BATCHES, f"data.train=['{root}/list.arrow']", f"data.valid=['{root}/list.tsv']")]
    rhythm = ["run.num_updates=12", "run.validate_every=12", "run.log_every=12", "data.max_bad_share=0.9"]
    said = say(
        "pretrain", "pretrain/conv_tiny", *run_of, *sets(*rhythm, "data.min_s=0.1", f"run.dir={tmp_path / 'run'}")
    )
    rows = Manifest.read(root / "list.tsv")
    told = [record.getMessage() for record in caplog.records if record.getMessage().startswith("cannot read ")]
    for i, row in enumerate(rows):
        lines = [x for x in told if f"list.arrow row {i + 1} ({row.id}, {row.path})" in x]
        valid = [x for x in told if f"list.tsv:{i + 3} ({row.id}, {row.path})" in x]
        assert (len(lines), len(valid)) == ((1, 1) if row.id in reasons else (0, 0)), row.id
    assert f"{len(reasons)} utterances could not be read and were left out" in said
    strict = sets(*rhythm, "data.max_bad_share=0.01", f"run.dir={tmp_path / 'stopped'}")
    said = say("pretrain", "pretrain/conv_tiny", *run_of, *strict, status=2)
    assert "at most 1.0% of the rows may be unreadable" in said


def test_extraction_lists_each_bad_row_with_its_reason(spoilt, encoder, say, tmp_path):
    root, reasons = spoilt
    say("extract", encoder, root / "list.tsv", tmp_path / "out", "--device", "cpu")
    lines = (tmp_path / "out" / "errors.jsonl").read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["id"] for line in lines} == set(reasons)
    assert len(list((tmp_path / "out").rglob("*.npy"))) == 62 + 4 * len(KINDS) - len(reasons)


def test_impossible_rows_of_a_mapped_list_end_every_verb_before_it_works(spoilt, encoder, say, tmp_path):
    root, _ = spoilt
    good = {"id": "x", "path": "good0.flac", "start": 0, "num_samples": 9000, "sample_rate": RATE}
    wrong = [{"sample_rate": 0}, {"num_samples": -1}, {"num_samples": 2**62}, {"start": -5}, {"path": "../x.flac"}]
    rows = [Utterance(**(good | {"id": f"w{i}"} | change)) for i, change in enumerate(wrong)]
    write_table(root / "wrong.arrow", table_from_rows([Utterance(**good), *rows]), root=root)
    for args in (
        ["manifest", "validate", root / "wrong.arrow"],
        ["manifest", "stats", root / "wrong.arrow"],
        ["manifest", "segment", root / "wrong.arrow", "-o", tmp_path / "cut.tsv"],
        ["extract", encoder, root / "wrong.arrow", tmp_path / "out"],
        ["pretrain", "pretrain/conv_tiny", *sets(*SMALL, f"data.train=['{root}/wrong.arrow']", f"run.dir={tmp_path}")],
    ):
        said = say(*args, status=2)
        assert all(f"wrong.arrow row {i + 2} (w{i}, " in said for i in range(len(wrong))), said
    write_table(root / "away.arrow", table_from_rows([Utterance(**good), rows[-1]]), root=root)  # lengths are possible
    assert "away.arrow row 2 (w4, ../x.flac): path must" in say(
        "extract", encoder, root / "away.arrow", tmp_path / "out", status=2
    )
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "cut.tsv").exists()
