"""The door of the process beside each worker: `python -m workers.companion WORKER PARENT LOG_LEVEL`."""

from __future__ import annotations

import sys

from farm.parent import die_with


def main() -> None:
    """Reconciles beside the worker, and ends with it."""
    # Before all else: what is imported below takes a second, in which the worker may be killed.
    die_with(int(sys.argv[2]))
    from workers import reconciler

    reconciler.main()


if __name__ == "__main__":
    main()
