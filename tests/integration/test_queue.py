"""The queue on a real Redis: what is ours is served, and nothing else harms the worker."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from farm import queue
from farm.errors import BadInput, Unreachable
from tests.redis_servers import RedisServer, eventually, redis_server

WORKER = """
import logging, sys
from farm import queue
logging.basicConfig(level="INFO", format="%(levelname)s %(name)s: %(message)s", stream=sys.stdout)
def handler(job_id):
    logging.getLogger("handler").info("serves %s", job_id)
    return "ok"
ready = lambda: print("ready")
sys.exit(queue.serve(sys.argv[1], name="cpu@test", queues=["cpu"], handler=handler, on_ready=ready))
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as running:
        yield running


class Worker:
    """A worker in a process of its own, and what it wrote."""

    def __init__(self, server: RedisServer, log: Path) -> None:
        self.server = server
        self._log = log
        self._marks = itertools.count()
        with log.open("wb") as out:
            command = [sys.executable, "-u", "-c", WORKER, server.url]
            self.process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        eventually(lambda: "ready" in self.log)

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def log_of(self, *raw: bytes) -> str:
        """What it logs for these messages: a good one behind them shows that it has come past them."""
        before, mark = len(self.log), f"mark-{next(self._marks)}"
        with self.server.client() as client:
            for one in raw:
                client.lpush("cpu", one)
        queue.publish(self.server.url, {"cpu": [mark]})
        eventually(lambda: f"serves {mark}" in self.log)
        assert self.process.poll() is None
        return self.log[before:]


