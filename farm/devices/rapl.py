"""The processor's own count of its energy: RAPL, as the kernel's powercap shows it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from farm.devices.files import ROOT, KernelFile, number, text
from farm.errors import Unsupported

#: A package; what is in it (`intel-rapl:0:0`) is counted with it already, and `psys` counts it once more.
_PACKAGE = re.compile(r"intel-rapl:\d+")


class Rapl:
    """Joules of all of the host's processor packages together, counted from its making on.

    Raises:
        Unsupported: the host has no such counter, or does not let this user read it.
    """

    #: Whose energy it is: everything that ran on the packages.
    scope = "package"
    #: The kernel reads registers that processors bring up to date about every millisecond.
    step_s = 0.001

    def __init__(self, root: Path = ROOT) -> None:
        self._domains = [_Domain(folder) for folder in _folders(root)]
        self._joules = 0.0

    def read(self) -> float:
        """Joules so far. It has to be read before a counter has gone round twice (minutes)."""
        self._joules += sum(domain.since_last() for domain in self._domains)
        return self._joules

    def beside(self) -> Mapping[str, float]:
        """Nothing: what bounds a package is not told."""
        return {}

    def close(self) -> None:
        """Gives the files back."""
        for domain in self._domains:
            domain.close()


class _Domain:
    """One package's counter, which begins anew at its range."""

    def __init__(self, folder: Path) -> None:
        self._range_uj = number(folder / "max_energy_range_uj")
        self._file = KernelFile(folder / "energy_uj")
        self._last_uj = self._file.number()
        self.close = self._file.close

    def since_last(self) -> float:
        """Joules since it was last asked; 0 where the kernel does not answer."""
        now_uj, last_uj = self._file.number(), self._last_uj
        if now_uj is None or last_uj is None:
            return 0.0
        self._last_uj = now_uj
        if now_uj < last_uj:
            return (now_uj + (self._range_uj or last_uj) - last_uj) / 1e6
        return (now_uj - last_uj) / 1e6


def _folders(root: Path) -> list[Path]:
    """The packages' folders, each of them readable."""
    powercap = root / "sys/class/powercap"
    zones = sorted(powercap.iterdir()) if powercap.is_dir() else []
    found = [
        zone
        for zone in zones
        if _PACKAGE.fullmatch(zone.name) and (text(zone / "name") or "").startswith("package")
    ]
    if not found:
        raise Unsupported("this host shows no energy counter (no RAPL in /sys/class/powercap)")
    for folder in found:
        if number(folder / "energy_uj") is None:
            raise Unsupported(
                f"the energy counter {folder / 'energy_uj'} cannot be read: sudo chmod o+r {folder / 'energy_uj'}"
            )
    return found
