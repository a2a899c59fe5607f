"""Jobs that harm whoever measures them, among good ones: each ends as it has to, and harms nobody else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from farm import queue, runtimes
from farm.measurement import Outcome
from farm.verdict import Level, judge
from results_store.schema import attempts, jobs
from results_store.values import MAX_FAILURES, MAX_LOG_BYTES, State
from tests.faults import farms, poisons
from tests.faults.farms import Farm, Farms
from tests.faults.invariants import Job, is_done
from tests.faults.poisons import POISONS, Poison
from tests.faults.worker import SUSPECTED

#: The supervisor may grow by so much: 50 MB as they come, whole, as text, read, and parts of it once more.
GROWTH_BYTES = 320 << 20

#: What hangs is ended after so long; all else has as long as a busy host needs.
HANG_S = 0.5


@pytest.fixture
def good(whole: bool) -> int:
    """So many jobs that harm nobody."""
    return 50 if whole else 10


def test_ten_poisons_among_good_jobs(farms_of: Farms, good: int) -> None:
    """In canned processes: all in one run, but for those that hang, which have a deadline of their own.

    They are judged as on a GPU, where a crash or a hang may be the device's fault: it is probed each time.
    """
    hanging = [name for name, poison in POISONS.items() if poison.outcome is Outcome.TIMEOUT]
    others = [name for name in POISONS if name not in hanging]
    # A lease that no busy host outlives: each attempt counts here.
    with farms_of.begin("poisons among good jobs", lease_s=30.0, variables={SUSPECTED: "cuda"}) as farm:
        run = farm.submit(good + len(others), messages=0)
        hung = farm.submit(len(hanging), messages=0, recipes=("channels_last",), measure_deadline_s=HANG_S)
        # Jobs of two runs have the same script: what hangs does so in its own.
        recipe = 'if request["spec"]["recipe"] == "channels_last":\n'
        for repeat, name in enumerate(hanging):
            farm.script(recipe + indented(poisons.script(name)), [repeat])
        places = farm.random.sample(range(len(hanging), good + len(others)), len(others))
        for repeat, name in zip(places, others, strict=True):
            farm.script(poisons.script(name), [repeat])
        found = [(run, repeat, name) for repeat, name in zip(places, others, strict=True)]
        found += [(hung, repeat, name) for repeat, name in enumerate(hanging)]
        serve(farm, found)
        probes = Counter(sighting.phase for sighting in farm.sightings())["probe"]
        assert probes == sum(poison.attempts for poison in POISONS.values() if poison.is_tried_again)


def indented(script: str) -> str:
    return "".join(f"    {line}\n" for line in script.splitlines())


@pytest.fixture
def plugged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose runtimes do harm; they are known here, too, because what nobody knows is not submitted."""
    folder = poisons.plugins(tmp_path / "plugins")
    monkeypatch.setattr(runtimes, "__path__", [*runtimes.__path__, str(folder / "farm" / "runtimes")])
    return folder


@pytest.mark.whole
@pytest.mark.on("sqlite")
def test_ten_poisons_among_good_jobs_in_the_real_process(farms_of: Farms, good: int, plugged: Path) -> None:
    hanging = [name for name, poison in POISONS.items() if poison.outcome is Outcome.TIMEOUT]
    others = [name for name in POISONS if name not in hanging]
    variables = {"PYTHONPATH": f"{plugged}:{farms.ROOT}"}
    with farms_of.begin("poisons in real processes", child="real", lease_s=30.0, variables=variables) as farm:
        farm.submit(good, messages=0)
        run = farm.submit(1, messages=0, recipes=others)
        # Enough for the imports: what is to be ended is the poison.
        hung = farm.submit(1, messages=0, recipes=hanging, measure_deadline_s=10)
        found = [(run, job.job_id, job_recipe(farm, job)) for job in jobs_of(farm, run)]
        found += [(hung, job.job_id, job_recipe(farm, job)) for job in jobs_of(farm, hung)]
        serve(farm, found)


