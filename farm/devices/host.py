"""What the kernel tells of a host and of the measuring processes on it, without torch."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from farm.devices.files import ROOT, KernelFile, number, text
from farm.devices.rapl import Rapl
from farm.devices.readings import Reading
from farm.errors import Unsupported
from farm.measurement import Hardware

#: Drivers that tell a processor's temperature (hwmon), and thermal zones where there is none of them.
_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "soc_thermal")
_ZONES = ("x86_pkg_temp", "cpu-thermal", "cpu_thermal", "soc-thermal")
_PRESSURES = ("cpu", "memory", "io")


def hardware(processors: Sequence[int], root: Path = ROOT) -> Hardware:
    """What the host says of these processors' frequencies; of several kinds, the fastest."""
    return Hardware(
        base_hz=_fastest(processors, "base_frequency", root),
        highest_hz=_fastest(processors, "cpuinfo_max_freq", root),
        shown_hz=_shown_hz(text(root / "proc/cpuinfo") or ""),
    )


def same_cores(processors: Sequence[int], root: Path = ROOT) -> frozenset[int] | None:
    """The other processors of these ones' cores (SMT), without themselves; None where the kernel does not tell."""
    folder = root / "sys/devices/system/cpu"
    told = [text(folder / f"cpu{number}/topology/thread_siblings_list") for number in processors]
    try:
        found = {number for listed in told if listed for part in listed.split(",") for number in _range(part)}
    except ValueError:
        return None
    return frozenset(found - set(processors)) if any(told) else None


class HostSource:
    """The host, as /proc and /sys tell it; everything is opened once.

    Gauges: `rss_bytes` of the measuring processes, `frequency_hz` of the fastest of the processors,
    `temperature_c` of the hottest sensor. Counters: `cpu_s` of the measuring processes, `others_s` and `steal_s`
    of the processors, `pressure_{cpu,memory,io}_s` (time in which some task waited for it), `energy_j` of the
    packages.

    Args:
        processors: what the measuring process may use.
        root: where /proc and /sys are.
    """

    def __init__(self, processors: Sequence[int], root: Path = ROOT) -> None:
        self.facts: Mapping[str, float] = {}
        self.missing: dict[str, str] = {}
        self._held = contextlib.ExitStack()
        self._per_s = os.sysconf("SC_CLK_TCK")
        self._names = {f"cpu{number}" for number in processors}
        self._processes = _Processes(root / "proc")
        self._stat = self._opened("others_s", [root / "proc/stat"])
        self._pressures = {
            f"pressure_{name}_s": self._opened(f"pressure_{name}_s", [root / "proc/pressure" / name])
            for name in _PRESSURES
        }
        self._frequencies = self._opened(
            "frequency_hz", [_cpufreq(root, number) / "scaling_cur_freq" for number in processors]
        )
        self._cpuinfo = [] if self._frequencies else self._opened("frequency_hz", [root / "proc/cpuinfo"])
        if self._frequency_hz() is None:
            self.missing["frequency_hz"] = "this host does not tell"
        self._sensors = self._opened("temperature_c", _temperatures(root / "sys/class"))
        self._rapl = self._energy(root)

    def read(self, pid: int) -> Reading:
        """What is so now."""
        rss_bytes, cpu_s = self._processes.read(pid)
        gauges = {
            "rss_bytes": rss_bytes,
            "frequency_hz": self._frequency_hz(),
            "temperature_c": _highest(self._sensors, 1e-3),
        }
        counters = {"cpu_s": cpu_s, **dict(self._accounts(cpu_s)), **dict(self._waits())}
        if self._rapl is not None:
            counters["energy_j"] = self._rapl.read()
        return Reading(gauges=_known(gauges), counters=_known(counters))

    def close(self) -> None:
        """Closes every file."""
        self._held.close()

    def _opened(self, name: str, paths: Iterable[Path]) -> list[KernelFile]:
        """Those that can be opened; where none can, that quantity is missing."""
        files = []
        for path in paths:
            with contextlib.suppress(OSError):
                files.append(self._held.enter_context(KernelFile(path)))
        if files:
            self.missing.pop(name, None)
        else:
            self.missing[name] = "this host does not tell"
        return files

    def _energy(self, root: Path) -> Rapl | None:
        try:
            rapl = Rapl(root)
        except Unsupported as error:
            self.missing["energy_j"] = str(error)
            return None
        self._held.callback(rapl.close)
        return rapl

    def _frequency_hz(self) -> float | None:
        if self._frequencies:
            return _highest(self._frequencies, 1e3)
        return _shown_hz(self._cpuinfo[0].text()) if self._cpuinfo else None

    def _accounts(self, own_s: float | None) -> Iterator[tuple[str, float]]:
        """Time of the processors that others had, and that the hypervisor gave to other machines (proc(5))."""
        lines = [line.split() for file in self._stat for line in file.text().splitlines()]
        ours = [[float(tick) / self._per_s for tick in ticks] for name, *ticks in lines if name in self._names]
        if ours and own_s is not None:
            yield "others_s", sum(user + nice + system for user, nice, system, *_ in ours) - own_s
            yield "steal_s", sum(ticks[7] for ticks in ours)

    def _waits(self) -> Iterator[tuple[str, float]]:
        for name, files in self._pressures.items():
            for word in (word for file in files for word in file.text().partition("\n")[0].split()):
                if word.startswith("total="):
                    yield name, float(word.removeprefix("total=")) / 1e6


