"""A worker of a scenario: `worker.py canned|real NAME THREADS`, run by its path.

It is the real `python -m workers`; only what it runs as a child and as a template notes what it does
(`child.py`), and it may be made to end at a named point (`crashes`), or to judge ends as those of a GPU's job.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent

#: In the environment: the kind of device against which the end of a job may speak; by default the one that it has.
SUSPECTED = "FAULTS_SUSPECTED"


def main() -> None:
    """Serves until told to stop."""
    kind, name, threads = sys.argv[1:]
    # In place of this file's folder, whose names are nobody else's business.
    sys.path[0] = str(FOLDER.parents[1])
    # Needed to judge a measurement: each pool process would import it for its first job, and many are killed.
    import scipy.stats  # noqa: F401
    import typer
    from celery.concurrency import asynpool

    from tests.faults import crashes
    from workers import __main__ as door
    from workers import faults, service

    crashes.wrap(door, "TEMPLATE", lambda _: (*program(kind), "template"))
    crashes.wrap(door, "Service", lambda made: functools.partial(made, command=(*program(kind), "child")))
    crashes.wrap(service.Service, "_reconciler", functools.partial(accompanied, kind))
    if suspected := os.environ.get(SUSPECTED):
        crashes.wrap(faults, "suspicion", lambda judged: lambda _, ended: judged(suspected, ended))
    # In the suite's tempo: so often Celery looks for a process of its pool whose end it has not noticed.
    crashes.wrap(asynpool.AsynPool, "timers", lambda _: property(lambda pool: {pool.maintain_pool: 0.5}))
    crashes.arm_worker()
    try:
        door.main(device="cpu", threads=int(threads), name=name, log_level="INFO")
    except typer.Exit as ended:
        sys.exit(ended.exit_code)


def program(kind: str) -> tuple[str, ...]:
    """What is run as a child or as a template; which of them is to be added."""
    # What is canned needs nothing that is installed, and starts faster without looking for it.
    python = (sys.executable, *(["-S"] if kind == "canned" else []))
    return (*python, str(FOLDER / "child.py"), kind)


def accompanied(kind: str, command: Callable[..., tuple[str, ...]]) -> Callable[..., tuple[str, ...]]:
    """The command of the worker's companion, for this folder's."""

    def made(*args: Any) -> tuple[str, ...]:
        return (sys.executable, str(FOLDER / "companion.py"), *command(*args)[3:], kind)

    return made


if __name__ == "__main__":
    main()
