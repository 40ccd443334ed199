"""A proof on the user's own audio that an embedding hangs on its utterance alone, by the path that ``extract`` takes.

Some utterances are embedded each alone, then in other surroundings, and every difference is said. What is promised,
and which tests hold it: ``docs/embeddings.md``, "Invariance".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audio_ssl.errors import AudioError
from audio_ssl.inference.layers import LayerChoice, LayerForward
from audio_ssl.inference.models import AudioNeeds, Runtime
from audio_ssl.inference.source import Refusal, Source
from audio_ssl.inference.stream import Forward, Frames, Stream, StreamSettings, joined
from audio_ssl.inference.surroundings import Clipped, Wrap, all_surroundings, as_it_is
from audio_ssl.inference.windows import WindowSettings, resampled_length
from audio_ssl.model.encoder import Encoder

MOST = 1e-5
"""The largest relative difference in fp32: sums are taken in another order, which base and large make 2e-6 of."""
NUM_UTTERANCES = 8
_SHARE = 4  # of a batch: the longest stretch of an utterance that is looked at
_SMALLEST = 1e-6  # frames below it are zero but for rounding: latents of a sound that never changes


@dataclass(frozen=True)
class Finding:
    """What some surroundings do.

    Attributes:
        what: the surroundings, for people.
        differences: of each utterance, by id; see :func:`relative_difference`.
    """

    what: str
    differences: Mapping[str, float]

    @property
    def worst(self) -> tuple[str, float]:
        """The utterance that differs most, and by how much."""
        return max(self.differences.items(), key=lambda item: np.nan_to_num(item[1], nan=np.inf))


@dataclass(frozen=True)
class Invariance:
    """The outcome of a check.

    Attributes:
        lengths_s: of the utterances that were looked at, rising, in seconds.
        findings: against each utterance alone in the same precision.
        from_fp32: alone in this precision against alone in fp32; None where this is fp32.
        refused: utterances that were to be looked at, and cannot be read.
    """

    lengths_s: tuple[float, ...]
    findings: tuple[Finding, ...]
    from_fp32: Finding | None
    refused: tuple[Refusal, ...]

    @property
    def failures(self) -> dict[str, dict[str, float]]:
        """In fp32, the surroundings and utterances with more than :data:`MOST`; other precisions make no promise.

        They round results to few steps, and a sum in another order lands on the next step now and then.
        """
        if self.from_fp32 is not None:
            return {}
        over = {
            found.what: {name: value for name, value in found.differences.items() if not value <= MOST}
            for found in self.findings
        }
        return {what: differences for what, differences in over.items() if differences}


def relative_difference(reference: NDArray[Any], other: NDArray[Any]) -> float:
    """The largest ``|reference - other|`` over the largest ``|reference|``: of (T, D), or of the worst of (L, T, D).

    Infinite where the shapes differ.
    """
    if reference.shape != other.shape:
        return float(np.inf)
    layers = zip(reference, other, strict=True) if reference.ndim == 3 else [(reference, other)]
    return float(np.max([np.abs(a - b).max() / np.maximum(np.abs(a).max(), _SMALLEST) for a, b in layers]))


def check_invariance(
    encoder: Encoder,
    source: Source,
    *,
    layer: LayerChoice,
    settings: StreamSettings,
    runtime: Runtime,
    on_finding: Callable[[Finding], object] = lambda _: None,
) -> Invariance:
    """Embed some utterances in many surroundings, and compare with each one alone.

    At most :data:`NUM_UTTERANCES`, evenly spaced by rank of length, the shortest and the longest among them; of each at
    most its first quarter of a batch. All in all these are computed some twelve times.

    Args:
        encoder: in eval mode, on the runtime's device.
        source: the utterances.
        layer: which frames.
        settings: as ``extract`` would have them.
        runtime: device and precision.
        on_finding: is told each finding as soon as it is there.

    Raises:
        AudioError: there is no utterance that can be embedded.
    """
    needs, most_s = AudioNeeds.of(encoder), max(settings.batch_s / _SHARE, 2.0)
    settings = replace(settings, windows=WindowSettings(most_s + 1.0, 0.0))  # so nothing is cut into windows
    one_by_one = replace(settings, batch_s=1 / needs.sample_rate_hz)
    embedder = _Embedder(Clipped(source, most_s), LayerForward(encoder, layer), needs, runtime)
    alone, refused = embedder.embed(_choose(embedder.source, needs), one_by_one)
    if not alone:
        why = "".join(f" ({refusal.path}: {refusal.reason})" for refusal in refused[:1])
        raise AudioError(f"INPUT must hold an utterance that can be embedded, of {len(source)} there is none{why}")
    findings = []
    for surroundings in all_surroundings(sorted(alone, key=embedder.source.num_samples), settings):
        found = (
            embedder.embed(rows, surroundings.settings, wrap)[0]
            for wrap in surroundings.wraps
            for rows in surroundings.runs
        )
        findings.append(Finding(surroundings.what, embedder.differences(alone, found)))
        on_finding(findings[-1])
    from_fp32 = None
    if runtime.precision != "fp32":
        in_fp32, _ = replace(embedder, runtime=replace(runtime, precision="fp32")).embed(list(alone), one_by_one)
        from_fp32 = Finding(f"{runtime.precision} from fp32, alone", embedder.differences(in_fp32, [alone]))
        on_finding(from_fp32)
    lengths = sorted(embedder.source.num_samples(row) / source.rate_hz(row) for row in alone)
    return Invariance(tuple(lengths), tuple(findings), from_fp32, tuple(refused))


@dataclass(frozen=True)
class _Embedder:
    source: Clipped
    forward: Forward
    needs: AudioNeeds
    runtime: Runtime

    def embed(
        self, rows: Sequence[int], settings: StreamSettings, wrap: Wrap = as_it_is
    ) -> tuple[dict[int, Frames], list[Refusal]]:
        """Frames of each utterance, and those that cannot be read."""
        stream = Stream(self.source, wrap(self.forward), needs=self.needs, settings=settings, runtime=self.runtime)
        frames, refused = dict[int, Frames](), list[Refusal]()
        for result in joined(stream.run(rows)):
            if isinstance(result, Refusal):
                refused.append(result)
            else:
                frames[result[0]] = result[1].copy()  # not the batch that it is a part of
        return frames, refused

    def differences(self, reference: Mapping[int, Frames], found: Iterable[Mapping[int, Frames]]) -> dict[str, float]:
        """The largest of each utterance, by id."""
        largest = {self.source.name(row)[0]: 0.0 for row in reference}
        for frames_of in found:
            for row, frames in frames_of.items():
                name = self.source.name(row)[0]
                largest[name] = float(np.maximum(largest[name], relative_difference(reference[row], frames)))
        return largest


def _choose(source: Source, needs: AudioNeeds) -> list[int]:
    """Rows that give a frame, evenly spaced by rank of length; where none does the first, whose refusal says why."""

    def length(row: int) -> int:
        return resampled_length(source.num_samples(row), from_hz=source.rate_hz(row), to_hz=needs.sample_rate_hz)

    least = needs.geometry.receptive_field_samples
    ranked = sorted((row for row in range(len(source)) if length(row) >= least), key=length)
    ranks = np.linspace(0, len(ranked) - 1, min(NUM_UTTERANCES, len(ranked))).round().astype(int)
    return [ranked[rank] for rank in ranks] or list(range(min(len(source), 1)))
