"""Learning rates as pure functions of the update number: a linear warm-up, then one of seven shapes."""

from __future__ import annotations

import math

from audio_ssl.config import OptimConfig

LEAST_EXPONENTIAL = 1e-3  # an exponential never reaches 0


def learning_rate(update: int, *, config: OptimConfig, num_updates: int) -> float:
    """The rate of update ``update`` (0-based).

    It rises in a line to ``lr``, which the last update of the warm-up has. From there on, with p from 0 to 1 over the
    updates that decay (1 at the last one) and f = ``final_scale``, the share of ``lr`` is

    - ``constant``: 1;
    - ``linear``: 1 - (1 - f) p;
    - ``polynomial``: f + (1 - f) (1 - p)^power, which is ``linear`` where ``power`` is 1;
    - ``cosine``: f + (1 - f) (1 + cos(pi p)) / 2;
    - ``tri_stage``: f^p, an exponential (wav2vec 2.0 fine-tuning: 10 % warm-up, 40 % hold, 50 % decay);
    - ``inverse_sqrt``: sqrt(warm-up / updates done), whatever the length of the run (fairseq's; 1706.03762 eq. 3);
    - ``wsd``: 1 until the last ``decay_share`` of the updates, then f + (1 - f) (1 - sqrt(p)) (warm-up, stable, decay:
      MiniCPM 2404.06395 section 4; the shape: 2405.18392 section 3, which finds it better than a line).

    ``hold_share`` keeps ``lr`` after the warm-up in ``linear``, ``polynomial``, ``cosine`` and ``tri_stage``.

    Args:
        update: number of updates done before this one.
        config: peak, shares and shape.
        num_updates: length of the run.

    Reference: wav2vec 2.0 (2006.11477) sections 4.2 and 4.3.
    """
    warmup = config.warmup_updates(num_updates)
    if update < warmup:
        return config.lr * (update + 1) / warmup
    if config.schedule == "inverse_sqrt":
        return config.lr * math.sqrt(warmup / (update + 1))
    first = warmup + round(config.hold_share * num_updates)  # to decay
    if config.schedule == "wsd":
        first = max(warmup, num_updates - max(1, round(config.decay_share * num_updates)))
    if update < first:
        return config.lr
    progress = min(1.0, (update - first + 1) / max(1, num_updates - first))
    return config.lr * _decay(progress, config)


def _decay(progress: float, config: OptimConfig) -> float:
    final = config.final_scale
    if config.schedule == "constant":
        return 1.0
    if config.schedule == "cosine":
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))
    if config.schedule == "tri_stage":
        return math.exp(progress * math.log(max(final, LEAST_EXPONENTIAL)))
    if config.schedule == "wsd":
        return final + (1 - final) * (1 - math.sqrt(progress))
    if config.schedule == "polynomial" and config.power != 1:
        return final + (1 - final) * math.pow(1 - progress, config.power)
    return 1 - (1 - final) * progress
