"""What a run watches in its own figures, and when it warns, goes back or stops."""

from __future__ import annotations

from pydantic import model_validator

from audio_ssl.config.section import Count, NonNegative, NonNegativeCount, Probability, Section


class GuardConfig(Section):
    """Guards of a run: ``docs/runbook.md`` says what each one means and what to do. 0 switches a guard off.

    Each looks at figures of rows of metrics (``run.log_every``); counts are of updates.
    """

    chance_warn_updates: NonNegativeCount = 2000
    """Updates after the warm-up that the loss of pre-training may be at chance before a warning."""
    chance_stop_updates: NonNegativeCount = 10_000
    """The same, before the run stops."""
    blank_warn_share: Probability = 0.2
    """Share of a recogniser's updates, of those after the warm-up and the last thaw, that it may answer nothing but
    blanks before a warning."""
    blank_stop_share: Probability = 0.6
    """The same, before the run stops."""
    max_accuracy: Probability = 0.99
    """Contrastive accuracy from which the task counts as trivial."""
    min_codes: NonNegative = 1.5
    """Perplexity of a codebook group below which it counts as collapsed."""
    collapse_updates: Count = 500
    """The run warns at the first row beyond one of these two, and where a recogniser falls back to nothing but blanks;
    it stops after so many updates in a row."""

    nonfinite_in_a_row: NonNegativeCount = 10
    """Updates in a row with a gradient that is not finite that stop the run."""
    nonfinite_budget: NonNegativeCount = 50
    """Such updates among about the last ``nonfinite_window_updates`` that stop the run."""
    nonfinite_window_updates: Count = 1000
    max_dumps: NonNegativeCount = 20
    """Such updates that are written down in the run folder's ``dumps/``, to be replayed."""

    skip_grad_factor: NonNegative = 30.0
    """An update whose gradient norm is over this multiple of its running mean is skipped; above 1, or 0."""
    spike_mads: NonNegative = 6.0
    """A loss is a spike this many median absolute deviations (scaled to a standard deviation) over the median, ..."""
    spike_share: NonNegative = 0.05
    """... and this share of the median over it; two in a row roll the run back."""
    spike_updates: Count = 20
    """Updates whose mean loss is judged; a row of metrics where that is longer."""
    max_rollbacks: NonNegativeCount = 3
    """Times that a run goes back to its last good checkpoint; the next spike stops it."""

    max_data_wait_share: Probability = 0.3
    """Share of the time spent waiting for data from which the run warns."""

    @model_validator(mode="after")
    def _check_limits(self) -> GuardConfig:
        faults = []
        if 0 < self.skip_grad_factor <= 1:
            faults.append(f"skip_grad_factor must be > 1, or 0 for none, got {self.skip_grad_factor:g}")
        if 0 < self.chance_stop_updates < self.chance_warn_updates:
            faults.append(
                "chance_warn_updates must be <= chance_stop_updates, got "
                f"{self.chance_warn_updates} and {self.chance_stop_updates}"
            )
        if 0 < self.blank_stop_share < self.blank_warn_share:
            faults.append(
                "blank_warn_share must be <= blank_stop_share, got "
                f"{self.blank_warn_share:g} and {self.blank_stop_share:g}"
            )
        if faults:
            raise ValueError("; ".join(faults))
        return self
