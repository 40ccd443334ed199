"""NeMo, Lhotse and Kaldi manifests: what is written comes back, and what cannot be said is refused or counted."""

import gzip
import json
import re
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audio_ssl.data.formats.export import export_manifest
from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.errors import ConfigError, ManifestError

FILES = {  # name: (rate, samples); rates whose seconds are no short decimals
    "a.wav": (16000, 16000),
    "eleven/b c.flac": (11025, 33082),
    "語音/é.wav": (44100, 44101),
    "odd.wav": (7919, 7907),
}
WORD = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=6)
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)


@pytest.fixture(scope="session")
def audio(tmp_path_factory: pytest.TempPathFactory, write_audio) -> Path:
    root = tmp_path_factory.mktemp("foreign") / "audio"
    for name, (rate, num_samples) in FILES.items():
        write_audio(root / name, num_samples, rate=rate)
    write_audio(root / "stereo.wav", 800, channels=2)
    return root


@st.composite
def utterances(draw, *, labels: st.SearchStrategy, segments: bool = True) -> list[Utterance]:
    """Rows over FILES in any order: whole files or parts, labels known, empty or unknown."""
    names = draw(st.lists(st.sampled_from(sorted(FILES)), min_size=1, max_size=6, unique=not segments))
    ids = draw(st.lists(WORD, min_size=len(names), max_size=len(names), unique=True))
    rows = []
    for identity, name in zip(ids, names, strict=True):
        rate, length = FILES[name]
        start = draw(st.integers(0, length - 1)) if segments and draw(st.booleans()) else 0
        count = draw(st.integers(1, length - start)) if start else length
        text, speaker, language = (draw(st.none() | labels) for _ in range(3))
        rows.append(Utterance(identity, name, start, count, rate, text, speaker, language))
    return rows


def converted(rows: list[Utterance], audio: Path, *, to: str, name: str, **options) -> tuple[list[Utterance], tuple]:
    """Rows after writing and reading, with absolute paths, and what the writer said is lost."""
    with tempfile.TemporaryDirectory() as folder:
        lost = export_manifest(Manifest.from_rows(rows, root=audio), Path(folder) / name, to=to, **options)
        back = Manifest.read(Path(folder) / name)
        return [replace(row, path=str(back.audio_path(i))) for i, row in enumerate(back)], lost


def absolute(rows: list[Utterance], audio: Path) -> list[Utterance]:
    return [replace(row, path=str(audio / row.path)) for row in rows]


many = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize(("to", "name"), [("nemo", "m.jsonl"), ("lhotse", "m.jsonl"), ("lhotse", "m.jsonl.gz")])
@many
@given(rows=utterances(labels=TEXT))
def test_json_formats_give_back_every_field(audio: Path, rows, to: str, name: str):
    assert converted(rows, audio, to=to, name=name) == (absolute(rows, audio), ())


@many
@given(rows=utterances(labels=WORD))
def test_kaldi_gives_back_every_row_sorted(audio: Path, rows):
    back, lost = converted(rows, audio, to="kaldi", name="train")
    expected = [replace(row, speaker=None if row.speaker == row.id else row.speaker) for row in absolute(rows, audio)]
    assert sorted(back, key=lambda row: row.id) == sorted(expected, key=lambda row: row.id)
    assert back == sorted(back, key=lambda row: row.id)
    assert ("order of the rows" in str(lost)) == (back != expected)
    assert ("speaker that is called as the id" in str(lost)) == any(row.speaker == row.id for row in rows)


@many
@given(rows=utterances(labels=TEXT, segments=False), data=st.data())
def test_kaldi_and_fairseq_texts_come_back_but_for_white_space(audio: Path, rows, data):
    texts = data.draw(st.lists(TEXT, min_size=len(rows), max_size=len(rows)))
    rows = [replace(row, text=text, speaker=None, language=None) for row, text in zip(rows, texts, strict=True)]
    rows = sorted(rows, key=lambda row: row.id)
    num_changed = sum(" ".join(text.split()) != text for text in texts)
    for to, name, field, options in (
        ("kaldi", "m", "white space in text", {}),
        ("fairseq", "m.tsv", "white space and bars in text", {"labels": ("ltr", "wrd")}),
    ):
        back, lost = converted(rows, audio, to=to, name=name, **options)
        assert [row.text for row in back] == [" ".join(row.text.split()) for row in rows]
        assert (f"{field} ({num_changed} rows)" in lost) == bool(num_changed)


