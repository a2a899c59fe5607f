"""What the measuring processes of a scenario wrote of themselves: when they began, lived and ended.

Each appends lines to one file, by the kernel's clock (CLOCK_MONOTONIC): `in`, a `beat` every few milliseconds,
`out`. One that was killed has no `out`; then its last beat is what is known. So that nothing hangs on that last
beat, each also takes a lock of the kernel's own on every processor that it measures on, which it has until it is
gone, and says with `in` on which of them another one still lived.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

#: The file, in the scenario's folder.
FILE = "sightings"


@dataclass(kw_only=True)
class Sighting:
    """One process that built or measured."""

    token: str
    pid: int
    #: The job's: sha256 of its spec, as `JobSpec.key`.
    key: str
    repeat: int
    phase: str
    worker: str
    processors: tuple[int, ...]
    #: Nanoseconds of CLOCK_MONOTONIC.
    began_ns: int
    #: Seconds since the epoch, to be held against what the database says.
    began_at: float
    #: Processors on which another process still measured, by the kernel's word.
    clashes: tuple[int, ...]
    #: The last sign of life, nanoseconds of CLOCK_MONOTONIC.
    seen_ns: int
    #: Whether it came to its end.
    ended: bool = False


class Sightings:
    """All of a scenario, read on as the file grows."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._offset = 0
        self._by_token: dict[str, Sighting] = {}

    def all(self) -> list[Sighting]:
        """Every process seen so far, in the order of their begin."""
        self._read()
        return list(self._by_token.values())

    def measuring(self) -> list[Sighting]:
        """Those of the measure phase."""
        return [sighting for sighting in self.all() if sighting.phase == "measure"]

    def _read(self) -> None:
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        for line in whole.splitlines():
            self._take(json.loads(line))

    def _take(self, line: dict[str, object]) -> None:
        what, token, at = line.pop("what"), str(line.pop("token")), int(str(line.pop("at")))
        if what == "in":
            fields: dict[str, object] = {name: tuple(v) if isinstance(v, list) else v for name, v in line.items()}
            self._by_token[token] = Sighting(token=token, began_ns=at, seen_ns=at, **fields)  # type: ignore[arg-type]
            return
        sighting = self._by_token[token]
        sighting.seen_ns = max(sighting.seen_ns, at)
        sighting.ended |= what == "out"


def overlaps(sightings: Iterable[Sighting]) -> list[str]:
    """A sentence for each process that measured where another one still did."""
    found = list(sightings)
    said = [f"{s.token} ({s.phase}) began where the kernel saw another: {s.clashes}" for s in found if s.clashes]
    for processor in {processor for sighting in found for processor in sighting.processors}:
        there = sorted((s for s in found if processor in s.processors), key=lambda s: s.began_ns)
        longest = there[0]
        for later in there[1:]:
            if later.began_ns < longest.seen_ns:
                early_ms = (longest.seen_ns - later.began_ns) / 1e6
                said.append(
                    f"{later.token} began on {processor} {early_ms:.1f} ms before {longest.token} was gone"
                )
            longest = max(longest, later, key=lambda s: s.seen_ns)
    return said
