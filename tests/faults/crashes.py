"""The named points at which a process of the farm ends as SIGKILL ends it, and how it is made to.

The programs of this folder wrap the farm's functions before they run it; the farm itself knows nothing of this.
Which passages of a point end the process is said in the environment, so that a scenario chooses them by its seed;
passages are counted over all processes of the scenario.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

#: Point → what has just happened there, and to whom.
POINTS: Mapping[str, str] = {
    "holds the device": "the pool's process has the device's lock and has claimed nothing",
    "claimed": "the pool's process has claimed a job and started nothing",
    "builds": "the pool's process, while a child builds",
    "measures": "the pool's process, while a child measures",
    "measured": "the pool's process has the child's result and has not begun to record it",
    "recording": "the pool's process has written the result and not committed it",
    "recorded": "the pool's process has committed the result and not heard so",
    "not acknowledged": "the worker's main process is about to acknowledge the message of a job that is recorded",
    "reconciled": "the reconciler has queued what was lost and has sent no messages",
}

#: JSON: point → numbers of the passages that end the process, counted from 0.
PASSAGES = "FAULTS_PASSAGES"
_FOLDER = "FAULTS_FOLDER"


def variables(passages: Mapping[str, Sequence[int]]) -> dict[str, str]:
    """What the programs of this folder have to be told.

    Raises:
        ValueError: no such point.
    """
    if unknown := set(passages) - set(POINTS):
        raise ValueError(f"no such points: {unknown}")
    return {PASSAGES: json.dumps(dict(passages))} if passages else {}


def struck(folder: Path) -> list[str]:
    """The points at which a process ended, in order."""
    found = sorted((folder / "struck").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    return [path.name.rpartition("-")[0] for path in found]


def prepare(folder: Path) -> None:
    """Makes in a scenario's folder what is needed to count passages."""
    for name in ("passages", "struck"):
        (folder / name).mkdir()


def wrap(owner: Any, name: str, how: Callable[[Any], Any]) -> None:
    """Puts in the place of a module's or a class's member what is made of it."""
    setattr(owner, name, how(getattr(owner, name)))


def arm_worker() -> None:
    """Wraps what the worker's main process and its pool's process pass."""
    armed = _armed()
    if not armed:
        return
    from kombu.transport.virtual import Channel

    from results_store import keeping
    from results_store.store import Store
    from workers import supervisor

    passed: Mapping[str, tuple[Any, str, Callable[[Any], Any]]] = {
        "holds the device": (Store, "claim", _before("holds the device")),
        "claimed": (Store, "claim", _after("claimed", lambda claim: claim is not None)),
        "measured": (Store, "finish", _before("measured")),
        "recording": (keeping, "write_result", _after("recording")),
        "recorded": (Store, "finish", _after("recorded")),
        "not acknowledged": (Channel, "basic_ack", _before("not acknowledged")),
    }
    for point in armed & set(passed):
        wrap(*passed[point])
    if armed & {"builds", "measures"}:
        wrap(supervisor, "Watched", lambda watched: _ticking(watched, armed))


def arm_reconciler() -> None:
    """Wraps what the reconciler passes."""
    from results_store.store import Store

    if "reconciled" in _armed():
        wrap(Store, "reconcile", _after("reconciled"))


def pass_point(point: str) -> None:
    """Ends this process, as SIGKILL does, where this passage is one of those chosen."""
    folder = Path(os.environ[_FOLDER])
    number = next(n for n in itertools.count() if _made(folder / "passages" / f"{point}-{n}"))
    if number in json.loads(os.environ[PASSAGES])[point]:
        (folder / "struck" / f"{point}-{number}").touch()
        os.kill(os.getpid(), signal.SIGKILL)


def _armed() -> set[str]:
    return set(json.loads(os.environ.get(PASSAGES, "{}")))


def _before(point: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def wrapper(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            pass_point(point)
            return function(*args, **kwargs)

        return wrapped

    return wrapper


def _after(
    point: str, counts: Callable[[Any], bool] = lambda _: True
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def wrapper(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            answer = function(*args, **kwargs)
            if counts(answer):
                pass_point(point)
            return answer

        return wrapped

    return wrapper


def _ticking(watched: Callable[..., Any], armed: set[str]) -> Callable[..., Any]:
    """While a child of these phases runs, each renewal of the lease passes the phase's point."""
    points = {"build": "builds", "measure": "measures"}

    def made(**fields: Any) -> Any:
        point = points[fields["request"]["phase"]]
        tick = _after(point)(fields["tick"]) if point in armed else fields["tick"]
        return watched(**{**fields, "tick": tick})

    return made


def _made(path: Path) -> bool:
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
