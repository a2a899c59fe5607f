"""A stand-in for a host's kernel: /proc and /sys as files in a folder."""

from __future__ import annotations

import os
from pathlib import Path

#: Ticks and pages of this machine's kernel: what a test writes in seconds and bytes, the code reads in them.
PER_S = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


class Host:
    """A folder with the files of a kernel; what was not written is not there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "proc").mkdir()

    def write(self, path: str, content: object) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{content}\n")
        return file

    def processors(self, count: int, busy_s: float = 0.0, steal_s: float = 0.0) -> None:
        """`/proc/stat`: each of them was busy for so long."""
        ticks = f"{int(busy_s * PER_S)} 0 0 9999 0 0 0 {int(steal_s * PER_S)} 0 0"
        self.write("proc/stat", "\n".join(["cpu  0", *(f"cpu{n} {ticks}" for n in range(count)), "intr 1"]))

    def process(self, pid: int, *, session: int, parent: int = 1, cpu_s: float = 0.0, rss_bytes: int = 0) -> None:
        """`/proc/PID/stat` (proc(5))."""
        fields = ["S", parent, session, session, *[0] * 7, int(cpu_s * PER_S), 0, *[0] * 8, rss_bytes // PAGE]
        self.write(f"proc/{pid}/stat", f"{pid} (a (b) c) {' '.join(map(str, fields))}")

    def waited(self, what: str, seconds: float) -> None:
        """`/proc/pressure`."""
        line = f"avg10=0.00 avg60=0.00 avg300=0.00 total={int(seconds * 1e6)}"
        self.write(f"proc/pressure/{what}", f"some {line}\nfull {line.replace('total=', 'total=9')}")

    def frequency(self, processor: int, name: str, hertz: float) -> None:
        """One file of cpufreq."""
        self.write(f"sys/devices/system/cpu/cpu{processor}/cpufreq/{name}", int(hertz / 1e3))

    def package(self, number: int, joules: float, range_j: float = 262143.0, name: str = "package-0") -> None:
        """One package's energy counter."""
        folder = f"sys/class/powercap/intel-rapl:{number}"
        self.write(f"{folder}/name", name)
        self.write(f"{folder}/max_energy_range_uj", int(range_j * 1e6))
        self.write(f"{folder}/energy_uj", int(joules * 1e6))
