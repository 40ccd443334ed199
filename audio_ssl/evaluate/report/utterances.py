"""Utterances in a report of recognition: what was said beside what was recognised, the sound and its picture."""

from __future__ import annotations

import base64
import io
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np
from numpy.typing import NDArray

from audio_ssl.data.audio import load_waveform
from audio_ssl.data.manifest import Manifest
from audio_ssl.errors import AudioSSLError
from audio_ssl.evaluate.confusions import visible
from audio_ssl.evaluate.error_rate import Edit, EditCounts, Unit, align_texts
from audio_ssl.evaluate.report.pictures import mel_plot
from audio_ssl.evaluate.scores import ScoredUtterance

RATE_HZ = 16_000
MAX_DRAWN_S = 60.0  # longer recordings are not drawn: nothing would be seen of a word
MAX_PLAYED_S = 20.0  # of one recording, and
MAX_PLAYED_TOTAL_S = 120.0  # of all: about 3 MB of the page
MAX_COLUMNS = 1200
LONG_WORD = 12  # characters: a reference of one such word is of a script without spaces, and is shown by characters
MARKS = {"hit": "", "substitution": "S", "deletion": "D", "insertion": "I"}
LEGEND = (
    '<p class="keys"><span class="pair-key"><span class="tag sub">S</span>replaced</span>'
    '<span class="pair-key"><span class="tag del">D</span>left out</span>'
    '<span class="pair-key"><span class="tag ins">I</span>added</span>'
    "upper line: said; lower line: recognised</p>"
)


@dataclass(frozen=True)
class Clip:
    """Sound of an utterance.

    Attributes:
        waveform: (S,) float32 at :data:`RATE_HZ`.
        is_played: whether it goes into the page to be heard.
    """

    waveform: NDArray[np.float32]
    is_played: bool


@dataclass
class Clips:
    """Sounds of utterances by id, and why others have none."""

    found: dict[str, Clip] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def clips_of(manifest: Manifest | None, utterances: Sequence[ScoredUtterance]) -> Clips:
    """Read the audio of utterances, as much as a page can hold; what is missing is noted."""
    clips = Clips()
    if manifest is None:
        clips.notes.append("no manifest was given, so there is no sound of the utterances")
        return clips
    played_s, num_long, num_silent = 0.0, 0, 0
    for utterance in utterances:
        seconds = utterance.facts.duration_s or 0.0
        if utterance.facts.row is None or seconds > MAX_DRAWN_S:
            num_long += 1
            continue
        try:
            waveform = load_waveform(manifest, utterance.facts.row, sample_rate_hz=RATE_HZ)
        except (AudioSSLError, OSError) as error:
            clips.notes.append(f"the sound of {utterance.id} cannot be read: {error}")
            continue
        is_played = seconds <= MAX_PLAYED_S and played_s + seconds <= MAX_PLAYED_TOTAL_S
        played_s += seconds * is_played
        num_silent += not is_played
        clips.found[utterance.id] = Clip(waveform, is_played)
    if num_long:
        clips.notes.append(f"{num_long} of the utterances shown are longer than {MAX_DRAWN_S:g} s and are not drawn")
    if num_silent:
        clips.notes.append(
            f"{num_silent} of the utterances shown cannot be played here: the page holds sounds of {MAX_PLAYED_S:g} s "
            f"and less, {MAX_PLAYED_TOTAL_S:g} s in all"
        )
    return clips


def worst(utterances: Sequence[ScoredUtterance], clips: Clips) -> str:
    """HTML of utterances, each with its alignment and what is there of its sound."""
    if not utterances:
        return "<p>None: every utterance that was scored is right, or none was asked for.</p>"
    return f"<p>Those with most word errors, the worst first.</p>{LEGEND}" + "".join(
        _article(utterance, clips.found.get(utterance.id)) for utterance in utterances
    )


def _article(utterance: ScoredUtterance, clip: Clip | None) -> str:
    facts = utterance.facts
    known = [f"speaker {facts.speaker}" if facts.speaker else "", facts.language or ""]
    known += ["" if facts.duration_s is None else f"{facts.duration_s:.1f} s"]
    about = " · ".join(
        [_told(utterance.words, "words"), _told(utterance.characters, "characters"), *filter(None, known)]
    )
    return (
        f'<article class="utterance"><h3 class="mono">{escape(utterance.id)}</h3><p class="sub">{escape(about)}</p>'
        f"{alignment(utterance.reference, utterance.hypothesis)}{_sound(utterance, clip)}</article>"
    )


def _told(counts: EditCounts, unit: str) -> str:
    rate = f" ({counts.rate:.0%})" if counts.reference_length else ""
    return f"{counts.errors} of {counts.reference_length} {unit} wrong{rate}"


def alignment(reference: str, hypothesis: str) -> str:
    """HTML of a pair of texts: unit by unit for the eye, and as whole texts for those who hear or copy the page."""
    unit: Unit = "character" if " " not in reference and len(reference) > LONG_WORD else "word"
    pairs = "".join(_pair(edit) for edit in align_texts(reference, hypothesis, unit=unit))
    direction = "rtl" if _is_right_to_left(reference or hypothesis) else "ltr"
    return (
        f'<div class="aligned {unit}s" dir="{direction}" aria-hidden="true">{pairs}</div>'
        f'<details><summary>as text</summary><dl class="texts"><dt>said</dt><dd dir="auto">{_text(reference)}</dd>'
        f'<dt>recognised</dt><dd dir="auto">{_text(hypothesis)}</dd></dl></details>'
    )


def _pair(edit: Edit) -> str:
    said, heard = (escape(visible(text)) for text in (edit.reference, edit.hypothesis))
    mark = MARKS[edit.kind]
    style = {"S": "sub", "D": "del", "I": "ins"}.get(mark, "hit")
    tag = f'<span class="tag {style}">{mark}</span>' if mark else ""
    return f'<span class="edit {style}"><span>{said}</span><span>{heard}</span>{tag}</span>'


def _text(text: str) -> str:
    return escape(text) or "<i>nothing</i>"


def _is_right_to_left(text: str) -> bool:
    """By the first letter that has a direction, as in the Unicode bidirectional algorithm (rules P2 and P3)."""
    return next(
        (kind in ("R", "AL") for c in text if (kind := unicodedata.bidirectional(c)) in ("L", "R", "AL")), False
    )


def _sound(utterance: ScoredUtterance, clip: Clip | None) -> str:
    if clip is None or not len(clip.waveform):
        return ""
    label = f"Mel-spectrogram of {utterance.id}, {len(clip.waveform) / RATE_HZ:.1f} s"
    picture = mel_plot(clip.waveform, RATE_HZ, label=label, max_columns=MAX_COLUMNS)
    player = ""
    if clip.is_played:
        name = escape(f"sound of {utterance.id}", quote=True)
        player = f'<audio controls preload="none" aria-label="{name}" src="{flac_address(clip.waveform)}"></audio>'
    return f'<figure><h4>Mel-spectrogram <span class="unit">Hz, 70 dB</span></h4>{picture}{player}</figure>'


def flac_address(waveform: NDArray[np.float32]) -> str:
    """A data address of a sound, (S,) float32 at :data:`RATE_HZ`, as FLAC of 16 bits."""
    import soundfile as sf

    file = io.BytesIO()
    sf.write(file, np.clip(waveform, -1.0, 1.0), RATE_HZ, format="FLAC", subtype="PCM_16")
    return "data:audio/flac;base64," + base64.b64encode(file.getvalue()).decode("ascii")
