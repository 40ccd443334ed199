"""Ours against torchaudio's ``Wav2Vec2Model`` with a head; it has neither masks nor an objective."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from exactness import Case, Row, gradient_rows, rows_of
from peer_side import give_weights, named_gradients, unbuilt, under_our_names
from problems import Problem, our_frames, pose
from torch import Tensor

from audio_ssl.interop.peers import build_torchaudio
from audio_ssl.interop.torchaudio import to_torchaudio
from audio_ssl.model.ctc import ctc_loss_sum

PEER = "torchaudio"


def build(problem: Problem) -> Any:
    """Their module with our weights, in training mode."""
    with unbuilt():
        module = build_torchaudio(problem.case.document("ctc"))
    return give_weights(module, to_torchaudio(problem.tensors("ctc")))


def frames(case: Case) -> Iterator[Row]:
    """Every layer and the CTC logits, in evaluation. It gives neither the input of block 1 nor the final frames."""
    problem = pose(case)
    ours = our_frames(problem)
    del ours["hidden states: layer 0"], ours["hidden states: final"]
    yield from rows_of(PEER, case, ours, _their_frames(problem))


@torch.no_grad()
def _their_frames(problem: Problem) -> dict[str, Tensor]:
    model = build(problem).eval()
    parts: list[dict[str, Tensor]] = []
    for rows in problem.peer_batches():
        waveforms, num_samples = problem.rows(rows)
        layers, num_frames = model.extract_features(waveforms, num_samples)
        logits, _ = model(waveforms, num_samples)
        if not torch.equal(num_frames, problem.num_frames[rows]):
            raise ValueError(f"torchaudio counts {num_frames} frames, we {problem.num_frames[rows]}")
        named = {f"hidden states: layer {i + 1}": layer for i, layer in enumerate(layers)} | {"CTC logits": logits}
        is_valid = problem.is_valid[rows, : logits.shape[1]]
        parts.append({name: tensor[is_valid] for name, tensor in named.items()})
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def ctc(case: Case) -> Iterator[Row]:
    """Gradients of the CTC loss of either side's logits, nothing masked."""
    problem = pose(case)
    problem.encoder.feature_encoder.grad_scale = 1.0  # torchaudio has none
    output = problem.encoder(problem.waveforms, problem.num_samples)
    _loss(problem, slice(None), problem.head(output.frames)).backward()
    ours = {f"encoder.{name}": p for name, p in problem.encoder.named_parameters()}
    ours |= {f"head.{name}": p for name, p in problem.head.named_parameters()}
    model = build(problem)
    for rows in problem.peer_batches():
        _loss(problem, rows, model(*problem.rows(rows))[0]).backward()
    gradients_there = named_gradients(dict(model.named_parameters()))
    theirs = under_our_names(gradients_there, problem.tensors("ctc"), to_torchaudio)
    yield from gradient_rows(PEER, case, named_gradients(ours), theirs, quantity="CTC gradient")


def _loss(problem: Problem, rows: slice, logits: Tensor) -> Tensor:
    log_probs = logits.log_softmax(-1)
    return ctc_loss_sum(log_probs, problem.num_frames[rows], problem.labels[rows], problem.num_labels[rows])
