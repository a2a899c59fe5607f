"""What on this host makes numbers worse than they need be, what it does to them, and what mends it (pure).

Each check looks at one thing in /proc and /sys, opened anew: it is asked once, before anything is measured.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from farm.devices import cgroups
from farm.devices.files import ROOT, number, text
from farm.devices.nvml import GpuState
from farm.devices.rapl import Rapl
from farm.errors import Unsupported
from farm.measurement import GpuFacts

_CPU = "sys/devices/system/cpu"

#: Others may have so much before a measurement suffers: share of the processors, of the time, of stolen time.
_LOAD_SHARE, _PRESSURE_PERCENT, _STEAL_SHARE = 0.1, 5.0, 0.01
#: Less is too little for a large model, or for anything.
_MEMORY_LITTLE, _MEMORY_TOO_LITTLE = 4 << 30, 1.5 * (1 << 30)
_SWAPPY = 10
_GIB = 1 << 30


class Level(StrEnum):
    """How much a finding matters."""

    OK = "ok"
    #: Numbers are right and could be better, or something cannot be told.
    NOTE = "note"
    #: Numbers will be worse.
    WARNING = "warning"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check found."""

    check: str
    level: Level
    found: str
    #: What that does to numbers; empty where all is well.
    effect: str = ""
    #: The command that mends it, or what to do; empty where there is nothing to do.
    mend: str = ""


@dataclass(frozen=True, kw_only=True)
class Host:
    """The host as the checks see it."""

    #: Processors that this process may use.
    processors: tuple[int, ...]
    #: Where processes that build and measure write and run what they compile.
    scratch: Path
    root: Path = ROOT
    gpus: tuple[GpuState, ...] = ()
    #: Names of programs and libraries that were looked for and are there.
    tools: frozenset[str] = field(default_factory=frozenset)

    def text(self, path: str) -> str | None:
        """A file of /proc or /sys; None where it cannot be read."""
        return text(self.root / path)

    def number(self, path: str) -> float | None:
        """The same, of a file that holds one number."""
        return number(self.root / path)


#: What the checks want to know about: C++ compilers, any of them, and the allocator.
COMPILERS = ("c++", "g++", "clang++")
JEMALLOC = "jemalloc"


def examine(host: Host) -> list[Finding]:
    """What every check found, the ones that matter first."""
    found = [finding for check in CHECKS for finding in check(host)]
    return sorted(found, key=lambda finding: -list(Level).index(finding.level))


def is_busy(findings: list[Finding]) -> bool:
    """Whether others use the host now, so that what is measured meanwhile is theirs, too."""
    busy = ("load", "pressure", "steal")
    return any(finding.check in busy and finding.level is Level.WARNING for finding in findings)


def usable(host: Host) -> tuple[int, ...]:
    """The processors that jobs can keep busy: where there is less time than processors, as many as it is for."""
    allowed = cgroups.processors(host.root)
    return host.processors if allowed is None else host.processors[: max(1, int(allowed))]


def governor(host: Host) -> Iterator[Finding]:
    """Who decides on the processors' frequency."""
    paths = [f"{_CPU}/cpu{number}/cpufreq/scaling_governor" for number in host.processors]
    found = sorted({governor for path in paths if (governor := host.text(path))})
    if not found:
        yield _ok("governor", "not shown by this host, as in most virtual machines")
    elif found == ["performance"]:
        yield _ok("governor", "performance")
    else:
        yield _warning(
            "governor",
            ", ".join(found),
            "the frequency follows the load: first calls are slow, and short ones vary",
            "sudo cpupower frequency-set -g performance",
        )


