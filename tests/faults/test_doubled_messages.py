"""Messages that come more than once, as a queue's do when it is restarted in an unlucky moment."""

from __future__ import annotations

from collections import Counter

import pytest
import sqlalchemy as sa

from results_store.schema import jobs
from tests.faults.farms import Farms

pytestmark = pytest.mark.timeout(900)

COPIES = 5


@pytest.mark.short("postgresql")
def test_each_message_five_times_measures_each_job_once(farms_of: Farms, whole: bool) -> None:
    count = 60 if whole else 18
    # A lease that no busy host outlives: nothing is to be lost here.
    with farms_of.begin("each message 5 times", lease_s=30.0) as farm:
        farm.start("one", "two")
        farm.submit(count, messages=COPIES)
        farm.faults += (COPIES - 1) * count
        with farm.redis.client() as redis:
            farm.until(lambda: farm.finished() and redis.llen("cpu") == 0, every_s=0.05)
        farm.conclude()
        found = farm.rows(sa.select(jobs.c.key, jobs.c.attempts))
        assert {row.attempts for row in found} == {1}
        measured = Counter(sighting.key for sighting in farm.sightings())
        assert measured == dict.fromkeys((row.key for row in found), 1)
