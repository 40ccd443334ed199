"""What a probe compares: models, the same encoders at random weights, log-mel spectra and MFCC.

A candidate is known by its digest before anything of it is loaded, so that frames that are stored need no model.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

import torch

from audio_ssl.config.model import ModelConfig
from audio_ssl.errors import ConfigError
from audio_ssl.geometry import ConvGeometry
from audio_ssl.inference.layers import LayerForward, choose_layer
from audio_ssl.inference.models import AudioNeeds, Precision, Runtime, open_encoder, prepare_for_inference
from audio_ssl.inference.stream import Forward
from audio_ssl.interop.source import read_model, weights_hash
from audio_ssl.model.encoder import Encoder, build_encoder
from audio_ssl.probe.spectra import SAMPLE_RATE_HZ, LogMel, Mfcc, context_spectra, spectra_a_frame
from audio_ssl.rng import derive_seed
from audio_ssl.train.precision import resolve_precision

Role = Literal["log_mel", "mfcc", "random", "model"]
CPU = torch.device("cpu")
WIDE_MS = 140.0  # what a frame of the wide log-mel sees
RANDOM = "random weights"
_VERSION = 1  # of the arithmetic below and in spectra: frames of another one are computed again


@dataclass(frozen=True)
class Opened:
    """A candidate that is ready to run.

    Attributes:
        forward: (B, S) waveforms to (B, L, T, D) frames.
        needs: of its input.
    """

    forward: Forward
    needs: AudioNeeds


@dataclass(frozen=True)
class Candidate:
    """A way from utterances to frames.

    Attributes:
        name: in tables; no two of a run have the same.
        role: what it stands for.
        sample_rate_hz: of its waveforms.
        geometry: samples to frames.
        num_layers: L.
        dim: D.
        precision: of its products.
        digest: names the frames that it gives: another one gives others.
        open: loads it onto a device.
        path: of a model.
        model_hash: of a model, as files of layer weights name it.
        random_of: names of the models whose encoder this one is at random weights.
    """

    name: str
    role: Role
    sample_rate_hz: int
    geometry: ConvGeometry
    num_layers: int
    dim: int
    precision: Precision
    digest: str
    open: Callable[[torch.device], Opened] = field(repr=False, compare=False)
    path: Path | None = None
    model_hash: str | None = None
    random_of: tuple[str, ...] = ()

    @property
    def hop_s(self) -> float:
        """Seconds from a frame to the next."""
        return self.geometry.hop_samples / self.sample_rate_hz


def log_mel(hop_ms: float = 20.0, context_ms: float | None = None, *, name: str | None = None) -> Candidate:
    """Log-mel of waveforms that are normalised as an encoder's are, so that loudness tells nothing.

    Args:
        hop_ms: from a frame to the next.
        context_ms: what a frame sees, about; None for the spectra of its own period.
        name: in tables; None: says the context.
    """
    per_frame, hop_samples = _spacing(hop_ms)
    wanted = 0.0 if context_ms is None else context_ms * SAMPLE_RATE_HZ / 1000
    num_spectra = context_spectra(wanted, per_frame=per_frame, hop_samples=hop_samples)
    given = name or ("log-mel" if context_ms is None else f"log-mel, {context_ms:g} ms")
    return _of_spectra(given, "log_mel", LogMel(num_spectra, per_frame=per_frame, hop_samples=hop_samples))


def mfcc(hop_ms: float = 20.0, *, name: str = "MFCC") -> Candidate:
    """13 MFCC with slopes of first and second order, of the same waveforms; see :func:`log_mel`."""
    per_frame, hop_samples = _spacing(hop_ms)
    return _of_spectra(name, "mfcc", Mfcc(per_frame, per_frame=per_frame, hop_samples=hop_samples))


def of_model(path: Path | str, *, name: str | None = None, device: torch.device = CPU) -> Candidate:
    """All layers of a model: the input of block 1 and the output of each block.

    Args:
        path: model directory, run folder or checkpoint, of any system that can be read.
        name: in tables; None: the folder's.
        device: that it will run on; products are in bf16 where that multiplies it.

    Raises:
        CheckpointError: no usable model there.
    """
    return _of_config(Path(path), read_model(path).model, name=name, device=device)


def random_of(path: Path | str, seed: int = 1, *, name: str | None = None, device: torch.device = CPU) -> Candidate:
    """The same encoder with weights as before any training.

    Args:
        path: of the model.
        seed: of the weights.
        name: in tables; None: says the seed where it is not 1.
        device: as of :func:`of_model`.

    Raises:
        CheckpointError: no usable model there.
    """
    given = name or (RANDOM if seed == 1 else f"{RANDOM}, seed {seed}")
    return _random(read_model(path).model, seed, given, device=device, random_of=(name_of(Path(path)),))


def candidates_for(
    models: Sequence[Path],
    *,
    with_baselines: bool = True,
    device: torch.device = CPU,
    random_seeds: Sequence[int] = (1,),
) -> list[Candidate]:
    """Everything that stands in a table, baselines first.

    Log-mel and MFCC come once for each frame period of the models, random weights once for each of their settings.

    Args:
        models: at least one.
        with_baselines: whether log-mel, MFCC and random weights take part.
        device: as of :func:`of_model`.
        random_seeds: of random weights, a candidate each.

    Raises:
        ConfigError: no model, or two of one name.
        CheckpointError: a MODEL is none.
    """
    if not models:
        raise ConfigError("MODEL must be given, one or more")
    configs = [read_model(path).model for path in models]
    trained = [_of_config(path, config, device=device) for path, config in zip(models, configs, strict=True)]
    found = list[Candidate]()
    if with_baselines:
        owners: dict[ModelConfig, tuple[str, ...]] = {}
        for config, one in zip(configs, trained, strict=True):
            owners[config] = (*owners.get(config, ()), one.name)
        found = [*_spectra(trained), *_randoms(owners, seeds=random_seeds, device=device)]
    found += trained
    twice = [name for name, count in Counter(one.name for one in found).items() if count > 1]
    if twice:
        raise ConfigError(
            f"models must have different names to stand in one table, got {', '.join(twice)} more than once; a name is "
            "that of the model's folder (of its run's folder, where that is called model): rename one"
        )
    return found


def name_of(model: Path) -> str:
    """What a model is called in tables: its folder, or the one above where that is called ``model``."""
    path = model.resolve()
    return path.parent.name if path.name == "model" else path.name


def random_encoder(config: ModelConfig, seed: int = 1) -> Encoder:
    """A fresh encoder; the same settings and seed give the same weights, and nobody else's draws move."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "random encoder"))
        return build_encoder(config)