def test_nemo_is_laid_out_as_its_documentation_says(audio: Path, tmp_path: Path):
    rows = [
        Utterance("one", "a.wav", 4000, 8000, 16000, "hé", "anna", "fr"),
        Utterance("two", "a.wav", 0, 16000, 16000, ""),
        Utterance("three", "a.wav", 0, 16000, 16000),
    ]
    export_manifest(Manifest.from_rows(rows, root=audio), audio.parent / "m.json", to="nemo")
    lines = (audio.parent / "m.json").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[0]) == {
        "id": "one", "audio_filepath": "audio/a.wav", "offset": 0.25, "duration": 0.5,
        "text": "hé", "speaker": "anna", "lang": "fr",
    }  # fmt: skip
    assert [json.loads(line).get("text") for line in lines] == ["hé", "", None]
    assert "hé" in lines[0]
    export_manifest(Manifest.from_rows(rows, root=audio), tmp_path / "far.jsonl", to="nemo")
    assert json.loads((tmp_path / "far.jsonl").read_text().splitlines()[0])["audio_filepath"] == str(audio / "a.wav")


def nemo(folder: Path, *lines: object) -> Path:
    path = folder / "nemo.jsonl"
    path.write_text("".join(f"{x if isinstance(x, str) else json.dumps(x)}\n" for x in lines), encoding="utf-8")
    return path


def test_nemo_without_offset_is_the_whole_file_and_names_make_ids(audio: Path, caplog: pytest.LogCaptureFixture):
    path = nemo(
        audio,
        {"audio_filepath": "odd.wav", "duration": 0.99848, "speaker": 7, "pred_text": "x", "text": None},
        {"audio_filepath": "a.wav", "offset": 0.5},
        {"audio_filepath": "eleven/b c.flac", "text": "t", "wer": 0.1, "pred_text": "y"},
        {"audio_filepath": "a.wav", "offset": 0.5, "duration": 0.00005},  # 0.8 samples
        {"audio_filepath": "a.wav", "offset": 0.25, "duration": 0.75006},  # one sample too long: rounding
    )
    manifest = Manifest.read(path)
    assert [(r.id, r.start, r.num_samples, r.sample_rate, r.text, r.speaker) for r in manifest] == [
        ("odd", 0, 7907, 7919, None, "7"),
        ("a.wav:8000:8000#2", 8000, 8000, 16000, None, None),
        ("eleven/b c", 0, 33082, 11025, "t", None),
        ("a.wav:8000:1#4", 8000, 1, 16000, None, None),
        ("a.wav:4000", 4000, 12000, 16000, None, None),
    ]
    assert manifest.describe(2).startswith(f"{path}:3 (")
    assert "pred_text (2 rows), wer (1 rows)" in caplog.text


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"audio_filepath": "a.wav", "duration": 0.9}, r":2: a\.wav: .* file's 1\.0 s .* got 0\.9 s; .*offset.: 0"),
        ({"audio_filepath": "a.wav", "duration": 1.00013}, r":2: a\.wav: duration must be the file's 1\.0 s"),
        ({"audio_filepath": "a.wav", "offset": 0.5, "duration": 0.50013}, r":2: .*16000 samples .* 8000 to 16002"),
        ({"audio_filepath": "a.wav", "offset": -1}, r":2: offset must be >= 0 seconds, got -1"),
        ('{"audio_filepath": "a.wav", "offset": NaN}', r":2: offset must be a finite number, got 'nan'"),
        ('{"audio_filepath": "a.wav", "duration": 1' + "0" * 400 + "}", r":2: duration must be a finite number"),
        ({"audio_filepath": "a.wav", "duration": "1.0"}, r":2: duration must be a finite number, got '1\.0'"),
        ({"audio_filepath": "a.wav", "duration": True}, r":2: duration must be a finite number, got 'True'"),
        ({"audio_filepath": "a.wav", "text": ["x"]}, r":2: text must be text"),
        ('{"audio_filepath": "a.wav", "text": "\\ud800"}', r":2: text must be valid Unicode"),
        ({"audio_filepath": "none.wav"}, r":2: .*there is no such file"),
        ({"audio_filepath": "../a.wav"}, r":2: audio_filepath must stay under the manifest's folder"),
        ({"audio_filepath": ["a.wav", "b.wav"]}, r":2: audio_filepath must be the path of one file"),
        ({"audio_filepath": "a\0.wav"}, r":2: audio_filepath must be the path of one file"),
        ({"text": "no audio"}, r":2: audio_filepath must be the path of one file, got 'None'"),
        ({"audio_filepath": "a.wav", "shard_id": 3}, r":2: is of a tarred data set"),
        ("", r":2: must be a JSON object, got an empty line"),
        ("[1]", r":2: must be a JSON object, got '\[1\]'"),
        ("[" * 100_000, r":2: must be a JSON object on one line"),
    ],
)  # fmt: skip
def test_a_broken_line_of_nemo_is_named(audio: Path, tmp_path: Path, line: object, message: str):
    for name in FILES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(audio / name)
    good = {"audio_filepath": "odd.wav"}
    with pytest.raises(ManifestError, match=r"1 of 3 (lines|rows)") as caught:
        Manifest.read(nemo(tmp_path, good, line, good))
    assert re.search(message, str(caught.value))