def boost(host: Host) -> Iterator[Finding]:
    """Turbo: frequencies above the base, as long as heat and power allow."""
    idle, active = host.number(f"{_CPU}/intel_pstate/no_turbo"), host.number(f"{_CPU}/cpufreq/boost")
    if idle is None and active is None:
        yield _ok("boost", "not shown by this host")
    elif idle == 1 or (idle is None and active == 0):
        yield _ok("boost", "off")
    else:
        switch = f"echo 0 | sudo tee /{_CPU}/cpufreq/boost"
        yield _note(
            "boost",
            "on",
            "frequency depends on heat and on how many processors work: times vary, paired speed-ups hardly",
            switch if idle is None else f"echo 1 | sudo tee /{_CPU}/intel_pstate/no_turbo",
        )


def smt(host: Host) -> Iterator[Finding]:
    """Two processors that are one core."""
    if host.number(f"{_CPU}/smt/active") == 1:
        yield _note(
            "smt",
            "two processors share a core",
            "jobs on the two halves of a core slow each other, and threads beyond the cores gain little",
            f"echo off | sudo tee /{_CPU}/smt/control",
        )
    else:
        yield _ok("smt", "every processor is a core of its own, as far as this host shows")


def swap(host: Host) -> Iterator[Finding]:
    """Memory on a disk."""
    areas = [line.split() for line in (host.text("proc/swaps") or "").splitlines()[1:]]
    used_bytes = sum(int(area[3]) for area in areas) * 1024
    swappiness = host.number("proc/sys/vm/swappiness")
    if used_bytes:
        yield _warning(
            "swap",
            f"{used_bytes / _GIB:.2f} GiB in use",
            "a page that comes back from the disk costs as much as many calls, and peak memory is told too low",
            "sudo swapoff -a",
        )
    elif areas and swappiness is not None and swappiness > _SWAPPY:
        yield _note(
            "swap",
            f"there and unused, swappiness {swappiness:.0f}",
            "what a model has loaded may be written out while it is measured",
            "sudo sysctl vm.swappiness=1",
        )
    else:
        yield _ok("swap", "unused" if areas else "none")


def load(host: Host) -> Iterator[Finding]:
    """Processes that run or wait for a processor, over the last minute."""
    found = (host.text("proc/loadavg") or "").split()
    if not found:
        yield _untold("load")
        return
    # It is the whole host's, of which a container may have a few processors.
    there = max(len(host.processors), len(re.findall(r"^cpu\d", host.text("proc/stat") or "", re.MULTILINE)))
    running, allowed = float(found[0]), max(0.5, _LOAD_SHARE * there)
    if running > allowed:
        yield _warning(
            "load",
            f"{running:.2f} processes ran in the last minute, on {there} processors",
            "measurements become SUSPECT or INVALID (contaminated)",
            "end what else runs here, or wait: top",
        )
    else:
        yield _ok("load", f"{running:.2f}")


def pressure(host: Host) -> Iterator[Finding]:
    """How much of the last ten seconds somebody waited for a processor (PSI)."""
    found = re.match(r"some avg10=([\d.]+)", host.text("proc/pressure/cpu") or "")
    if found is None:
        yield _untold("pressure")
    elif float(found[1]) > _PRESSURE_PERCENT:
        yield _warning(
            "pressure",
            f"in {float(found[1]):.0f} % of the time somebody waited for a processor",
            "measurements become SUSPECT or INVALID (contaminated)",
            "end what else runs here, or wait: top",
        )
    else:
        yield _ok("pressure", f"{float(found[1]):.0f} %")


def steal(host: Host) -> Iterator[Finding]:
    """Time that the hypervisor gave to other machines, since this one was started."""
    ticks = [float(tick) for tick in (host.text("proc/stat") or "").partition("\n")[0].split()[1:9]]
    if len(ticks) < 8 or not sum(ticks):
        yield _untold("steal")
        return
    busy, stolen = sum(ticks) - ticks[3] - ticks[4], ticks[7]
    share = stolen / busy if busy else 0.0
    if share > _STEAL_SHARE:
        yield _warning(
            "steal",
            f"{share:.1%} of the busy time went to other machines of the hypervisor",
            "times vary with neighbours that nobody here can see",
            "use a host, or a kind of instance, with processors of its own",
        )
    else:
        yield _ok("steal", f"{share:.1%} of the busy time")


