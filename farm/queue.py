"""The queue: Celery on Redis as a doorbell. The only file that imports Celery; doors inject the handler.

A message names a job and nothing more: spec, state and result live in the results store, so a message that
is lost, doubled or late does no harm. The settings below follow from that.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import signal
import ssl
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import redis
from billiard import util as billiard_util
from celery import Celery, signals
from celery.exceptions import CPendingDeprecationWarning, SecurityWarning
from celery.worker import state as worker_state
from kombu import Queue
from kombu.exceptions import BatchPublishError, OperationalError
from kombu.transport import TRANSPORT_ALIASES
from kombu.transport import redis as kombu_redis
from kombu.utils.json import loads
from redis.backoff import NoBackoff
from redis.retry import Retry

from farm import logs
from farm.errors import BadInput, Unreachable

log = logging.getLogger(__name__)

TASK = "farm.measure"

#: At most so many messages wait in one queue; the reconciler refills it.
WINDOW = 1000

#: Redis is asked with this much patience when somebody waits for the answer.
PATIENCE_S = 3.0

#: A message that nobody acknowledged comes back after this long: far above the longest deadline, because
#: what it would repeat is in the store anyway.
VISIBILITY_S = 7 * 24 * 3600

#: Two of them are a message: itself, and the event that Flower hears of it.
_COMMANDS_AT_ONCE = 20

#: No message of ours is larger.
_MAX_MESSAGE_BYTES = 64 * 1024

_JOB_ID = re.compile(r"[A-Za-z0-9._-]{1,200}")

_SCHEMES = ("redis", "rediss")

#: redis-py takes it there, too.
_QUERY_PASSWORD = re.compile(r"([?&]password=)[^&]*", re.IGNORECASE)

#: What may be asked of a worker through the broker: to show itself. Flower needs these, and nobody more: what
#: stops jobs is the store's cancel flag, what stops a worker is a signal.
_LOOKS = frozenset(
    {
        *("active", "active_queues", "clock", "conf", "enable_events", "heartbeat", "ping"),
        *("query_task", "registered", "reserved", "revoked", "scheduled", "stats"),
    }
)


def create_app(broker_url: str, queues: Iterable[str] = ()) -> Celery:
    """A Celery application with the farm's settings; `queues` are those that it consumes from.

    Raises:
        BadInput: the URL is not one of Redis.
    """
    check_url(broker_url)
    app = Celery("farm", broker=broker_url, set_as_current=False)
    app.conf.update(_SETTINGS)
    app.conf.task_queues = [_queue(name) for name in queues]
    # By its alias: given as a class, kombu would no longer know that the URL asked for TLS.
    TRANSPORT_ALIASES.update(dict.fromkeys(_SCHEMES, f"{__name__}:_Transport"))
    if urlsplit(broker_url).scheme == "rediss":
        app.conf.broker_use_ssl = {"ssl_cert_reqs": ssl.CERT_REQUIRED}
    return app


def check_url(broker_url: str) -> None:
    """Passes where the URL is one of Redis.

    Raises:
        BadInput: it is not.
    """
    try:
        scheme = urlsplit(broker_url).scheme
    except ValueError:
        raise BadInput(
            "The broker's URL in CELERY_BROKER_URL cannot be read: write [ and the like in a password as %5B."
        ) from None
    if scheme not in _SCHEMES:
        raise BadInput(
            f"The broker's URL {without_password(broker_url)!r} is not one of Redis. "
            "Set CELERY_BROKER_URL to one like redis://localhost:6379/0."
        )


def without_password(url: str) -> str:
    """The URL as it may be shown, also where it is malformed: a password may hold anything, such as `/` or `#`."""
    before, separator, after = url.rpartition("@")
    if separator:
        scheme, given, _ = before.partition("://")
        after = f"{scheme}://***@{after}" if given else f"***@{after}"
    return _QUERY_PASSWORD.sub(r"\1***", after)


def check(broker_url: str) -> None:
    """Passes where the broker answers.

    Raises:
        Unreachable: it does not, in `PATIENCE_S`.
        BadInput: the URL is not one of Redis.
    """
    _ask(broker_url, lambda client: client.ping())


def waiting(broker_url: str, queues: Iterable[str]) -> dict[str, int]:
    """The number of messages that wait in each queue.

    Raises:
        Unreachable: the broker does not answer.
    """
    names = list(queues)
    return dict(zip(names, _ask(broker_url, lambda client: [client.llen(name) for name in names]), strict=True))


def waiting_jobs(broker_url: str, queue: str) -> set[str]:
    """The jobs that the messages in a queue name.

    Raises:
        Unreachable: the broker does not answer.
    """
    found = _ask(broker_url, lambda client: client.lrange(queue, 0, -1))
    return {job for raw in found if (job := _job_named(raw)) is not None}


def publish(app_or_url: Celery | str, job_ids_by_queue: Mapping[str, Sequence[str]]) -> int:
    """Sends one message per job to the queue named; how many were sent.

    Raises:
        Unreachable: the broker does not answer; what was sent until then stays sent.
    """
    app = create_app(app_or_url) if isinstance(app_or_url, str) else app_or_url
    check(app.conf.broker_url)
    sent = 0
    try:
        with app.connection_for_write() as connection, app.amqp.Producer(connection) as producer:
            for name, job_ids in job_ids_by_queue.items():
                queue = _queue(name)
                # Many at a time, because Redis takes longer to answer than to take them.
                with producer.batch(_COMMANDS_AT_ONCE):
                    for job_id in job_ids:
                        _send(app, producer, queue, job_id)
                sent += len(job_ids)
    except (OperationalError, BatchPublishError, redis.RedisError, OSError) as error:
        raise _unreachable(app.conf.broker_url, error) from None
    return sent


def serve(
    broker_url: str,
    *,
    name: str,
    queues: Sequence[str],
    handler: Callable[[str], str],
    on_ready: Callable[[], None] = lambda: None,
    on_abort: Callable[[], None] = lambda: None,
    drain_s: float | None = None,
    log_level: str = "INFO",
) -> int:
    """Runs a worker with one process of its own until it is told to stop; its exit status.

    SIGTERM or SIGINT lets the job in hand end; a second one, or the end of `drain_s`, stops at once.

    Args:
        broker_url: where the messages come from.
        name: the worker's name, unique: `cpu@host.4711`.
        queues: what it consumes from.
        handler: called with a job's id, in the pool's process; what it returns is shown as the task's result.
        on_ready: called once, when the worker consumes.
        on_abort: called just before this process leaves a job undone; it ends the pool's process.
        drain_s: after the first signal, the job in hand has so long; None lets it end.
        log_level: of the worker's own lines.
    """
    warnings.filterwarnings("ignore", category=SecurityWarning)  # Root and pickle: the farm accepts JSON only.
    app = create_app(broker_url, queues)
    _add_task(app, handler)
    _only_show()
    signals.setup_logging.connect(_keep_logging)
    worker = app.Worker(
        hostname=name,
        pool="prefork",
        concurrency=1,
        loglevel=log_level,
        quiet=True,
        without_gossip=True,
        without_mingle=True,
    )

    def ready(**_: Any) -> None:
        # It announces another default of a setting that the farm sets. Celery's own set-up would undo it before.
        warnings.filterwarnings("ignore", category=CPendingDeprecationWarning)
        _stop_on_signals(on_abort, drain_s)
        on_ready()

    signals.worker_ready.connect(ready, weak=False)
    try:
        worker.start()
    finally:
        signals.worker_ready.disconnect(ready)
        _disarm()
    return int(worker.exitcode or 0)


_SETTINGS: Mapping[str, Any] = {
    "task_serializer": "json",
    "result_serializer": "json",
    "accept_content": ["json"],
    # What a job ended with is in the store. Events carry the short result text all the same.
    "task_ignore_result": True,
    # The store decides what is run again; the queue never does.
    "task_acks_late": True,
    "task_reject_on_worker_lost": False,
    "task_publish_retry": False,
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    # Else a worker that lost its connection in mid-job would take a second message.
    "worker_enable_prefetch_count_reduction": False,
    "worker_prefetch_multiplier": 1,
    "worker_concurrency": 1,
    "task_create_missing_queues": False,
    "task_default_queue": "cpu",
    "broker_connection_retry": True,
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    # What Redis refuses for a while (its memory is full, it loads, it is a replica) is no reason to end.
    "broker_channel_error_retry": True,
    "broker_transport_options": {
        "visibility_timeout": VISIBILITY_S,
        "socket_connect_timeout": PATIENCE_S,
        "socket_keepalive": True,
    },
    # Flower lives on events.
    "worker_send_task_events": True,
    "task_send_sent_event": True,
    "task_track_started": True,
    "worker_redirect_stdouts": False,
    "enable_utc": True,
}


def _queue(name: str) -> Queue:
    return Queue(name, routing_key=name)


def _send(app: Celery, producer: Any, queue: Queue, job_id: str) -> None:
    # A task id that begins with the job's: Flower shows it, and a job published twice stays two tasks.
    task_id = f"{job_id}-{secrets.token_hex(4)}"
    app.send_task(TASK, args=[job_id], task_id=task_id, queue=queue, producer=producer, retry=False)


def _add_task(app: Celery, handler: Callable[[str], str]) -> None:
    @app.task(name=TASK)
    def measure(*args: Any, **kwargs: Any) -> str:
        job_id = args[0] if len(args) == 1 and not kwargs else None
        if not isinstance(job_id, str) or _JOB_ID.fullmatch(job_id) is None:
            log.warning("discarded a message: its arguments name no job: %.200r %.200r", args, kwargs)
            return "discarded: names no job"
        with logs.about(job=job_id):
            return handler(job_id)


def _only_show() -> None:
    """Workers of this process obey no command that comes through the broker: whoever reaches that may look."""
    from celery.worker.control import Panel

    for name in set(Panel.data) - _LOOKS:
        Panel.data[name] = partial(_refuse, name)


def _refuse(name: str, state: Any, **arguments: Any) -> dict[str, str]:
    log.warning("refused the command %s: a worker obeys none that comes through the broker", name)
    return {"error": "refused: this worker obeys no command that comes through the broker"}


def _keep_logging(**_: Any) -> None:
    """Leaves logging as the door has set it up, for Celery as for the farm; where its pool speaks, it is heard."""
    pool = billiard_util.get_logger()
    pool.propagate = True
    pool.setLevel(logging.ERROR)


def _stop_on_signals(on_abort: Callable[[], None], drain_s: float | None) -> None:
    """The first signal lets the job in hand end (Celery's warm shutdown); a second one or the alarm does not."""
    asked = False

    def stop(number: int, frame: Any) -> None:
        nonlocal asked
        if asked:
            _abort(on_abort)
        asked = True
        worker_state.should_stop = os.EX_OK
        log.warning("stopping after the job in hand; the same signal again stops at once")
        # Neither Celery nor billiard uses this timer.
        signal.setitimer(signal.ITIMER_REAL, drain_s or 0.0)

    def late(number: int, frame: Any) -> None:
        log.warning("the job in hand is not done after %g s; it is handed back", drain_s)
        _abort(on_abort)

    signal.signal(signal.SIGALRM, late)
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)


