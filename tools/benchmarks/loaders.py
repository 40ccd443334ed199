"""One epoch of a corpus through each loader that is compared: ours, bare decoding, and what others would write.

Each reads the same files with the same number of threads or worker processes, and every one but bare decoding gives
batches of padded waveforms. What they normalise differs: ours and the plain DataLoader do, lhotse and datasets do not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import soundfile as sf
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from audio_ssl.data.loader import Engine, Loader
from audio_ssl.data.manifest import Manifest
from audio_ssl.data.plan import PlanSettings, plan
from audio_ssl.train.datasets import WIDTHS_A_SECOND

BATCH_S = 120
RATE = 16000
NUM_BUCKETS = 10  # of lhotse's sampler, as in its own recipes for corpora of this size


class Heard(NamedTuple):
    """What came out of an epoch: samples of audio, and samples of the batches with their padding."""

    num_samples: int
    num_padded: int


Epoch = Callable[[], Heard]


@dataclass(frozen=True)
class Corpus:
    """What is read.

    Attributes:
        name: such as ``flac``.
        manifest: rows of whole files at 16 kHz, mono.
        num_workers: threads or processes of every candidate.
    """

    name: str
    manifest: Manifest
    num_workers: int

    @property
    def micro_batches(self) -> list[tuple[int, ...]]:
        """An epoch of our plan."""
        lengths = self.manifest.num_samples_at(RATE)
        settings = PlanSettings(BATCH_S * RATE, BATCH_S * RATE)
        return [batch for update in plan(lengths, settings=settings, seed=1, epoch=0) for batch in update]

    @property
    def lists(self) -> list[list[int]]:
        """The same, for the plain DataLoader and datasets to take as their batch sampler."""
        return [list(batch) for batch in self.micro_batches]

    @property
    def paths(self) -> list[str]:
        """The file of each row."""
        return [str(self.manifest.audio_path(row)) for row in range(len(self.manifest))]


def candidates(corpus: Corpus) -> dict[str, Epoch]:
    """Those that can run here, by name; worker processes start with a candidate's first epoch and stay."""
    found = {
        "bare decoding": _bare(corpus),
        "audio_ssl": _ours(corpus, "auto"),
        "audio_ssl, threads": _ours(corpus, "threads"),
        "DataLoader": _data_loader(corpus),
    }
    if find_spec("lhotse") is not None:
        found["lhotse"] = _lhotse(corpus)
    if find_spec("datasets") is not None:
        found["datasets"] = _datasets(corpus)
    return found


def _ours(corpus: Corpus, engine: Engine) -> Epoch:
    loader = Loader(
        corpus.manifest, sample_rate_hz=RATE, normalize=True, max_samples=BATCH_S * RATE, engine=engine,
        num_workers=corpus.num_workers, width_multiple=RATE // WIDTHS_A_SECOND,
    )  # fmt: skip
    batches = corpus.micro_batches
    return lambda: _heard((batch.waveforms, batch.num_samples) for batch in loader.batches(iter(batches)))


def _bare(corpus: Corpus) -> Epoch:
    """``soundfile.read`` of every file in the same order, the result dropped."""
    paths = corpus.paths
    ordered = [paths[row] for batch in corpus.micro_batches for row in batch]

    def epoch() -> Heard:
        with ThreadPoolExecutor(corpus.num_workers) as pool:
            num_samples = sum(pool.map(_decoded_length, ordered))
        return Heard(num_samples, num_samples)

    return epoch


def _decoded_length(path: str) -> int:
    return len(sf.read(path, dtype="float32")[0])


class _Files(Dataset[Tensor]):
    """As fairseq's FileAudioDataset: soundfile, and layer norm over the utterance."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = paths

    def __getitem__(self, row: int) -> Tensor:
        waveform = torch.from_numpy(sf.read(self._paths[row], dtype="float32")[0])  # (S,)
        return F.layer_norm(waveform, waveform.shape)


def _data_loader(corpus: Corpus) -> Epoch:
    loader = DataLoader(
        _Files(corpus.paths), batch_sampler=corpus.lists, collate_fn=_padded, num_workers=corpus.num_workers,
        persistent_workers=True,
    )  # fmt: skip
    return lambda: _heard(loader)


def _padded(waveforms: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([len(waveform) for waveform in waveforms])
    return torch.nn.utils.rnn.pad_sequence(list(waveforms), batch_first=True), lengths


def _lhotse(corpus: Corpus) -> Epoch:
    """Cuts, DynamicBucketingSampler by seconds, and ``collate_audio`` in a DataLoader's workers."""
    from lhotse import CutSet, MonoCut, Recording
    from lhotse.audio import AudioSource
    from lhotse.dataset import DynamicBucketingSampler
    from lhotse.dataset.collation import collate_audio

    class Waveforms(Dataset[Any]):
        def __getitem__(self, cuts: Any) -> tuple[Tensor, Tensor]:
            audio, lengths = collate_audio(cuts)
            return audio, lengths

    def cut(row: int, path: str, num_samples: int) -> Any:
        source = AudioSource(type="file", channels=[0], source=path)
        seconds = num_samples / RATE
        recording = Recording(f"r{row}", [source], sampling_rate=RATE, num_samples=num_samples, duration=seconds)
        return MonoCut(id=f"c{row}", start=0, duration=seconds, channel=0, recording=recording)

    lengths = corpus.manifest.num_samples_at(RATE).tolist()
    cuts = CutSet.from_cuts(cut(*row) for row in zip(range(len(lengths)), corpus.paths, lengths, strict=True))
    sampler = DynamicBucketingSampler(cuts, max_duration=BATCH_S, num_buckets=NUM_BUCKETS, shuffle=True, seed=1)
    loader: DataLoader[Any] = DataLoader(
        Waveforms(), sampler=sampler, batch_size=None, num_workers=corpus.num_workers, persistent_workers=True
    )
    return lambda: _heard(loader)


def _datasets(corpus: Corpus) -> Epoch:
    """Hugging Face datasets' ``Audio`` column, decoded in a DataLoader's workers."""
    from datasets import Audio
    from datasets import Dataset as Table

    table = Table.from_dict({"audio": corpus.paths}).cast_column("audio", Audio(sampling_rate=RATE))

    def collate(rows: Sequence[dict[str, Any]]) -> tuple[Tensor, Tensor]:
        return _padded([torch.from_numpy(np.asarray(row["audio"]["array"], dtype=np.float32)) for row in rows])

    loader: DataLoader[Any] = DataLoader(
        table, batch_sampler=corpus.lists, collate_fn=collate, num_workers=corpus.num_workers,
        persistent_workers=True,
    )  # fmt: skip
    return lambda: _heard(loader)


def _heard(batches: Iterable[tuple[Tensor, Tensor]]) -> Heard:
    num_samples = num_padded = 0
    for waveforms, lengths in batches:
        num_samples += int(lengths.sum())
        num_padded += waveforms.numel()
    return Heard(num_samples, num_padded)
