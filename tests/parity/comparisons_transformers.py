"""Ours against transformers: ``Wav2Vec2ForPreTraining`` and ``Wav2Vec2ForCTC``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from exactness import Case, Row, gradient_rows, rows_of
from peer_side import give_weights, gumbel_softmax_of, named_gradients, unbuilt, under_our_names
from problems import UPDATE, Draws, Problem, ctc_masks, draw, our_ctc, our_frames, our_pretraining, pose
from torch import Tensor, nn

from audio_ssl.interop.huggingface import to_huggingface
from audio_ssl.interop.peers import build_transformers
from audio_ssl.objective.quantizer import gumbel_temperature
from audio_ssl.tensors import is_valid_mask

PEER = "transformers"
_MASKS = "transformers.models.wav2vec2.modeling_wav2vec2._compute_mask_indices"


def build(problem: Problem, kind: str) -> Any:
    """Their module with our weights, in training mode."""
    with unbuilt():
        module = build_transformers(problem.case.document(kind))
    return give_weights(module, to_huggingface(problem.tensors(kind)))


def _attention_mask(waveforms: Tensor, num_samples: Tensor) -> Tensor:
    return is_valid_mask(num_samples, waveforms.shape[1]).long()


def frames(case: Case) -> Iterator[Row]:
    """Every layer, the final frames and the CTC logits, in evaluation."""
    problem = pose(case)
    yield from rows_of(PEER, case, our_frames(problem), _their_frames(problem))


@torch.no_grad()
def _their_frames(problem: Problem) -> dict[str, Tensor]:
    model = build(problem, "ctc").eval()
    last_block: list[Tensor] = []
    model.wav2vec2.encoder.layers[-1].register_forward_hook(lambda _m, _i, outputs: last_block.append(outputs[0]))
    parts: list[dict[str, Tensor]] = []
    for rows in problem.peer_batches():
        waveforms, num_samples = problem.rows(rows)
        mask = _attention_mask(waveforms, num_samples)
        output = model(waveforms, attention_mask=mask, output_hidden_states=True)
        # With pre-LN, transformers 4 gives the normed frames as the last layer, where we give the block's own.
        layers = [*output.hidden_states[:-1], last_block[-1]]
        named = {f"hidden states: layer {i}": layer for i, layer in enumerate(layers)}
        named |= {"hidden states: final": output.hidden_states[-1], "CTC logits": output.logits}
        is_valid = problem.is_valid[rows, : output.logits.shape[1]]
        parts.append({name: tensor[is_valid] for name, tensor in named.items()})
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def ctc(case: Case) -> Iterator[Row]:
    """CTC loss and its gradients in training, with the same frames and channels masked."""
    problem = pose(case)
    problem.encoder.feature_encoder.grad_scale = 1.0  # transformers has none
    numbers, gradients = our_ctc(problem)
    model = build(problem, "ctc")
    model.config.mask_time_prob = model.config.mask_feature_prob = 0.5  # above 0: _compute_mask_indices is asked
    frame_mask, channel_mask = ctc_masks(problem)
    loss = torch.zeros(())
    for rows in problem.peer_batches():
        waveforms, num_samples = problem.rows(rows)
        width = int(problem.num_frames[rows].max())
        labels = problem.labels[rows]
        labels = labels.masked_fill(~is_valid_mask(problem.num_labels[rows], labels.shape[1]), -100)
        with mock.patch(_MASKS, side_effect=[frame_mask[rows, :width].numpy(), channel_mask[rows].numpy()]):
            output = model(waveforms, attention_mask=_attention_mask(waveforms, num_samples), labels=labels)
        output.loss.backward()
        loss = loss + output.loss.detach()
    yield from rows_of(PEER, case, {"CTC loss": numbers["loss"]}, {"CTC loss": loss})
    gradients_there = named_gradients(dict(model.named_parameters()))
    theirs = under_our_names(gradients_there, problem.tensors("ctc"), to_huggingface)
    yield from gradient_rows(PEER, case, gradients, theirs, quantity="CTC gradient")


def pretraining(case: Case) -> Iterator[Row]:
    """The loss, its parts, code use and gradients; it has no feature penalty and no factor on the convs' gradient."""
    problem = pose(case, is_equal_length=not case.is_padded_alike)
    problem.encoder.feature_encoder.grad_scale, problem.objective.feature_penalty_weight = 1.0, 0.0
    draws = draw(problem)
    numbers, gradients = our_pretraining(problem, draws)
    del numbers["feature_penalty"]
    model = build(problem, "pretraining")
    expected = _their_pretraining(problem, draws, model)
    rename = {name: f"pre-training {name}" for name in expected}
    yield from rows_of(
        PEER, case, {rename[k]: v for k, v in numbers.items()}, {rename[k]: v for k, v in expected.items()}
    )
    gradients_there = named_gradients(dict(model.named_parameters()))
    theirs = under_our_names(gradients_there, problem.tensors("pretraining"), to_huggingface)
    yield from gradient_rows(PEER, case, gradients, theirs, quantity="pre-training gradient")


def _their_pretraining(problem: Problem, draws: Draws, model: Any) -> dict[str, Tensor]:
    config = problem.case.objective
    model.set_gumbel_temperature(
        gumbel_temperature(UPDATE, start=config.gumbel_start, end=config.gumbel_end, decay=config.gumbel_decay)
    )
    seen: list[Tensor] = []
    model.quantizer.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    with mock.patch.object(nn.functional, "gumbel_softmax", gumbel_softmax_of(_of_every_frame(draws))):
        output = model(
            problem.waveforms,
            attention_mask=_attention_mask(problem.waveforms, problem.num_samples),
            mask_time_indices=draws.is_masked,
            sampled_negative_indices=_flat_frames(draws),
        )
    output.loss.backward()
    with torch.no_grad():  # in training transformers tells the perplexity of probabilities, in evaluation of choices
        _, of_choices = model.quantizer.eval()(seen[0], mask_time_indices=draws.is_masked)
    return {
        "loss": output.loss.detach(), "contrastive": output.contrastive_loss.detach(),
        "diversity": output.diversity_loss.detach(), "prob_perplexity": output.codevector_perplexity.detach(),
        "code_perplexity": of_choices,
    }  # fmt: skip


def _of_every_frame(draws: Draws) -> Tensor:
    """Noise of masked frames (B, M, G, V) at each frame (B, T, G, V): transformers quantizes all frames."""
    rank = (draws.is_masked.cumsum(1) - 1).clamp(min=0)  # what an unmasked frame gets does not matter
    return draws.noise[torch.arange(len(rank))[:, None], rank]


def _flat_frames(draws: Draws) -> Tensor:
    """Distractors as transformers numbers them: frames of the whole batch, (B, T, K)."""
    batch, width = draws.is_masked.shape
    rows = torch.arange(batch)[:, None, None]
    flat = rows * width + draws.masked.frame_idx[rows, draws.distractor_idx]  # (B, M, K)
    negatives = torch.zeros(batch, width, flat.shape[-1], dtype=torch.int64)
    negatives[draws.is_masked] = flat[is_valid_mask(draws.masked.counts, flat.shape[1])]
    return negatives