class _Processes:
    """The processes of one session, found among all others by looking at each process once."""

    def __init__(self, proc: Path) -> None:
        self._proc = proc
        self._seen: set[str] = set()
        self._ours: set[str] = set()
        self._used_s: dict[str, float] = {}
        self._per_s = os.sysconf("SC_CLK_TCK")
        self._page = os.sysconf("SC_PAGE_SIZE")

    def read(self, pid: int) -> tuple[float | None, float | None]:
        """Their resident memory, and the processor time that they and those gone by now used; None without any."""
        self._find(str(pid))
        resident = 0.0
        for name in self._ours:
            stat = self._stat(name)
            if stat is not None:
                # fields 14 and 15 of proc(5), user and system time, and 24, resident pages
                self._used_s[name] = (int(stat[11]) + int(stat[12])) / self._per_s
                resident += int(stat[21]) * self._page
        if not self._used_s:
            return None, None
        # One that has ended and waits to be reaped has no memory any more.
        return resident or None, sum(self._used_s.values())

    def _find(self, leader: str) -> None:
        there = {entry.name for entry in os.scandir(self._proc) if entry.name.isdigit()}
        self._ours = (self._ours & there) | ({leader} & there)
        for name in sorted(there - self._seen, key=int):
            stat = self._stat(name)
            # Field 6 is the session; a child that began one of its own is known by its parent.
            if stat is not None and (stat[3] == leader or stat[1] in self._ours):
                self._ours.add(name)
        self._seen = there

    def _stat(self, name: str) -> list[str] | None:
        """The fields of `/proc/PID/stat` after the program's name, which may hold anything."""
        found = text(self._proc / name / "stat")
        return None if not found else found.rpartition(")")[2].split()


def _cpufreq(root: Path, processor: int) -> Path:
    return root / f"sys/devices/system/cpu/cpu{processor}/cpufreq"


def _range(part: str) -> range:
    """`3` or `0-3`, as the kernel lists processors."""
    first, _, last = part.partition("-")
    return range(int(first), int(last or first) + 1)


def _temperatures(classes: Path) -> list[Path]:
    sensors = [
        path
        for folder in sorted((classes / "hwmon").glob("hwmon*"))
        if text(folder / "name") in _SENSORS
        for path in sorted(folder.glob("temp*_input"))
    ]
    zones = sorted((classes / "thermal").glob("thermal_zone*"))
    return sensors or [zone / "temp" for zone in zones if text(zone / "type") in _ZONES]


def _fastest(processors: Sequence[int], name: str, root: Path) -> float | None:
    """A frequency in hertz from the kernel's kilohertz."""
    found = [khz for processor in processors if (khz := number(_cpufreq(root, processor) / name)) is not None]
    return max(found) * 1e3 if found else None


def _shown_hz(cpuinfo: str) -> float | None:
    """The highest frequency that `/proc/cpuinfo` shows."""
    pairs = (line.partition(":") for line in cpuinfo.splitlines())
    found = [float(value) for key, _, value in pairs if key.strip() == "cpu MHz"]
    return max(found) * 1e6 if found else None


def _highest(files: Sequence[KernelFile], scale: float) -> float | None:
    values = [value for file in files if (value := file.number()) is not None]
    return max(values) * scale if values else None


def _known(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None}
