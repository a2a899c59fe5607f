"""The process beside each worker: `python -m workers.companion MARK WORKER PARENT LOG_LEVEL`.

It reconciles for as long as the worker lives. Where the worker is killed, its own children end with it, but not
what those had started, and nobody else is left who knows of it: this process ends that, and then itself.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import threading

from workers import processes


def main() -> None:
    """Reconciles beside the worker, and outlives it by a moment."""
    follow(mark=sys.argv.pop(1), worker=int(sys.argv[2]))
    # Not before: it takes a second, in which the worker may be killed.
    from workers import reconciler

    reconciler.main()


def follow(*, mark: str, worker: int) -> None:
    """From now on, when this process's parent, the worker, has ended, so does all that has its mark, and this."""
    threading.Thread(target=_follow, args=(worker, mark), name="follower", daemon=True).start()


def _follow(worker: int, mark: str) -> None:
    with contextlib.suppress(ProcessLookupError):
        ended = os.pidfd_open(worker)
        # Else it died before, and its number may be another's by now.
        if os.getppid() == worker:
            select.select([ended], [], [])
    processes.kill_marked(mark)
    os._exit(1)


if __name__ == "__main__":
    main()
