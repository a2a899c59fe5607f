"""Redis drops, dies, forgets, is away or full: nothing hangs on it, so every job is measured once all the same."""

from __future__ import annotations

import pytest

from farm import queue
from farm.errors import Unreachable
from tests.faults.farms import Farm, Farms


@pytest.fixture
def crew(whole: bool) -> tuple[str, ...]:
    """The workers of each farm."""
    return ("one", "two") if whole else ("one",)


def assert_nobody_ended(farm: Farm) -> None:
    """Redis may do what it likes: workers wait for it."""
    assert [worker.starts for worker in farm.workers.values()] == [1] * len(farm.workers)


def until_begun(farm: Farm, jobs: int) -> None:
    """Waits until more jobs than these were begun."""
    farm.until(lambda: farm.begun() > jobs)


def test_connections_are_dropped(farms_of: Farms, crew: tuple[str, ...], whole: bool) -> None:
    with farms_of.begin("Redis: connections dropped") as farm, farm.redis.client() as client:
        farm.start(*crew)
        drops = 10 if whole else 3
        farm.submit(6 * drops)
        for drop in range(drops):
            until_begun(farm, 4 * drop)
            farm.rest(farm.random.uniform(0, 0.1))
            for kind in ("normal", "pubsub"):
                farm.faults += client.client_kill_filter(_type=kind, skipme=True)
        farm.conclude()
        assert farm.faults >= drops
        assert_nobody_ended(farm)


@pytest.mark.whole
def test_redis_is_killed(farms_of: Farms, crew: tuple[str, ...], whole: bool) -> None:
    with farms_of.begin("Redis: SIGKILL, and back empty") as farm:
        farm.start(*crew)
        kills = 3 if whole else 1
        farm.submit(10 * kills)
        for kill in range(kills):
            until_begun(farm, 8 * kill)
            farm.redis.stop()
            farm.faults += 1
            farm.rest(farm.random.uniform(0, 1))
            farm.redis.start()
        farm.conclude()
        assert_nobody_ended(farm)


@pytest.mark.whole
def test_everything_in_redis_is_flushed(farms_of: Farms, crew: tuple[str, ...]) -> None:
    with farms_of.begin("Redis: FLUSHALL") as farm, farm.redis.client() as client:
        farm.start(*crew)
        farm.submit(10)
        until_begun(farm, 3)
        client.flushall()
        farm.faults += 1
        farm.conclude()
        assert_nobody_ended(farm)


@pytest.mark.short("postgresql")
def test_redis_is_away_for_long(farms_of: Farms, crew: tuple[str, ...], whole: bool) -> None:
    with farms_of.begin("Redis: away for long") as farm:
        farm.start(*crew)
        farm.submit(10)
        until_begun(farm, 3)
        farm.redis.stop()
        farm.faults += 1
        farm.rest(30 if whole else 1.5)
        farm.redis.start()
        farm.conclude()
        assert_nobody_ended(farm)


def test_the_memory_of_redis_is_full(farms_of: Farms, crew: tuple[str, ...], whole: bool) -> None:
    with farms_of.begin("Redis: its memory is full") as farm, farm.redis.client() as client:
        farm.start(*crew)
        farm.submit(10)
        until_begun(farm, 3)
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", 1)
        farm.faults += 1
        with pytest.raises(Unreachable, match="does not answer"):
            queue.publish(farm.redis.url, {"elsewhere": ["job"]})
        farm.rest(10 if whole else 1)
        client.config_set("maxmemory", 0)
        farm.conclude()
        assert_nobody_ended(farm)


@pytest.mark.whole
def test_a_queue_is_no_list_any_more(farms_of: Farms, crew: tuple[str, ...]) -> None:
    with farms_of.begin("Redis: a queue is no list") as farm, farm.redis.client() as client:
        farm.start(*crew)
        farm.submit(10)
        until_begun(farm, 3)
        client.set("cpu", "no list")
        farm.faults += 1
        farm.rest(2)
        client.delete("cpu")
        farm.conclude()
        assert_nobody_ended(farm)
