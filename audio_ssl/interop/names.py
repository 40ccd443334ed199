"""One table of tensor names: ours beside those of fairseq, fairseq2, transformers and torchaudio.

``{i}`` stands for a number, a final ``.*`` for ``.weight`` and ``.bias``. A row with ``when`` holds for models of that
kind only. Knows names, never files or settings.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from audio_ssl.errors import CheckpointError

System = Literal["fairseq", "fairseq2", "huggingface", "torchaudio"]
Pair = tuple[str, str]


@dataclass(frozen=True)
class Row:
    """Names of one part of the model; None where a system has no place for it.

    Attributes:
        ours: in our model directories.
        fairseq: in ``checkpoint["model"]`` of fairseq, before the prefix of fine-tuned models.
        fairseq2: in fairseq2 0.8.
        huggingface: in transformers, before the prefix ``wav2vec2.``.
        torchaudio: in torchaudio's ``Wav2Vec2Model``.
        when: ``group`` or ``layer`` (norm of the convs), ``pre`` or ``post`` (norm order), ``pretraining`` or ``ctc``;
            empty for all models.
    """

    ours: str
    fairseq: str | None
    fairseq2: str | None
    huggingface: str
    torchaudio: str | None
    when: str = ""


_CONV = "feature_extractor.conv_layers.{i}"
_FRONTEND = "encoder_frontend"
_BLOCK = "encoder.context_network.blocks.{i}"
_LAYER = "encoder.layers.{i}"
_TORCHAUDIO_LAYER = "encoder.transformer.layers.{i}"

NAMES: tuple[Row, ...] = (
    Row("encoder.mask_embedding", "mask_emb", "masker.temporal_mask_embed", "masked_spec_embed", None),
    # The convs' weight always exists; their bias in models with conv bias only.
    Row("encoder.feature_encoder.layers.{i}.conv.*", f"{_CONV}.0.*",
        f"{_FRONTEND}.feature_extractor.layers.{{i}}.conv.*", f"{_CONV}.conv.*", f"{_CONV}.conv.*"),
    Row("encoder.feature_encoder.layers.{i}.norm.*", f"{_CONV}.2.*",
        f"{_FRONTEND}.feature_extractor.layers.{{i}}.group_norm.*", f"{_CONV}.layer_norm.*", f"{_CONV}.layer_norm.*",
        when="group"),
    Row("encoder.feature_encoder.layers.{i}.norm.*", f"{_CONV}.2.1.*",
        f"{_FRONTEND}.feature_extractor.layers.{{i}}.layer_norm.*", f"{_CONV}.layer_norm.*", f"{_CONV}.layer_norm.*",
        when="layer"),
    Row("encoder.feature_projection.norm.*", "layer_norm.*", f"{_FRONTEND}.post_extract_layer_norm.*",
        "feature_projection.layer_norm.*", "encoder.feature_projection.layer_norm.*"),
    Row("encoder.feature_projection.projection.*", "post_extract_proj.*", f"{_FRONTEND}.model_dim_proj.*",
        "feature_projection.projection.*", "encoder.feature_projection.projection.*"),
    Row("encoder.context_network.positional.conv.parametrizations.weight.original0", "encoder.pos_conv.0.weight_g",
        f"{_FRONTEND}.pos_encoder.conv.weight_g", "encoder.pos_conv_embed.conv.parametrizations.weight.original0",
        "encoder.transformer.pos_conv_embed.conv.parametrizations.weight.original0"),
    Row("encoder.context_network.positional.conv.parametrizations.weight.original1", "encoder.pos_conv.0.weight_v",
        f"{_FRONTEND}.pos_encoder.conv.weight_v", "encoder.pos_conv_embed.conv.parametrizations.weight.original1",
        "encoder.transformer.pos_conv_embed.conv.parametrizations.weight.original1"),
    Row("encoder.context_network.positional.conv.bias", "encoder.pos_conv.0.bias",
        f"{_FRONTEND}.pos_encoder.conv.bias", "encoder.pos_conv_embed.conv.bias",
        "encoder.transformer.pos_conv_embed.conv.bias"),
    Row("encoder.context_network.norm.*", "encoder.layer_norm.*", f"{_FRONTEND}.layer_norm.*", "encoder.layer_norm.*",
        "encoder.transformer.layer_norm.*", when="post"),
    Row("encoder.context_network.norm.*", "encoder.layer_norm.*", "encoder.layer_norm.*", "encoder.layer_norm.*",
        "encoder.transformer.layer_norm.*", when="pre"),
    *(
        Row(f"{_BLOCK}.attention.{ours}.*", f"{_LAYER}.self_attn.{fairseq}.*", f"{_LAYER}.self_attn.{fairseq2}.*",
            f"{_LAYER}.attention.{fairseq}.*", f"{_TORCHAUDIO_LAYER}.attention.{fairseq}.*")
        for ours, fairseq, fairseq2 in (
            ("query", "q_proj", "q_proj"), ("key", "k_proj", "k_proj"), ("value", "v_proj", "v_proj"),
            ("output", "out_proj", "output_proj"),
        )
    ),
    Row(f"{_BLOCK}.attention_norm.*", f"{_LAYER}.self_attn_layer_norm.*", f"{_LAYER}.self_attn_layer_norm.*",
        f"{_LAYER}.layer_norm.*", f"{_TORCHAUDIO_LAYER}.layer_norm.*"),
    Row(f"{_BLOCK}.feed_forward.inner.*", f"{_LAYER}.fc1.*", f"{_LAYER}.ffn.inner_proj.*",
        f"{_LAYER}.feed_forward.intermediate_dense.*", f"{_TORCHAUDIO_LAYER}.feed_forward.intermediate_dense.*"),
    Row(f"{_BLOCK}.feed_forward.output.*", f"{_LAYER}.fc2.*", f"{_LAYER}.ffn.output_proj.*",
        f"{_LAYER}.feed_forward.output_dense.*", f"{_TORCHAUDIO_LAYER}.feed_forward.output_dense.*"),
    Row(f"{_BLOCK}.feed_forward_norm.*", f"{_LAYER}.final_layer_norm.*", f"{_LAYER}.ffn_layer_norm.*",
        f"{_LAYER}.final_layer_norm.*", f"{_TORCHAUDIO_LAYER}.final_layer_norm.*"),
    *(
        Row(f"{_BLOCK}.adapter.{ours}.*", None, None, f"{_LAYER}.adapter_layer.{theirs}.*", None)
        for ours, theirs in (("norm", "norm"), ("down", "linear_1"), ("up", "linear_2"))
    ),
    Row("objective.quantizer.codebook", "quantizer.vars", "quantizer.entries", "quantizer.codevectors", None,
        when="pretraining"),
    Row("objective.quantizer.logits.*", "quantizer.weight_proj.*", "quantizer.entry_proj.*", "quantizer.weight_proj.*",
        None, when="pretraining"),
    Row("objective.target_projection.*", "project_q.*", "final_target_proj.*", "project_q.*", None,
        when="pretraining"),
    Row("objective.context_projection.*", "final_proj.*", "final_proj.*", "project_hid.*", None, when="pretraining"),
    Row("head.*", "w2v_encoder.proj.*", "final_proj.*", "lm_head.*", "aux.*", when="ctc"),
)  # fmt: skip

# Weight norm's length g and direction v, in torch's old and new spelling; published files hold either.
_SPELLINGS = (("weight_g", "parametrizations.weight.original0"), ("weight_v", "parametrizations.weight.original1"))


def pairs_of(system: System, traits: Iterable[str], *, prefix: str = "") -> list[Pair]:
    """(our name, their name) for a model.

    Args:
        system: whose names.
        traits: the values of :attr:`Row.when` that hold for the model.
        prefix: what the system puts before the encoder's names in this kind of model.
    """
    held = {"", *traits}
    pairs = []
    for row in NAMES:
        theirs: str | None = getattr(row, system)
        if theirs is not None and row.when in held:
            pairs.append((row.ours, prefix + theirs if row.ours.startswith("encoder.") else theirs))
    return pairs


@dataclass(frozen=True)
class Matched:
    """Tensors under new names.

    Attributes:
        tensors: by new name.
        old_names: new name -> old name.
        strays: old names that have no new one, or share theirs with another.
    """

    tensors: dict[str, Tensor]
    old_names: dict[str, str]
    strays: tuple[str, ...]


def match(tensors: Mapping[str, Tensor], pairs: Iterable[Pair]) -> Matched:
    """Give every tensor its new name.

    Args:
        tensors: by old name.
        pairs: (old pattern, new pattern).
    """
    patterns = [(old.split("."), new) for old, new in pairs]
    renamed: dict[str, Tensor] = {}
    old_names: dict[str, str] = {}
    strays = []
    for name, tensor in tensors.items():
        new = next((n for n in (_translate(name.split("."), old, new) for old, new in patterns) if n), None)
        if new is None:
            strays.append(name)
        elif new in renamed:
            strays.append(f"{name} (there twice, in two spellings)")
        else:
            renamed[new] = tensor
            old_names[new] = name
    return Matched(renamed, old_names, tuple(strays))


def match_theirs(tensors: Mapping[str, Tensor], pairs: Iterable[Pair]) -> Matched:
    """Their tensors under our names, whichever way they spell weight norm.

    Args:
        tensors: by their names.
        pairs: (ours, theirs), as :func:`pairs_of` gives them.
    """
    turned = [(theirs, ours) for ours, theirs in pairs]
    for old, new in _SPELLINGS:
        turned += [(t.removesuffix(old) + new, o) for t, o in turned if t.endswith("." + old)]
        turned += [(t.removesuffix(new) + old, o) for t, o in turned if t.endswith("." + new)]
    return match(tensors, dict(turned).items())


def to_theirs(tensors: Mapping[str, Tensor], pairs: Iterable[Pair]) -> dict[str, Tensor]:
    """Our tensors under their names.

    Raises:
        CheckpointError: naming tensors that have no place there.
    """
    matched = match(tensors, pairs)
    if matched.strays:
        raise CheckpointError(f"the model must hold tensors of ours alone, but has {', '.join(matched.strays[:10])}")
    return matched.tensors


def their_name(ours: str, pairs: Iterable[Pair]) -> str:
    """What they call one of our tensors; our name where they have none."""
    named = (_translate(ours.split("."), old.split("."), new) for old, new in pairs)
    return next((name for name in named if name), ours)


def _translate(tokens: list[str], old: list[str], new: str) -> str | None:
    """The new name where ``tokens`` match the old pattern."""
    if len(tokens) != len(old):
        return None
    number, leaf = "", ""
    for token, pattern in zip(tokens, old, strict=True):
        if pattern == "{i}" and token.isdecimal() and len(token) < 10:
            number = token
        elif pattern == "*" and token in ("weight", "bias"):
            leaf = token
        elif pattern != token:
            return None
    return new.replace("{i}", number).replace("*", leaf)
