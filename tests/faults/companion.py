"""The companion of a scenario's worker: `companion.py WORKER PARENT … canned|real`, run by its path.

It is the real one in the scenario's tempo, which probes by a process of that kind; it may be made to end at a
named point (`crashes`).
"""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> None:
    """What `workers.companion` does, with the reconciler changed before it runs."""
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    from farm.parent import die_with

    die_with(int(sys.argv[2]))
    from tests.faults import crashes
    from tests.faults.worker import program
    from workers import quarantine, reconciler

    kind = sys.argv.pop()
    crashes.wrap(reconciler, "CHILD", lambda _: (*program(kind), "child"))
    # In the farm's proportion to the time between its rounds, which is a fraction of a second here.
    reconciler.FIRST_PAUSE_S = 0.5
    quarantine._LOOK_S = 0.3
    crashes.arm_reconciler()
    reconciler.main()


if __name__ == "__main__":
    main()
