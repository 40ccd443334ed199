"""audio_ssl: pre-train on raw speech, extract frame embeddings, fine-tune a recogniser.

The public names are imported when they are first used, so that ``import audio_ssl`` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from audio_ssl.data.manifest import Manifest
    from audio_ssl.inference.api import transcribe
    from audio_ssl.inference.embedder import Embedder, Embedding, load
    from audio_ssl.inference.embeddings import open_embeddings
    from audio_ssl.inference.layer_weights import LayerWeights
    from audio_ssl.inference.source import Refusal
    from audio_ssl.interop.source import load_encoder
    from audio_ssl.model.encoder import Encoder

__version__ = "0.1.0"
__all__ = [
    "Embedder", "Embedding", "Encoder", "LayerWeights", "Manifest", "Refusal", "__version__", "load", "load_encoder",
    "open_embeddings", "transcribe",
]  # fmt: skip

_HOMES = {
    "load": "audio_ssl.inference.embedder",
    "Embedder": "audio_ssl.inference.embedder",
    "Embedding": "audio_ssl.inference.embedder",
    "Refusal": "audio_ssl.inference.source",
    "LayerWeights": "audio_ssl.inference.layer_weights",
    "transcribe": "audio_ssl.inference.api",
    "load_encoder": "audio_ssl.interop.source",
    "open_embeddings": "audio_ssl.inference.embeddings",
    "Encoder": "audio_ssl.model.encoder",
    "Manifest": "audio_ssl.data.manifest",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'audio_ssl' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
