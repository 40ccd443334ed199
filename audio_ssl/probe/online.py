"""A small probe of weights as they are in the middle of a run, for ``[probe]`` of ``audio-ssl pretrain``.

Weights come as tensors and go into a copy of the encoder, so that nothing of the run can be touched. The figures are
those of ``audio-ssl probe`` (frames, runners, linear head) of fewer items, with one seed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audio_ssl import __version__
from audio_ssl.config.model import ModelConfig
from audio_ssl.config.online_probe import OnlineProbeConfig
from audio_ssl.config.probe import HEADS
from audio_ssl.errors import AudioSSLError, ConfigError
from audio_ssl.inference.models import prepare_for_inference
from audio_ssl.inference.stream import StreamSettings
from audio_ssl.probe.candidates import WIDE_MS, Candidate, live, log_mel, random_encoder
from audio_ssl.probe.control import KINDS as WITH_CHANCE
from audio_ssl.probe.control import chance
from audio_ssl.probe.frames import frames_bytes, stored_at
from audio_ssl.probe.heard import heard, heard_in
from audio_ssl.probe.held_frames import hold
from audio_ssl.probe.kinds import runner_of
from audio_ssl.probe.outcome import goodness
from audio_ssl.probe.record import Step, Store, digest_of, slug, task_digest
from audio_ssl.probe.run import Asked, amounts_of, shown
from audio_ssl.probe.scores import Result, Score
from audio_ssl.probe.subset import spread_rows, subset
from audio_ssl.probe.tasks import open_task

SEED = 1
MOST_HELD_BYTES = 4 * 2**30
_WITH_CLIPS = ("frames", "abx", "units")  # the other kinds look at means over time
_CORPORA = "AUDIO_SSL_CORPORA"
_SETTINGS = StreamSettings(num_threads=1)


@dataclass(frozen=True)
class Beside:
    """What a task's figure is compared with.

    Attributes:
        name: of the better one of the two log-mels.
        score: its.
    """

    name: str
    score: Score


class OnlineProbe:
    """Tasks that are ready to be measured on; made by :func:`open_online_probe`.

    Args:
        tasks: with different names.
        model: settings of the encoder.
        layer: of :class:`OnlineProbeConfig`.
        heard: what the run hears of the test items, by the name of the task.
        device: that the copy of the encoder runs on.
        store: where the figures of log-mel are kept.
    """

    def __init__(
        self, tasks: Sequence[Asked], model: ModelConfig, *, layer: int | str, heard: Mapping[str, str],
        device: torch.device, store: Store,
    ) -> None:  # fmt: skip
        self._tasks, self._model, self._layer, self._heard = tasks, model, layer, heard
        self._device, self._store = device, store
        self._beside: dict[str, Beside] = {}

    def describe(self) -> Iterator[str]:
        """Lines for people, before the run: what is measured, and what the run hears of it."""
        for one in self._tasks:
            amounts = amounts_of(one.items)
            voices = f" of {amounts.num_speakers} speakers" if one.items.are_speakers else ""
            yield f"probe: {one.name}: {one.task.title}; {amounts.num_items:,} items{voices}; {self._how(one)}"
            yield from (f"  note: {note}" for note in one.notes)
            if one.name in self._heard:
                yield f"  note: {self._heard[one.name]}"

    def prepare(self, tell: Callable[[str], None]) -> None:
        """Measure log-mel on the same items, or find it measured; what is wrong with recordings comes out here.

        Raises:
            AudioSSLError: a recording cannot be read, or a task cannot be done with so few items.
        """
        for one in self._tasks:
            with _named(one.name):
                found = [(candidate.name, self._of_spectra(one, candidate)) for candidate in self._spectra()]
            name, step = max(found, key=lambda pair: goodness(pair[1].results[0].score))
            self._beside[one.name] = Beside(name, step.results[0].score)
            tell(f"probe: {one.name}: {name}: {shown(step.results[0])} ({sum(s.seconds for _, s in found):.0f} s)")

    def __call__(self, weights: Mapping[str, Tensor]) -> dict[str, Any]:
        """Measure weights of the encoder.

        Args:
            weights: its ``state_dict``, on any device; copied.

        Returns:
            ``TASK_METRIC`` and ``TASK_METRIC_log_mel`` for each task, ``probe_s``, and ``tasks``: what a reader of
            them must know, by the name of the task.

        Raises:
            ConfigError: recordings have gone, frames are not finite, or the task cannot choose among layers; naming
                the task.
        """
        started = time.perf_counter()
        encoder = self._live(weights)
        figures: dict[str, Any] = {}
        tasks: dict[str, dict[str, Any]] = {}
        for one in self._tasks:
            with _named(one.name):
                result, beside = self._measure(one, encoder), self._beside[one.name]
            name = f"{slug(one.name)}_{result.score.metric}"
            figures |= {name: result.score.value, f"{name}_log_mel": beside.score.value}
            tasks[one.name] = {"figure": name, **self._about(one, result.score, beside)}
        return {**figures, "probe_s": time.perf_counter() - started, "tasks": tasks}

    def refuse_large(self, one: Asked) -> None:
        """Before the run.

        Raises:
            ConfigError: frames of a task have no place in memory.
        """
        if one.task.kind not in _WITH_CLIPS:
            return
        held, name = max((frames_bytes(own, one.items), own.name) for own in (self._live(None), *self._spectra()))
        if held > MOST_HELD_BYTES:
            raise ConfigError(
                f"probe.max_items must be so few that the frames of {one.name} stay below {MOST_HELD_BYTES / 2**30:g} "
                f"GiB in memory, {len(one.items)} items are {held / 2**30:.1f} GiB of {name}; lower it"
                + (", or take one probe.layer" if self._layer == "all" and name == self._live(None).name else "")
            )

    def _about(self, one: Asked, score: Score, beside: Beside) -> dict[str, Any]:
        interval = score.interval()
        about: dict[str, Any] = {
            "title": one.task.title, "metric": score.metric, "higher_is_better": score.higher_is_better,
            "how": self._how(one), "num_items": len(one.items), "log_mel": beside.name,
        }  # fmt: skip
        if one.task.kind in WITH_CHANCE:
            about["chance"] = chance(one.items, one.folds)
        if interval is not None:
            about["interval_95"] = [interval.low, interval.high]
        return about | ({"heard": self._heard[one.name]} if one.name in self._heard else {})

    def _how(self, one: Asked) -> str:
        kind = one.task.kind
        head = "linear head on " if HEADS[kind] else f"{kind} on "
        if self._layer != "all":
            return f"{head}layer {self._layer}"
        return head + ("a learned sum of all layers" if HEADS[kind] else "the layer that is best on other items")

    def _spectra(self) -> list[Candidate]:
        """The two that stand beside the encoder, in its frames."""
        hop_ms = 1000 * self._live(None).hop_s
        return [log_mel(hop_ms), log_mel(hop_ms, WIDE_MS)]

    def _live(self, weights: Mapping[str, Tensor] | None) -> Candidate:
        """The encoder with these weights as a candidate; without any it is for its shape alone."""

        def load(device: torch.device) -> Any:
            encoder = random_encoder(self._model)
            encoder.load_state_dict(weights or {})
            prepare_for_inference(encoder)
            return encoder.to(device)

        return live(self._model, load, layer=self._layer, device=self._device)

    def _measure(self, one: Asked, candidate: Candidate) -> Result:
        keeps_clips = one.task.kind in _WITH_CLIPS
        frames = hold(candidate, one.items, device=self._device, keeps_clips=keeps_clips, settings=_SETTINGS)
        heads = HEADS[one.task.kind][:1]  # linear, where there is any
        return runner_of(one.task.kind)(
            frames, one.items, one.folds, task=one.task, seeds=(SEED,), heads=heads
        )[0]  # fmt: skip

    def _of_spectra(self, one: Asked, candidate: Candidate) -> Step:
        audio = stored_at(candidate, one.items, Path()).stem  # names the files and the candidate
        key = digest_of(task_digest(one.task, one.items, one.folds), audio, SEED, __version__)
        place = f"{one.name}-{candidate.name}"
        kept = self._store.get(place, key)
        if kept is None:
            started = time.perf_counter()
            result = self._measure(one, candidate)
            kept = Step((result,), time.perf_counter() - started)
            self._store.put(place, key, kept)
        return kept


def open_online_probe(
    settings: OnlineProbeConfig, model: ModelConfig, device: torch.device, *, run_dir: Path, manifests: Sequence[Path],
    init_from: Path | None = None,
) -> OnlineProbe:  # fmt: skip
    """Open the tasks of ``[probe]``; nothing is written yet.

    Args:
        settings: the section.
        model: settings of the encoder.
        device: that copies of the encoder run on.
        run_dir: of the run; its ``probe/`` keeps the figures of log-mel.
        manifests: that the run learns from.
        init_from: the model that it begins from.

    Raises:
        ConfigError: a task cannot be measured in this way, or its files are not there; naming the setting.
    """
    corpora = settings.corpora or (Path(os.environ[_CORPORA]) if os.environ.get(_CORPORA) else None)
    tasks, heard_of = list[Asked](), dict[str, str]()
    for name in settings.tasks:
        with _named(name):
            found = _open(name, corpora, settings.max_items)
            there = [path for path in manifests if path.exists()]
            told = [heard_in(there, found.items, found.folds, who="this run")]
            told += [] if init_from is None else [heard(init_from, found.items, found.folds)]
        if found.name in {one.name for one in tasks}:
            raise ConfigError(f"probe.tasks must have different names, got {found.name} twice")
        tasks.append(found)
        if any(told):
            heard_of[found.name] = "; ".join(filter(None, told))
    store = Store(run_dir / "probe")
    probe = OnlineProbe(tasks, model, layer=settings.layer, heard=heard_of, device=device, store=store)
    for one in tasks:
        probe.refuse_large(one)
    return probe


def _open(name: str, corpora: Path | None, most: int) -> Asked:
    found = open_task(name, corpora=corpora)
    if found.task.kind == "recognise":
        raise ConfigError(
            "its kind is 'recognise', whose heads learn for minutes; take one of kind classify, frames, retrieve, abx, "
            "units or verify"
        )
    if found.task.trials is not None and len(found.items) > most:
        raise ConfigError(f"its trials name {len(found.items)} items, probe.max_items is {most}; leave trials out")
    rows = spread_rows(found.items, found.folds, most)
    items, folds = subset(found.items, found.folds, rows)
    for fold in folds:
        if not len(fold.train) or not len(fold.test):
            raise ConfigError(f"{len(items)} items leave {fold.name} without items to learn from or to test on")
    items.manifest.check_files()
    return Asked(found.name, found.task, items, folds, found.source, found.notes)


@contextmanager
def _named(task: str) -> Iterator[None]:
    """Name the setting in whatever is wrong with a task: who starts a run asked for no probe.

    Raises:
        ConfigError: in the place of every error for people.
    """
    try:
        yield
    except AudioSSLError as error:
        raise ConfigError(
            f"probe.tasks: {task} cannot be measured while the run goes on: {error}. The folder of its data is "
            f"probe.corpora, or {_CORPORA}; without [probe] the run needs none of it"
        ) from error
