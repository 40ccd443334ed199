"""A bottleneck that learns after a transformer block which stays as it is.

Knows nothing of what is frozen.

Reference: Houlsby et al. 2019 (1902.00751); one a block, after the feed-forward network, norm first and with ReLU, as
in Bapna and Firat 2019 (1909.08478) and MMS (2305.13516), whose checkpoints have the same part.
"""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from audio_ssl.model.attention import bert_linear


class Adapter(nn.Module):
    """Layer norm, linear to the bottleneck, ReLU, linear back; what it gives is to be added to what it was given.

    It begins as nothing: the last layer starts at zero, so a network with fresh adapters is the network without.

    Args:
        dim: D.
        hidden_dim: of the bottleneck.
        layer_norm_eps: added to variances.
    """

    input_ranges: ClassVar = {"down": None, "up": None}  # not in int8: there are few products to win

    def __init__(self, dim: int, *, hidden_dim: int, layer_norm_eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=layer_norm_eps)
        self.down = bert_linear(dim, hidden_dim)
        self.up = nn.Linear(hidden_dim, dim)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        return self.up(F.relu(self.down(self.norm(x))))  # type: ignore[no-any-return]
