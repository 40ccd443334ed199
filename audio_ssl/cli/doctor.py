"""``audio-ssl doctor``: what is here, what works, what is missing and how to get it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module, metadata
from typing import Literal

import typer

CORE = (
    # module, distribution, what it does here
    ("torch", "torch", "model and training"),
    ("torchaudio", "torchaudio", "resampling, forced alignment"),
    ("numpy", "numpy", "arrays for users"),
    ("soundfile", "soundfile", "decoding"),
    ("librosa", "librosa", "other containers, silence, spectrograms"),
    ("numba", "numba", "beam search"),
    ("safetensors", "safetensors", "model files"),
    ("pydantic", "pydantic", "settings"),
    ("pyarrow", "pyarrow", "manifests"),
    ("jiwer", "jiwer", "error rates"),
    ("matplotlib", "matplotlib", "pictures"),
    ("sklearn", "scikit-learn", "units"),
    ("rich", "rich", "this table"),
    ("tomli_w", "tomli-w", "writing settings"),
)
OPTIONAL = (
    # module, distribution, what it brings, extra
    ("fairseq2", "fairseq2", "native loader engine, fairseq2's checkpoints", "fairseq2"),
    ("flashlight.lib.text.decoder", "flashlight-text", "another beam search, to compare with", "lm"),
    ("kenlm", "kenlm", "binary language models in the beam search", "lm"),
    ("sentencepiece", "sentencepiece", "vocabularies of parts of words", "sentencepiece"),
    ("onnxruntime", "onnxruntime", "manifest segment --vad silero", "vad"),
    ("silero_vad", "silero-vad", "manifest segment --vad silero", "vad"),
    ("onnxscript", "onnxscript", "export to ONNX", "export"),
    ("tensorboard", "tensorboard", "run.tensorboard", "track"),
    ("wandb", "wandb", "run.wandb_project", "track"),
    ("transformers", "transformers", "parity tests against Hugging Face", "dev"),
)
CODECS = (("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"))
LITTLE_DISK_BYTES = 5 * 10**9


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        subject: what was looked at.
        state: ``broken`` is a fault of a core part; ``absent`` an optional one that is not there.
        detail: what was found, and where something is missing how to get it.
    """

    subject: str
    state: Literal["ok", "absent", "warning", "broken"]
    detail: str