def test_all_broken_lines_are_in_one_message(tmp_path: Path):
    path = nemo(tmp_path, *[{"audio_filepath": f"{i}.wav", "duration": "x"} for i in range(23)])
    with pytest.raises(ManifestError, match="23 of 23 lines cannot be read") as caught:
        Manifest.read(path)
    assert f"{path}:20: duration" in str(caught.value)
    assert "and 3 more" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must hold at least one line, got an empty file"),
        (b"\n\n", "must hold at least one line, got an empty file"),
        (b'{"id": {"wav": "x"}}', r":1: must be a line of NeMo's .* got the fields 'id'"),
        (b"{", r":1: must be a JSON object on one line .*NeMo's or Lhotse's"),
        (b"\xff\xfe", "must be a readable manifest: .*utf-8"),
    ],
)
def test_other_json_is_refused(tmp_path: Path, content: bytes, message: str):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(ManifestError, match=message):
        Manifest.read(tmp_path / "x.json")


def test_a_broken_gzip_file_is_refused(tmp_path: Path):
    whole = gzip.compress(b'{"audio_filepath": "a.wav"}\n' * 1000)
    for content in (whole[:-20], whole[:20] + b"\0" * 20, b"no gzip"):
        (tmp_path / "x.jsonl.gz").write_bytes(content)
        with pytest.raises(ManifestError, match=r"x\.jsonl\.gz must be"):
            Manifest.read(tmp_path / "x.jsonl.gz")


def test_export_refuses_wrong_names_and_labels(audio: Path, tmp_path: Path):
    manifest = Manifest.from_rows([Utterance("a", "a.wav", 0, 16000, 16000, "x")], root=audio)
    for to, name in (("nemo", "m.tsv"), ("lhotse", "m.json"), ("fairseq", "m.jsonl"), ("native", "m.jsonl")):
        with pytest.raises(ManifestError, match="must end in"):
            export_manifest(manifest, tmp_path / name, to=to)
    with pytest.raises(ConfigError, match="--labels must come with --to fairseq"):
        export_manifest(manifest, tmp_path / "m.jsonl", to="nemo", labels=("ltr",))
    with pytest.raises(ConfigError, match="format must be among native, fairseq, nemo, kaldi, lhotse, got 'espnet'"):
        export_manifest(manifest, tmp_path / "m.jsonl", to="espnet")
    assert list(tmp_path.iterdir()) == []


def test_fairseq_counts_what_it_has_no_place_for(audio: Path, tmp_path: Path):
    rows = [
        Utterance("a", "a.wav", 0, 16000, 16000, "x|y", "anna", "en"),
        Utterance("other", "odd.wav", 0, 7907, 7919, "z", "eve"),
    ]
    manifest = Manifest.from_rows(rows, root=audio)
    lost = export_manifest(manifest, tmp_path / "m.tsv", to="fairseq")
    assert lost == ("id (1 rows)", "text (2 rows)", "speaker (2 rows)", "language (1 rows)")
    lost = export_manifest(manifest, tmp_path / "m.tsv", to="fairseq", labels=["ltr"])
    assert lost == ("id (1 rows)", "white space and bars in text (1 rows)", "speaker (2 rows)", "language (1 rows)")


@pytest.mark.parametrize(
    ("to", "name"), [("nemo", "n.jsonl"), ("lhotse", "l.jsonl.gz"), ("kaldi", "k"), ("fairseq", "f.tsv")]
)
def test_rows_in_shards_are_refused_by_name(audio, tmp_path, to, name):
    rows = [
        Utterance("whole", "a.wav", 0, 16000, 16000),
        Utterance("packed", "s.tar", 0, 9, 16000, offset=512, num_bytes=99),
    ]
    with pytest.raises(ManifestError, match=r"(?s)(?=.*shard).*\(packed, s\.tar\)"):
        export_manifest(Manifest.from_rows(rows, root=audio), tmp_path / name, to=to)
    assert not (tmp_path / name).exists()
