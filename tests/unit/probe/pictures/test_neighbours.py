"""The list of neighbours: who is near and whether rightly, sounds that fit, and names escaped."""

import base64
import io
import re
from xml.etree import ElementTree

import numpy as np
import soundfile as sf

from audio_ssl.data.manifest import Manifest
from audio_ssl.data.table import Utterance
from audio_ssl.probe.pictures import neighbours, style
from audio_ssl.probe.pictures.neighbours import neighbour_list, sounds_of
from audio_ssl.probe.retrieve import Neighbour, Query
from tests.unit.probe.listed import listed_items

QUERIES = [Query(0, (Neighbour(2, 0.987, True), Neighbour(1, -0.5, False))), Query(1, ())]


def items():
    return listed_items(["<a>", ("b", "c"), "<a>"], ["r&r", "s", "t"])


def test_neighbours_are_told_in_order_with_words_for_right_and_wrong():
    html = neighbour_list("near <digits>", QUERIES, items(), {2: "data:audio/flac;base64,AA=="})
    root = ElementTree.fromstring(html.replace("<audio controls ", "<audio "))
    told = ["".join(li.itertext()) for li in root.iter("li")]
    assert told == ["same <a> t u2 cosine 0.99", "other b c s u1 cosine -0.50"]
    assert "1 of these 2 neighbours have the label" in html
    assert "There are no others." in html
    assert [a.get("src") for a in root.iter("audio")] == ["data:audio/flac;base64,AA=="]
    assert "r&amp;r" in html


def test_speakers_that_are_none_are_not_told():
    from dataclasses import replace

    assert "r&amp;r" not in neighbour_list("x", QUERIES, replace(items(), are_speakers=False), {})


def test_sounds_are_whole_where_they_fit_and_noted_where_not(tmp_path, monkeypatch):
    wave = 0.3 * np.sin(np.arange(8_000) / 5)
    for name, seconds in (("0", 1), ("1", 3), ("2", 1), ("3", 1)):
        sf.write(tmp_path / f"{name}.wav", np.tile(wave, seconds), 8_000)
    (tmp_path / "3.wav").write_bytes(b"broken")
    lengths = (8_000, 24_000, 8_000, 8_000)
    manifest = Manifest.from_rows(
        [Utterance(f"u{i}", f"{i}.wav", 0, n, 8_000) for i, n in enumerate(lengths)], root=tmp_path
    )
    sounds = sounds_of(manifest, [2, 0, 2, 3])
    assert list(sounds.found) == [2, 0]
    data, rate = sf.read(io.BytesIO(base64.b64decode(sounds.found[0].split(",")[1])))
    assert (len(data), rate) == (16_000, 16_000)
    assert re.search("the sound of u3 cannot be read", sounds.notes[0])
    monkeypatch.setattr(neighbours, "MAX_PLAYED_S", 2.0)
    monkeypatch.setattr(neighbours, "MAX_PLAYED_TOTAL_S", 1.5)
    few = sounds_of(manifest, [0, 1, 2])
    assert list(few.found) == [0]
    assert few.notes[0].startswith("2 of the neighbours shown cannot be played here")


def test_without_queries_there_is_no_list_and_the_style_is_there():
    assert neighbour_list("x", [], items(), {}) == ""
    assert ".ribbon" in style()