def energy(host: Host) -> Iterator[Finding]:
    """The processor's energy counter."""
    try:
        Rapl(host.root).close()
        yield _ok("energy", "counted by the processor (RAPL)")
    except Unsupported as error:
        _, _, mend = str(error).partition(": ")
        yield _note("energy", str(error).partition(": ")[0], "energy and power of the CPU stay empty", mend)


def huge_pages(host: Host) -> Iterator[Finding]:
    """Transparent huge pages."""
    path = "sys/kernel/mm/transparent_hugepage/enabled"
    found = re.search(r"\[(\w+)\]", host.text(path) or "")
    if found is None or found[1] == "madvise":
        yield _ok("huge_pages", "madvise" if found else "not shown by this host")
    else:
        effects = {
            "always": "memory is told in steps of 2 MiB, and the kernel may move pages while calls are timed",
            "never": "large tensors miss the address cache more often than where madvise is set",
        }
        yield _note("huge_pages", found[1], effects.get(found[1], ""), f"echo madvise | sudo tee /{path}")


def virtualization(host: Host) -> Iterator[Finding]:
    """A machine that is a program on another one."""
    if re.search(r"^flags\s*:.*\bhypervisor\b", host.text("proc/cpuinfo") or "", re.MULTILINE):
        yield _note(
            "virtualization",
            "a virtual machine",
            "frequency, heat and energy are not to be seen; neighbours show as steal at best",
            "trust paired speed-ups more than times",
        )
    else:
        yield _ok("virtualization", "none that shows")


def quota(host: Host) -> Iterator[Finding]:
    """A container's limit on processor time."""
    allowed = cgroups.processors(host.root)
    if allowed is not None and allowed < len(host.processors):
        yield _warning(
            "quota",
            f"processor time of {allowed:g} processors, spread over {len(host.processors)}",
            "the kernel stops all threads for the rest of each 0.1 s once it is used up: calls vary wildly",
            "give processors instead of time (docker run --cpuset-cpus=0-3, not --cpus=4), or let jobs take less: "
            f"--threads {len(usable(host))}",
        )
    else:
        yield _ok("quota", "none below the processors")


def memory(host: Host) -> Iterator[Finding]:
    """Memory that is free for a measurement and its live control."""
    found = re.search(r"^MemAvailable:\s*(\d+)", host.text("proc/meminfo") or "", re.MULTILINE)
    if found is None:
        yield _untold("memory")
        return
    left_bytes = cgroups.memory_bytes(host.root)
    free_bytes = min(float(found[1]) * 1024, math.inf if left_bytes is None else left_bytes)
    if free_bytes >= _MEMORY_LITTLE:
        yield _ok("memory", f"{free_bytes / _GIB:.1f} GiB")
        return
    make = _warning if free_bytes < _MEMORY_TOO_LITTLE else _note
    yield make(
        "memory",
        f"{free_bytes / _GIB:.1f} GiB to be had",
        "large batches run out of memory, and so may a cell beside its live control",
        "end what else runs here, raise the container's limit, or --set paired=false",
    )


def scratch(host: Host) -> Iterator[Finding]:
    """Where compiled models are written and run."""
    point, kind, options = _mount(host)
    if "noexec" in options:
        yield _warning(
            "scratch",
            f"{host.scratch} is mounted noexec",
            "what is compiled there cannot be loaded: compile and others fail",
            f"set FARM_DATA_DIR elsewhere, or: sudo mount -o remount,exec {point}",
        )
    elif kind == "tmpfs":
        yield _note(
            "scratch",
            f"{host.scratch} is in memory (tmpfs)",
            "artifacts take the memory that models need, and are gone after a restart",
            "set FARM_DATA_DIR to a disk",
        )
    else:
        yield _ok("scratch", f"{host.scratch} ({kind or 'file system not shown'})")


