"""Log-probabilities to text: greedy, or a beam search with a lexicon, a language model and hot words.

:func:`build_decoder` makes the decoder that a :class:`DecodeSettings` describes;
:func:`decode_all` runs many utterances.
"""

from audio_ssl.inference.decoding.build import build_decoder, decode_all
from audio_ssl.inference.decoding.greedy import GreedyDecoder
from audio_ssl.inference.decoding.settings import (
    Decoder,
    DecodeSettings,
    HotWord,
    Hypothesis,
    LogProbs,
    read_settings,
    write_settings,
)

__all__ = [
    "DecodeSettings", "Decoder", "GreedyDecoder", "HotWord", "Hypothesis", "LogProbs",
    "build_decoder", "decode_all", "read_settings", "write_settings",
]  # fmt: skip
