"""A recogniser from a pre-trained encoder, or from random weights of the same shape, on an equal budget.

Training is ``audio-ssl finetune`` as users run it, in a process of its own that can be killed and goes on. What the two
starts share is held here: labels, validation speakers, seed, and the budget. Settings are shared only as far as the two
configurations are: in the comparison of ``docs/results.md`` ("Recognition") the pre-trained start, ``finetune/small``,
froze the encoder for 100 updates and the random one, ``finetune/fresh``, did not, and frozen updates are priced as full
ones.

**How the budget is held equal.** It is minutes of processor time in updates (of real time on a GPU); starting,
validating and saving are not on it. A short run of the same settings, which is thrown away, tells what an update takes,
and the run gets the number of updates that fit: learning rates follow a schedule whose end must be known. Runs whose
updates do the same arithmetic (shape, masks, freezing, batches, data) share one such measurement, so that they get the
same number of updates, whatever else the machine does. What a run then spent is added up from its own figures
(``processor_update_s``) and told with its results.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import tomli_w

from audio_ssl.checkpoint import write_text
from audio_ssl.config import FinetuneConfig, dump_config, find_config, load_config
from audio_ssl.interop.source import read_model, weights_hash
from benchmarks.report import BenchError, note
from experiment.labels import AMOUNTS, Labels

Start = Literal["pretrained", "random"]
STARTS: tuple[Start, ...] = ("pretrained", "random")
HEADER, SETTINGS = "asr.json", "asked.toml"
PROBE_UPDATES = 200  # the second half is timed, when kernels are prepared and nothing is frozen for a while any more
_HELD = ("init_from", "model", "data.train", "data.valid", "run.dir", "run.seed", "run.device", "run.num_updates",
         "run.budget", "run.audio_hours")  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """A run to be made.

    Attributes:
        model: the pre-trained model, which also gives the shape of a random start.
        start: which of the two.
        labels: one of :data:`experiment.labels.AMOUNTS`.
        config: a file of settings, or the name of a shipped one.
        settings: ``section.key=value``, which win over the file.
        seed: of everything that is drawn.
        updates: the budget as a number of updates; None where ``minutes`` gives it.
        minutes: the budget as time.
        device: ``cpu`` or ``cuda``.
        threads: of the training process.
    """

    model: Path
    start: Start
    labels: str
    config: str
    settings: tuple[str, ...] = ()
    seed: int = 1
    updates: int | None = None
    minutes: float | None = None
    device: str = "cpu"
    threads: int = 1


_NO_WORK = ("init_from", "model", "data", "run", "optim", "guard", "preflight")  # a part of it counts, or nothing


def train(asked: Asked, data: Labels, out: Path) -> None:
    """Make a run, or go on with it; nothing is done where it is complete.

    Raises:
        BenchError: a setting is not free, the folder holds another run, or training fails.
        AudioSSLError: of settings, model or data.
    """
    config = settings_of(asked, data, out)
    header = {**asdict(asked), "model": str(asked.model), "model_hash": weights_hash(asked.model)}
    known = read_header(out) if (out / HEADER).is_file() else None
    if known is not None and {key: known.get(key) for key in header} != json.loads(json.dumps(header)):
        changed = [key for key, value in json.loads(json.dumps(header)).items() if known.get(key) != value]
        raise BenchError(
            f"--out {out} must be a new folder or hold the same run, but its {', '.join(changed)} differ; "
            "give another folder, or remove it"
        )
    if known is not None and (out / "model").is_dir():
        note(f"{out}: done before")
        return
    if known is None:
        length = _length(asked, config, out)
        config = config.model_copy(update={"run": config.run.model_copy(update={"num_updates": length["updates"]})})
        write_text(out / SETTINGS, dump_config(config))
        write_text(out / HEADER, json.dumps({**header, "length": length}, indent=2) + "\n")
    note(f"{out}: {asked.start}, {asked.labels} of labels, seed {asked.seed}")
    finetune(out / SETTINGS, threads=asked.threads)


def read_header(folder: Path) -> dict[str, Any]:
    """What was asked for in a run's folder.

    Raises:
        BenchError: it holds no run.
    """
    try:
        header: dict[str, Any] = json.loads((folder / HEADER).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BenchError(f"{folder} must be the --out of `asr.py train`: {error}") from error
    return header


def settings_of(asked: Asked, data: Labels, out: Path) -> FinetuneConfig:
    """Everything that decides a run but its length.

    Raises:
        BenchError: a setting is given that the experiment holds, or there is no such amount of labels.
    """
    if asked.labels not in AMOUNTS:
        raise BenchError(f"--labels must be one of {', '.join(AMOUNTS)}, got {asked.labels}")
    _refuse_held(asked.settings)
    source = find_config(asked.config)
    values = tomllib.loads(source.read_text(encoding="utf-8"))
    drop_held(values)
    if asked.start == "pretrained":
        values["init_from"] = str(asked.model.resolve())
    else:
        values["model"] = _shape(asked.model)
    values["data"] = values.get("data", {}) | {
        "train": [str(data.train(asked.labels).resolve())], "valid": [str(data.valid.resolve())],
    }  # fmt: skip
    values["run"] = values.get("run", {}) | {"dir": str(out.resolve()), "seed": asked.seed, "device": asked.device}
    out.mkdir(parents=True, exist_ok=True)
    draft = out / f"{SETTINGS}.draft"
    draft.write_text(tomli_w.dumps(values), encoding="utf-8")
    try:
        return load_config(FinetuneConfig, draft, asked.settings)
    finally:
        draft.unlink()


def _refuse_held(settings: Sequence[str]) -> None:
    for setting in settings:
        key = setting.partition("=")[0].strip()
        if any(key == held or key.startswith(f"{held}.") for held in _HELD):
            raise BenchError(
                f"--set {setting} must leave {key} alone: what the runs share is given by MODEL, --start, --labels, "
                "--seed, --device, --updates or --minutes"
            )


def drop_held(values: dict[str, Any]) -> None:
    """Take out of plain settings what the experiment itself says."""
    for key in _HELD:
        *sections, last = key.split(".")
        place = values
        for section in sections:
            place = place.get(section, {})
        place.pop(last, None)


def _shape(model: Path) -> dict[str, Any]:
    return read_model(model).model.model_dump(mode="json", exclude_none=True)


def _length(asked: Asked, config: FinetuneConfig, out: Path) -> dict[str, Any]:
    """The run's updates, and how they were found."""
    if asked.updates is not None:
        return {"updates": asked.updates}
    assert asked.minutes is not None
    clock = "real time" if asked.device == "cuda" else "processor time"
    work = work_digest(config, _shape(asked.model), threads=asked.threads)
    measured = out.parent / f"pace_{work}.json"
    if not measured.is_file():
        seconds = probe(config, out.parent / f"pace_{work}", threads=asked.threads)
        write_text(measured, json.dumps({"update_s": seconds, "clock": clock}) + "\n")
    update_s = float(json.loads(measured.read_text(encoding="utf-8"))["update_s"])
    updates = int(asked.minutes * 60 / update_s)
    if not updates:
        raise BenchError(f"--minutes must have room for an update, which takes {update_s:.3g} s, got {asked.minutes:g}")
    note(f"{out.name}: {update_s:.3g} s of {clock} an update: {updates} updates in {asked.minutes:g} minutes")
    return {"updates": updates, "update_s": update_s, "clock": clock}


