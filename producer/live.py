"""Shows a run on a terminal while it goes: queues, workers and their jobs, verdicts as they come, time left.

Everything is read from the store, once a round: whoever measures is not asked, and is not disturbed.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from farm import statistics
from farm.errors import Unreachable
from farm.verdict import Level, Verdict, judge
from producer.progress import PlainView, duration, follow, jobs_ended, one_line, quarantined, summary
from results_store.store import JobResult, Store
from results_store.values import Progress, WorkerInfo, label

_SHOWN_FAILURES = 5
_SHOWN_WORKERS = 12
_SHOWN_VERDICTS = 6
#: So many results are read when the watching begins, and in a round at most: judging them takes time, which on a
#: host that measures is taken from what is measured.
_READ_AT_ONCE = 12

_BAR_WIDTH = 60
_BARS = "▁▂▃▄▅▆▇█"
_BARS_SHOWN = 12
#: A sparkline's height is at least this share of its largest value, so that noise looks like noise.
_LEAST_SPAN = 0.05
_STYLES = {"VALID": "green", "SUSPECT": "yellow", "INVALID": "red"}


def show_while(
    console: Console, store: Store, run_id: str, *, tend: Callable[[], None] = lambda: None
) -> Progress:
    """Follows a run to its end with the view that suits the console."""
    if not console.is_terminal:
        return follow(store, run_id, PlainView(console), tend=tend)
    # drawn once a round and not in between: drawing takes processor time too
    with Live(console=console, auto_refresh=False, transient=True) as live:
        return follow(store, run_id, LiveView(live, store), tend=tend)


class LiveView:
    """A block that is drawn anew in place, for a terminal."""

    def __init__(self, live: Live, store: Store) -> None:
        self._live = live
        self._store = store
        self._seen = Seen()
        self._last: RenderableType | None = None

    def show(self, progress: Progress) -> None:
        """Draws it, with the workers and what was measured since the last time."""
        try:
            workers = self._store.workers()
            self._seen.add(self._store.latest(progress.run_id, limit=_READ_AT_ONCE, known=self._seen.attempts))
        except Unreachable as error:
            self.away(str(error))
            return
        self._last = drawn(progress, workers, self._seen)
        self._live.update(self._last, refresh=True)

    def away(self, problem: str) -> None:
        """Draws what was known last, and that it may be old."""
        known = [] if self._last is None else [self._last]
        self._live.update(Group(*known, Text(f"{problem} Waiting for it.", style="yellow")), refresh=True)


@dataclass(frozen=True, kw_only=True)
class Told:
    """A result, as a line shows it."""

    job: str
    #: Of what was measured; None for what is a result without a measurement.
    verdict: Verdict | None
    outcome: str
    #: Median of a batch, device figure; None below its floor.
    median_s: float | None


@dataclass
class Seen:
    """What was measured while somebody looked, and shortly before."""

    #: Attempts whose results were taken in last: no older one is read again.
    attempts: deque[str] = field(default_factory=lambda: deque(maxlen=4 * _READ_AT_ONCE))
    #: Median seconds of a batch, by cell, in the order in which they came; INVALID ones are left out.
    medians: dict[str, deque[float]] = field(
        default_factory=lambda: defaultdict(lambda: deque(maxlen=_BARS_SHOWN))
    )
    #: The latest ones, oldest first.
    told: deque[Told] = field(default_factory=lambda: deque(maxlen=_SHOWN_VERDICTS))

    def add(self, results: dict[str, JobResult]) -> None:
        """Takes in results by attempt, oldest first."""
        for attempt, result in results.items():
            self.attempts.append(attempt)
            one = _told(result)
            self.told.append(one)
            if one.median_s is not None and not _is_invalid(one):
                self.medians[_cell_of(one.job)].append(one.median_s)


def _told(result: JobResult) -> Told:
    found = result.measurement
    median_ns = None if found is None else statistics.percentile(found.samples.device_ns, 50)
    return Told(
        job=label(result.spec),
        verdict=None if found is None else judge(found),
        outcome=str(result.outcome or result.state),
        median_s=None if median_ns is None else median_ns / 1e9,
    )


def _is_invalid(one: Told) -> bool:
    return one.verdict is not None and one.verdict.level is Level.INVALID


def _cell_of(job: str) -> str:
    """The cell in a job's label, which ends with the number of the repeat."""
    return job.rpartition(" #")[0]


