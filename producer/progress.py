"""Says how a run goes while it goes, one line at a time; `producer.live` draws it on a terminal."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Protocol

from rich.console import Console

from farm.errors import Unreachable
from farm.measurement import Outcome
from results_store.store import Store
from results_store.values import Progress, State

_POLL_S = 1.0
#: Of a run of very many jobs, so many lines at least are left unsaid between two.
_MOST_LINES = 500
#: After so long without a line there is one, so that a long build does not look like a hang.
_SILENT_S = 60.0


class View(Protocol):
    """Where progress is shown."""

    def show(self, progress: Progress) -> None:
        """What the store says now."""

    def away(self, problem: str) -> None:
        """The store does not answer just now."""


def follow(
    store: Store, run_id: str, view: View, *, tend: Callable[[], None] = lambda: None, poll_s: float = _POLL_S
) -> Progress:
    """Shows the run until no job of it is left to do; a database that is away for a while is waited for.

    Args:
        store: where the run is.
        run_id: the run.
        view: where to show it.
        tend: called once a round, from this thread.
        poll_s: the length of a round.

    Returns:
        How the run stood at its end.
    """
    never = threading.Event()
    while True:
        try:
            progress = store.progress(run_id)
        except Unreachable as error:
            view.away(str(error))
        else:
            view.show(progress)
            if progress.finished:
                return progress
        tend()
        never.wait(poll_s)


class PlainView:
    """A line whenever jobs have ended, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._said = -1
        self._failures: set[tuple[str, Outcome, str]] = set()
        self._quarantined: tuple[tuple[str, str], ...] = ()
        self._is_away = False
        self._has_begun = False
        self._spoke_at = 0.0

    def show(self, progress: Progress) -> None:
        """A line when the first job begins and where something ended since the last, and one for each failure."""
        if self._is_away:
            self._print("The database answers again.")
        self._is_away = False
        ended = jobs_ended(progress) + _closed(progress.control_states)
        step = max(1, progress.jobs // _MOST_LINES)
        begins = bool(progress.running) and not self._has_begun
        silent = bool(progress.running) and progress.now - self._spoke_at >= _SILENT_S
        if begins or silent or ended >= self._said + step or (progress.finished and ended != self._said):
            self._spoke_at = progress.now
            self._said, self._has_begun = ended, self._has_begun or begins
            self._print(summary(progress))
        for failure in progress.failures:
            label, outcome, reason = failure
            if failure not in self._failures:
                self._print(f"  failed: {label}: {outcome}: {one_line(reason)}")
        self._failures = set(progress.failures)
        for worker, reason in progress.quarantined:
            if (worker, reason) not in self._quarantined:
                self._print(f"  {quarantined(worker, reason)}")
        self._quarantined = progress.quarantined

    def away(self, problem: str) -> None:
        """Said once until it is back."""
        if not self._is_away:
            self._print(f"{problem} Waiting for it.")
        self._is_away = True

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def summary(progress: Progress) -> str:
    """One line: cells and jobs done, what runs, what failed, time left."""
    parts = [
        f"[{jobs_ended(progress)}/{progress.jobs} jobs{_controls(progress)}] "
        f"{progress.cells_done}/{progress.cells} cells",
        *(f"{count} {name}" for name, count in _counts(progress)),
    ]
    for label, worker, since in progress.running[:2]:
        parts.append(f"{label} on {worker} for {duration(progress.now - since)}")
    if len(progress.running) > 2:
        parts.append(f"and {len(progress.running) - 2} more")
    return " · ".join([*parts, _left(progress)])


def jobs_ended(progress: Progress) -> int:
    """Jobs of the matrix with nothing left to do."""
    return _closed(progress.states)


def ends(progress: Progress) -> dict[Outcome, int]:
    """How many jobs ended in which way; a lost attempt is an end only where the job has failed of it."""
    failed = progress.states.get(State.FAILED, 0)
    return {o: count for o, count in progress.outcomes.items() if count and (o is not Outcome.LOST or failed)}


def time_left_s(progress: Progress) -> float | None:
    """Seconds until the last job ends, from the mean of those that ended but the longest; None before two have."""
    if progress.seconds_per_job is None:
        return None
    at_once = max(1, len(progress.running))
    spent = sum(min(progress.now - since, progress.seconds_per_job) for _, _, since in progress.running)
    open_jobs = progress.jobs - jobs_ended(progress) + progress.controls - _closed(progress.control_states)
    return max(0.0, open_jobs * progress.seconds_per_job - spent) / at_once


def duration(seconds: float) -> str:
    """Seconds for people: `42 s`, `3 min 10 s`, `2 h 05 min`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def one_line(text: str, most: int = 300) -> str:
    """The text without line breaks, cut where it is long."""
    joined = " ".join(text.split())
    return joined if len(joined) <= most else f"{joined[: most - 1]}…"


def quarantined(worker: str, reason: str) -> str:
    """That a worker does nothing for now, and why."""
    return f"{worker} is quarantined and claims nothing: {one_line(reason)}"


def with_controls(jobs: str, controls: int) -> str:
    """A number of jobs, and apart from it that of the controls between them, where there are any."""
    return f"{jobs} + {controls} control{'' if controls == 1 else 's'}" if controls else jobs


def _controls(progress: Progress) -> str:
    if not progress.controls:
        return ""
    return f" + {_closed(progress.control_states)}/{progress.controls} controls"


def _closed(states: Mapping[State, int]) -> int:
    return sum(count for state, count in states.items() if not state.is_open)


def _counts(progress: Progress) -> list[tuple[str, int]]:
    outcomes = [(outcome.value, count) for outcome, count in ends(progress).items()]
    waiting = progress.states.get(State.QUEUED, 0)
    more = {"waiting": waiting, "measured again": progress.remeasured}
    return [*outcomes, *((name, count) for name, count in more.items() if count)]


def _left(progress: Progress) -> str:
    if progress.finished:
        return "finished"
    left = time_left_s(progress)
    if left is None:
        if not progress.running:
            return "waiting for a worker"
        return "time left: estimating (the first jobs also train the model and build what is missing)"
    return f"about {duration(left)} left"