def opened(encoder: Encoder) -> Opened:
    """All layers of an encoder that is ready to run."""
    layers = choose_layer("all", num_layers=encoder.num_layers)
    return Opened(LayerForward(encoder.eval(), layers), AudioNeeds.of(encoder))


def live(
    config: ModelConfig, load: Callable[[torch.device], Encoder], *, layer: int | str, device: torch.device
) -> Candidate:
    """An encoder that is in no file: nothing of it can be kept, so its digest names nothing.

    Args:
        config: its settings.
        load: brings it onto a device, ready to run.
        layer: ``all``, or the number of one.
        device: as of :func:`of_model`.
    """

    def open_layers(device: torch.device) -> Opened:
        encoder = load(device).eval()
        chosen = choose_layer(layer if layer == "all" else [layer], num_layers=encoder.num_layers)
        return Opened(LayerForward(encoder, chosen), AudioNeeds.of(encoder))

    num_layers = config.num_layers + 1 if layer == "all" else 1
    return Candidate(
        "the encoder", "model", config.sample_rate_hz, config.geometry, num_layers, config.dim, _precision(device), "",
        open_layers,
    )  # fmt: skip


def _spectra(trained: Sequence[Candidate]) -> list[Candidate]:
    found: list[Candidate] = []
    periods = list(dict.fromkeys(round(one.hop_s * SAMPLE_RATE_HZ) * 1000 / SAMPLE_RATE_HZ for one in trained))
    for hop_ms in periods:
        end = "" if len(periods) == 1 else f", every {hop_ms:g} ms"
        found += [
            log_mel(hop_ms, name=f"log-mel{end}"),
            log_mel(hop_ms, WIDE_MS, name=f"log-mel, {WIDE_MS:g} ms{end}"),
            mfcc(hop_ms, name=f"MFCC{end}"),
        ]
    return found


def _randoms(
    owners: Mapping[ModelConfig, tuple[str, ...]], *, seeds: Sequence[int], device: torch.device
) -> list[Candidate]:
    found: list[Candidate] = []
    for config, names in owners.items():
        for seed in seeds:
            name = RANDOM if len(owners) == 1 else f"{RANDOM}, {names[0]}"
            name += "" if len(seeds) == 1 else f", seed {seed}"
            found.append(_random(config, seed, name, device=device, random_of=names))
    return found


def _of_config(path: Path, config: ModelConfig, *, device: torch.device, name: str | None = None) -> Candidate:
    def load(device: torch.device) -> Opened:
        return opened(open_encoder(path, Runtime(device)))

    precision, weights = _precision(device), weights_hash(path)
    return Candidate(
        name or name_of(path), "model", config.sample_rate_hz, config.geometry, config.num_layers + 1, config.dim,
        precision, _digest("model", config.model_dump_json(), weights, precision), load,
        path=path, model_hash=weights,
    )  # fmt: skip


def _random(
    config: ModelConfig, seed: int, name: str, *, device: torch.device, random_of: tuple[str, ...]
) -> Candidate:
    def load(device: torch.device) -> Opened:
        encoder = random_encoder(config, seed)
        prepare_for_inference(encoder)
        return opened(encoder.to(device))

    precision = _precision(device)
    # another torch may draw other weights from the same seed
    identity = _digest("random", config.model_dump_json(), seed, torch.__version__, precision)
    return Candidate(
        name, "random", config.sample_rate_hz, config.geometry, config.num_layers + 1, config.dim, precision, identity,
        load, random_of=random_of,
    )  # fmt: skip


def _of_spectra(name: str, role: Role, spectra: LogMel) -> Candidate:
    def load(device: torch.device) -> Opened:  # noqa: ARG001 - they are computed where their waveforms are
        return Opened(spectra, AudioNeeds(SAMPLE_RATE_HZ, normalize=True, geometry=spectra.geometry))

    digest = _digest(role, spectra.geometry, spectra.dim)
    return Candidate(name, role, SAMPLE_RATE_HZ, spectra.geometry, 1, spectra.dim, "fp32", digest, load)


def _precision(device: torch.device) -> Precision:
    return cast(Precision, resolve_precision("auto", device))


def _spacing(hop_ms: float) -> tuple[int, int]:
    """Spectra a frame, and samples from one to the next."""
    period = max(round(hop_ms * SAMPLE_RATE_HZ / 1000), 1)
    per_frame = spectra_a_frame(period)
    return per_frame, period // per_frame


def _digest(*parts: object) -> str:
    return hashlib.blake2b(repr((_VERSION, *parts)).encode(), digest_size=8).hexdigest()
