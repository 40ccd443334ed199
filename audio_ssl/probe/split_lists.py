"""Which speakers of a corpus are held out: lists that were drawn once and come with the package, or a user's own.

A list decides, not the rule that made it: results of years can be compared only while nobody moves.
"""

from __future__ import annotations

from pathlib import Path

from audio_ssl.config.load import shipped_splits
from audio_ssl.config.probe import PARTS, Part
from audio_ssl.data.formats.sidecar_files import read_all_lines
from audio_ssl.data.table import listed
from audio_ssl.errors import ConfigError, ManifestError

_COLUMNS = ["speaker", "part"]


def find_list(name: str | Path) -> Path:
    """The file that ``name`` means: a path, or a list that comes with the package, such as ``speechocean762``.

    Raises:
        ConfigError: neither exists; the message names the shipped ones.
    """
    path, shipped = Path(name), shipped_splits()
    if path.is_file():
        return path
    if str(name) in shipped:
        return shipped[str(name)]
    raise ConfigError(
        f"{name} must be a list of held-out speakers: a file, or one of those that come with the package: "
        f"{', '.join(shipped)}"
    )


def read_list(path: Path) -> dict[str, Part]:
    """Part of each speaker.

    Lines that start with ``#`` are remarks; the first other line is a header whose columns are ``speaker``, ``part``
    and any more. Cells are parted by tabs.

    Raises:
        ManifestError: the file cannot be read, or holds lines of another kind; all in one message.
    """
    numbered = ((i, line.rstrip("\r")) for i, line in enumerate(read_all_lines(path), start=1))
    lines = [(i, line) for i, line in numbered if line.strip() and line[0] != "#"]
    header = lines[0][1].split("\t") if lines else []
    if header[: len(_COLUMNS)] != _COLUMNS:
        got = ", ".join(header) or "nothing"
        raise ManifestError(f"{path} must have a header with the columns {', '.join(_COLUMNS)} first, got {got}")
    parts: dict[str, Part] = {}
    faults = []
    for number, line in lines[1:]:
        speaker, *rest = line.split("\t")
        part = next((known for known in PARTS if rest and known == rest[0]), None)
        if part is None or speaker in parts or len(rest) + 1 != len(header):
            known = ", ".join(PARTS)
            faults.append(f"{path}:{number}: must name a speaker once, with one of {known}, got {[speaker, *rest]}")
        else:
            parts[speaker] = part
    if faults:
        raise ManifestError(listed(f"{path} must say for each speaker which part they are in", faults))
    return parts
