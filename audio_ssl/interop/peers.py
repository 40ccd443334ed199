"""Peers' own modules for one of our documents: what self-checks, parity tests and reports run beside ours.

Imports each peer only when asked; the modules come in eval mode on the CPU with weights of their own making.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from audio_ssl.config import ModelConfig, Wav2Vec2Config
from audio_ssl.data.engine_fairseq2 import preload_libsndfile
from audio_ssl.interop.huggingface import config_to_huggingface
from audio_ssl.interop.torchaudio import torchaudio_arguments


def build_transformers(document: Mapping[str, Any]) -> nn.Module:
    """``Wav2Vec2Model``, ``Wav2Vec2ForPreTraining`` or ``Wav2Vec2ForCTC``, whichever the document's kind is.

    Raises:
        ImportError: transformers is not installed.
    """
    import transformers

    values = config_to_huggingface(document)
    config = transformers.Wav2Vec2Config(**{k: v for k, v in values.items() if k != "model_type"})
    module: nn.Module = getattr(transformers, values["architectures"][0])(config)
    return module.eval()


def build_torchaudio(document: Mapping[str, Any]) -> nn.Module:
    """``torchaudio.models.Wav2Vec2Model``, with a head for a CTC document.

    Raises:
        ImportError: torchaudio is not installed, or not for this torch.
    """
    try:
        from torchaudio.models import wav2vec2_model
    except OSError as error:  # its shared library is for another torch
        raise ImportError(str(error)) from error

    symbols = document.get("ctc", {}).get("symbols")
    model = ModelConfig(**document["model"])
    module: nn.Module = wav2vec2_model(**torchaudio_arguments(model, num_symbols=len(symbols) if symbols else None))
    return module.eval()


def build_fairseq2(document: Mapping[str, Any]) -> nn.Module:
    """fairseq2's ``Wav2Vec2Model`` (pre-training and encoders alone) or ``Wav2Vec2AsrModel``.

    Raises:
        ImportError: fairseq2 is not installed, not for this torch, or lacks a shared library.
    """
    preload_libsndfile()
    try:
        import fairseq2  # noqa: F401  # the shared libraries are loaded here
    except OSError as error:
        raise ImportError(str(error)) from error
    from fairseq2.models.wav2vec2 import Wav2Vec2Config as TheirConfig
    from fairseq2.models.wav2vec2 import create_wav2vec2_model
    from fairseq2.models.wav2vec2.asr import Wav2Vec2AsrConfig, create_wav2vec2_asr_model

    encoder = _fairseq2_encoder(ModelConfig(**document["model"]))
    if document["kind"] == "ctc":
        num_symbols = len(document["ctc"]["symbols"])
        recogniser: nn.Module = create_wav2vec2_asr_model(
            Wav2Vec2AsrConfig(encoder_config=encoder, target_vocab_size=num_symbols)
        )
        return recogniser.eval()
    objective = Wav2Vec2Config(**document.get("objective", {}))
    config = TheirConfig(
        encoder_config=encoder,
        final_dim=objective.target_dim,
        temporal_mask_span_len=objective.mask_span_frames,
        max_temporal_mask_prob=objective.mask_prob,
        min_num_temporal_mask_spans=objective.min_masks,
        quantized_dim=objective.code_dim,
        num_codebooks=objective.num_groups,
        num_codebook_entries=objective.num_entries,
        codebook_sampling_temperature=(objective.gumbel_start, objective.gumbel_end, objective.gumbel_decay),
        num_distractors=objective.num_distractors,
        logit_temp=objective.logit_temperature,
    )
    model: nn.Module = create_wav2vec2_model(config)
    return model.eval()


def _fairseq2_encoder(model: ModelConfig) -> Any:
    from fairseq2.models.transformer import TransformerNormOrder
    from fairseq2.models.wav2vec2 import Wav2Vec2EncoderConfig

    return Wav2Vec2EncoderConfig(
        model_dim=model.dim,
        feature_dim=model.latent_dim,
        layer_norm_features=model.norm_order == "post",
        feature_extractor_layer_descs=list(zip(model.conv_dims, model.conv_kernels, model.conv_strides, strict=True)),
        feature_extractor_bias=model.conv_bias,
        feature_extractor_layer_norm_convs=model.feature_norm == "layer",
        feature_grad_scale=model.feature_grad_scale,
        pos_conv_kernel_size=model.pos_conv_kernel,
        num_pos_conv_groups=model.pos_conv_groups,
        num_encoder_layers=model.num_layers,
        num_encoder_attn_heads=model.num_heads,
        ffn_inner_dim=model.ffn_dim,
        dropout_p=model.dropout,
        attn_dropout_p=model.attention_dropout,
        ffn_inner_dropout_p=model.activation_dropout,
        layer_drop_p=model.layer_drop,
        norm_order=TransformerNormOrder.PRE if model.norm_order == "pre" else TransformerNormOrder.POST,
    )
