"""The example manifests that the documentation shows are the files that are there, and they can be read."""

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
