"""Memory of this process and of the machine, the limit of a container included. Linux; elsewhere what can be known."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def resident_bytes() -> tuple[int, int]:
    """Resident memory of this process: now, and the most so far."""
    status = _fields(Path("/proc/self/status"))
    if "VmRSS" in status:
        return status["VmRSS"] * 1024, status["VmHWM"] * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return most, most


def available_bytes() -> int | None:
    """What this process may still take before the machine or its container has none; None where that is not told."""
    left = [_cgroup_left(folder) for folder in _own_cgroups()]
    memory = _fields(Path("/proc/meminfo"))
    if "MemAvailable" in memory:
        left.append(memory["MemAvailable"] * 1024)
    return min((value for value in left if value is not None), default=None)


def _own_cgroups() -> list[Path]:
    """The control groups (v2, or v1's for memory) that this process is in: its own and those above it."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    folders: list[Path] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            top = _CGROUPS / controllers
            own = top / path.lstrip("/")
            # in a container the path is often that of the host, and the group itself is mounted at the top
            folders += [folder for folder in (own, *own.parents, top) if folder.is_relative_to(top)]
    return folders


def _cgroup_left(folder: Path) -> int | None:
    """Limit less use of one group; pages of files that are cached there can be given up."""
    for limit, used, cached in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            most = (folder / limit).read_text(encoding="ascii").strip()
            if most == "max":
                return None
            now = int((folder / used).read_text(encoding="ascii"))
            return int(most) - now + _fields(folder / "memory.stat").get(cached, 0)
        except (OSError, ValueError):
            continue
    return None


def _fields(path: Path) -> dict[str, int]:
    """Lines of a name and a number; others are left out."""
    try:
        words = [line.split() for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError:
        return {}
    return {line[0].rstrip(":"): int(line[1]) for line in words if len(line) > 1 and line[1].isdigit()}