def _abort(on_abort: Callable[[], None]) -> None:
    _disarm()
    try:
        on_abort()
    finally:
        # Celery would wait for the pool's answer, which never comes.
        os._exit(1)


def _disarm() -> None:
    """The alarm does not come any more: what follows is to be done once."""
    signal.setitimer(signal.ITIMER_REAL, 0.0)


def _ask(broker_url: str, question: Callable[[Any], Any]) -> Any:
    check_url(broker_url)
    try:
        client = redis.Redis.from_url(
            broker_url,
            socket_connect_timeout=PATIENCE_S,
            socket_timeout=PATIENCE_S,
            retry=Retry(NoBackoff(), 0),
        )
        # Else a parameter that it does not know would be found out, as a mistake of ours, by the first question.
        client.connection_pool.make_connection()
    except (TypeError, ValueError):
        # What they say may quote a password.
        raise BadInput(
            f"The broker's URL {without_password(broker_url)!r} cannot be read. Write it like "
            "redis://localhost:6379/0; in a password, write / # ? @ and the like as %2F %23 %3F %40."
        ) from None
    try:
        with client:
            return question(client)
    except (redis.RedisError, OSError) as error:
        raise _unreachable(broker_url, error) from None


def _unreachable(broker_url: str, error: Exception) -> Unreachable:
    if isinstance(error, redis.AuthenticationError | redis.exceptions.NoPermissionError):
        return Unreachable(
            f"The broker {without_password(broker_url)} does not let us in ({type(error).__name__}). "
            "Check user and password in CELERY_BROKER_URL."
        )
    return Unreachable(
        f"The broker {without_password(broker_url)} does not answer ({type(error).__name__}). "
        "Start Redis there, or set CELERY_BROKER_URL to where it runs."
    )


