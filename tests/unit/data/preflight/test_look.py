"""One report: what refuses, what warns, what is only told, and every row by its place."""

import json
from pathlib import Path

import numpy as np
import pytest

from audio_ssl.config import PreflightConfig
from audio_ssl.data.manifest import Manifest
from audio_ssl.data.preflight.look import Preflight, look
from audio_ssl.data.preflight.notices import Fit, Split
from audio_ssl.data.text import Vocabulary
from audio_ssl.errors import ManifestError

from .splits import row

VOCABULARY = Vocabulary(("<pad>", "<unk>", "|", *"abcdefghijklmnopqrstuvwxyz"))
CALM = {"warn_labels_per_symbol": 0.0}  # a few rows of a test are never enough for an alphabet


def split(folder: Path, name: str, rows, *, frames: int = 50) -> Split:
    """Rows of a text manifest, so that they have lines; each row has so many frames."""
    Manifest.from_rows(rows, root=folder).write(folder / f"{name}.tsv")
    manifest = Manifest.read(folder / f"{name}.tsv")
    texts = [VOCABULARY.normalize(text or "") for text in manifest.column("text")]
    lengths = np.array([len(text) for text in texts])
    return Split(name, manifest, texts, Fit(lengths, lengths, np.full(len(rows), frames)))


def plain(num_rows: int, *, first: int = 0, seconds: float = 1.0, **more):
    """Ordinary rows, each with its own length, speaker and text."""
    return [
        row(first + i, seconds + (first + i) / 100, f"letters {'abcdefghij'[i % 10]} {'klmnopqrst'[first // 10 % 10]}",
            speaker=f"s{first + i}", **more)
        for i in range(num_rows)
    ]  # fmt: skip


def found(folder: Path, train, valid=None, *, frames: int = 50, **limits) -> Preflight:
    of_valid = None if valid is None else split(folder, "valid", valid, frames=frames)
    return look(
        split(folder, "train", train, frames=frames), of_valid, VOCABULARY, PreflightConfig(**{**CALM, **limits})
    )


def levels(preflight: Preflight) -> dict[tuple[str, str], str]:
    return {(notice.split, notice.check): notice.level for notice in preflight.notices}


def test_ordinary_data_have_nothing_odd(tmp_path):
    preflight = found(tmp_path, plain(20), plain(10, first=20))
    assert levels(preflight) == {}
    assert preflight.lines(num_rows=3) == ["before training: nothing odd was found"]
    preflight.refuse(written=None, num_rows=3)


def test_rows_are_named_by_line_id_and_what_is_odd(tmp_path):
    preflight = found(tmp_path, [*plain(30), row(30, 1, "room 5"), row(31, 1, "room 6"), row(32, 1, "[noise] room")])
    warned = {("train", check): "warn" for check in ("digits", "markup", "unknown_characters")}
    assert levels(preflight) == {**warned, ("train", "rare_characters"): "tell"}
    document = json.loads(json.dumps(preflight.document()))
    digits = next(notice for notice in document["notices"] if notice["check"] == "digits")
    lines = (tmp_path / "train.tsv").read_text().splitlines()
    where, number = digits["rows"][0]["at"].rsplit(":", 1)
    assert (where, lines[int(number) - 1].split("\t")[0]) == (str(tmp_path / "train.tsv"), "u30")
    assert digits["rows"][0] == {"at": f"{where}:{number}", "id": "u30", "about": "'room 5'"}
    assert (digits["num_rows"], digits["level"], digits["limit"]) == (2, "warn", "preflight.warn_odd_share = 0")
    said = preflight.lines(num_rows=1)
    assert said[0] == "before training: 3 warnings, 1 note"
    line = next(line for line in said if "digits" in line)
    assert line.startswith(
        "warning: data.train: 2 of 33 transcripts have digits, which are spoken in several ways (pre"
    )
    assert f": {where}:{number} (u30, u30.wav) 'room 5' and 1 more. Write numbers as they are spoken" in line


def test_rows_that_cannot_be_learned_from_refuse_over_their_share_together(tmp_path):
    rows = [*plain(16), row(16, 1, None), row(17, 1, " "), row(18, 1, "x" * 51), row(19, 1, "y" * 60)]
    told = found(tmp_path, rows, refuse_unusable_share=0.2)
    assert {k: v for k, v in levels(told).items() if k[1] in ("empty", "too_long")} == {
        ("train", "empty"): "warn", ("train", "too_long"): "warn",
    }  # fmt: skip
    told.refuse(written=None, num_rows=1)
    refused = found(tmp_path, rows, refuse_unusable_share=0.19)
    with pytest.raises(ManifestError) as caught:
        refused.refuse(written=Path("runs/a/preflight.json"), num_rows=1)
    said = str(caught.value)
    for part in (
        "data.train: 2 of 20 rows have no transcript, and are left out (preflight.refuse_unusable_share = 0.19): ",
        "2 of 20 rows have a transcript that needs more frames than their audio has; they are left out",
        "(u18, u18.wav) needs 51 frames, has 50: ", "and 1 more", "every row is in runs/a/preflight.json",
    ):  # fmt: skip
        assert part in said
    assert "warning" not in said


def test_of_validation_only_rows_without_a_transcript_are_left_out(tmp_path):
    valid = [*plain(8, first=20), row(90, 1, "", speaker="x"), row(91, 1, "y" * 60, speaker="y")]
    preflight = found(tmp_path, plain(20), valid, refuse_unusable_share=0.1)
    assert levels(preflight).items() >= {("valid", "empty"): "warn", ("valid", "too_long"): "warn"}.items()
    assert "stay in" in next(n for n in preflight.notices if n.check == "too_long").message
    refused = found(tmp_path, plain(20), valid, refuse_unusable_share=0.09)
    assert levels(refused).items() >= {("valid", "empty"): "refuse", ("valid", "too_long"): "warn"}.items()


