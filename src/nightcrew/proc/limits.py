"""What a program and all it starts may use together."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """The most a whole tree may use. 0 = no limit.

    `memory` in bytes, without swap; a tree that needs more is killed. `processes` counts threads too where the kernel
    holds it (cgroups), processes alone where `over` does. `cpu_weight` is as cgroup v2 counts it: 1..10000, 100 is
    everybody's; without cgroups it has no effect.
    """

    memory: int = 0
    processes: int = 0
    cpu_weight: int = 0

    def __bool__(self) -> bool:
        return bool(self.memory or self.processes or self.cpu_weight)

    def files(self) -> list[tuple[str, int]]:
        """What to write into which file of a cgroup, v2 and v1; those that a hierarchy does not have are for another.

        >>> Limits(processes=9, cpu_weight=50).files()
        [('pids.max', 9), ('cpu.weight', 50), ('cpu.shares', 512)]
        """
        found: list[tuple[str, int]] = []
        if self.memory:
            found += [("memory.max", self.memory), ("memory.swap.max", 0), ("memory.oom.group", 1)]
            found += [("memory.limit_in_bytes", self.memory), ("memory.memsw.limit_in_bytes", self.memory)]
        if self.processes:
            found += [("pids.max", self.processes)]
        if self.cpu_weight:
            found += [("cpu.weight", self.cpu_weight), ("cpu.shares", max(self.cpu_weight * 1024 // 100, 2))]
        return found
