"""What the machine says of itself, compared with what the system tells others, and recorded words of other systems."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from nightcrew.proc.machine import disks, limits, machine, meminfo, quotas, vm_stat

MB = 1 << 20
VM_STAT = """Mach Virtual Memory Statistics: (page size of 16384 bytes)
Pages free:                              100000.
Pages active:                            300000.
Pages inactive:                          200000.
Pages speculative:                         5000.
Pages throttled:                              0.
Pages wired down:                        150000.
Pages purgeable:                           1000.
"Translation faults":                  99999999.
Pages copy-on-write:                    1234567.
"""


def test_this_machine_is_seen_as_it_is(tmp_path: Path):
    seen = machine((tmp_path,))
    assert 0 < seen.memory_free <= seen.memory_total
    assert 1 <= seen.cores <= (os.cpu_count() or 1)
    assert 0 <= seen.load <= os.getloadavg()[0] + 10
    size, free = seen.disks[str(tmp_path)]
    told = shutil.disk_usage(tmp_path)
    assert size == told.total
    assert abs(free - told.free) < 1 << 30


def test_the_machine_is_looked_at_once_a_second_at_most(tmp_path: Path):
    first = machine((tmp_path,))
    assert machine((tmp_path,)) is first
    assert machine((tmp_path, tmp_path)) is not first


def test_folders_on_one_disk_are_named_once_and_missing_ones_not_at_all(tmp_path: Path):
    (tmp_path / "a").mkdir()
    assert list(disks([tmp_path, tmp_path / "a", tmp_path / "missing"])) == [str(tmp_path)]


def test_what_vm_stat_says_of_a_mac_is_read():
    assert vm_stat(VM_STAT) == 16384 * (100_000 + 200_000 + 5_000 + 1_000)
    assert vm_stat("no such thing") == 0


@pytest.mark.parametrize("text", ["", "MemTotal: lots\n", "\x00\xff"])
def test_what_the_system_does_not_say_is_nothing(text: str):
    assert meminfo(text) == (0, 0)


CGROUPS = {
    "v2": {"memory.max": f"{300 * MB}\n", "memory.current": f"{200 * MB}\n", "cpu.max": "50000 100000\n",
           "memory.stat": f"anon {100 * MB}\ninactive_file {60 * MB}\nactive_file {40 * MB}\n"},
    "v1": {"memory.limit_in_bytes": f"{300 * MB}\n", "memory.usage_in_bytes": f"{200 * MB}\n",
           "memory.stat": f"inactive_file 5\ntotal_inactive_file {60 * MB}\ntotal_active_file {40 * MB}\n",
           "cpu.cfs_quota_us": "50000\n", "cpu.cfs_period_us": "100000\n"},
    "v2 without limits": {"memory.max": "max\n", "memory.current": "5\n", "cpu.max": "max 100000\n"},
    "v1 without limits": {"memory.limit_in_bytes": "9223372036854771712\n", "memory.usage_in_bytes": "5\n",
                          "cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "100000\n"},
}  # fmt: skip


@pytest.mark.parametrize("kind", CGROUPS)
def test_what_a_cgroup_limits_is_read_whatever_its_version(tmp_path: Path, kind: str):
    for name, text in CGROUPS[kind].items():
        (tmp_path / name).write_text(text)
    folders = (str(tmp_path), str(tmp_path / "missing"))
    limited = "without" not in kind
    assert list(limits(folders)) == ([(300 * MB, 100 * MB)] if limited else [])
    assert list(quotas(folders)) == ([0.5] if limited else [])
