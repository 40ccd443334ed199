"""A convolution over neighbouring frames inside a block, beside the attention over all of them.

Knows nothing of residuals, of the norm that stands before or after it, or of positions.

Reference: Conformer (2005.08100) section 2.2 and figure 2.
"""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from audio_ssl.model.attention import bert_linear
from audio_ssl.model.conv import depthwise_over_time
from audio_ssl.model.int8 import AFTER_SILU
from audio_ssl.model.padding import blank


class LocalConv(nn.Module):
    """Linear to twice the width, GLU, depthwise conv over time, layer norm, SiLU, linear.

    Deviates from Conformer: layer norm where it has batch norm, whose statistics hang on the rows beside. Linear
    layers start as all of the blocks', the conv as those of the feature encoder, which is how transformers draws both.

    Args:
        dim: D.
        kernel: K, frames, odd; a frame sees (K - 1) / 2 on either side, and zeros where the row has none.
        layer_norm_eps: added to variances.
    """

    input_ranges: ClassVar = {"output": AFTER_SILU}

    def __init__(self, dim: int, *, kernel: int, layer_norm_eps: float) -> None:
        super().__init__()
        self.inner = bert_linear(dim, 2 * dim)
        self.depthwise = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=dim)
        nn.init.kaiming_normal_(self.depthwise.weight)
        assert self.depthwise.bias is not None
        nn.init.zeros_(self.depthwise.bias)
        self.norm = nn.LayerNorm(dim, eps=layer_norm_eps)
        self.output = bert_linear(dim, dim)

    def forward(self, x: Tensor, attends: Tensor | None) -> Tensor:
        """Mix neighbours.

        Args:
            x: (B, T, D).
            attends: (B, 1, 1, T) bool, as attention has it: True on the frames of a row (on all, where it has none).

        Returns:
            (B, T, D); beyond a row's frames anything.
        """
        x = F.glu(self.inner(x), dim=-1)  # (B, T, 2 * D) -> (B, T, D)
        x = blank(x, None if attends is None else ~attends[:, 0, 0, :, None])
        x = depthwise_over_time(x, self.depthwise.weight, self.depthwise.bias)
        return self.output(F.silu(self.norm(x)))  # type: ignore[no-any-return]