def test_a_transcript_of_which_the_rules_leave_nothing_says_so(tmp_path):
    preflight = found(tmp_path, [*plain(20), row(20, 1, "\u200b"), row(21, 1, "")])
    (empty,) = (n for n in preflight.notices if n.check == "empty")
    assert "by the rules of [text]" in empty.rows[20]
    assert empty.rows[21] == ""


def test_damage_refuses_over_its_share(tmp_path):
    rows = [*plain(18), row(18, 1, "caf\ufffd"), row(19, 1, "ab\x07")]
    assert levels(found(tmp_path, rows, refuse_damaged_share=0.1))["train", "damaged"] == "warn"
    assert levels(found(tmp_path, rows, refuse_damaged_share=0.09))["train", "damaged"] == "refuse"


def test_shared_audio_refuses_and_shared_voices_and_texts_warn(tmp_path):
    train, valid = plain(20), plain(18, first=20)
    shared = [train[3], row(99, 1.9, "letters a k", speaker="s5")]
    preflight = found(tmp_path, train, [*valid, *shared])
    assert levels(preflight) == {
        ("valid", "same_audio"): "refuse", ("valid", "same_speaker"): "warn", ("valid", "same_text"): "tell",
    }  # fmt: skip
    (audio,) = preflight.of_level("refuse")
    (about,) = audio.rows.values()
    assert about == f"is {split(tmp_path, 'train', train).manifest.origin(3)}"
    assert "1 of 20 rows have audio that is in data.train, too (preflight.refuse_same_audio_share = 0)" in audio.line(
        num_rows=1
    )
    calmer = {"refuse_same_audio_share": 0.05, "warn_same_speaker_share": 0.1, "warn_same_text_share": 0.05}
    changed = levels(found(tmp_path, train, [*valid, *shared], **calmer))
    assert changed == {
        ("valid", "same_audio"): "tell",
        ("valid", "same_speaker"): "tell",
        ("valid", "same_text"): "warn",
    }


def test_what_could_not_be_compared_is_told(tmp_path):
    train = [row(0, 1, "abc"), row(1, 1, "abc")]
    preflight = found(tmp_path, train, [row(2, 1, "abd"), row(3, 1, "abd")])
    notes = {n.check: n.message for n in preflight.of_level("tell")}
    assert notes["no_speakers"] == "data.train and data.valid name no speaker"
    assert notes["not_compared"].endswith("4 that could not be read")


def test_what_the_vocabulary_lacks_is_named_with_count_and_rows(tmp_path):
    valid = [*plain(8, first=20), row(90, 1, "añb ñ", speaker="x"), row(91, 1, "[ñ]", speaker="y")]
    preflight = found(tmp_path, plain(20), valid)
    (unknown,) = (n for n in preflight.notices if n.check == "unknown_characters")
    assert unknown.split == "valid"
    assert unknown.message.startswith(
        "3 characters that the vocabulary lacks: 'ñ' (U+00F1 LATIN SMALL LETTER N WITH TILDE) 3 times, "
    )
    assert unknown.message.endswith(
        "'[' (U+005B LEFT SQUARE BRACKET) 1 times, ']' (U+005D RIGHT SQUARE BRACKET) 1 times; in 2 of 10 transcripts"
    )
    assert list(unknown.rows.values()) == ["'ñ'", "'[' 'ñ' ']'"]


def test_characters_of_one_transcript_are_named_with_it(tmp_path):
    preflight = found(
        tmp_path, [*plain(20), row(20, 1, "zzz letters"), row(21, 1, "zw letters"), row(22, 1, "vv letters")]
    )
    (rare,) = (n for n in preflight.notices if n.check == "rare_characters")
    assert rare.message == "2 characters stand in one transcript only: 'v' 'w'"
    assert rare.rows == {21: "'w'", 22: "'v'"}


def test_too_many_symbols_for_the_labels_are_warned_of(tmp_path):
    rows = plain(20)
    num_labels = sum(len(r.text) for r in rows)
    least = num_labels / len(VOCABULARY)
    assert levels(found(tmp_path, rows, warn_labels_per_symbol=least)) == {}
    preflight = found(tmp_path, rows, warn_labels_per_symbol=least + 0.1)
    (size,) = preflight.notices
    assert (size.check, size.level) == ("vocabulary_size", "warn")
    assert size.message == f"29 symbols for {num_labels} labels: {least:.1f} labels a symbol, on average"


def test_figures_are_for_machines(tmp_path):
    rows = [*plain(20, language="en"), row(20, 1, "字字", language="zh"), row(21, 1, None)]
    document = found(tmp_path, rows).document()
    assert document["format_version"] == 1
    train = document["train"]
    assert (train["rows"], train["rows_with_text"]) == (22, 21)
    assert train["hours"] == pytest.approx(sum(r.num_samples for r in rows) / 100 / 3600)
    assert train["letters_by_language_and_script"] == {"en": {"LATIN": 20 * 9}, "zh": {"HAN AND KANA": 2}, "": {}}
    assert train["characters_a_second"] == {"en": pytest.approx(9 / 1.1, rel=0.05)}
    assert train["rows_of_languages_too_small_to_judge_rates"] == 1
    assert document["counts"] == {"refuse": 0, "warn": 2, "tell": 1}  # no text; characters of zh


def test_a_whole_split_at_an_absurd_rate_is_warned_of(tmp_path):
    preflight = found(tmp_path, plain(30, seconds=60))
    (notice,) = preflight.notices
    assert (notice.check, notice.level) == ("median_rate", "warn")
    assert notice.message.startswith("half of the rows have less than 0.1")
