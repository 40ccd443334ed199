"""Limits of what is looked at before a recogniser is trained."""

from __future__ import annotations

from audio_ssl.config.section import NonNegative, NonNegativeCount, Positive, Probability, Section


class PreflightConfig(Section):
    """What is found over a ``refuse_`` limit keeps the run from starting, over a ``warn_`` limit it is a warning.

    What is below is only told. Shares are of the rows with a transcript; 1 switches a limit on a share off.
    """

    refuse_unusable_share: Probability = 0.1
    """Rows of ``data.train`` without a transcript, or with one that needs more frames than its audio has (of
    ``data.valid``: without a transcript). They are left out."""
    refuse_damaged_share: Probability = 0.1
    """Transcripts with control characters, characters that stand for lost ones, or read in a wrong encoding."""
    refuse_same_audio_share: Probability = 0.0
    """Rows of ``data.valid`` whose audio is in ``data.train``, too."""
    warn_odd_share: Probability = 0.0
    """Transcripts of one odd kind: digits, markup, other scripts, speech too fast or too slow ..."""
    warn_same_speaker_share: Probability = 0.0
    """Rows of ``data.valid`` whose speaker is in ``data.train``, too."""
    warn_same_text_share: Probability = 0.1
    """Rows of ``data.valid`` whose whole transcript is one of ``data.train``, too."""
    warn_labels_per_symbol: NonNegative = 50.0
    """Labels of ``data.train`` for each symbol of the vocabulary, on average, below which it is too large."""
    rate_deviations: Positive = 6.0
    """Speech is too fast or too slow where the logarithm of its characters a second is so many deviations (scaled
    median deviations) from the median of its language."""
    compared_files: NonNegativeCount = 100_000
    """Most files of ``data.train`` that are compared with those of ``data.valid`` byte by byte; 0: none."""
