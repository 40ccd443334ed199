"""How transformer blocks run in training: compiled, for their shapes are bounded, or with less memory for more work."""

from __future__ import annotations

from audio_ssl.config import RunConfig
from audio_ssl.model.compiling import compile_blocks
from audio_ssl.model.encoder import Encoder
from audio_ssl.model.transformer import ContextNetwork


def prepare_blocks(encoder: Encoder, run: RunConfig) -> None:
    """Do with the blocks what ``run`` says."""
    if run.checkpoint_activations:
        recompute_blocks(encoder)
    if run.compile:
        compile_blocks(encoder)


def recompute_blocks(encoder: Encoder) -> None:
    """Let each block keep its input alone for the backward pass; what it computes stays the same to the last bit.

    Reference: Training deep nets with sublinear memory cost (1604.06174).
    """
    for part in encoder.modules():
        if isinstance(part, ContextNetwork):
            part.recomputes_blocks = True
