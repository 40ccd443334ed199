"""Every knob of the project: frozen pydantic models with ranges and units, read from TOML. Imports no torch."""

from audio_ssl.config.adapt import AdaptConfig
from audio_ssl.config.augment import AugmentConfig
from audio_ssl.config.guard import GuardConfig
from audio_ssl.config.load import dump_config, find_config, load_config, shipped_configs, validate_config
from audio_ssl.config.mixture import MixtureConfig
from audio_ssl.config.model import PRESETS, ModelConfig
from audio_ssl.config.objective import Wav2Vec2Config
from audio_ssl.config.online_probe import OnlineProbeConfig
from audio_ssl.config.optim import OptimConfig
from audio_ssl.config.preflight import PreflightConfig
from audio_ssl.config.probe import ProbeTask
from audio_ssl.config.text import TextRules, VocabularyConfig
from audio_ssl.config.training import (
    CTCConfig,
    DataConfig,
    FinetuneConfig,
    PretrainConfig,
    RunConfig,
)

__all__ = [
    "PRESETS",
    "AdaptConfig",
    "AugmentConfig",
    "CTCConfig",
    "DataConfig",
    "FinetuneConfig",
    "GuardConfig",
    "MixtureConfig",
    "ModelConfig",
    "OnlineProbeConfig",
    "OptimConfig",
    "PreflightConfig",
    "PretrainConfig",
    "ProbeTask",
    "RunConfig",
    "TextRules",
    "VocabularyConfig",
    "Wav2Vec2Config",
    "dump_config",
    "find_config",
    "load_config",
    "shipped_configs",
    "validate_config",
]
