"""What a worker counts for Prometheus, and who serves it.

The supervisor counts in Celery's pool process, which may be killed and forked anew, so its counters are in files
of the worker's own, from where the reconciler beside it serves them together with its own: a scrape is nothing
that the process of a measurement ever notices. Where no port is asked for, there are no files.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Histogram, values
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from farm.errors import BadInput, FarmError
from farm.measurement import Outcome
from farm.settings import Settings
from results_store.metrics import serving
from results_store.store import Lease, Reconciled

log = logging.getLogger(__name__)

#: Where prometheus_client keeps values that outlive a process.
_FOLDER = "PROMETHEUS_MULTIPROC_DIR"

#: A file of values begins with so much room, of which these metrics need a quarter.
_FILE_BYTES = 64 * 1024

#: What is older was left by a worker that was killed: a living one's reconciler touches its folder all the time.
_OLD_S = 24 * 3600

#: Seconds. A claim is a transaction or two; a phase may be anything up to its deadline.
_CLAIM_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_PHASE_BUCKETS = (1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0)

#: Processes of a worker that are started again when they end.
PROCESSES = ("pool", "template", "reconciler")

#: What became of a renewal, where the database did not answer at all.
UNREACHABLE = "unreachable"


class Figures:
    """The counters of one process of a worker; every series is there from the start, at 0."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._busy_since: float | None = None
        self._attempts = _counter("farm_worker_attempts", "Attempts that ended here, by how.", "outcome", Outcome)
        self._claims = _counter("farm_worker_claims", "Claims, by what they gave.", "result", ("job", "nothing"))
        self._renewals = _counter(
            "farm_worker_lease_renewals",
            "Renewals of a lease, by what came of them.",
            "result",
            (*Lease, UNREACHABLE),
        )
        self._starts = _counter(
            "farm_worker_process_starts", "Starts of the worker's own processes.", "process", PROCESSES
        )
        self._lost = _counter(
            "farm_reconciler_lost_attempts",
            "Attempts of any worker whose lease this worker's reconciler saw end, by what became of their job.",
            "became",
            ("queued", "failed"),
        )
        self._sent = Counter(
            "farm_reconciler_messages", "Messages that this worker's reconciler sent anew.", registry=None
        )
        self._busy = Counter(
            "farm_worker_device_busy_seconds", "Time in which this worker held its device.", registry=None
        )
        self._claim_s = Histogram(
            "farm_worker_claim_duration_seconds",
            "What a claim took, adopting included.",
            buckets=_CLAIM_BUCKETS,
            registry=None,
        )
        self._phase_s = Histogram(
            "farm_worker_phase_duration_seconds",
            "What building and measuring took, each a process.",
            ["phase"],
            buckets=_PHASE_BUCKETS,
            registry=None,
        )
        for phase in ("build", "measure"):
            self._phase_s.labels(phase)

    # ---- of the supervisor

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Meanwhile the device is held."""
        self._busy_since = self._clock()
        try:
            yield
        finally:
            self._pass()
            self._busy_since = None

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Meanwhile a process builds or measures."""
        with self._phase_s.labels(name).time():
            yield

    def claimed(self, seconds: float, found: bool) -> None:
        """A claim took so long and gave a job, or did not."""
        self._claim_s.observe(seconds)
        self._claims.labels("job" if found else "nothing").inc()

    def renewed(self, result: Lease | None) -> None:
        """A lease was renewed with this result; None where the database did not answer."""
        self._renewals.labels(UNREACHABLE if result is None else result).inc()
        self._pass()

    def ended(self, outcome: Outcome) -> None:
        """An attempt ended."""
        self._attempts.labels(outcome).inc()

    def started(self, process: str) -> None:
        """One of `PROCESSES` was started."""
        self._starts.labels(process).inc()

    # ---- of the reconciler

    def reconciled(self, done: Reconciled) -> None:
        """A round found leases that had ended."""
        self._lost.labels("queued").inc(done.requeued)
        self._lost.labels("failed").inc(done.failed)

    def published(self, messages: int) -> None:
        """So many messages were sent."""
        self._sent.inc(messages)

    def _pass(self) -> None:
        """Counts the time since it was counted last, so that a long job does not come all at once."""
        if self._busy_since is not None:
            now = self._clock()
            self._busy.inc(now - self._busy_since)
            self._busy_since = now


def _counter(name: str, help: str, label: str, known: Iterable[str]) -> Counter:
    made = Counter(name, help, [label], registry=None)
    for value in known:
        made.labels(value)
    return made


