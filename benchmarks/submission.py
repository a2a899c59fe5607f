"""What does it cost to submit very many jobs? Time, memory and messages, beside a loop of apply_async.

Matrices of 1,000, 10,000 and 100,000 jobs go through what `submit-matrix` does, from the matrix to the messages,
into SQLite and into PostgreSQL, with a real Redis. In the same run a plain loop sends as many tasks with Celery's
`apply_async`. Asked is:

- the largest matrix takes at most a fifth of the loop's time;
- the producer's memory and Redis' stay bounded: a queue is never longer than its window;
- a job takes as much of the processors, the database server's too, among many as among few;
- the window is refilled from the database: then a consumer takes messages and does their jobs, while a reconciler
  looks after the queue.

Every producer is a process of its own, every database and every Redis are new ones. PostgreSQL is a server of its
own; or the one that FARM_DATABASE_URL names, where databases are made for this and taken away.

    python -m benchmarks.submission
    python -m benchmarks.submission --jobs 400,4000 --served 1200 --databases sqlite

The last line is the figures as JSON.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass

from benchmarks import loads
from benchmarks.figures import Figure, print_last
from farm import queue
from farm.measurement import Outcome
from farm.settings import Settings
from producer import submit
from results_store.store import Ending, open_store
from tests import factories
from tests.redis_servers import RedisServer
from workers.reconciler import Reconciler, RedisBroker

SHARE = 0.2
PRODUCER_MIB, REDIS_MIB = 64, 16
#: The consumer's reconciler looks after so many messages.
LOOK_EVERY = 250
#: The queue of a matrix for CPUs.
QUEUE = "cpu"


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a submission took."""

    #: Until everything was in the database; of it, on processors, the server's too; then until messages were sent.
    written_s: float
    written_cpu_s: float
    published_s: float
    messages: int
    producer_bytes: int
    redis_bytes: int
    #: The longest that the queue was.
    longest: int

    @property
    def seconds(self) -> float:
        """All together."""
        return self.written_s + self.published_s


def submitted(database_url: str, broker_url: str, jobs: int) -> tuple[float, float, float, int]:
    """Submits a matrix as the producer does: seconds until it was written, those of processors, of publishing,
    and the number of messages.
    """
    with closing(open_store(database_url)) as store:
        spent, began = loads.spent_s(database_url), time.perf_counter()
        matrix = loads.matrix(jobs)
        submit.require_broker(Settings(broker_url=broker_url))
        living = store.workers()
        submit.unserved(matrix, living)
        environments = submit.environments_of(matrix, living)
        submission, run = submit.submit(store, matrix, name=None, again=False, environments=environments)
        written, cpu_s = time.perf_counter(), loads.spent_s(database_url) - spent
        assert run.jobs == jobs, f"{run.jobs:,} of {jobs:,} jobs were written"
        began_publishing = time.perf_counter()
        messages = submit.publish(store, broker_url, submission.run_id)
        published_s = time.perf_counter() - began_publishing
        return written - began, cpu_s, published_s, messages


def nothing(job_id: str) -> None:
    """The loop's task; nobody runs it."""


def looped(broker_url: str, tasks: int) -> float:
    """Seconds of a plain loop that sends a task for each job."""
    app = queue.create_app(broker_url, [QUEUE])
    app.conf.task_send_sent_event = (
        False  # else every task would cost a second message, which would flatter the farm
    )
    task = app.task(name="loop.measure", ignore_result=True)(nothing)
    began = time.perf_counter()
    for number in range(tasks):
        task.apply_async((f"20260101-000000-0000.{number:06d}",), queue=QUEUE)
    return time.perf_counter() - began


def served(database_url: str, redis: RedisServer, jobs: int) -> int:
    """Takes messages and ends a job for each, as often as asked or until none comes; how many jobs that were.

    A reconciler looks after the queue meanwhile.
    """
    with closing(open_store(database_url)) as store, redis.client() as client:
        store.register(factories.worker())
        reconciler = Reconciler(store, RedisBroker(redis.url), "cpu@alpha", 10.0)
        done = 0
        while done < jobs:
            if done % LOOK_EVERY == 0:
                reconciler.step()
            if client.rpop(QUEUE) is None or (claim := store.claim("cpu@alpha")) is None:
                break
            done += store.finish(claim, Ending(outcome=Outcome.UNSUPPORTED, reason="nothing is measured"))
        return done


@contextmanager
def watching(redis: RedisServer) -> Iterator[Callable[[], int]]:
    """Looks at the queue all the time; what is yielded tells the longest that it was."""
    longest, stop = 0, threading.Event()

    def look() -> None:
        nonlocal longest
        with redis.client() as client:
            while not stop.wait(0.002):
                longest = max(longest, client.llen(QUEUE))

    looker = threading.Thread(target=look)
    looker.start()
    try:
        yield lambda: longest
    finally:
        stop.set()
        looker.join()


def redis_bytes(redis: RedisServer) -> int:
    """The most memory that this Redis has used for data."""
    with redis.client() as client:
        return int(client.info("memory")["used_memory_peak"])