def doctor() -> None:
    """Show versions, devices, codecs and optional parts; exit status 1 if a part that all work needs is broken."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    colours = {"ok": "green", "absent": "dim", "warning": "yellow", "broken": "red"}
    num_broken = 0
    for title, examine in SECTIONS:
        table = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
        for finding in examined(title, examine):
            state = f"[{colours[finding.state]}]{finding.state}[/]"
            table.add_row(f"  {escape(finding.subject)}", state, escape(finding.detail))
            num_broken += finding.state == "broken"
        console.print(table)
    if num_broken:
        console.print(f"{num_broken} core parts are broken: mend those first", style="red")
        raise typer.Exit(1)
    console.print("all core parts work", style="green")


def examined(title: str, examine: Callable[[], list[Finding]]) -> list[Finding]:
    """The findings of a section; whatever fails inside becomes a finding, never a traceback."""
    try:
        return examine()
    except Exception as error:
        return [Finding(title, "broken", _in_a_line(error))]


def core_parts() -> list[Finding]:
    """Python, this package, and every core dependency, each imported."""
    version = ".".join(map(str, sys.version_info[:3]))
    is_new_enough = sys.version_info >= (3, 11)
    findings = [
        Finding("python", "ok" if is_new_enough else "broken", version if is_new_enough else f"{version}; 3.11 needed"),
        Finding("audio_ssl", "ok", import_module("audio_ssl").__version__),
    ]
    for module, distribution, purpose in CORE:
        try:
            import_module(module)
            findings.append(Finding(distribution, "ok", f"{_version(distribution)} ({purpose})"))
        except Exception as error:  # a broken binary raises OSError, SystemError and worse
            hint = f"{_in_a_line(error)}; needed for: {purpose}; pip install --force-reinstall {distribution}"
            findings.append(Finding(distribution, "broken", hint))
    return findings


def optional_parts() -> list[Finding]:
    """Every optional dependency, each imported, with what it brings."""
    findings = []
    for module, distribution, purpose, extra in OPTIONAL:
        hint = f"pip install 'audio_ssl[{extra}]'"
        try:
            import_module(module)
            findings.append(Finding(distribution, "ok", f"{_version(distribution)} ({purpose})"))
        except ImportError as error:
            is_installed = _version(distribution) != "?"
            why = f"installed but does not import: {_in_a_line(error)}; " if is_installed else ""
            state: Literal["warning", "absent"] = "warning" if is_installed else "absent"
            findings.append(Finding(distribution, state, f"{why}would bring: {purpose}; {hint}"))
        except Exception as error:
            findings.append(Finding(distribution, "warning", f"does not import: {_in_a_line(error)}; {hint}"))
    return findings


def devices() -> list[Finding]:
    """Cores, threads and GPUs."""
    import torch

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = torch.get_num_threads()
    wanted = os.environ.get("OMP_NUM_THREADS", "not set")
    cpu = f"{usable} usable of {os.cpu_count()} cores; torch computes with {threads} threads (OMP_NUM_THREADS {wanted})"
    too_many = "; more threads than cores slow each other: set OMP_NUM_THREADS" if threads > usable else ""
    findings = [Finding("CPU", "warning" if too_many else "ok", cpu + too_many)]
    if not torch.cuda.is_available():
        built = f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is built without CUDA"
        return [*findings, Finding("GPU", "absent", f"none usable ({built}); everything runs on the CPU")]
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        with torch.cuda.device(number):
            bf16 = "bf16" if torch.cuda.is_bf16_supported() else "no bf16: --precision fp32"
        memory = f"{properties.total_memory / 2**30:.0f} GiB"
        findings.append(Finding(f"GPU cuda:{number}", "ok", f"{properties.name}, {memory}, {bf16}"))
    return findings


def codecs() -> list[Finding]:
    """Encode and decode a second of tone in each format."""
    import soundfile

    findings = [Finding("libsndfile", "ok", str(soundfile.__libsndfile_version__))]
    for container, encoding in CODECS:
        try:
            findings.append(Finding(f"{container}/{encoding}", "ok", _round_trip(container, encoding)))
        except Exception as error:
            hint = f"{_in_a_line(error)}; libsndfile 1.1 or newer has it: pip install --upgrade soundfile"
            # WAV and FLAC are in every build; the others came over the years
            findings.append(Finding(f"{container}/{encoding}", "broken" if encoding == "PCM_16" else "warning", hint))
    import shutil

    has_ffmpeg = shutil.which("ffmpeg") is not None
    detail = (
        "found" if has_ffmpeg else "not found: .m4a, .webm and the like need it (install ffmpeg), or convert to FLAC"
    )
    return [*findings, Finding("ffmpeg", "ok" if has_ffmpeg else "absent", detail)]


def places() -> list[Finding]:
    """Free space here and where temporary files go."""
    import shutil
    import tempfile
    from pathlib import Path

    findings = []
    for name, path in (("working folder", Path.cwd()), ("temporary files", Path(tempfile.gettempdir()))):
        free = shutil.disk_usage(path).free
        is_little = free < LITTLE_DISK_BYTES
        hint = "; a run of the base model keeps several GB of checkpoints" if is_little else ""
        findings.append(Finding(name, "warning" if is_little else "ok", f"{path}: {free / 1e9:.1f} GB free{hint}"))
    return findings


def _round_trip(container: str, encoding: str) -> str:
    import io

    import numpy as np
    import soundfile

    rate = 16_000
    tone = (0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)).astype(np.float32)
    memory = io.BytesIO()
    soundfile.write(memory, tone, rate, format=container, subtype=encoding)
    size = len(memory.getbuffer())
    memory.seek(0)
    decoded, _ = soundfile.read(memory, dtype="float32")
    # lossy codecs may delay and pad, so loudness is compared, not samples
    loudness = float(np.sqrt(np.mean(decoded**2)))
    if abs(len(decoded) - rate) > rate // 10 or not 0.3 < loudness < 0.4:
        raise ValueError(f"a second of tone came back as {len(decoded)} samples of loudness {loudness:.2f}")
    return f"a second of tone in {size} bytes and back"


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "?"


def _in_a_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__


SECTIONS: tuple[tuple[str, Callable[[], list[Finding]]], ...] = (
    ("core", core_parts),
    ("devices", devices),
    ("codecs", codecs),
    ("optional parts", optional_parts),
    ("disk", places),
)
