"""Watches who else uses this process's processors: read before and after timing, never in between."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from farm.devices import cgroups
from farm.devices.files import ROOT
from farm.devices.host import same_cores
from farm.measurement import Contention

_STAT = Path("/proc/stat")


@dataclass(frozen=True, kw_only=True)
class _Reading:
    wall_s: float
    own_s: float
    busy_s: float
    steal_s: float
    #: Of the processors that share cores with ours.
    beside_s: float
    #: By control group.
    held_back_s: Mapping[Path, float]


class ContentionWatch:
    """Watches from its making on, over the processors that this process may use."""

    def __init__(self, stat: Path = _STAT, root: Path = ROOT) -> None:
        self._stat = stat
        self._root = root
        self._processors = tuple(sorted(os.sched_getaffinity(0)))
        #: None where the kernel does not tell.
        self._beside = same_cores(self._processors, root)
        self._start = self._read()

    def read(self, ours_besides_s: float = 0.0) -> Contention | None:
        """What happened since; None where the kernel does not tell.

        Args:
            ours_besides_s: processor time that a process of ours beside this one took meanwhile.

        Other processes' time is what the processors were busy with (user, nice and system time of proc(5)'s
        `/proc/stat`) less what this process and ours beside it used. The kernel counts in ticks, mostly of 10 ms.
        """
        start, end = self._start, self._read()
        if start is None or end is None:
            return None
        busy_s, own_s = end.busy_s - start.busy_s, end.own_s - start.own_s + ours_besides_s
        return Contention(
            wall_s=end.wall_s - start.wall_s,
            processors=len(self._processors),
            others_s=max(0.0, busy_s - own_s),
            steal_s=max(0.0, end.steal_s - start.steal_s),
            beside_s=None if self._beside is None else max(0.0, end.beside_s - start.beside_s),
            held_back_s=_tightest(start.held_back_s, end.held_back_s),
        )

    def _read(self) -> _Reading | None:
        try:
            lines = (line.split() for line in self._stat.read_text().splitlines())
            ticks = {name: list(map(int, values)) for name, *values in lines if name.startswith("cpu")}
            ours = [ticks[f"cpu{number}"] for number in self._processors]
            beside = [ticks[f"cpu{number}"] for number in self._beside or () if f"cpu{number}" in ticks]
            busy, shared = _busy(ours), _busy(beside)
            steal = sum(values[7] for values in ours)
        except (OSError, ValueError, KeyError, IndexError):
            return None
        per_s = os.sysconf("SC_CLK_TCK")
        used = resource.getrusage(resource.RUSAGE_SELF)
        return _Reading(
            wall_s=time.perf_counter(),
            own_s=used.ru_utime + used.ru_stime,
            busy_s=busy / per_s,
            steal_s=steal / per_s,
            beside_s=shared / per_s,
            held_back_s=cgroups.held_back_s(self._root),
        )


def _busy(processors: Sequence[Sequence[int]]) -> int:
    """User, nice and system time in ticks."""
    return sum(user + nice + system for user, nice, system, *_ in processors)


def _tightest(start: Mapping[Path, float], end: Mapping[Path, float]) -> float | None:
    """What the group that was held back most was held back for; None where none tells."""
    grown = [end[group] - start[group] for group in start.keys() & end.keys()]
    return max(0.0, *grown) if grown else None
