"""What extraction says of memory before it starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from audio_ssl.inference.layers import LayerChoice
    from audio_ssl.inference.models import Runtime
    from audio_ssl.inference.source import OpenedInput
    from audio_ssl.inference.stream import StreamSettings
    from audio_ssl.model.encoder import Encoder


def tell_memory(
    console: Console,
    encoder: Encoder,
    opened: OpenedInput,
    *,
    layer: LayerChoice,
    stream: StreamSettings,
    runtime: Runtime,
) -> None:
    """Say how much memory the run will need, and warn where it is not there."""
    from audio_ssl.inference.machine import available_bytes, resident_bytes
    from audio_ssl.inference.memory import memory_needs

    if not len(opened.manifest):
        return
    needs = memory_needs(
        encoder, layer, opened.manifest.num_samples_at(encoder.sample_rate_hz),
        source_hz=max(opened.manifest.column("sample_rate")),
        settings=stream, runtime=runtime, resident=resident_bytes(),
    )  # fmt: skip
    console.print(str(needs), highlight=False, soft_wrap=True)
    warning = needs.warning(available_bytes())
    if warning is not None:
        console.print(f"warning: {warning}", style="yellow", highlight=False, soft_wrap=True)
