"""From an embedding folder to a folder of units."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from audio_ssl.errors import ConfigError
from audio_ssl.inference.units.codebook import DOCUMENT_FILE, load_units, save_units
from audio_ssl.inference.units.kmeans import FitPlan, KMeans, KMeansSettings, plan_fit
from audio_ssl.inference.units.stored import StoredFrames

DISTANCE = "squared Euclidean, between frames as they are (not standardised, not reduced)"


@dataclass(frozen=True)
class UnitsFit:
    """A fit that is laid out.

    Attributes:
        stored: the frames.
        settings: of the fit.
        out: folder to be.
        plan: what will be read and held.
        is_present: whether ``out`` has these very units already.
    """

    stored: StoredFrames
    settings: KMeansSettings
    out: Path
    plan: FitPlan
    is_present: bool

    def run(
        self,
        *,
        on_read: Callable[[int], None] = lambda _: None,
        on_stage: Callable[[str, float], None] = lambda _, __: None,
    ) -> dict[str, Any]:
        """Fit and write.

        Args:
            on_read: called with the number of frames that were read.
            on_stage: called after a start or an epoch with its name and its squared distance a held-out frame.

        Returns:
            The figures, as in ``units.json``.

        Raises:
            ManifestError: frames that cannot be read, or are not finite; nothing is written.
            ConfigError: the place cannot be written.
        """
        fitted = KMeans(self.stored, self.settings, self.plan, on_read, on_stage).fit()
        document = {
            **self.stored.origin,
            **self.stored.notes,
            "distance": DISTANCE,
            "fit": fit_document(self.stored, self.settings),
            "figures": fitted.figures,
            "made_by": {name: version(name) for name in ("audio_ssl", "scikit-learn")},
        }
        save_units(self.out, fitted.centroids, document)
        return fitted.figures


def lay_out(stored: StoredFrames, settings: KMeansSettings, out: Path) -> UnitsFit:
    """Plan a fit, and see whether its place is free.

    Raises:
        ConfigError: fewer frames than clusters, or ``out`` holds something else.
        CheckpointError: ``out`` holds units that cannot be read.
    """
    return UnitsFit(
        stored, settings, out, plan_fit(stored.num_frames, stored.dim, settings), _is_there(out, stored, settings)
    )


def frames_wanted(text: str, total: int) -> int | None:
    """Read ``--frames``: a number, a share such as ``10%``, or ``all`` (None).

    Args:
        text: as typed.
        total: frames of the folder.

    Raises:
        ConfigError: none of these.
    """
    if text.strip().lower() == "all":
        return None
    try:
        share = text.strip().removesuffix("%")
        number = float(share) / 100 * total if share != text.strip() else int(share)
    except ValueError:
        number = 0
    if not 1 <= number < float("inf") or (number > total and share != text.strip()):
        raise ConfigError(f"--frames must be a number of frames >= 1, a share up to 100%, or all, got {text!r}")
    return int(number)


def fit_document(stored: StoredFrames, settings: KMeansSettings) -> dict[str, Any]:
    """What decides on the centroids beside the frames' origin."""
    names = hashlib.blake2b(digest_size=8)
    for name, count in zip(stored.ids, stored.num_frames.tolist(), strict=True):
        names.update(f"{name}\0{count}\n".encode("utf-8", "surrogateescape"))
    return {
        **asdict(settings),
        "utterances": len(stored.ids),
        "utterances_hash": names.hexdigest(),
        "frames": int(stored.num_frames.sum()),
    }


def _is_there(out: Path, stored: StoredFrames, settings: KMeansSettings) -> bool:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if not (out / DOCUMENT_FILE).is_file():
        held = "a file" if out.is_file() else ", ".join(sorted(path.name for path in out.iterdir())[:3])
        raise ConfigError(f"OUT must be a folder that is absent or empty, {out} holds {held}; choose another")
    there = load_units(out).document
    known = {**{key: there[key] for key in stored.origin}, **there["fit"]}
    wanted = {**stored.origin, **fit_document(stored, settings)}
    faults = [
        f"{key} is {known.get(key)!r}, now it is {wanted[key]!r}" for key in wanted if known.get(key) != wanted[key]
    ]
    if faults:
        raise ConfigError(
            f"{out} holds units fitted otherwise: {'; '.join(faults)}. Choose another folder, or remove this one"
        )
    return True
