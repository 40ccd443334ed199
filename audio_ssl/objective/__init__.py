"""Pretext tasks: what turns frames into a loss during pre-training and is thrown away afterwards."""

from audio_ssl.objective.masked_pass import MaskableEncoder
from audio_ssl.objective.registry import build_objective
from audio_ssl.objective.wav2vec2 import Wav2Vec2Objective

__all__ = ["MaskableEncoder", "Wav2Vec2Objective", "build_objective"]