def drawn(progress: Progress, workers: Sequence[WorkerInfo] = (), seen: Seen | None = None) -> Group:
    """The progress as a block for a terminal."""
    seen = seen or Seen()
    parts: list[RenderableType] = [
        Text(summary(progress)),
        ProgressBar(total=max(1, progress.jobs), completed=jobs_ended(progress), width=_BAR_WIDTH),
        # a bar does not end its line
        Text(f" {_waiting(progress, workers)}" if progress.waiting else ""),
    ]
    if progress.running or workers:
        parts.append(_workers(progress, workers, seen))
    parts += [Text(quarantined(*found), style="yellow") for found in progress.quarantined]
    if seen.told:
        parts.append(_verdicts(seen.told))
    for job, outcome, reason in progress.failures[-_SHOWN_FAILURES:]:
        parts.append(Text(f"failed: {job}: {outcome}: {one_line(reason)}", style="red"))
    return Group(*parts)


def sparkline(values: Iterable[float]) -> str:
    """A bar for each value, the lowest and the highest as far apart as they are; nothing for fewer than two."""
    shown = list(values)[-_BARS_SHOWN:]
    if len(shown) < 2:
        return ""
    low, high = min(shown), max(shown)
    span = max(high - low, _LEAST_SPAN * high) or 1.0
    return "".join(_BARS[round((value - low) / span * (len(_BARS) - 1))] for value in shown)


def _waiting(progress: Progress, workers: Sequence[WorkerInfo]) -> str:
    served = {queue for worker in workers if worker.quarantined is None for queue in worker.queues}
    parts = [
        f"{queue} {count}{'' if queue in served else ' (no living worker serves it)'}"
        for queue, count in progress.waiting.items()
    ]
    which = ", controls among them" if progress.controls else ""
    return f"waiting in queues{which}: {', '.join(parts)}"


def _workers(progress: Progress, workers: Sequence[WorkerInfo], seen: Seen) -> Table:
    """A line for each running job with its worker, then the workers that have none."""
    table = _table(
        *("worker", "device", "queues", "measures", "for", "until now, ms"), whole=("for", "until now, ms")
    )
    known = {worker.id: worker for worker in workers}
    busy = {worker for _, worker, _ in progress.running}
    lines = [
        _busy(job, worker, known.get(worker), progress.now - since, seen)
        for job, worker, since in progress.running
    ]
    lines += [_idle(worker) for worker in workers if worker.id not in busy]
    for line in lines[:_SHOWN_WORKERS]:
        table.add_row(*map(_in_one_line, line))
    if len(lines) > _SHOWN_WORKERS:
        table.add_row(Text(f"… and {len(lines) - _SHOWN_WORKERS} more"))
    return table


def _busy(job: str, worker_id: str, worker: WorkerInfo | None, for_s: float, seen: Seen) -> tuple[str, ...]:
    medians = seen.medians.get(_cell_of(job), ())
    until_now = f"{sparkline(medians)} {medians[-1] * 1e3:.3g}".strip() if medians else ""
    device, queues = (worker.device_model, ", ".join(worker.queues)) if worker else ("not living", "")
    return worker_id, device, queues, job, duration(for_s), until_now


def _idle(worker: WorkerInfo) -> tuple[str, ...]:
    doing = "nothing" if worker.quarantined is None else "nothing, quarantined"
    return worker.id, worker.device_model, ", ".join(worker.queues), doing, "", ""


def _verdicts(told: Iterable[Told]) -> Table:
    """The latest results, the newest last."""
    table = _table("verdict", "latest", "ms", "because", whole=("verdict", "ms"))
    for one in told:
        level = str(one.verdict.level) if one.verdict else one.outcome
        because = "; ".join(dict.fromkeys(reason.code for reason in one.verdict.reasons)) if one.verdict else ""
        median = "" if one.median_s is None else f"{one.median_s * 1e3:.3g}"
        table.add_row(Text(level, style=_STYLES.get(level, "")), *map(_in_one_line, (one.job, median, because)))
    return table


def _table(*headings: str, whole: Collection[str]) -> Table:
    """A table whose lines stay lines on a narrow terminal: what is too long is cut, but in these columns."""
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, no_wrap=heading in whole)
    return table


def _in_one_line(text: str) -> Text:
    return Text(text, no_wrap=True, overflow="ellipsis")