class _Client(redis.Redis):
    """Drops messages that are not the farm's: kombu's consumer would end on some of them."""

    def parse_response(self, connection: Any, command_name: str, **options: Any) -> Any:
        answer = super().parse_response(connection, command_name, **options)
        if command_name != "BRPOP" or not answer:
            return answer
        key, raw = answer
        problem = _problem(raw)
        if problem is None:
            return answer
        log.warning(
            "discarded a message on the queue %s: %s: %.200r", key.decode("utf-8", "replace"), problem, raw
        )
        # As if the queue had been empty for once.
        return None


class _Channel(kombu_redis.Channel):
    def _get_client(self) -> type[_Client]:
        super()._get_client()
        return _Client


class _Transport(kombu_redis.Transport):
    Channel = _Channel


def _problem(raw: bytes) -> str | None:
    """Why a message is not the farm's; None where it is."""
    if len(raw) > _MAX_MESSAGE_BYTES:
        return f"{len(raw):,} bytes are too many"
    try:
        message = loads(raw.decode())
    except Exception as error:
        # Broad, because kombu's JSON hooks raise whatever their converters do.
        return f"it is not JSON ({type(error).__name__})"
    try:
        return _envelope_problem(message)
    except Exception as error:
        # Broad, for the same reason: the body is JSON too.
        return f"it is not a Celery message ({type(error).__name__}: {error})"