@pytest.fixture(scope="module")
def worker(server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    started = Worker(server, tmp_path_factory.mktemp("worker") / "log")
    yield started
    started.process.send_signal(signal.SIGTERM)
    assert started.process.wait(15) == 0


@pytest.fixture(scope="module")
def good(server: RedisServer) -> dict[str, Any]:
    """A message as the farm sends it."""
    queue.publish(server.url, {"elsewhere": ["job-1"]})
    with server.client() as client:
        return dict(json.loads(client.rpop("elsewhere")))


def body(args: Any, kwargs: Any = None, embedded: Any = None) -> str:
    return base64.b64encode(json.dumps([args, kwargs or {}, embedded]).encode()).decode()


RAW = {
    "bytes": b"\xff\xfe\x00",
    "text": b"make me a sandwich",
    "nothing": b"",
    "null": b"null",
    "number": b"42",
    "string": b'"x"',
    "list": b"[1, 2]",
    "empty": b"{}",
    "half": b'{"body": 5, "headers": {}}',
    "deep": b"[" * 20_000,
    "hook": b'{"__type__": "uuid", "__value__": "rubbish"}',
    "huge": json.dumps({"body": "x" * 5_000_000}).encode(),
}


@pytest.mark.parametrize("name", RAW)
def test_what_is_no_message_is_discarded_with_one_line(worker: Worker, name: str) -> None:
    log = worker.log_of(RAW[name])
    assert log.count("discarded a message on the queue cpu") == 1
    assert "Traceback" not in log


BENT: dict[str, dict[str, Any]] = {
    "unknown-task": {"headers": {"task": "rm.rf"}},
    "no-id": {"headers": {"id": None}},
    "rubbish-eta": {"headers": {"eta": "soon"}},
    "far-eta": {"headers": {"eta": "2999-01-01T00:00:00"}},
    "rubbish-expiry": {"headers": {"expires": "never"}},
    "own-limits": {"headers": {"timelimit": [1, "x"]}},
    "own-retries": {"headers": {"retries": "many"}},
    "no-headers": {"headers": None},
    "no-delivery": {"properties": {"delivery_info": None}},
    "numeric-tag": {"properties": {"delivery_tag": 5}},
    "body-not-base64": {"body": "§§§"},
    "body-not-json": {"body": base64.b64encode(b"{").decode()},
    "body-too-short": {"body": base64.b64encode(b"[1]").decode()},
    "chained": {"body": body(["job"], embedded={"chain": [{"task": "rm.rf"}]})},
    "pickled": {"content-type": "application/x-python-serialize"},
}


@pytest.mark.parametrize("name", BENT)
def test_a_message_that_is_not_the_farms_is_discarded_with_one_line(
    worker: Worker, good: dict[str, Any], name: str
) -> None:
    log = worker.log_of(json.dumps(bend(good, BENT[name])).encode())
    assert log.count("discarded a message") == 1
    assert "Traceback" not in log
    assert "serves job-1" not in log


@pytest.mark.parametrize(
    "args",
    [[], [5], [None], [{"a": 1}], ["a", "b"], ["x" * 1000], ["../../etc/passwd"], ["a\0b"], [""], ["a b"]],
    ids=repr,
)
def test_arguments_that_name_no_job_reach_no_handler(
    worker: Worker, good: dict[str, Any], args: list[Any]
) -> None:
    log = worker.log_of(json.dumps(bend(good, {"body": body(args)})).encode())
    assert log.count("discarded a message") == 1
    assert log.count("serves ") == 1


def test_keyword_arguments_reach_no_handler(worker: Worker, good: dict[str, Any]) -> None:
    assert (
        worker.log_of(json.dumps(bend(good, {"body": body(["job"], {"job_id": "x"})})).encode()).count("serves ")
        == 1
    )


def bend(good: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    return {
        **good,
        **{key: {**good[key], **value} if isinstance(value, dict) else value for key, value in change.items()},
    }


def test_nothing_is_left_unacknowledged(worker: Worker) -> None:
    worker.log_of()
    with worker.server.client() as client:
        eventually(lambda: not client.hlen("unacked"))


def test_every_message_has_a_task_id_that_shows_its_job(server: RedisServer) -> None:
    with listening(server) as events:
        queue.publish(server.url, {"other": ["run.000001", "run.000001"]})
        eventually(lambda: len(sent(events)) >= 2)
    assert len(sent(events)) == 2
    assert all(task_id.startswith("run.000001-") for task_id in sent(events))


def sent(events: list[dict[str, Any]]) -> set[str]:
    """Ids of the tasks that were sent: workers of other tests may still say goodbye."""
    return {event["uuid"] for event in list(events) if event["type"] == "task-sent"}


def test_many_messages_are_sent_in_few_turns(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[int] = []
    execute = redis.client.Pipeline.execute

    def counting(pipeline: redis.client.Pipeline, *arguments: Any) -> Any:
        turns.append(len(pipeline.command_stack))
        return execute(pipeline, *arguments)

    monkeypatch.setattr(redis.client.Pipeline, "execute", counting)
    jobs = [f"run.{number:06d}" for number in range(45)]
    assert queue.publish(server.url, {"in-turns": jobs}) == 45
    assert turns[1:] == [20, 20, 20, 20, 10]  # the first asks how long the queue is
    assert queue.waiting_jobs(server.url, "in-turns") == set(jobs)


def test_published_messages_wait_in_the_queues_named(server: RedisServer) -> None:
    jobs = [f"run.{number:06d}" for number in range(30)]
    assert queue.publish(server.url, {"gpu": jobs[:20], "gpu.h200": jobs[20:]}) == 30
    assert queue.waiting(server.url, ["gpu", "gpu.h200", "gpu.none"]) == {"gpu": 20, "gpu.h200": 10, "gpu.none": 0}
    assert queue.waiting_jobs(server.url, "gpu") == set(jobs[:20])


@pytest.mark.parametrize("question", ["check", "waiting", "publish"])
def test_an_unreachable_broker_is_said_soon_and_without_its_password(question: str) -> None:
    url = "redis://:hunter2@127.0.0.1:1/0"
    ask: dict[str, Callable[[], object]] = {
        "check": lambda: queue.check(url),
        "waiting": lambda: queue.waiting(url, ["cpu"]),
        "publish": lambda: queue.publish(url, {"cpu": ["a"]}),
    }
    with pytest.raises(Unreachable, match=r"redis://\*\*\*@127.0.0.1:1/0 does not answer") as caught:
        ask[question]()
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "url", ["amqp://u:hunter2@h/", "redis", "", "redis://:hunter2@h:port/0", "redis://h/0?nonsense=1"]
)
def test_a_url_that_is_not_redis_is_refused(url: str) -> None:
    with pytest.raises(BadInput, match="broker's URL") as caught:
        queue.check(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        *("redis://:hunter2/x@127.0.0.1:1/0", "redis://u:hunter2#x@127.0.0.1:1/0", "redis://u:x?hunter2@h"),
        *("redis://127.0.0.1:1/0?password=hunter2", "redis://127.0.0.1:1/0?db=1&PASSWORD=hunter2", "u:hunter2@h"),
        *("redis://:hunter2@h@127.0.0.1:1/0", "amqp://u:hunter2/x@h/", "redis://u:[hunter2@127.0.0.1:1/0"),
    ],
)
def test_a_password_is_not_shown_wherever_a_url_has_it(url: str) -> None:
    """What openssl makes as base64 has slashes: such a URL has no host where the password should end."""
    with pytest.raises((BadInput, Unreachable)) as caught:
        queue.check(url)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))
    assert "CELERY_BROKER_URL" in str(caught.value) or "broker's URL" in str(caught.value)


def test_a_broker_whose_password_is_wrong_is_unreachable(server: RedisServer) -> None:
    with server.client() as client:
        client.config_set("requirepass", "right")
        try:
            with pytest.raises(Unreachable, match=r"let us in \(AuthenticationError\). Check user and password"):
                queue.check(f"redis://:wrong@127.0.0.1:{server.port}/0")
            queue.check(f"redis://:right@127.0.0.1:{server.port}/0")
        finally:
            client.config_set("requirepass", "")


@contextlib.contextmanager
def listening(server: RedisServer) -> Iterator[list[dict[str, Any]]]:
    """What Flower would hear."""
    events: list[dict[str, Any]] = []
    app = queue.create_app(server.url)
    with app.connection_for_read() as connection, server.client() as client:
        subscribed = client.pubsub_numpat()
        receiver = app.events.Receiver(connection, handlers={"*": events.append})
        ready = threading.Event()

        def capture() -> None:
            # When the test is over its connection goes, in the middle of whatever this is doing.
            gone = (OSError, *connection.connection_errors, *connection.channel_errors)
            with contextlib.suppress(*gone), receiver.consumer_context():
                ready.set()
                receiver.capture(limit=None, timeout=None, wakeup=False)

        thread = threading.Thread(target=capture, daemon=True)
        thread.start()
        ready.wait(10)
        # It listens from its first look on: what is sent before that is lost.
        eventually(lambda: client.pubsub_numpat() > subscribed)
        yield events
        receiver.should_stop = True
        thread.join(10)