def work_digest(config: FinetuneConfig, shape: Mapping[str, Any], *, threads: int) -> str:
    """Names what an update computes: equal for two runs whose updates cost the same, whatever they start from."""
    document = config.model_dump(mode="json")
    data = {key: value for key, value in document["data"].items() if key != "valid"}
    run = {key: document["run"][key] for key in ("device", "precision", "compile", "checkpoint_activations")}
    optim = {key: document["optim"][key] for key in ("optimizer", "ema_decay")}
    rest = {key: value for key, value in document.items() if key not in _NO_WORK}
    rest["ctc"] |= {key: value for key, value in _as_late(config).items() if not isinstance(value, bool)}
    parts = (shape, data, run, optim, rest, threads)
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def probe(config: FinetuneConfig, folder: Path, *, threads: int) -> float:
    """Seconds of an update, by a run that is thrown away.

    What is frozen for a while is so for a few updates only: every update is priced as a late one, which costs most.
    """
    num_updates = PROBE_UPDATES
    ctc = config.ctc.model_copy(update=_as_late(config))
    shutil.rmtree(folder, ignore_errors=True)
    run = config.run.model_copy(update={
        "dir": folder, "num_updates": num_updates, "log_every": 10, "save_every": num_updates,
        "validate_every": num_updates, "patience": None,
    })  # fmt: skip
    data = config.data.model_copy(update={"valid": ()})
    folder.mkdir(parents=True)
    write_text(folder / SETTINGS, dump_config(config.model_copy(update={"run": run, "data": data, "ctc": ctc})))
    note(f"measuring what an update takes, by {num_updates} of them")
    finetune(folder / SETTINGS, threads=threads)
    rows = train_rows(folder)
    key = speed_key(config.run.device)
    late = [(row[key], row["update"] - before["update"]) for before, row in pairwise(rows)
            if row["update"] > num_updates // 2]  # fmt: skip
    shutil.rmtree(folder)
    return float(math.fsum(seconds * num for seconds, num in late) / sum(num for _, num in late))


def _as_late(config: FinetuneConfig) -> dict[str, bool | int]:
    """Of freezing, what is so for a number of updates: so for a few; what is so always or never stays."""
    given = {key: getattr(config.ctc, key) for key in ("freeze_encoder_updates", "freeze_feature_encoder")}
    return {key: value if isinstance(value, bool) else PROBE_UPDATES // 4 for key, value in given.items()}


def speed_key(device: str) -> str:
    """The figure of a row that the budget is measured in."""
    return "update_s" if device == "cuda" else "processor_update_s"


def train_rows(folder: Path) -> list[dict[str, Any]]:
    """Rows of figures of a run's updates."""
    return [row for row in all_rows(folder) if row["split"] == "train"]


def all_rows(folder: Path) -> list[dict[str, Any]]:
    """Every row of figures so far; none where the run has not begun."""
    file = folder / "metrics.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def finetune(settings: Path, *, threads: int) -> None:
    """Run ``audio-ssl finetune`` with this Python, or go on with it.

    Raises:
        BenchError: it fails, or is stopped.
    """
    call_audio_ssl("finetune", str(settings), "--resume", "auto", threads=threads)


def call_audio_ssl(*words: str, threads: int) -> None:
    """Run ``audio-ssl`` in a process of its own; an interrupt is its to handle, and is waited for.

    Raises:
        BenchError: it fails, or is stopped.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with subprocess.Popen([sys.executable, "-m", "audio_ssl", *words], env=environment, stdout=sys.stderr) as child:
        while True:
            try:
                status = child.wait()
                break
            except KeyboardInterrupt:  # the child has had the same signal: it saves and ends
                continue
    if status:
        raise BenchError(f"audio-ssl {' '.join(words)} ended with status {status}; start again to go on")
