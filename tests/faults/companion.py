"""The companion of a scenario's worker: the real one, in the scenario's tempo; it may end at a named point."""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> None:
    """What `workers.companion` does, with the reconciler changed before it runs."""
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    from farm.parent import die_with

    die_with(int(sys.argv[2]))
    from tests.faults import crashes
    from workers import reconciler

    # In the farm's proportion to the time between its rounds, which is a fraction of a second here.
    reconciler.FIRST_PAUSE_S = 0.5
    crashes.arm_reconciler()
    reconciler.main()


if __name__ == "__main__":
    main()
