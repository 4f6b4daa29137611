"""How many cores this process may keep busy: those it may run on, or fewer where it is granted less of them.

A container's limit is a share of time on all cores. Threads that spin at their meetings on more cores than that use it
up before their work is done, and the kernel then stops every one of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
NO_LIMIT = ("max", "-1")


def usable_cores() -> int:
    present = len(os.sched_getaffinity(0))
    return min(present, granted_cores() or present)


def granted_cores() -> int | None:
    """The whole cores, at least one, that this process's control groups grant; None without a limit."""
    return min((max(1, int(share)) for share in _shares()), default=None)


def _shares() -> Iterator[float]:
    """The cores' worth of time of each control group around this process that has a limit."""
    for folder in _groups():
        try:
            quota, period = _limit(folder)
            if quota not in NO_LIMIT:
                yield int(quota) / int(period)
        except (OSError, ValueError):  # no limit is kept there, or none that we know how to read
            continue


def _limit(folder: Path) -> tuple[str, str]:
    """Microseconds of time in each period, as the two versions of control groups write them."""
    if (limit := folder / "cpu.max").is_file():
        quota, period = limit.read_text().split()
        return quota, period
    return (folder / "cpu.cfs_quota_us").read_text().strip(), (folder / "cpu.cfs_period_us").read_text().strip()


def _groups() -> Iterator[Path]:
    """The folders of the groups that share out time, from the innermost; in a container the top one is its own."""
    for line in MEMBERSHIP.read_text().splitlines() if MEMBERSHIP.is_file() else []:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = GROUPS / "cpu" if controllers else GROUPS
        inner = Path(path.lstrip("/"))
        yield from (top / part for part in (inner, *inner.parents))