@pytest.mark.whole
def test_what_is_no_result_at_all_ends_its_job_and_nothing_else(farms_of: Farms) -> None:
    error, crash = (State.FAILED, Outcome.ERROR, 1), (State.FAILED, Outcome.CRASHED, MAX_FAILURES)
    handed_over = {
        'os.write(int(sys.argv[2]), b"[" * 1_000_000); os._exit(0)': crash,
        'answer["padding"] = "x" * 70_000_000': error,
        'answer["measurement"]["samples"]["device_ns"] = [2**70] * 20': error,
        'answer["measurement"]["samples"]["device_ns"] = "\\ud800"': error,
        'answer.update(outcome="error", reason="a\\0b"); print("a\\0b")': error,
        'answer.update(outcome="error", reason={"a": 1})': error,
    }
    endings = list(handed_over.values())
    with farms_of.begin("results that are none", lease_s=30.0) as farm:
        for repeat, script in enumerate(handed_over):
            farm.script(script, [repeat])
        farm.start("one")
        farm.faults += len(handed_over)
        farm.submit(len(handed_over) + 3)
        farm.conclude(
            lambda job: (
                is_done(job)
                if job.repeat >= len(endings)
                else (job.state, job.outcome, job.attempts) == endings[job.repeat]
            )
        )
        assert farm.workers["one"].starts == 1


# ---- serving them


def serve(farm: Farm, placed: Sequence[tuple[str, Any, str]]) -> None:
    """Sends the messages mixed, waits for the end; looks how each poison ended and what it did to the worker."""
    farm.faults += len(placed)
    farm.start("one")
    messages = [job for found in farm.store.claimable().values() for job in found]
    farm.random.shuffle(messages)
    queue.publish(farm.redis.url, {"cpu": messages})
    farm.until(lambda: farm.begun() > 0, within_s=300)
    worker = farm.workers["one"]
    before = worker.pid, worker.pool_process, worker.reconciler
    assert None not in before
    lowest = peak_bytes(before[1])
    farm.until(farm.finished, within_s=900, every_s=0.2)
    assert (worker.pid, worker.pool_process, worker.reconciler) == before
    assert worker.starts == 1
    assert peak_bytes(before[1]) - lowest < GROWTH_BYTES
    by_job = {job_id_of(farm, run, job): POISONS[name] for run, job, name in placed}
    farm.conclude(lambda job: ended_well(job, by_job))
    assert len(by_job) == len(POISONS)
    assert_told(farm, by_job)
    assert_implausible(farm, next(job for job, poison in by_job.items() if poison is POISONS["nan"]))


def ended_well(job: Job, poisoned: dict[str, Poison]) -> bool:
    poison = poisoned.get(job.job_id)
    if poison is None:
        return is_done(job)
    ended = (State(job.state), Outcome(job.outcome), job.attempts)
    return ended == (poison.state, poison.outcome, poison.attempts) and poison.reason in job.reason


def assert_told(farm: Farm, poisoned: dict[str, Poison]) -> None:
    """The end of what each said is kept, and no more."""
    for job_id, poison in poisoned.items():
        for row in farm.rows(sa.select(attempts.c.log_tail).where(attempts.c.job_id == job_id)):
            assert poison.says in row.log_tail
            assert len(row.log_tail) <= MAX_LOG_BYTES


def assert_implausible(farm: Farm, job_id: str) -> None:
    """NaN is what the model answered: a result, and not to be trusted."""
    run_id = job_id.rpartition(".")[0]
    [found] = [result for result in farm.store.results(run_id) if result.job_id == job_id]
    assert found.measurement is not None
    verdict = judge(found.measurement)
    assert verdict.level is Level.INVALID
    assert any(str(reason).startswith("implausible: ") for reason in verdict.reasons)


def jobs_of(farm: Farm, run_id: str) -> Sequence[Job]:
    return farm.rows(sa.select(jobs).where(jobs.c.job_id.startswith(run_id)).order_by(jobs.c.ordinal))


def job_recipe(farm: Farm, job: Job) -> str:
    run_id = job.job_id.rpartition(".")[0]
    return next(str(r.spec.recipe) for r in farm.store.results(run_id) if r.job_id == job.job_id)


def job_id_of(farm: Farm, run_id: str, job: Any) -> str:
    """The id of a run's job, which is named so or by its repeat."""
    if isinstance(job, str):
        return job
    return str(next(row.job_id for row in jobs_of(farm, run_id) if row.repeat == job))


def peak_bytes(pid: int | None) -> int:
    """The most memory that a process has had."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "VmHWM":
            return int(value.split()[0]) << 10
    raise AssertionError("this kernel does not tell")
