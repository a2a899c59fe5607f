"""What can be read of a host and a device while something else is measured: a small interface, no torch.

A source is opened once and read often, by a process that measures nothing; names carry their units.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What one source said at one moment."""

    #: Quantities as they are now, such as `rss_bytes`.
    gauges: Mapping[str, float] = field(default_factory=dict)
    #: Quantities that only grow, such as `cpu_s`: what counts is the difference of two readings.
    counters: Mapping[str, float] = field(default_factory=dict)
    #: What is the case now, such as a reason for lower clocks.
    flags: frozenset[str] = frozenset()


class Source(Protocol):
    """Something that can be read often."""

    @property
    def facts(self) -> Mapping[str, float]:
        """What was so before the measuring process began."""

    @property
    def missing(self) -> Mapping[str, str]:
        """Why a quantity is not among the readings, by its name."""

    def read(self, pid: int) -> Reading:
        """What is so now; `pid` leads the session of the measuring processes. Raises nothing."""

    def close(self) -> None:
        """Gives back what it held open."""
