"""Error rates on the validation manifest while a recogniser is trained, with some hypotheses to look at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jiwer
from rich.console import Console

from audio_ssl.data.text import Vocabulary, collapse
from audio_ssl.errors import TrainingError
from audio_ssl.model.ctc import CTCModel
from audio_ssl.train.datasets import NOT_READABLE, TrainingData
from audio_ssl.train.distributed import World, of_all, shared_out
from audio_ssl.train.samples import Sample, chosen, decoded_rows


class CTCValidation:
    """Greedy decoding of the validation rows; gives ``cer``, ``wer``, ``empty_share`` and ``samples``.

    ``empty_share`` is the share of rows whose hypothesis is empty; ``samples`` are documents of :class:`Sample`.

    Args:
        model: encoder and head.
        data: validation rows.
        vocabulary: the model's symbols.
        texts: normalised reference of each manifest row.
        micro_batch_s: most seconds of a forward pass.
        world: the ranks that share the batches out, and the model's device.
        console: sample hypotheses are shown here.
    """

    def __init__(
        self,
        model: CTCModel,
        data: TrainingData,
        vocabulary: Vocabulary,
        texts: Sequence[str],
        *,
        micro_batch_s: float,
        world: World,
        console: Console,
    ) -> None:
        self._model, self._data, self._vocabulary, self._texts = model, data, vocabulary, texts
        self._world, self._console = world, console
        self._batches = shared_out(data.eval_batches(micro_batch_s), model, world)

    def __call__(self, update: int) -> dict[str, Any]:  # noqa: ARG002 - every task's validation gets it
        """Decode everything and compare."""
        hypotheses: dict[int, str] = {}
        for batch in self._data.loader.batches(self._batches, epoch=0):
            batch = batch.to(self._world.device)  # noqa: PLW2901
            log_probs, num_frames = self._model(batch.waveforms, batch.num_samples)
            best = log_probs.argmax(dim=-1).cpu()  # (B, T, A) -> (B, T)
            for row, ids, length in zip(batch.rows, best, num_frames.tolist(), strict=True):
                hypotheses[row] = self._vocabulary.decode_ids(collapse(ids[:length].tolist()))
        for theirs in of_all(dict(hypotheses), self._model, self._world):
            hypotheses.update(theirs)
        if not hypotheses:
            raise TrainingError(f"data.valid must hold at least one readable utterance; {NOT_READABLE}")
        rows = sorted(hypotheses)
        references, decoded = [self._texts[i] for i in rows], [hypotheses[i] for i in rows]
        figures: dict[str, Any] = {
            "cer": float(jiwer.cer(references, decoded)),
            "wer": float(jiwer.wer(references, decoded)),
            "empty_share": decoded.count("") / len(decoded),
        }
        found = chosen(decoded_rows(rows, references, decoded))
        samples = [Sample(name, self._data.manifest[d.row].id, d.cer, d.reference, d.hypothesis) for name, d in found]
        self._show(samples, decoded)
        return {**figures, "samples": [sample.document() for sample in samples]}

    def _show(self, samples: Sequence[Sample], decoded: Sequence[str]) -> None:
        if len(decoded) > 1 and len(set(decoded)) == 1:
            answer = f"is {decoded[0]!r}" if decoded[0] else "is empty"
            line = f"  each of {len(decoded)} hypotheses {answer}: normal at first; a guard tells where it is not"
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)
        for sample in samples:
            self._console.print(str(sample), highlight=False, markup=False, soft_wrap=True)