@contextmanager
def folder(settings: Settings) -> Iterator[Path | None]:
    """A folder for the files of one worker, gone afterwards; None where nobody wants its figures.

    Raises:
        BadInput: it cannot be made, or the port cannot be had.
    """
    if not settings.metrics_port:
        yield None
        return
    _require_free(settings.metrics_port, settings.metrics_address)
    root = settings.data_dir.resolve() / "metrics"
    try:
        root.mkdir(parents=True, exist_ok=True)
        _sweep(root)
        made = tempfile.TemporaryDirectory(prefix="", dir=root, ignore_cleanup_errors=True)
    except OSError as error:
        raise BadInput(
            f"--metrics-port: {root} cannot be written to ({error.strerror}). Set FARM_DATA_DIR."
        ) from None
    with made:
        keep_in(Path(made.name))
        yield Path(made.name)


def keep_in(kept: Path) -> None:
    """From now on this process, and those forked from it, count in files of this folder."""
    os.environ[_FOLDER] = str(kept)
    values.ValueClass = values.MultiProcessValue()  # type: ignore[no-untyped-call]


def opened(kept: Path | None) -> Figures:
    """The figures of this process, in the folder of its worker where there is one.

    Their files get their room at once. Later a full disk would not be an error but the end of this process, and
    figures must not cost a job.
    """
    if kept is None or not _has_room(kept):
        values.ValueClass = values.MutexValue
    return Figures()


def touch(kept: Path) -> None:
    """Says that the folder is in use."""
    with contextlib.suppress(OSError):
        os.utime(kept)


@contextmanager
def served(
    kept: Path, settings: Settings, waiting: Callable[[], Mapping[str, int]], **about: str
) -> Iterator[int]:
    """Meanwhile answers `GET /metrics` with what the processes of a worker have counted. Gives the port.

    Args:
        kept: the worker's folder.
        settings: where to listen.
        waiting: how many messages wait in each of the worker's queues; may raise `FarmError`.
        about: labels of `farm_worker_info`.

    Raises:
        BadInput: the port cannot be had.
    """
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(kept))  # type: ignore[no-untyped-call]
    registry.register(_Gauges(waiting, about))
    with serving(registry, settings.metrics_port, settings.metrics_address) as port:
        yield port


class _Gauges(Collector):
    """What is looked up whenever it is asked for."""

    def __init__(self, waiting: Callable[[], Mapping[str, int]], about: Mapping[str, str]) -> None:
        self._waiting = waiting
        self._about = about

    def collect(self) -> Iterator[Metric]:
        """Looks, now."""
        info = GaugeMetricFamily("farm_worker_info", "Which worker this is.", labels=list(self._about))
        info.add_metric(list(self._about.values()), 1)
        yield info
        depth = GaugeMetricFamily(
            "farm_worker_queue_messages", "Messages in the worker's queues.", labels=["queue"]
        )
        try:
            for name, count in self._waiting().items():
                depth.add_metric([name], count)
            answers = True
        except FarmError:
            answers = False
        yield depth
        yield GaugeMetricFamily("farm_worker_broker_up", "Whether the broker answers.", value=int(answers))


def _require_free(port: int, address: str) -> None:
    """Said before the worker begins: later it could only go on without."""
    try:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.create_server((address, port), family=family):
            pass
    except OSError as error:
        raise BadInput(
            f"Port {port} of {address} cannot be had: {error.strerror}. Choose another with --metrics-port, or "
            f"FARM_METRICS_PORT; each worker of a host needs its own."
        ) from None


def _has_room(kept: Path) -> bool:
    """Whether the files of this process could be made, with all the room that they will need."""
    try:
        for kind in ("counter", "histogram"):
            _make_room(kept / f"{kind}_{os.getpid()}.db")
    except OSError as error:
        log.warning("what happens here is not counted for Prometheus: %s", error)
        return False
    return True


def _make_room(file: Path) -> None:
    if not file.exists():
        with file.open("xb") as out:
            out.write(bytes(_FILE_BYTES))
            out.flush()
            os.fsync(out.fileno())


def _sweep(root: Path) -> None:
    """Removes what killed workers left more than a day ago."""
    for entry in list(root.iterdir()):
        with contextlib.suppress(OSError):
            if time.time() - entry.lstat().st_mtime > _OLD_S:
                shutil.rmtree(entry, ignore_errors=True)
