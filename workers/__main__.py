"""`python -m workers`: serve one device of this host."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import Annotated

import typer

from farm import health, locks, logs, queue
from farm.errors import BadInput, FarmError, Unreachable, unknown
from farm.settings import Settings, load
from results_store.store import Store, WorkerInfo, open_store
from workers import capabilities
from workers.forking import TEMPLATE
from workers.service import Service

EXIT_FAILED, EXIT_USAGE, EXIT_UNREACHABLE = 1, 2, 3

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")

HELP = """Serve one device of this host: take jobs from the queue, measure each in a process of its own.

\b
Examples:
  python -m workers                              # the least served GPU, or the CPU where there is none
  python -m workers --device cpu --threads 2     # two processors; jobs that ask for more are left to others
  python -m workers --device cuda                # start it once per GPU; they share the GPUs out by themselves
  python -m workers --metrics-port 9109          # http://127.0.0.1:9109/metrics for Prometheus
  python -m workers health                       # exit code 0 where the worker of FARM_HEALTH_FILE lives, else 1

\b
Where things live comes from the environment:
  CELERY_BROKER_URL   redis://host:6379/0
  FARM_DATABASE_URL   postgresql://… when there is more than one host; else a SQLite file in FARM_DATA_DIR
  FARM_LOCK_DIR       one directory for all workers of a host
  FARM_LOG_FORMAT     text, or json: an object per line with the job, attempt and phase that it is about

SIGTERM or Ctrl-C: the job in hand is finished first, or handed back after FARM_DRAIN_S seconds where that is set.
A second one stops at once and hands the job back.
"""


# Without pretty exceptions: those show local variables, and passwords among them.
app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.callback(help=HELP, invoke_without_command=True)
def main(
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto: a GPU where there is one.")] = "auto",
    threads: Annotated[
        int | None, typer.Option(help="Processors per job. Default: all of the host's; 2 beside a GPU.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Unique name. Default: made up from device and host.")] = None,
    log_level: Annotated[str, typer.Option(help=", ".join(LEVELS) + ".")] = "INFO",
    metrics_port: Annotated[
        int | None,
        typer.Option(
            metavar="PORT",
            min=1,
            max=65535,
            help="Serve /metrics for Prometheus on this port of FARM_METRICS_ADDRESS (127.0.0.1).  "
            "[default: FARM_METRICS_PORT, else none]",
        ),
    ] = None,
    context: typer.Context = None,  # type: ignore[assignment]  # called without one from Python
) -> None:
    """Serves until told to stop; what is wrong with the start is said on stderr, with what to do."""
    if context is not None and context.invoked_subcommand is not None:
        return
    with _explained():
        level = _level(log_level)
        settings = _settings()
        if metrics_port is not None:
            settings = settings.model_copy(update={"metrics_port": metrics_port})
        locks.prepare(settings.lock_dir)
        worker = _worker(settings, device, threads, name)
        _log(level, settings, worker)
        raise typer.Exit(Service(settings, worker, level, template=TEMPLATE).run())


@app.command("health")
def healthy() -> None:
    """Say whether the worker lives that has this FARM_HEALTH_FILE: exit code 0 where it does, else 1.

    \b
    Example:
      FARM_HEALTH_FILE=/run/farm/alive python -m workers health
    """
    with _explained():
        print(health.check(load().health_file))


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Errors as messages with exit codes."""
    try:
        yield
    except FarmError as error:
        print(f"error: {error}", file=sys.stderr)
        status = {BadInput: EXIT_USAGE, Unreachable: EXIT_UNREACHABLE}.get(type(error), EXIT_FAILED)
        raise typer.Exit(status) from None


def _level(text: str) -> str:
    if text.upper() not in LEVELS:
        raise unknown("log level", text, LEVELS)
    return text.upper()


def _settings() -> Settings:
    settings = load()
    if settings.broker_url is None:
        raise BadInput(
            "No broker is set. Either set CELERY_BROKER_URL to a Redis, such as redis://localhost:6379/0, or let "
            "`python -m producer submit-matrix --local` start one with workers of its own."
        )
    queue.check_url(settings.broker_url)
    return settings


def _worker(settings: Settings, device: str, threads: int | None, name: str | None) -> WorkerInfo:
    visible = settings.visible_gpu
    # First without the store: a wrong flag is said even when the database is away.
    worker = capabilities.capabilities(device, threads, name=name, visible=visible)
    if worker.device_kind == "cpu":
        return worker
    # One after the other, and registered before the next one looks: else two that start together choose alike.
    with locks.turn(settings.lock_dir, "choosing"), contextlib.closing(_store(settings)) as store:
        # Of all hosts: the containers of one have names of their own, and a UUID is there once in the world.
        worker = capabilities.capabilities(device, threads, name=name, living=store.workers(), visible=visible)
        store.register(worker)
    return worker


def _store(settings: Settings) -> Store:
    return open_store(settings.database, lease_s=settings.lease_s)


def _log(level: str, settings: Settings, worker: WorkerInfo) -> None:
    logs.set_up(level, settings.log_format, worker=worker.id, device=worker.device_uuid or worker.device_kind)
    if level != "DEBUG":
        # One line per job is the supervisor's; Celery's two more tell nothing new.
        for name in ("celery.worker.strategy", "celery.app.trace", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)


if __name__ == "__main__":
    app(prog_name="python -m workers")
