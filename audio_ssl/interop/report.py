"""What became of each tensor of a foreign checkpoint, by name; and the refusal that names all that did not fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from audio_ssl.errors import CheckpointError

_MAX_SHOWN = 20  # names of one sort in a message


@dataclass(frozen=True)
class KeyReport:
    """Every tensor of a conversion.

    Attributes:
        converted: name in the source -> name in the model read from it.
        missing: tensors of the model that the source lacks, under its names.
        unexpected: tensors of the source that are none of the model's.
        misshapen: tensors of another shape, with both shapes.
        filled: tensors that the source may lack (published models do), made here.
        kept: tensors of the source's system that no model needs: kept aside for the way back.
        guessed: settings that the source does not tell, with the value taken.
    """

    converted: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    misshapen: tuple[str, ...] = ()
    filled: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    guessed: tuple[str, ...] = ()

    def refuse_faults(self, source: Path) -> None:
        """Pass only a checkpoint that holds its model's tensors, whole and alone.

        Raises:
            CheckpointError: naming what is missing, unexpected or misshapen.
        """
        sorts = (("missing", self.missing), ("unexpected", self.unexpected), ("of another shape", self.misshapen))
        if not any(names for _, names in sorts):
            return
        lines = [f"  {len(self.converted) - len(self.misshapen)} tensors fit"]
        for sort, names in sorts:
            if names:
                lines.append(f"  {len(names)} {sort}:")
                lines += [f"    - {name}" for name in names[:_MAX_SHOWN]]
                lines += [f"    - and {len(names) - _MAX_SHOWN} more"] * (len(names) > _MAX_SHOWN)
        raise CheckpointError(
            f"{source} must hold the tensors of one wav2vec 2.0 or HuBERT model, whole and no others:\n"
            + "\n".join(lines)
            + "\n  Another architecture or a part of a checkpoint cannot be converted; settings that shapes do not "
            "tell can be given with --set"
        )
