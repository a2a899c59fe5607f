"""The farm's figures for Prometheus, counted in the store whenever they are asked for, and who answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from farm.errors import BadInput, FarmError
from results_store.store import Tally


@contextmanager
def served(tally: Callable[[], Tally], port: int, address: str = "127.0.0.1") -> Iterator[int]:
    """`serving` what the store holds.

    Args:
        tally: what counts; asked from other threads, and may raise `Unreachable`.
        port: where to listen.
        address: the interface; anyone who reaches it may ask.
    """
    registry = CollectorRegistry()
    registry.register(StoreCollector(tally))
    with serving(registry, port, address) as found:
        yield found


@contextmanager
def serving(registry: CollectorRegistry, port: int, address: str) -> Iterator[int]:
    """Meanwhile answers `GET /metrics` on this port, 0 for any, of this address. Gives the port.

    Raises:
        BadInput: the port cannot be had.
    """
    try:
        server, thread = start_http_server(port, address, registry=registry)
    except OSError as error:
        raise BadInput(
            f"Port {port} of {address} cannot be had: {error.strerror}. Choose another with --metrics-port."
        ) from None
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class StoreCollector(Collector):
    """What the store holds as gauges. Without an answer from it there is only `farm_store_up 0`."""

    def __init__(self, tally: Callable[[], Tally]) -> None:
        self._tally = tally

    def collect(self) -> Iterator[Metric]:
        """Counts, now."""
        try:
            found = self._tally()
        except FarmError:
            yield _up(False)
            return
        yield _up(True)
        yield from _gauges(found)


def _up(answers: bool) -> Metric:
    return GaugeMetricFamily("farm_store_up", "Whether the database answers.", value=int(answers))


def _gauges(found: Tally) -> Iterator[Metric]:
    yield _gauge("farm_jobs", "Jobs by state.", ["state"], _by_one(found.jobs))
    yield _gauge("farm_jobs_ended", "Jobs that ended, by how.", ["outcome"], _by_one(found.ended))
    yield _gauge("farm_jobs_waiting", "Queued jobs by queue.", ["queue"], _by_one(found.waiting))
    yield _gauge(
        "farm_workers_alive",
        "Living workers that are not quarantined; one that serves two queues is in both.",
        ["device_kind", "queue"],
        found.workers.items(),
    )
    yield _gauge(
        "farm_workers_quarantined",
        "Living workers whose device failed its probe; they claim nothing.",
        ["device_kind", "queue"],
        found.quarantined.items(),
    )
    yield GaugeMetricFamily(
        "farm_oldest_waiting_seconds",
        "Since the oldest run with a queued job was submitted or resumed; 0 where nothing waits.",
        value=found.oldest_waiting_s,
    )
    yield _gauge("farm_attempts", "Attempts that ended, by how.", ["outcome"], _by_one(found.attempts))
    runs = {"open": found.open_runs, "ended": found.ended_runs}
    yield _gauge("farm_runs", "Runs with a job to do, and those without.", ["state"], _by_one(runs))


def _by_one(counts: Mapping[Any, int]) -> Iterator[tuple[tuple[str, ...], int]]:
    """Counts as those of one label."""
    return (((str(name),), count) for name, count in counts.items())


def _gauge(
    name: str, help: str, labels: list[str], values: Iterable[tuple[tuple[str, ...], int]]
) -> GaugeMetricFamily:
    found = GaugeMetricFamily(name, help, labels=labels)
    for where, value in values:
        found.add_metric(where, value)
    return found
