"""A worker of a scenario: `worker.py canned|real NAME THREADS`, run by its path.

It is the real `python -m workers`; only what it runs as a child and as a template notes what it does
(`child.py`), and it may be made to end at a named point (`crashes`).
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent


def main() -> None:
    """Serves until told to stop."""
    kind, name, threads = sys.argv[1:]
    # In place of this file's folder, whose names are nobody else's business.
    sys.path[0] = str(FOLDER.parents[1])
    import typer

    from tests.faults import crashes
    from workers import __main__ as door
    from workers import service

    # What is canned needs nothing that is installed, and starts faster without looking for it.
    python = (sys.executable, *(["-S"] if kind == "canned" else []))
    program = (*python, str(FOLDER / "child.py"), kind)
    door.TEMPLATE = (*program, "template")
    door.Service = functools.partial(service.Service, command=(*program, "child"))  # type: ignore[misc, assignment]
    companion = service.Service._reconciler
    service.Service._reconciler = (
        lambda self: (  # type: ignore[method-assign]
            sys.executable,
            str(FOLDER / "reconciling.py"),
            *companion(self)[3:],
        )
    )
    crashes.arm_worker()
    try:
        door.main(device="cpu", threads=int(threads), name=name, log_level="INFO")
    except typer.Exit as ended:
        sys.exit(ended.exit_code)


if __name__ == "__main__":
    main()