def submission(make: Callable[[], str], jobs: int, serve: int) -> tuple[Cost, int]:
    """What submitting so many jobs costs, with a database and a Redis of its own; how many were then served."""
    with loads.redis_server() as redis:
        empty = redis_bytes(redis)
        url = make()
        with watching(redis) as longest:
            (written_s, cpu_s, published_s, messages), producer_bytes = loads.apart(
                submitted, url, redis.url, jobs
            )
            done = served(url, redis, serve) if serve else 0
        cost = Cost(
            written_s=written_s,
            written_cpu_s=cpu_s,
            published_s=published_s,
            messages=messages,
            producer_bytes=producer_bytes,
            redis_bytes=redis_bytes(redis) - empty,
            longest=longest(),
        )
        print(
            f"  {jobs:,} jobs: {cost.seconds:.2f} s ({written_s:.2f} s written, {published_s:.2f} s for "
            f"{messages:,} messages), producer {producer_bytes / loads.MIB:.0f} MiB, Redis "
            f"{cost.redis_bytes / loads.MIB:.1f} MiB, longest queue {cost.longest:,}",
            flush=True,
        )
        return cost, done


def loop(jobs: int) -> float:
    """Seconds of the loop, with a Redis of its own."""
    with loads.redis_server() as redis:
        empty = redis_bytes(redis)
        seconds, producer_bytes = loads.apart(looped, redis.url, jobs)
        print(
            f"apply_async: {jobs:,} tasks in {seconds:.2f} s ({jobs / seconds:,.0f} a second), producer "
            f"{producer_bytes / loads.MIB:.0f} MiB, Redis {(redis_bytes(redis) - empty) / loads.MIB:.1f} MiB",
            flush=True,
        )
        return seconds


def submissions(make: Callable[[], str], sizes: list[int], serve: int) -> tuple[dict[int, Cost], int]:
    """What each of these numbers of jobs costs, and how many of the largest were then served."""
    done = 0
    found: dict[int, Cost] = {}
    for jobs in sizes:
        found[jobs], done = submission(make, jobs, serve if jobs == sizes[-1] else 0)
    return found, done


def figures(kind: str, found: dict[int, Cost], loop_s: float, done: int, serve: int) -> list[Figure]:
    """What submissions into one kind of database, the largest last, come to."""
    fewest, most = min(found), max(found)
    cost, grown = found[most], found[most].producer_bytes - found[fewest].producer_bytes
    longest = max(each.longest for each in found.values())
    share = cost.seconds / loop_s
    return [
        Figure(
            name=f"{kind}: time of {most:,} jobs ÷ of apply_async",
            result=f"{share:.3f} ({cost.seconds:.2f} s ÷ {loop_s:.2f} s)",
            goal=f"≤ {SHARE:g}",
            reached=share <= SHARE,
        ),
        loads.flat(f"{kind}: written", {jobs: each.written_cpu_s / jobs for jobs, each in found.items()}),
        Figure(
            name=f"{kind}: producer's memory, {most:,} jobs − {fewest:,}",
            result=f"{grown / loads.MIB:.1f} MiB",
            goal=f"≤ {PRODUCER_MIB} MiB",
            reached=grown <= PRODUCER_MIB * loads.MIB,
        ),
        Figure(
            name=f"{kind}: Redis' memory for {most:,} jobs",
            result=f"{cost.redis_bytes / loads.MIB:.1f} MiB",
            goal=f"≤ {REDIS_MIB} MiB",
            reached=cost.redis_bytes <= REDIS_MIB * loads.MIB,
        ),
        Figure(
            name=f"{kind}: longest queue",
            result=f"{longest:,} messages",
            goal=f"≤ {queue.WINDOW:,}",
            reached=0 < longest <= queue.WINDOW,
        ),
        Figure(
            name=f"{kind}: jobs served, {cost.messages:,} by the submission's messages, the others by refills",
            result=f"{done:,}",
            goal=f"{serve:,}",
            reached=done == serve,
        ),
    ]


def main() -> None:
    """Submits everything, and prints the figures last."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--jobs", type=loads.sizes, default="1000,10000,100000", help="joined by commas")
    arguments.add_argument("--served", type=int, default=3000, help="jobs done while the window is refilled")
    arguments.add_argument(
        "--databases", default="sqlite,postgresql", help="sqlite, postgresql, or both joined by a comma"
    )
    given = arguments.parse_args()
    kinds = given.databases.split(",")
    if unknown := set(kinds) - {"sqlite", "postgresql"}:
        arguments.error(f"no such database: {', '.join(sorted(unknown))}; possible: sqlite, postgresql")
    if not 0 <= given.served <= given.jobs[-1]:
        arguments.error(f"--served {given.served}: at most all {given.jobs[-1]:,} jobs can be served")
    measured: list[Figure] = []
    with loads.refusing(), ExitStack() as stack:
        makers: dict[str, Callable[[], str]] = {"sqlite": lambda: stack.enter_context(loads.sqlite())}
        if "postgresql" in kinds:
            makers["postgresql"] = stack.enter_context(loads.postgresql())
        loop_s = loop(given.jobs[-1])
        for kind in kinds:
            print(f"{kind}:", flush=True)
            found, done = submissions(makers[kind], given.jobs, given.served)
            measured += figures(kind, found, loop_s, done, given.served)
    print_last(measured, host=loads.host())


if __name__ == "__main__":
    main()
