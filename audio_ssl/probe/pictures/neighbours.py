"""Nearest utterances of others, to read and to listen to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from audio_ssl.data.audio import load_waveform
from audio_ssl.data.manifest import Manifest
from audio_ssl.errors import AudioSSLError
from audio_ssl.evaluate.report.utterances import (
    MAX_PLAYED_S,
    MAX_PLAYED_TOTAL_S,
    RATE_HZ,
    flac_address,
)  # fmt: skip
from audio_ssl.probe.items import Items
from audio_ssl.probe.retrieve import Neighbour, Query


@dataclass
class Sounds:
    """Data addresses of the audio of rows, and why others have none."""

    found: dict[int, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def sounds_of(manifest: Manifest, rows: Sequence[int]) -> Sounds:
    """Read the audio of some rows, as much as a page can hold; what is missing is noted."""
    sounds = Sounds()
    seconds, played_s, num_long = manifest.durations_s(), 0.0, 0
    for row in dict.fromkeys(rows):
        if seconds[row] > MAX_PLAYED_S or played_s + seconds[row] > MAX_PLAYED_TOTAL_S:
            num_long += 1
            continue
        try:
            sounds.found[row] = flac_address(load_waveform(manifest, row, sample_rate_hz=RATE_HZ))
        except (AudioSSLError, OSError) as error:
            sounds.notes.append(f"the sound of {manifest[row].id} cannot be read: {error}")
            continue
        played_s += float(seconds[row])
    if num_long:
        sounds.notes.append(
            f"{num_long} of the neighbours shown cannot be played here: the page holds sounds of {MAX_PLAYED_S:g} s "
            f"and less, {MAX_PLAYED_TOTAL_S:g} s in all"
        )
    return sounds


def neighbour_list(title: str, queries: Sequence[Query], items: Items, sounds: Mapping[int, str]) -> str:
    """HTML of utterances, each with those of others that lie nearest.

    Args:
        title: of the list.
        queries: who asks, and who is near.
        items: that the queries are about.
        sounds: a data address of the audio of some rows.
    """
    if not queries:
        return ""
    near = [neighbour for query in queries for neighbour in query.neighbours]
    num_right = sum(neighbour.is_right for neighbour in near)
    said = "" if not near else f" {num_right} of these {len(near)} neighbours have the label of who asks."
    parts = [_query(query, items, sounds) for query in queries]
    return (
        f'<div class="neighbours"><h3>{escape(title)}</h3><p>Utterances and the nearest of others, nearest first.'
        f"{said}</p>{''.join(parts)}</div>"
    )


def _query(query: Query, items: Items, sounds: Mapping[int, str]) -> str:
    rows = "".join(_near(neighbour, items, sounds) for neighbour in query.neighbours)
    listed = f"<ol>{rows}</ol>" if rows else "<p>There are no others.</p>"
    asks = f"<p>{_about(query.item, items)}</p>{_player(query.item, items, sounds)}"
    return f'<article class="query"><div class="asks">{asks}</div>{listed}</article>'


def _near(neighbour: Neighbour, items: Items, sounds: Mapping[int, str]) -> str:
    style, word = ("right", "same") if neighbour.is_right else ("wrong", "other")
    about = f'{_about(neighbour.item, items)} <span class="sub cosine">cosine {neighbour.cosine:.2f}</span>'
    return (
        f'<li class="{style}"><p><span class="tag">{word}</span> {about}</p>'
        f"{_player(neighbour.item, items, sounds)}</li>"
    )


def _about(item: int, items: Items) -> str:
    label = items.labels[item]
    text = label if isinstance(label, str) else " ".join(label)
    speaker = f' <span class="sub">{escape(items.speakers[item])}</span>' if items.are_speakers else ""
    return f'<b>{escape(text)}</b>{speaker} <span class="mono">{escape(items.manifest[item].id)}</span>'


def _player(item: int, items: Items, sounds: Mapping[int, str]) -> str:
    if item not in sounds:
        return ""
    name = escape(f"sound of {items.manifest[item].id}", quote=True)
    return f'<audio controls preload="none" aria-label="{name}" src="{sounds[item]}"></audio>'
