"""A speech recogniser on an encoder: one linear layer over frames, trained with CTC.

Reference: Graves et al. 2006; wav2vec 2.0 (2006.11477) section 3.4; fairseq ``Wav2VecCtc``; self-conditioned CTC
(2104.02724) where blocks are told what was recognised below them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from audio_ssl.model.dropout import Dropout
from audio_ssl.model.encoder import Encoder
from audio_ssl.model.time_stats import TimeStats
from audio_ssl.tensors import EncoderOutput


class CTCModel(nn.Module):
    """Encoder, dropout, linear head over the alphabet.

    Args:
        encoder: the pre-trained (or fresh) encoder.
        num_symbols: A, blank included.
        final_dropout: rate on the frames that the head sees.
        conditioned_after: blocks whose output is told what the head makes of it, through one linear layer that they
            share (:meth:`told`); none in a plain recogniser.
    """

    def __init__(
        self,
        encoder: Encoder,
        num_symbols: int,
        *,
        final_dropout: float = 0.0,
        conditioned_after: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.dropout = Dropout(final_dropout)
        self.head = nn.Linear(encoder.dim, num_symbols)
        self.conditioned_after = tuple(conditioned_after)
        self.condition: nn.Linear | None = None
        if conditioned_after:
            # Deviates from 2104.02724, which draws it: from zero a pre-trained encoder begins as what it is.
            self.condition = nn.Linear(num_symbols, encoder.dim)
            nn.init.zeros_(self.condition.weight)
            nn.init.zeros_(self.condition.bias)

    def forward(
        self,
        waveforms: Tensor,
        num_samples: Tensor,
        *,
        is_full: bool | None = None,
        time_stats: TimeStats | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Score symbols for each frame.

        Args:
            waveforms: (B, S) float32, as :meth:`Encoder.forward`.
            num_samples: (B,) int64.
            is_full: True when no row is padded; None to look (free on the CPU only).
            time_stats: as :meth:`Encoder.forward`.

        Returns:
            Log-probabilities (B, T, A) float32 and num_frames (B,) int64.
        """
        output = self.frames(waveforms, num_samples, is_full=is_full, time_stats=time_stats)
        return self.log_probs(output.frames), output.num_frames

    def frames(
        self,
        waveforms: Tensor,
        num_samples: Tensor,
        *,
        is_full: bool | None = None,
        time_stats: TimeStats | None = None,
    ) -> EncoderOutput:
        """The frames that the head scores; arguments as :meth:`forward`."""
        exits = dict.fromkeys(self.conditioned_after, self.told)
        return self.encoder(  # type: ignore[no-any-return]
            waveforms, num_samples, is_full=is_full, time_stats=time_stats, exits=exits
        )

    def told(self, frames: Tensor) -> Tensor | None:
        """What the scores of frames in between add to what the next block sees, (B, T, D); None in a plain recogniser.

        Reference: self-conditioned CTC (2104.02724); the norm before the head is the network's own, as in ESPnet.
        """
        if self.condition is None:
            return None
        return self.condition(F.softmax(self.head(frames).float(), dim=-1))  # type: ignore[no-any-return]

    def log_probs(self, frames: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, A) float32; for a fine-tuning step that masks between the encoder's parts."""
        return F.log_softmax(self.head(self.dropout(frames)).float(), dim=-1)


def ctc_loss_sum(
    log_probs: Tensor, num_frames: Tensor, labels: Tensor, num_labels: Tensor, *, blank: int = 0
) -> Tensor:
    """CTC loss in nats, summed over the rows.

    Rows whose labels need more frames than there are count as zero and give no gradient (they are to be reported
    before training).

    Args:
        log_probs: (B, T, A) float32.
        num_frames: (B,) int64.
        labels: (B, L) int64, any value beyond a row's labels.
        num_labels: (B,) int64.
        blank: index of the blank symbol.

    Returns:
        () float32.
    """
    return F.ctc_loss(
        log_probs.transpose(0, 1),  # (B, T, A) -> (T, B, A)
        labels,
        num_frames,
        num_labels,
        blank=blank,
        reduction="sum",
        zero_infinity=True,
    )
