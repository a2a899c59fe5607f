"""A device that does not compute any more after a fault: others do its job, and it comes back when it is well."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from farm.measurement import Outcome
from results_store.schema import attempts, jobs
from tests.faults.child import BROKEN
from tests.faults.farms import PROCESSORS, Farm, Farms
from tests.faults.worker import SUSPECTED

pytestmark = pytest.mark.timeout(900)

#: The job of this repeat ends as a CUDA fault ends one, once in each run, and breaks the device of its worker.
FAULTY = 2
FAULT = f"""
folder, worker = os.environ["FAULTS_FOLDER"], os.environ["FAULTS_MARK"].split(".")[1]
try:
    os.close(os.open(f"{{folder}}/fault-{{request['spec']['protocol']['name']}}", os.O_CREAT | os.O_EXCL))
except FileExistsError:
    pass
else:
    os.close(os.open(f"{{folder}}/{BROKEN}-{{worker}}", os.O_CREAT))
    os.write(2, b"RuntimeError: CUDA error: an illegal memory access was encountered")
    os._exit(1)
"""


@pytest.mark.skipif(PROCESSORS < 2, reason="two devices at once are needed")
@pytest.mark.short("postgresql")
def test_a_device_that_fails_its_probe_is_quarantined_and_its_job_is_done_elsewhere(
    farms_of: Farms, whole: bool
) -> None:
    breaks, variables = 5 if whole else 1, {SUSPECTED: "cuda", "FARM_PROBE_S": "0.5"}
    # A lease that no busy host outlives: nothing is to be lost here.
    with farms_of.begin("a device fails", variables=variables, lease_s=30.0) as farm:
        farm.start("one", "two")
        farm.script(FAULT, repeats=[FAULTY])
        for _ in range(breaks):
            farm.submit(6)
            [broken] = farm.until(lambda: quarantined(farm))
            farm.faults += 1
            farm.until(farm.finished)
            assert quarantined(farm) == [broken]
            assert "is quarantined and claims nothing: error: CUDA error" in farm.workers[broken].log
            (farm.folder / f"{BROKEN}-{broken}").unlink()
            farm.until(lambda: not quarantined(farm))
        farm.conclude()
        assert_handed_back(farm, breaks)
        assert_probed_first(farm, breaks)
        assert len([sighting for sighting in farm.sightings() if sighting.phase == "probe"]) >= 2 * breaks
        assert [worker.starts for worker in farm.workers.values()] == [1, 1]


def quarantined(farm: Farm) -> list[str]:
    """Names of the workers that claim nothing."""
    return [worker.id.partition("@")[0] for worker in farm.store.workers() if worker.quarantined is not None]


def assert_handed_back(farm: Farm, times: int) -> None:
    """It counts against no job, and somebody else has the result."""
    faulty = farm.rows(sa.select(jobs).where(jobs.c.hand_backs > 0))
    assert [(job.repeat, job.failures, job.hand_backs, job.attempts) for job in faulty] == [
        (FAULTY, 0, 1, 2)
    ] * times
    for job in faulty:
        by_number = sa.select(attempts).where(attempts.c.job_id == job.job_id).order_by(attempts.c.number)
        first, second = farm.rows(by_number)
        assert first.outcome == Outcome.CRASHED
        assert "failed its probe: error: CUDA error: unspecified launch failure" in first.reason
        assert second.worker_id != first.worker_id


def assert_probed_first(farm: Farm, times: int) -> None:
    """After a fault, nothing but a probe by the same worker began on its processors."""
    found = farm.sightings()
    faults = [s for s in found if (s.phase, s.repeat, s.ended) == ("measure", FAULTY, False)]
    assert len(faults) == times
    for fault in faults:
        there = [s for s in found if s.began_ns > fault.began_ns and set(s.processors) & set(fault.processors)]
        first = min(there, key=lambda s: s.began_ns)
        assert (first.phase, first.worker) == ("probe", fault.worker)
