"""Ours against fairseq2: ``Wav2Vec2Model`` with its pre-training loss and ``Wav2Vec2AsrModel``.

What fairseq2 0.8 cannot do is left out: rows of one batch must have equally many masked frames, so the masks of longer
rows are cut; its feature penalty averages over padding, so it is compared on rows of equal length only.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any
from unittest import mock

import torch
from exactness import Case, Row, gradient_rows, rows_of
from peer_side import give_weights, gumbel_softmax_of, named_gradients, unbuilt, under_our_names
from problems import UPDATE, Draws, Problem, ctc_masks, draw, our_ctc, our_frames, our_pretraining, pose
from torch import Tensor

from audio_ssl.interop.fairseq2 import to_fairseq2
from audio_ssl.interop.peers import build_fairseq2

PEER = "fairseq2"


def build(problem: Problem, kind: str) -> Any:
    """Their module with our weights, in training mode."""
    with unbuilt():
        module = build_fairseq2(problem.case.document(kind))
    return give_weights(module, to_fairseq2(problem.tensors(kind), norm_order=problem.case.model.norm_order))


def _layout(tensor: Tensor, lengths: Tensor) -> Any:
    from fairseq2.nn import BatchLayout

    return BatchLayout.of(tensor, lengths.tolist())


def frames(case: Case) -> Iterator[Row]:
    """Every layer, the final frames and the CTC logits, in evaluation."""
    problem = pose(case)
    yield from rows_of(PEER, case, our_frames(problem), _their_frames(problem))


@torch.no_grad()
def _their_frames(problem: Problem) -> dict[str, Tensor]:
    model = build(problem, "ctc").eval()
    layers: list[Tensor] = []
    model.encoder.register_layer_hook(lambda _idx, output, _layout, _num: layers.append(output) or True)
    model.encoder.register_forward_pre_hook(lambda _module, inputs: layers.append(inputs[0]))
    final: list[Tensor] = []
    model.final_proj.register_forward_pre_hook(lambda _module, inputs: final.append(inputs[0]))
    parts: list[dict[str, Tensor]] = []
    for rows in problem.peer_batches():
        layers.clear()
        waveforms, num_samples = problem.rows(rows)
        logits, _ = model(waveforms, _layout(waveforms, num_samples))
        named = {f"hidden states: layer {i}": layer for i, layer in enumerate(layers)}
        named |= {"hidden states: final": final[-1], "CTC logits": logits}
        is_valid = problem.is_valid[rows, : logits.shape[1]]
        parts.append({name: tensor[is_valid] for name, tensor in named.items()})
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def ctc(case: Case) -> Iterator[Row]:
    """CTC loss and its gradients in training, with the same frames and channels masked."""
    problem = pose(case)
    numbers, gradients = our_ctc(problem)
    model = build(problem, "ctc")
    frame_mask, channel_mask = ctc_masks(problem)
    loss = torch.zeros(())
    for rows in problem.peer_batches():
        waveforms, num_samples = problem.rows(rows)
        width = int(problem.num_frames[rows].max())
        labels = problem.labels[rows]
        draws = [frame_mask[rows, :width], channel_mask[rows]]
        with mock.patch.object(model.masker, "mask_factory", side_effect=draws):
            labels_layout = _layout(labels, problem.num_labels[rows])
            part = model(waveforms, _layout(waveforms, num_samples), labels, labels_layout)
        part.backward()
        loss = loss + part.detach()
    yield from rows_of(PEER, case, {"CTC loss": numbers["loss"]}, {"CTC loss": loss})
    rename = partial(to_fairseq2, norm_order=case.model.norm_order)
    gradients_there = named_gradients(dict(model.named_parameters()))
    theirs = under_our_names(gradients_there, problem.tensors("ctc"), rename)
    yield from gradient_rows(PEER, case, gradients, theirs, quantity="CTC gradient")


def pretraining(case: Case) -> Iterator[Row]:
    """The loss, its parts, code use and gradients on rows of equal length."""
    yield from _pretraining(pose(case, is_equal_length=True), "pre-training")


def padded_pretraining(case: Case) -> Iterator[Row]:
    """The same on a padded batch without the feature penalty; nothing where padding enters their group norm."""
    if case.is_padded_alike:
        problem = pose(case)
        problem.objective.feature_penalty_weight = 0.0
        yield from _pretraining(problem, "padded pre-training")


def _pretraining(problem: Problem, quantity: str) -> Iterator[Row]:
    case, draws = problem.case, draw(problem, is_equal_count=True)
    numbers, gradients = our_pretraining(problem, draws)
    model = build(problem, "pretraining")
    expected = _their_pretraining(problem, draws, model)
    if problem.objective.feature_penalty_weight == 0.0:
        del numbers["feature_penalty"], expected["feature_penalty"]
    ours = {f"{quantity} {name}": number for name, number in numbers.items()}
    yield from rows_of(PEER, case, ours, {f"{quantity} {name}": number for name, number in expected.items()})
    rename = partial(to_fairseq2, norm_order=case.model.norm_order)
    gradients_there = named_gradients(dict(model.named_parameters()))
    theirs = under_our_names(gradients_there, problem.tensors("pretraining"), rename)
    yield from gradient_rows(PEER, case, gradients, theirs, quantity=f"{quantity} gradient")


def _their_pretraining(problem: Problem, draws: Draws, model: Any) -> dict[str, Tensor]:
    model.quantizer.num_updates.fill_(UPDATE)
    count = int(draws.masked.counts.max())  # in every row, see `draw`; ours are packed wider
    with (
        mock.patch.object(model.masker, "mask_factory", return_value=draws.is_masked),
        mock.patch(
            f"{type(model.quantizer).__module__}.gumbel_softmax", gumbel_softmax_of(draws.noise[:, :count].contiguous())
        ),
        mock.patch.object(torch, "randint", return_value=_before_skipping(draws.distractor_idx[:, :count])),
        mock.patch.object(torch, "compile", return_value=lambda function: function),  # else in every forward
    ):
        loss, output = model(
            problem.waveforms,
            _layout(problem.waveforms, problem.num_samples),
            diversity_weight=problem.objective.diversity_weight,
            features_penalty_weight=problem.objective.feature_penalty_weight,
        )
    loss.aggregate.backward()
    return {
        "loss": loss.aggregate.detach(), "contrastive": loss.contrastive.detach(),
        "diversity": loss.diversity.detach(), "feature_penalty": loss.features_penalty.detach(),
        "code_perplexity": output.quantizer_output.code_perplexity.detach(),
        "prob_perplexity": output.quantizer_output.prob_perplexity.detach(),
    }  # fmt: skip


def _before_skipping(distractor_idx: Tensor) -> Tensor:
    """What fairseq2 must draw to arrive at these distractors: (B, M, K) -> (B, M*K), numbers among the others."""
    own = torch.arange(distractor_idx.shape[1])[:, None]
    return (distractor_idx - (distractor_idx > own).long()).flatten(1)
