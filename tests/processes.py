"""What runs on this machine."""

from __future__ import annotations

from pathlib import Path


def descendants(pid: int) -> dict[int, str]:
    """The processes below `pid` and their command lines."""
    parents, names = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
                names[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
            except (FileNotFoundError, ProcessLookupError):
                continue
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    below, grown = {pid}, True
    while grown:
        new = {child for child, parent in parents.items() if parent in below} - below
        below, grown = below | new, bool(new)
    return {child: names[child] for child in below - {pid} if child in names}


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not reaped has no command line."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except (FileNotFoundError, ProcessLookupError):
        return False
