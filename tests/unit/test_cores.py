"""How many cores may be kept busy under a container's limit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from songstarter.stages import cores
from songstarter.stages.cores import granted_cores, usable_cores

VERSION_2 = "0::/\n"
VERSION_1 = "5:cpuset:/\n4:cpu,cpuacct:/kubepods/pod7\n0::/\n"


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the place of the kernel's, in which this process is in the top group of version 2."""
    monkeypatch.setattr(cores, "GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(cores, "MEMBERSHIP", tmp_path / "membership")
    (tmp_path / "membership").write_text(VERSION_2)
    (tmp_path / "cgroup").mkdir()
    return tmp_path / "cgroup"


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


@pytest.mark.parametrize(
    ("limit", "granted"),
    [("max 100000", None), ("400000 100000", 4), ("350000 100000", 3), ("50000 100000", 1), ("nonsense", None)],
)
def test_a_limit_counts_in_whole_cores(groups: Path, limit: str, granted: int | None) -> None:
    write(groups, cpu__max=f"{limit}\n")
    assert granted_cores() == granted


def test_the_narrowest_of_the_groups_around_a_process_decides(groups: Path) -> None:
    (groups.parent / "membership").write_text("0::/a/b\n")
    write(groups / "a", cpu__max="300000 100000\n")
    write(groups / "a/b", cpu__max="max 100000\n")
    assert granted_cores() == 3


@pytest.mark.parametrize("place", ["cpu/kubepods/pod7", "cpu"])  # seen from outside, and from inside a container
def test_groups_of_version_1(groups: Path, place: str) -> None:
    (groups.parent / "membership").write_text(VERSION_1)
    write(groups / place, cpu__cfs_quota_us="200000\n", cpu__cfs_period_us="100000\n")
    assert granted_cores() == 2


def test_without_a_limit_every_core_may_be_used(groups: Path) -> None:
    write(groups / "cpu", cpu__cfs_quota_us="-1\n", cpu__cfs_period_us="100000\n")
    assert granted_cores() is None
    assert usable_cores() == len(os.sched_getaffinity(0))


def test_no_more_than_there_are(groups: Path) -> None:
    write(groups, cpu__max="6400000 100000\n")
    assert usable_cores() == len(os.sched_getaffinity(0))
