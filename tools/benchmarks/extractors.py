"""Ways from files on the disk to one ``.npy`` of frames an utterance: ours, and the peers' as users write them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, cast

import numpy as np
import soundfile as sf
import torch
from numpy.typing import NDArray
from torch import Tensor

from audio_ssl.data.plan import eval_batches
from audio_ssl.data.waveform import normalize
from audio_ssl.geometry import ConvGeometry
from audio_ssl.inference.extract import Extractor, ExtractSettings
from audio_ssl.inference.layers import choose_layer
from audio_ssl.inference.models import Precision, open_runtime
from audio_ssl.inference.source import open_input
from audio_ssl.inference.stream import StreamSettings
from audio_ssl.model.encoder import Encoder
from audio_ssl.tensors import Batch
from benchmarks.ours import Ours
from benchmarks.system import System

BATCH_ROWS = 8
DOCUMENTED = "transformers fp32, as documented"
Waveforms = list[NDArray[np.float32]]
Encode = Callable[[Waveforms], Tensor]


@dataclass(frozen=True)
class Speech:
    """Files to extract.

    Attributes:
        folder: holds them and nothing else.
        num_samples: of each path, in the order of names: what users call file order.
    """

    folder: Path
    num_samples: Mapping[Path, int]

    @classmethod
    def of(cls, folder: Path) -> Speech:
        """All files below a folder."""
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        return cls(folder, {path: sf.info(path).frames for path in paths})

    @property
    def total_samples(self) -> int:
        """Of all files."""
        return sum(self.num_samples.values())

    def in_order(self) -> list[list[Path]]:
        """Batches of :data:`BATCH_ROWS` in file order."""
        return _cut(list(self.num_samples))

    def by_length(self) -> list[list[Path]]:
        """The same with the longest first, which pads next to nothing."""
        return _cut(sorted(self.num_samples, key=lambda path: -self.num_samples[path]))

    def padding_share(self, batches: Sequence[Sequence[Path]]) -> float:
        """Padding as a share of the samples that go through the model."""
        padded = sum(len(batch) * max(self.num_samples[path] for path in batch) for batch in batches)
        return 1 - self.total_samples / padded


@dataclass(frozen=True)
class Job:
    """A candidate.

    Attributes:
        name: as it stands in rows.
        padding_share: of its batches.
        work: puts the frames of every file into a folder.
    """

    name: str
    padding_share: float
    work: Callable[[Path], None]


def our_job(ours: Ours, precision: Precision, speech: Speech, *, num_threads: int) -> Job:
    """``audio-ssl extract`` with its defaults: the folder is scanned, and index and frames are written."""
    encoder = cast(Encoder, ours.encoder)
    extractor = our_extractor(encoder, precision, num_threads=num_threads)

    def work(out: Path) -> None:
        extractor.to_folder(open_input(speech.folder), out)

    return Job(f"{Ours.name} {precision}", speech.padding_share(our_batches(speech, encoder)), work)


def our_extractor(encoder: Encoder, precision: Precision, *, num_threads: int) -> Extractor:
    """With the defaults of ``audio-ssl extract``."""
    stream = StreamSettings(num_threads=num_threads)
    settings = ExtractSettings(choose_layer(None, num_layers=encoder.num_layers), stream=stream)
    return Extractor(encoder, "random", settings, open_runtime("cpu", precision))


def our_batches(speech: Speech, encoder: Encoder) -> list[list[Path]]:
    """The batches that ours makes of them where all are one shard."""
    paths, rate = list(speech.num_samples), encoder.sample_rate_hz
    planned = eval_batches(
        np.array(list(speech.num_samples.values()), dtype=np.int64),
        micro_batch_samples=int(StreamSettings().batch_s * rate),
        batch_cost_samples=open_runtime("cpu").batch_cost_samples(rate),
    )
    return [[paths[row] for row in batch] for batch in planned]


def documented_job(system: System, speech: Speech) -> Job:
    """Transformers as its documentation shows it: feature extractor with padding, model, batches in file order.

    The attention mask is passed where the model's feature extractor is to return one: not where the norm is group
    norm, which is what the documentation says of such models and what the published base carries.
    """
    from transformers import Wav2Vec2FeatureExtractor

    model = system.case.model
    prepare = Wav2Vec2FeatureExtractor(
        feature_size=1, sampling_rate=model.sample_rate_hz, padding_value=0.0, do_normalize=model.normalize_waveform,
        return_attention_mask=model.feature_norm == "layer",
    )  # fmt: skip

    def encode(waveforms: Waveforms) -> Tensor:
        inputs = prepare(waveforms, sampling_rate=model.sample_rate_hz, padding=True, return_tensors="pt")
        with torch.no_grad():
            return cast(Tensor, cast(Any, system.module)(**inputs).last_hidden_state)

    geometry = model.geometry

    def work(out: Path) -> None:
        for paths in speech.in_order():
            _save(out, paths, encode([_read(path) for path in paths]), speech, geometry)

    return Job(DOCUMENTED, speech.padding_share(speech.in_order()), work)


def sorted_job(system: System, encode: Encode, name: str, speech: Speech) -> Job:
    """A peer at its best: batches by length, the next ones read and decoded in a thread meanwhile."""
    geometry, normalizes = system.case.model.geometry, system.case.model.normalize_waveform

    def work(out: Path) -> None:
        for paths, waveforms in _read_ahead(speech.by_length(), normalizes=normalizes):
            with torch.inference_mode():
                _save(out, paths, encode(waveforms), speech, geometry)

    return Job(name, speech.padding_share(speech.by_length()), work)


def encode_with(system: System, dtype: torch.dtype) -> Encode:
    """A peer's model on padded waveforms, weights and activations in ``dtype``; lengths go to those that take them.

    Weights in bf16 are faster than autocast, which casts them anew in every call.
    """
    system = copy.copy(system)
    module: Any = copy.deepcopy(system.module).to(dtype)
    system.module = module
    is_layer_norm = system.case.model.feature_norm == "layer"

    def encode(waveforms: Waveforms) -> Tensor:
        lengths = torch.tensor([len(waveform) for waveform in waveforms])
        padded = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(w) for w in waveforms], batch_first=True).to(dtype)
        if system.name == "transformers":
            is_valid = (torch.arange(padded.shape[1]) < lengths[:, None]).long() if is_layer_norm else None
            return cast(Tensor, module(padded, attention_mask=is_valid).last_hidden_state)
        if system.name == "torchaudio":
            return cast(Tensor, module(padded, lengths)[0])
        return system.encode(Batch(padded, lengths, tuple(range(len(waveforms))), is_full=False))

    return encode


def _save(out: Path, paths: Sequence[Path], frames: Tensor, speech: Speech, geometry: ConvGeometry) -> None:
    for path, of_row in zip(paths, frames.float().numpy(), strict=True):
        np.save(out / f"{path.stem}.npy", of_row[: geometry.num_frames(speech.num_samples[path])])


def _read(path: Path) -> NDArray[np.float32]:
    return cast("NDArray[np.float32]", sf.read(path, dtype="float32")[0])


def _read_ahead(batches: Sequence[list[Path]], *, normalizes: bool) -> Iterator[tuple[list[Path], Waveforms]]:
    def read(paths: Sequence[Path]) -> Waveforms:
        waveforms = [_read(path) for path in paths]
        return [normalize(waveform) for waveform in waveforms] if normalizes else waveforms

    with ThreadPoolExecutor(1) as pool:
        futures = [pool.submit(read, batch) for batch in batches[:1]]
        for batch, following in zip(batches, chain(batches[1:], [None]), strict=True):
            waveforms = futures.pop().result()
            if following is not None:
                futures.append(pool.submit(read, following))
            yield batch, waveforms


def _cut(paths: Sequence[Path]) -> list[list[Path]]:
    return [list(paths[i : i + BATCH_ROWS]) for i in range(0, len(paths), BATCH_ROWS)]
