"""A quantizer's codes beside the labels of a task: P(label | code) as a picture, and what codes tell of labels.

Nothing is learned here, so items of every part take part. A frame's label is that of the segment that holds its centre
where labels have times, else that of its utterance.

Reference: wav2vec 2.0 (2006.11477) appendix D, figure 3, for codes of all groups together; HuBERT (2106.07447) section
4.3 for PNMI.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from audio_ssl.errors import AudioSSLError, ConfigError
from audio_ssl.evaluate.report.sections import notes
from audio_ssl.inference.layers import LayerForward, choose_layer, model_quantizer
from audio_ssl.inference.models import AudioNeeds, Runtime, open_encoder
from audio_ssl.interop.source import read_model
from audio_ssl.probe.candidates import CPU, Opened
from audio_ssl.probe.frames import compute
from audio_ssl.probe.items import Items
from audio_ssl.probe.joint import Joint, Meetings
from audio_ssl.probe.pictures.codes import code_heatmap
from audio_ssl.probe.run import Asked
from audio_ssl.probe.segments import OUTSIDE, segment_of_frame
from audio_ssl.probe.subset import spread_rows, subset
from audio_ssl.probe.tasks import open_task
from audio_ssl.rng import numpy_generator

KINDS = ("classify", "frames", "units")  # whose labels say what is heard
MOST_ITEMS = 600  # what a page can wait for
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class CodeTable:
    """Codes of one group, or of all groups together, and labels.

    Attributes:
        name: of the codes, for people.
        joint: how often each code meets each label, by speaker.
        num_codes: K that there are; of all groups together, those that are used.
        pnmi: I(label; code) / H(label).
        pnmi_of_chance: the same where codes and labels have nothing to do with one another.
    """

    name: str
    joint: Joint
    num_codes: int
    pnmi: float
    pnmi_of_chance: float

    @property
    def counts(self) -> Ints:
        """(K, Y) frames of each code and label."""
        return self.joint.matrix(self.num_codes).T


def code_tables(model: Path, asked: Asked, *, device: torch.device = CPU) -> list[CodeTable]:
    """Codes and labels of a task's items, at most :data:`MOST_ITEMS` of them.

    Args:
        model: of pre-training.
        asked: the task.
        device: that the encoder runs on.

    Returns:
        One of all groups together, where there are several, and one a group; nothing where the model has no quantizer.

    Raises:
        ConfigError: labels are neither names of utterances nor have times, or no frame has one.
        AudioError: an item cannot be read.
    """
    items, _ = subset(asked.items, asked.folds, spread_rows(asked.items, asked.folds, MOST_ITEMS))
    ready, num_entries = _open(model, device)
    if ready is None:
        return []
    codes: dict[int, Ints] = {}
    for row, found in compute(ready, items.manifest, range(len(items)), name=f"codes of {model}", device=device):
        codes[row] = found.astype(np.int64)  # (T, G)
    labels = _labels(items, codes, hop_s=ready.needs.geometry.hop_samples / ready.needs.sample_rate_hz)
    groups = codes[0].shape[1]
    of_groups = [{row: found[:, g] for row, found in codes.items()} for g in range(groups)]
    tables = [
        _table(f"group {g}", items, labels, own, num_codes=num_entries) for g, own in enumerate(of_groups, start=1)
    ]
    if groups == 1:
        return tables
    together, num = _together(codes)
    return [_table("all groups together", items, labels, together, num_codes=num), *tables]


def code_figures(model: Path, asked: Asked, *, heading: str, device: torch.device = CPU) -> str:
    """HTML of :func:`code_tables`; what cannot be shown is told in its place, and a model without codes says nothing.

    Args:
        model: as there.
        asked: as there.
        heading: whose codes.
        device: as there.
    """
    try:
        tables = code_tables(model, asked, device=device)
    except AudioSSLError as error:
        return notes([f"{heading}: codes and labels cannot be shown: {error}"])
    if not tables:
        return ""
    figures = [
        code_heatmap(f"{heading}: {table.name}", table.counts, table.joint.labels, told=_told(table))
        for table in tables
    ]  # fmt: skip
    rest = f'<details><summary>group by group</summary><div class="charts">{"".join(figures[1:])}</div></details>'
    return (
        f"<h3>{escape(heading)}: codes and labels</h3><p>What the quantizer calls a frame, and what is said there: "
        f"P(label | code), as in wav2vec 2.0, appendix D. {escape(_counted(asked))}.</p>"
        f'<div class="charts">{figures[0]}</div>{rest if len(figures) > 1 else ""}'
    )


def open_for_codes(name: str, corpora: Path | None) -> Asked | None:
    """Open a task whose labels can stand beside codes; None for one of another kind.

    Args:
        name: shipped, or a file.
        corpora: folder of its data.

    Raises:
        ConfigError: there is no such task, or its folder is not there.
        ManifestError: its data are not as it says.
    """
    found = open_task(name, corpora=corpora)
    if found.task.kind not in KINDS:
        return None
    return Asked(found.name, found.task, found.items, found.folds, found.source, found.notes)


def _counted(asked: Asked) -> str:
    num = min(len(asked.items), MOST_ITEMS)
    of = (
        "each frame has the label of its segment" if _has_times(asked.items) else "each frame has its utterance's label"
    )
    return f"{num:,} utterances of {asked.name}; {of}"


def _told(table: CodeTable) -> str:
    return (
        f"PNMI {table.pnmi:.3f}: the share of what there is to know of a label that its code tells; codes that have "
        f"nothing to do with labels would have {table.pnmi_of_chance:.3f} here."
    )


def _open(model: Path, device: torch.device) -> tuple[Opened | None, int]:
    quantizer = model_quantizer(read_model(model))
    if quantizer is None:
        return None, 0
    encoder = open_encoder(model, Runtime(device))
    choice = choose_layer("codes", num_layers=encoder.num_layers, quantizer=quantizer.to(device))
    return Opened(LayerForward(encoder, choice), AudioNeeds.of(encoder)), quantizer.num_entries


def _has_times(items: Items) -> bool:
    return any(items.segments)


def _labels(items: Items, codes: Mapping[int, Ints], *, hop_s: float) -> list[tuple[Ints, list[str]]]:
    """Of each item, the frames that have a label, and their labels."""
    found = []
    for row, label in enumerate(items.labels):
        num_frames = len(codes[row])
        if _has_times(items):
            segments = items.segments[row]
            segment = segment_of_frame(segments, num_frames, hop_s)
            places = np.flatnonzero(segment != OUTSIDE)
            found.append((places, [segments[number].label for number in segment[places].tolist()]))
        elif isinstance(label, str):
            found.append((np.arange(num_frames), [label] * num_frames))
        else:
            raise ConfigError("labels must be one name an utterance, or have times (labels.ctm), to stand beside codes")
    if not any(len(places) for places, _ in found):
        raise ConfigError("items must have frames inside segments, none has; see labels.ctm")
    return found


def _table(
    name: str, items: Items, labels: Sequence[tuple[Ints, list[str]]], codes: Mapping[int, Ints], *, num_codes: int
) -> CodeTable:  # fmt: skip
    met, mixed = Meetings(), Meetings()
    # In a drawn order: where utterances lie by label, moving codes on by half would only give labels other names.
    for row in numpy_generator(0, "codes and labels").permutation(len(labels)).tolist():
        places, names = labels[row]
        if names:
            met.add(items.speakers[row], 0, labels=names, units=codes[row][places])
            # All in one ring: where the label is the speaker, codes that move within him would stay with his label.
            mixed.add("", 0, labels=names, units=codes[row][places])
    speakers = sorted(set(items.speakers))
    joint = met.table(speakers, num_units=num_codes)
    apart = mixed.moved().table([""], num_units=num_codes)
    return CodeTable(name, joint, num_codes, _pnmi(joint), _pnmi(apart))


def _pnmi(joint: Joint) -> float:
    once = np.ones((1, joint.counts.shape[0]), dtype=np.int64)
    return float(joint.measures(once)["pnmi"][0])


def _together(codes: Mapping[int, Ints]) -> tuple[dict[int, Ints], int]:
    """Each combination of codes of all groups as a code of its own, and how many of them there are."""
    rows = sorted(codes)
    used, numbers = np.unique(np.concatenate([codes[row] for row in rows]), axis=0, return_inverse=True)
    ends = np.cumsum([len(codes[row]) for row in rows])[:-1]
    return dict(zip(rows, np.split(numbers.reshape(-1).astype(np.int64), ends), strict=True)), len(used)
