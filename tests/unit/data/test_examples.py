"""The example manifests that the documentation shows are the files that are there, and they can be read."""

import re
from pathlib import Path

import pytest

from audio_ssl.data.manifest import Manifest
from audio_ssl.data.summary import find_faults

MANIFESTS = Path(__file__).parents[3] / "manifests"
README = (MANIFESTS / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["native", "fairseq"])
def test_an_example_agrees_with_its_audio(name: str):
    manifest = Manifest.read(MANIFESTS / "examples" / f"{name}.tsv")
    assert len(manifest) == 3
    assert find_faults(manifest, decode=True) == ()


@pytest.mark.parametrize("name", ["native.tsv", "fairseq.tsv", "fairseq.wrd", "fairseq.ltr"])
def test_the_readme_shows_the_example_as_it_is(name: str):
    content = (MANIFESTS / "examples" / name).read_text(encoding="utf-8").rstrip("\n")
    assert f"```text\n{content}\n```" in README


def block(after: str) -> str:
    """The first fenced block of the README behind some words."""
    match = re.search(r"```\w+\n(.*?\n)```", README[README.index(after) :], re.DOTALL)
    assert match is not None
    return match[1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the README's examples of other tools lie: above the demo's audio."""
    (tmp_path / "valid").symlink_to(MANIFESTS / "demo" / "valid")
    return tmp_path


@pytest.mark.parametrize(
    ("heading", "file", "spans"),
    [
        ("### NeMo", "nemo.jsonl", [(0, 61440), (0, 63520), (16000, 32000)]),
        ("### Lhotse", "cuts.jsonl", [(16000, 32000)]),
    ],
)
def test_an_example_of_json_lines_agrees_with_its_audio(folder: Path, heading: str, file: str, spans: list):
    (folder / file).write_text(block(heading), encoding="utf-8")
    manifest = Manifest.read(folder / file)
    assert [(row.start, row.num_samples) for row in manifest] == spans
    assert find_faults(manifest, decode=True) == ()


def test_the_example_of_kaldi_agrees_with_its_audio(folder: Path):
    data = folder / "data" / "train"
    data.mkdir(parents=True)
    for name in ("wav.scp", "segments", "text", "utt2spk"):
        after = "For example `wav.scp`" if name == "wav.scp" else f"\n`{name}`"
        (data / name).write_text(block(after), encoding="utf-8")
    manifest = Manifest.read(data)
    assert [(row.id, row.start, row.num_samples, row.text, row.speaker) for row in manifest] == [
        ("af_kore-1", 0, 61440, "the engineer measured the bridge twice", "af_kore"),
        ("af_kore-2", 16000, 32000, "", None),
    ]
    assert find_faults(manifest, decode=True) == ()