def _mount(host: Host) -> tuple[str, str, list[str]]:
    """Mount point, kind and options of the scratch folder's file system; of several mounts there, the last."""
    lines = [line.split() for line in (host.text("proc/mounts") or "").splitlines()]
    on = [line for line in lines if len(line) > 3 and host.scratch.is_relative_to(line[1])]
    found = max(reversed(on), key=lambda line: len(line[1]), default=None)
    return ("", "", []) if found is None else (found[1], found[2], found[3].split(","))


def tools(host: Host) -> Iterator[Finding]:
    """What some recipes need."""
    if any(name in host.tools for name in COMPILERS):
        yield _ok("compiler", "there")
    else:
        yield _note("compiler", "none", "compile is unsupported here", "sudo apt-get install g++")
    if JEMALLOC in host.tools:
        yield _ok("jemalloc", "there")
    else:
        yield _note("jemalloc", "none", "jemalloc is unsupported here", "sudo apt-get install libjemalloc2")


def graphics(host: Host) -> Iterator[Finding]:
    """GPUs: what they are; and those that go to sleep, that others use, or that take one process only."""
    for gpu in host.gpus:
        if gpu.processes:
            yield _warning(
                gpu.uuid,
                f"{gpu.processes} processes use {gpu.name}",
                "measurements become SUSPECT or INVALID (contaminated), and there is less memory",
                "end them: nvidia-smi --query-compute-apps=pid,name --format=csv",
            )
        if gpu.is_persistent is False:
            yield _note(
                gpu.uuid,
                f"persistence mode of {gpu.name} is off",
                "the driver starts anew for every process: loading takes seconds longer, and clocks are forgotten",
                f"sudo nvidia-smi -i {gpu.uuid} -pm 1",
            )
        if gpu.facts.compute_mode not in (None, "default"):
            yield _warning(
                gpu.uuid,
                f"compute mode of {gpu.name} is {gpu.facts.compute_mode}",
                "a cell and its live control are two processes on one GPU: nothing paired can be measured",
                f"sudo nvidia-smi -i {gpu.facts.part_of or gpu.uuid} -c DEFAULT",
            )
        yield _ok(gpu.uuid, f"{gpu.name}: {_described(gpu.facts)}")


def _described(gpu: GpuFacts) -> str:
    """What the driver says of a GPU, in a few words."""
    told = {
        "compute capability": _with_unit(gpu.compute_capability),
        "memory": _with_unit(gpu.memory_bytes, _GIB, " GiB"),
        "power limit": _with_unit(gpu.power_limit_w, 1, " W"),
        "application clock": _with_unit(gpu.sm_set_hz, 1e6, " MHz"),
    }
    part = [] if gpu.part_of is None else [f"a slice of {gpu.part_of}"]
    return ", ".join([*(f"{name} {value}" for name, value in told.items()), *part])


def _with_unit(value: float | None, unit: float = 1, name: str = "") -> str:
    return "unknown" if value is None else f"{value / unit:g}{name}"


#: Every check, in the order in which findings of one level are shown.
CHECKS: tuple[Callable[[Host], Iterator[Finding]], ...] = (
    load,
    pressure,
    steal,
    quota,
    governor,
    boost,
    smt,
    swap,
    memory,
    huge_pages,
    virtualization,
    energy,
    scratch,
    tools,
    graphics,
)


def _ok(check: str, found: str) -> Finding:
    return Finding(check=check, level=Level.OK, found=found)


def _untold(check: str) -> Finding:
    effect = "whether others disturb a measurement is not known beforehand"
    return Finding(check=check, level=Level.NOTE, found="not told by this kernel", effect=effect)


def _note(check: str, found: str, effect: str, mend: str) -> Finding:
    return Finding(check=check, level=Level.NOTE, found=found, effect=effect, mend=mend)


def _warning(check: str, found: str, effect: str, mend: str) -> Finding:
    return Finding(check=check, level=Level.WARNING, found=found, effect=effect, mend=mend)
