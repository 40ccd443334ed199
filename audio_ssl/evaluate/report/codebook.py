"""The codebook in use: a histogram for each group."""

from __future__ import annotations

from html import escape

import numpy as np
from numpy.typing import NDArray

from audio_ssl.evaluate.report.charts import bars, key
from audio_ssl.evaluate.report.examples import Examples


def codebook(examples: Examples) -> str:
    """HTML of how often each entry is chosen."""
    if examples.code_counts is None:
        return "<p>Not available; see the last section.</p>"
    figures = "".join(_group(i, counts) for i, counts in enumerate(examples.code_counts, start=1))
    num_frames = int(examples.code_counts[0].sum())
    return (
        f"<p>The best entry of each of {num_frames:,} frames ({examples.num_utterances} utterances, "
        f"{examples.seconds:.0f} s, of "
        f"the {escape(examples.source)}), by {escape(examples.weights)}. Entries are sorted by use, the most used "
        f"first.</p>"
        f'<div class="charts">{figures}</div>'
    )


def _group(number: int, counts: NDArray[np.float64]) -> str:
    shares = np.sort(counts / max(counts.sum(), 1.0))[::-1]
    even = 100 / len(shares)
    used = shares[shares > 0]
    in_use = float(np.exp(-(used * np.log(used)).sum()))
    text = (
        f"{len(used)} of {len(shares)} entries are chosen at all; the most used takes {shares[0]:.1%} of the frames. "
        f"Perplexity {in_use:.0f}."
    )
    label = f"Use of the entries of group {number}, in percent of the frames, sorted. {text}"
    picture = bars((100 * shares).tolist(), label=label, level=even, x_label="entries, the most used first")
    return (
        f'<figure><h4>Group {number} <span class="unit">% of frames</span></h4>{picture}'
        f'<p class="keys">{key("level", f"all alike: {even:.2g} %")}</p><figcaption>{text} A healthy codebook falls '
        "off slowly; a few tall bars and nothing behind them are a collapse.</figcaption></figure>"
    )
