"""Which code stands for which label: how often each label is heard where a code is.

Reference: the figure of codes and phones of wav2vec 2.0 (2006.11477, appendix D) and HuBERT (2106.07447).
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from audio_ssl.evaluate.report.pictures import png_address

MAX_LABELS = 60
LINE_PX = 14  # of a label: its letters are 12
MAX_LETTERS = 12  # of a label that are shown
LETTER_REM = 0.5


def code_heatmap(
    title: str, counts: NDArray[np.floating] | NDArray[np.integer], labels: Sequence[str], *, told: str = ""
) -> str:
    """HTML of a figure: codes across, each a column that sums to 1; those of one label side by side.

    Args:
        title: of it.
        counts: (V, P) frames of each code and label.
        labels: P names.
        told: more about them, for the caption.
    """
    frames: NDArray[np.float64] = np.asarray(counts, dtype=np.float64)
    used = np.flatnonzero(frames.sum(1) > 0)
    if not len(used):
        return ""
    names, table = _most_frequent(frames[used], labels)
    shares = table / table.sum(1, keepdims=True)
    order = np.lexsort((-shares.max(1), shares.argmax(1)))
    purity = float(frames.max(1).sum() / frames.sum())
    text = (
        f"{len(used)} of {len(frames)} codes are used, for {len(labels)} labels. Taken for its most frequent label, a "
        f"code is right at {purity:.0%} of the frames."
    )
    picture = png_address(shares[order].T, "viridis", low=0.0, high=1.0)
    step = 100 / len(names)
    beside = f"{0.7 + LETTER_REM * max(len(_short(name)) for name in names):.2f}rem minmax(0, 1fr)"
    y = "".join(
        f'<span style="bottom:{100 - (i + 0.5) * step:.2f}%">{escape(name)}</span>'
        for i, name in enumerate(map(_short, names))
    )
    return (
        f'<figure class="codes" aria-label="{escape(title, quote=True)}"><h4>{escape(title)} '
        '<span class="unit">share of a code\'s frames</span></h4><div class="plot codes" '
        f'style="grid-template-columns:{beside}"><div class="y" aria-hidden="true">{y}</div>'
        f'<svg style="height:{LINE_PX * len(names)}px" role="img" '
        f'aria-label="{escape(f"{title}. {text}", quote=True)}"><title>{escape(text)}</title>'
        f'<image href="{picture}" width="100%" height="100%" preserveAspectRatio="none"/></svg>'
        '<div class="xl" aria-hidden="true">codes, in the order of the labels they stand for</div></div>'
        '<p class="keys"><span class="ramp"></span>0 (dark) to 1 (bright)</p>'
        f"<figcaption>{escape(f'{text} {told}'.strip())} Codes that stand for one label are columns with one bright "
        "place; a row without any has no code of its own.</figcaption></figure>"
    )


def _most_frequent(counts: NDArray[np.float64], labels: Sequence[str]) -> tuple[list[str], NDArray[np.float64]]:
    """Labels by their frames, the most frequent first; beyond :data:`MAX_LABELS` the rest together."""
    order = np.argsort(-counts.sum(0), kind="stable")
    order = order[counts.sum(0)[order] > 0]
    if len(order) <= MAX_LABELS:
        return [labels[i] for i in order.tolist()], counts[:, order]
    kept, rest = order[: MAX_LABELS - 1], order[MAX_LABELS - 1 :]
    names = [labels[i] for i in kept.tolist()] + [f"{len(rest)} others"]
    return names, np.concatenate([counts[:, kept], counts[:, rest].sum(1, keepdims=True)], axis=1)


def _short(name: str) -> str:
    return name if len(name) <= MAX_LETTERS else name[: MAX_LETTERS - 1] + "…"
