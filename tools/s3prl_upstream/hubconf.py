"""What s3prl's hub finds here, as in its ``upstream/example``: ``-u audio_ssl -k MODEL``."""

from __future__ import annotations

from typing import Any

from .expert import UpstreamExpert as _UpstreamExpert

__all__ = ["audio_ssl"]


def audio_ssl(ckpt: str, *args: Any, **kwargs: Any) -> _UpstreamExpert:
    """A model as an upstream; ``ckpt`` is any MODEL of ``audio-ssl extract``."""
    return _UpstreamExpert(ckpt, *args, **kwargs)
