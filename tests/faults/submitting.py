"""The producer's command line, ended as SIGKILL does at a point of its submission: `submitting.py POINT …`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: In the order in which a submission passes them.
POINTS = (
    "before the database is opened",
    "the tables are half made",
    "the database is open",
    "the run is written",
    "the cells are written",
    "the jobs are written",
    "the run is committed",
    "one message is sent",
    "half of the messages are sent",
    "all messages are sent",
)

#: Half of the messages of a submission of twice as many jobs.
HALF = 6


def main() -> None:
    """Submits, and does not get further than the point."""
    point = sys.argv.pop(1)
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    arm(point)
    from producer import __main__ as door

    door.main()


def arm(point: str) -> None:
    """Wraps what passes the point."""
    import sqlalchemy as sa

    from farm import queue
    from producer import __main__ as door
    from results_store.store import Store

    statements = {
        "the tables are half made": "CREATE TABLE jobs",
        "the run is written": "INSERT INTO runs",
        "the cells are written": "INSERT INTO cells",
        "the jobs are written": "INSERT INTO jobs",
    }
    if point in statements:

        def look(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
            if statement.strip().startswith(statements[point]):
                end()

        sa.event.listen(sa.Engine, "after_cursor_execute", look)
    elif point == "before the database is opened":
        door.open_store = _then_end(None)
    elif point == "the database is open":
        door.open_store = _then_end(door.open_store)
    elif point == "the run is committed":
        Store.submit = _then_end(Store.submit)  # type: ignore[method-assign]
    elif point == "all messages are sent":
        queue.publish = _then_end(queue.publish)
    else:
        queue._send = _then_end(
            queue._send, {"one message is sent": 1, "half of the messages are sent": HALF}[point]
        )


def end() -> None:
    """As SIGKILL ends it."""
    os.kill(os.getpid(), signal.SIGKILL)


def _then_end(function: Callable[..., Any] | None, calls: int = 1) -> Callable[..., Any]:
    """The function, after so many calls of which nothing more comes."""
    done = 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal done
        answer = function(*args, **kwargs) if function else None
        done += 1
        if done == calls:
            end()
        return answer

    return wrapped


if __name__ == "__main__":
    main()