def _envelope_problem(message: Any) -> str | None:
    headers, properties = message["headers"], message["properties"]
    if headers["task"] != TASK:
        return f"the task {headers['task']!r:.100} is not known here"
    delivery = properties["delivery_info"]
    names = (headers["id"], properties["delivery_tag"], delivery["routing_key"])
    if not all(isinstance(name, str) and name for name in names) or not isinstance(delivery["exchange"], str):
        return "its ids are not text"
    if (message["content-type"], message["content-encoding"]) != ("application/json", "utf-8"):
        return "its content is not JSON"
    if any(headers.get(key) for key in ("eta", "expires", "group", "stamps", "stamped_headers", "compression")):
        return "it asks for what the farm does not do"
    if any(headers.get("timelimit") or ()) or not isinstance(headers.get("retries", 0), int):
        return "it asks for limits of its own"
    args, kwargs, embedded = _body(message)
    if not isinstance(args, list) or not isinstance(kwargs, dict) or any((embedded or {}).values()):
        return "its body is not [args, kwargs, nothing more]"
    return None


def _body(message: Any) -> tuple[Any, Any, Any]:
    if message["properties"]["body_encoding"] != "base64":
        raise ValueError("the body is not base64")
    args, kwargs, embedded = loads(_Channel.codecs["base64"].decode(message["body"]))
    return args, kwargs, embedded


def _job_named(raw: bytes) -> str | None:
    if _problem(raw) is not None:
        return None
    args, _, _ = _body(loads(raw.decode()))
    return args[0] if len(args) == 1 and isinstance(args[0], str) else None
