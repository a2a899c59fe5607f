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
    from tests.faults.crashes import wrap

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
        wrap(door, "open_store", lambda _: _then_end(lambda *args, **kwargs: None))
    elif point == "the database is open":
        wrap(door, "open_store", _then_end)
    elif point == "the run is committed":
        wrap(Store, "submit", _then_end)
    elif point == "all messages are sent":
        wrap(queue, "publish", _then_end)
    else:
        wrap(queue, "_send", lambda send: _then_end(send, 1 if point == "one message is sent" else HALF))


def end() -> None:
    """As SIGKILL ends it."""
    os.kill(os.getpid(), signal.SIGKILL)


def _then_end(function: Callable[..., Any], calls: int = 1) -> Callable[..., Any]:
    """The function, after so many calls of which nothing more comes."""
    done = 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal done
        answer = function(*args, **kwargs)
        done += 1
        if done == calls:
            end()
        return answer

    return wrapped


if __name__ == "__main__":
    main()
