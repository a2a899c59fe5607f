"""The supervisor survives whatever a child does, records how it ended, and leaves nothing behind."""

from __future__ import annotations

import fcntl
import itertools
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from farm import locks
from farm.errors import ControlDied, FarmError, OutOfMemory, Unreachable, Unsupported
from farm.measurement import Outcome
from farm.settings import Settings
from farm.spec import Protocol
from results_store import schema
from results_store.store import Claim, Ending, JobResult, Lease, Store, open_store
from tests import factories
from tests.redis_servers import eventually
from workers import child, processes, supervisor, watching
from workers.phase import classify
from workers.probe import Prober
from workers.quarantine import Warden
from workers.supervisor import Supervisor
from workers.telemetry import Recorder
from workers.watching import Stopped

#: What every script below may use: `request`, `report(outcome, …)` and `ok()`.
PREAMBLE = """
import ctypes, json, os, signal, subprocess, sys, time
request = json.load(os.fdopen(int(sys.argv[2])))
template = json.loads(open(sys.argv[1]).read())
def report(**fields):
    with os.fdopen(int(sys.argv[3]), "w") as out:
        json.dump(fields, out)
def ok():
    report(outcome="ok", reason="", measurement={**template, "spec": request["spec"]})
"""

#: Others have a processor to themselves while it measures, but for the second time.
SPOILT_AT_FIRST = """
mark = sys.argv[1] + ".spoilt"
if not os.path.exists(mark):
    open(mark, "w").close()
    template["contention"]["others_s"] = 4.0
ok()
"""


class Farm:
    """One job of a fresh store, and a supervisor whose children are small scripts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = Settings(data_dir=folder, lock_dir=folder / "locks", renew_s=0.1)
        self.store = open_store(self.settings.database)
        self.worker = factories.worker(threads=1)
        self.store.register(self.worker)
        self.template = folder / "template.json"
        self.template.write_text(factories.measurement().model_dump_json())

    def submit(self, **protocol: Any) -> str:
        wanted = {"measure_deadline_s": 20, "build_deadline_s": 20, "paired": False, **protocol}
        matrix = factories.matrix(protocol=Protocol(name="test", **wanted))
        run_id = self.store.submit(matrix, again=True).run_id
        return f"{run_id}.000000"

    def supervisor(self, script: str, **options: Any) -> Supervisor:
        path = self.folder / "child.py"
        path.write_text(PREAMBLE + script)
        given = {"needs_build": lambda *_: False, **options}
        store = given.pop("store", self.store)
        command = (sys.executable, "-S", str(path), str(self.template))
        return Supervisor(store, self.settings, self.worker, command=command, **given)

    def serve(self, script: str, **protocol: Any) -> str:
        return self.supervisor(script).handle(self.submit(**protocol))

    def result(self) -> JobResult:
        return next(iter(self.store.results("latest")))


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    made = Farm(tmp_path)
    before = processes.children()
    yield made
    assert processes.children() == before, "something was left behind"
    made.store.close()


def test_a_job_is_measured_and_its_measurement_kept(farm: Farm) -> None:
    assert farm.serve("ok()") == "ok"
    found = farm.result()
    assert (found.outcome, found.attempts) == (Outcome.OK, 1)
    assert found.measurement is not None
    assert found.measurement.spec == found.spec


def test_a_measurement_that_others_spoilt_is_made_again(farm: Farm) -> None:
    job, served = farm.submit(), farm.supervisor(SPOILT_AT_FIRST)
    assert [served.handle(job) for _ in range(3)] == ["ok", "ok", "skipped"]
    found = farm.result()
    assert (found.attempts, found.remeasured) == (2, 1)
    assert found.measurement is not None
    assert found.measurement.contention == factories.contention()


def test_a_rule_that_breaks_costs_no_measurement(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("farm.verdict.judge", lambda _: 1 / 0)
    assert farm.serve("ok()") == "ok"
    assert farm.result().measurement is not None


def test_a_message_whose_job_is_done_is_skipped(farm: Farm) -> None:
    job = farm.submit()
    served = farm.supervisor("ok()")
    assert [served.handle(job) for _ in range(3)] == ["ok", "skipped", "skipped"]
    assert farm.result().attempts == 1


def test_a_message_that_names_no_job_serves_the_next_one_and_says_which(farm: Farm) -> None:
    job = farm.submit()
    assert farm.supervisor("ok()").handle("../../etc/passwd") == f"ok (job {job})"


@pytest.mark.parametrize(
    ("script", "outcome", "reason"),
    [
        ("ctypes.string_at(0)", Outcome.CRASHED, "SIGSEGV"),
        ("os.abort()", Outcome.CRASHED, "SIGABRT"),
        ("os.kill(os.getpid(), signal.SIGKILL)", Outcome.CRASHED, "SIGKILL"),
        ("sys.exit(7)", Outcome.CRASHED, "exit status 7 without a result"),
        ("pass", Outcome.CRASHED, "exit status 0 without a result"),
        ('os.write(int(sys.argv[3]), b\'{"outcome": "ok\')', Outcome.CRASHED, "without a result"),
        ("report(outcome='unsupported', reason='no bf16')", Outcome.UNSUPPORTED, "no bf16"),
        ("report(outcome='out_of_memory', reason='CUDA')", Outcome.OUT_OF_MEMORY, "CUDA"),
        ("report(outcome='error', reason='KeyError: 1')", Outcome.ERROR, "KeyError: 1"),
        ("report(outcome='error', reason='OSError: No space left on device')", Outcome.CRASHED, "No space left"),
        ("report(outcome='ok')", Outcome.ERROR, "measured something else"),
        ("os.write(int(sys.argv[3]), b'[' * 100_000)", Outcome.CRASHED, "without a result"),
        ("report(outcome='ok', measurement={'spec': 1})", Outcome.ERROR, "no measurement"),
        ("report(outcome='splendid')", Outcome.CRASHED, "without a result"),
        (
            "report(outcome='ok', measurement=template | {'spec': request['spec'] | {'repeat': 5}})",
            Outcome.ERROR,
            "else",
        ),
    ],
)
def test_every_end_of_a_child_is_told_apart(farm: Farm, script: str, outcome: Outcome, reason: str) -> None:
    text = farm.serve(script)
    found = farm.result()
    assert found.outcome is outcome
    assert reason in found.reason
    assert text.startswith(str(outcome) if outcome.is_result else f"failed: {outcome}")


@pytest.mark.parametrize(
    "script",
    [
        "time.sleep(60)",
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: time.sleep(1)",
        "while True: pass",
    ],
)
def test_a_child_that_hangs_is_ended_at_its_deadline(farm: Farm, script: str) -> None:
    started = time.monotonic()
    assert (
        farm.serve(script, measure_deadline_s=0.5) == "failed: timeout: the measure phase took longer than 0.5 s"
    )
    assert time.monotonic() - started < 5


def test_a_process_that_even_sigkill_does_not_end_quarantines_its_worker_and_others_do_its_job(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As the kernel does with one that waits within a driver: the signal is noted, and nothing happens.
    really, noted = os.kill, []
    monkeypatch.setattr(watching, "HANGS_S", 0.2)
    monkeypatch.setattr(os, "kill", lambda pid, _: noted.append(pid))
    monkeypatch.setattr(os, "killpg", lambda pid, _: noted.append(pid))
    farm.store.close()
    farm.store = open_store(farm.settings.database, lease_s=1.0)
    farm.store.register(replace(farm.worker, id="other@host"))
    seen: list[Any] = []

    def driver_returns() -> None:
        try:
            seen.append(eventually(lambda: farm.store.quarantined(farm.worker.id)))
            with (farm.settings.lock_dir / f"cpu-{locks.processors()[0]}.lock").open() as token:
                fcntl.flock(token, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            seen.append("held")
            claim = eventually(lambda: farm.store.claim("other@host"))
            assert claim is not None
            seen.append(farm.store.finish(claim, factories.ok(claim)))
        finally:
            monkeypatch.setattr(os, "kill", really)
            really(noted[0], signal.SIGKILL)

    driver = threading.Thread(target=driver_returns)
    driver.start()
    served = farm.serve("time.sleep(60)", measure_deadline_s=1)
    driver.join()
    assert served == "stale"
    problem = f"process {noted[0]} was killed and does not end: it hangs in the kernel"
    assert seen == [problem, "held", True]
    assert (farm.result().outcome, farm.result().worker_id) == (Outcome.OK, "other@host")


def test_a_result_counts_though_the_process_then_hangs_or_crashes(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "GRACE_S", 0.3)
    assert farm.serve("ok(); time.sleep(60)") == "ok"
    assert farm.serve("ok(); os.abort()") == "ok"


def test_a_gigabyte_of_output_costs_no_memory_and_its_end_is_kept(farm: Farm) -> None:
    script = "for _ in range(1024): os.write(1, b'x' * 2**20)\nos.write(2, b'the end')\nos.abort()"
    kept: list[Ending] = []
    served = farm.supervisor(script, store=Spy(farm.store, kept))
    assert served.handle(farm.submit(measure_deadline_s=60)) == "failed: crashed: SIGABRT"
    assert "the end" in kept[0].log_tail
    assert "Fatal Python error: Aborted" in kept[0].log_tail  # by faulthandler: where it was
    assert len(kept[0].log_tail) <= 64 * 1024


def test_a_result_over_the_cap_is_an_error(farm: Farm) -> None:
    text = farm.serve("report(outcome='ok', padding='x' * 80_000_000)")
    assert text == "failed: error: the result is larger than 64 MiB: take a shorter max_s (--set max_s=…)"


def test_a_kill_by_the_kernels_oom_killer_is_out_of_memory(farm: Farm) -> None:
    counts = iter([4, 5])

    def run(watched: watching.Watched) -> watching.Ended:
        return watching.run(watched, oom_kills=lambda: next(counts))

    served = farm.supervisor("os.kill(os.getpid(), signal.SIGKILL)", run_child=run)
    assert served.handle(farm.submit()).startswith("out_of_memory: the kernel ran out of memory")


@pytest.mark.parametrize(
    ("paired", "when_alone", "ending", "runs"),
    [
        (True, "ok()", "ok", [False, True]),
        (True, "report(outcome='out_of_memory', reason='alone')", "out_of_memory: alone", [False, True]),
        (False, "ok()", "out_of_memory: CUDA", [False]),
    ],
)
def test_too_little_memory_counts_only_without_the_live_control(
    farm: Farm, paired: bool, when_alone: str, ending: str, runs: list[bool]
) -> None:
    trace = farm.folder / "trace"
    script = (
        f"print(json.dumps(request['alone']), file=open({str(trace)!r}, 'a'))\n"
        f"if request['alone']: {when_alone}\n"
        "else: report(outcome='out_of_memory', reason='CUDA')"
    )
    assert farm.serve(script, paired=paired) == ending
    assert [json.loads(line) for line in trace.read_text().splitlines()] == runs
    assert farm.result().attempts == 1


@pytest.mark.parametrize("session", [True, False])
@pytest.mark.parametrize("end", ["ok()", "os.abort()", "time.sleep(60)"])
def test_what_a_child_started_ends_with_it(farm: Farm, session: bool, end: str) -> None:
    # holding on to the pipes, too
    script = (
        f"p = subprocess.Popen(['sleep', '60'], start_new_session={session}, close_fds=False)\n"
        f"open({str(farm.folder / 'pid')!r}, 'w').write(str(p.pid))\n{end}"
    )
    farm.serve(script, measure_deadline_s=1.0)
    pid = int((farm.folder / "pid").read_text())
    assert not Path(f"/proc/{pid}").exists()


def test_a_child_has_its_processors_locks_and_environment(farm: Farm) -> None:
    out = farm.folder / "seen.json"
    script = (
        "seen = {n: os.environ.get(n) for n in "
        "('OMP_NUM_THREADS', 'MALLOC_TOP_PAD_', 'FARM_DATA_DIR', 'CUDA_VISIBLE_DEVICES')}\n"
        "seen['request'] = {k: request[k] for k in ('phase', 'processors', 'parent')}\n"
        "fds = [f'/proc/self/fd/{n}' for n in os.listdir('/proc/self/fd')]\n"
        "open_files = [os.readlink(fd) for fd in fds if os.path.exists(fd)]\n"
        "seen['locks'] = [name.rsplit('/')[-1] for name in open_files if name.endswith('.lock')]\n"
        "seen['session'] = os.getsid(0) == os.getpid()\n"
        f"open({str(out)!r}, 'w').write(json.dumps(seen)); ok()"
    )
    assert farm.serve(script) == "ok"
    seen = json.loads(out.read_text())
    assert seen["OMP_NUM_THREADS"] == "1"
    assert seen["MALLOC_TOP_PAD_"]
    assert seen["FARM_DATA_DIR"] == str(farm.folder)
    assert seen["CUDA_VISIBLE_DEVICES"] == ""
    assert seen["session"]
    [processor] = seen["request"]["processors"]
    assert seen["locks"] == [f"cpu-{processor}.lock"]
    assert seen["request"] == {"phase": "measure", "processors": [processor], "parent": os.getpid()}


@pytest.mark.parametrize("end", ["ok()", "os._exit(0)", "os.abort()", "time.sleep(60)"])
def test_what_a_child_leaves_in_its_tmpdir_goes_with_it(farm: Farm, end: str) -> None:
    noted = farm.folder / "noted"
    script = (
        "import tempfile\nfolder = tempfile.mkdtemp(prefix='pymp-')\n"
        f"print(folder, os.environ['TORCHINDUCTOR_CACHE_DIR'], file=open({str(noted)!r}, 'a'))\n{end}"
    )
    farm.supervisor(script).handle(farm.submit(measure_deadline_s=1.0))
    folder, cache = noted.read_text().split()
    assert Path(folder).parent.parent == farm.settings.scratch
    assert list(farm.settings.scratch.iterdir()) == []
    assert farm.settings.scratch not in Path(cache).parents


def test_a_build_comes_first_in_a_process_of_its_own_and_its_time_is_handed_on(farm: Farm) -> None:
    trace = farm.folder / "trace"
    script = (
        f"print(request['phase'], os.getpid(), request['build_spent_s'], file=open({str(trace)!r}, 'a'))\n"
        "report(outcome='ok', build_spent_s=2.5) if request['phase'] == 'build' else ok()"
    )
    assert farm.supervisor(script, needs_build=lambda *_: True).handle(farm.submit()) == "ok"
    (build, first, _), (measure, second, spent) = (line.split() for line in trace.read_text().splitlines())
    assert (build, measure, spent) == ("build", "measure", "2.5")
    assert first != second


def test_a_failed_build_ends_the_attempt_in_its_phase(farm: Farm) -> None:
    kept: list[Ending] = []
    served = farm.supervisor("os.abort()", needs_build=lambda *_: True, store=Spy(farm.store, kept))
    assert served.handle(farm.submit()) == "failed: crashed: SIGABRT"
    assert kept[0].phase == "build"
    assert kept[0].device_from is not None
    assert kept[0].device_until is not None
    assert kept[0].device_from < kept[0].device_until


@pytest.mark.parametrize(
    ("error", "outcome"), [(Unsupported("no"), Outcome.UNSUPPORTED), (RuntimeError("plug-in"), Outcome.ERROR)]
)
def test_what_cannot_be_looked_up_before_the_build_ends_the_attempt(
    farm: Farm, error: Exception, outcome: Outcome
) -> None:
    def needs_build(*_: Any) -> bool:
        raise error

    farm.supervisor("ok()", needs_build=needs_build).handle(farm.submit())
    assert farm.result().outcome is outcome


def test_a_cancelled_job_is_ended_in_mid_run(farm: Farm) -> None:
    job = farm.submit()
    spy = Spy(farm.store, [])
    spy.before_renewal = lambda: farm.store.cancel("latest")
    assert farm.supervisor("time.sleep(60)", store=spy).handle(job) == "cancelled"
    assert farm.result().state == "cancelled"


def test_a_lost_lease_ends_the_child_and_writes_no_result(farm: Farm) -> None:
    job = farm.submit()
    spy = Spy(farm.store, [])

    def take_over() -> None:
        if farm.store.release(farm.worker.id, "taken over in a test"):
            farm.store.register(replace(farm.worker, id="other@host"))
            assert farm.store.claim("other@host", job) is not None

    spy.before_renewal = take_over
    assert farm.supervisor("time.sleep(60)", store=spy).handle(job) == "stale"
    assert farm.result().state == "running"


def test_an_outage_of_the_database_in_mid_job_loses_nothing(farm: Farm) -> None:
    spy = Spy(farm.store, [])
    spy.renewals_refused, spy.finishes_refused = 3, 2
    # The job outlasts the renewals that are refused, one every 0.1 s.
    assert farm.supervisor("time.sleep(0.6); ok()", store=spy).handle(farm.submit()) == "ok"
    assert farm.result().outcome is Outcome.OK
    assert (spy.renewals_refused, spy.finishes_refused) == (0, 0)


def test_what_was_measured_is_kept_however_long_the_database_is_away(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = Spy(farm.store, [])
    spy.finishes_refused = 3000  # of which one comes every few seconds
    monkeypatch.setattr(time, "sleep", lambda _: None)
    assert farm.supervisor("ok()", store=spy).handle(farm.submit()) == "ok"
    assert farm.result().measurement is not None


def test_a_job_is_not_begun_while_the_database_is_away(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "CLAIM_PATIENCE_S", 0.5)
    spy = Spy(farm.store, [])
    spy.claims_refused = 100
    assert farm.supervisor("ok()", store=spy).handle(farm.submit()) == "skipped: the database does not answer"
    spy.claims_refused = 1
    assert farm.supervisor("ok()", store=spy).handle(farm.submit()) == "ok"


def probed_by_a_warden(farm: Farm) -> tuple[Supervisor, Warden]:
    """A supervisor whose jobs and probes end well, and the warden of its worker."""
    served = farm.supervisor("report(outcome='ok', reason='') if request['phase'] == 'probe' else ok()")
    command = (sys.executable, "-S", str(farm.folder / "child.py"), str(farm.template))
    warden = Warden(farm.store, farm.settings, farm.worker.id, lambda _: Prober(farm.settings, "cpu", command))
    return served, warden


def test_a_host_on_which_nothing_can_be_started_fails_no_job_and_comes_back(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a disk became read-only: it would fail every job of the farm, as fast as it can take them."""
    monkeypatch.setattr(supervisor, "QUARANTINE_PATIENCE_S", 0.0)
    farm.settings = farm.settings.model_copy(update={"probe_s": 0.01})
    job = farm.submit()
    served, warden = probed_by_a_warden(farm)
    farm.settings.scratch.write_text("no folder")
    assert served.handle(job).startswith("handed back: crashed: the measure process could not be started")
    assert served.handle(job).startswith("skipped: quarantined: the measure process could not be started")
    assert (farm.result().state, farm.result().attempts) == ("queued", 1)
    warden.step()
    assert str(farm.store.quarantined(farm.worker.id)).startswith("the probe could not be started")
    farm.settings.scratch.unlink()
    time.sleep(farm.settings.probe_s)
    warden.step()
    assert served.handle(job) == "ok"
    failures = sa.select(schema.jobs.c.failures, schema.jobs.c.hand_backs)
    with farm.store._database.reading() as connection:
        assert tuple(connection.execute(failures).one()) == (0, 1)


def test_a_worker_whose_locks_cannot_be_had_is_quarantined_until_they_can(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "QUARANTINE_PATIENCE_S", 0.0)
    job = farm.submit()
    served, warden = probed_by_a_warden(farm)
    farm.settings.lock_dir.write_text("no folder")
    assert served.handle(job).startswith("skipped: quarantined: The lock directory")
    assert served.handle(job).startswith("skipped: quarantined: The lock directory")
    with pytest.raises(FarmError, match="FARM_LOCK_DIR"):
        warden.step()
    farm.settings.lock_dir.unlink()
    warden.step()
    assert served.handle(job) == "ok"


def test_a_program_that_is_not_there_is_no_error_of_the_job(farm: Farm) -> None:
    served = Supervisor(
        farm.store, farm.settings, farm.worker, command=("/no/such/program",), needs_build=lambda *_: False
    )
    assert served.handle(farm.submit()).startswith("handed back: crashed: the measure process could not")


def test_what_no_signal_ends_keeps_nobody_from_leaving(monkeypatch: pytest.MonkeyPatch) -> None:
    before = processes.children()
    with subprocess.Popen(["sleep", "60"]) as child:
        with monkeypatch.context() as patched:
            patched.setattr(os, "kill", lambda *_: None)
            processes.kill_children(but=before, within_s=0.3)
        assert child.poll() is None
        child.kill()


def test_two_supervisors_with_one_device_take_turns(farm: Farm) -> None:
    log = farm.folder / "log"
    # Each stays in for a while, so that a second one would be seen beside it.
    script = (
        f"log = open({str(log)!r}, 'a'); log.write('in\\n'); log.flush(); time.sleep(0.2)\n"
        "log.write('out\\n'); log.flush(); ok()"
    )
    farm.worker = replace(farm.worker, threads=len(os.sched_getaffinity(0)))
    farm.store.register(farm.worker)
    served = farm.supervisor(script)
    jobs = [farm.submit(), farm.submit(measure_deadline_s=19)]
    pids = []
    for job in jobs:
        pid = os.fork()
        if pid == 0:
            os._exit(0 if served.handle(job) == "ok" else 1)
        pids.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0]
    assert log.read_text().split() == ["in", "out"] * 2


def test_the_child_itself_reports_what_was_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[Exception] = []

    def fail(request: Any) -> Any:
        raise raised[-1]

    monkeypatch.setattr(child, "_do", fail)
    reports = {}
    for error in (Unsupported("a"), OutOfMemory("b"), MemoryError(), KeyError("c")):
        raised.append(error)
        reports[type(error).__name__] = child.fulfil({})
    assert {name: report["outcome"] for name, report in reports.items()} == {
        "Unsupported": "unsupported",
        "OutOfMemory": "out_of_memory",
        "MemoryError": "out_of_memory",
        "KeyError": "error",
    }
    assert reports["KeyError"]["reason"] == "KeyError: 'c'"


def test_a_control_that_died_is_a_crash_of_the_child_and_no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    def died(request: Any) -> dict[str, Any]:
        raise ControlDied("its last words are above")

    monkeypatch.setattr(child, "_do", died)
    with pytest.raises(ControlDied):
        child.fulfil({})


def test_the_real_child_settles_on_its_processor_and_dies_with_its_parent(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    inner = (
        "import os, resource, time; from workers import child; child.settle(os.getppid(), [0])\n"
        f"open({str(seen)!r}, 'w').write(f'{{os.getpid()}} {{os.sched_getaffinity(0)}} '\n"
        "  f'{resource.getrlimit(resource.RLIMIT_CORE)} ' + open('/proc/self/oom_score_adj').read())\n"
        "time.sleep(60)"
    )
    parent = os.fork()
    if parent == 0:
        subprocess.run([sys.executable, "-c", inner], check=False)
        os._exit(0)
    eventually(lambda: seen.exists() and seen.read_text().endswith("\n"))
    pid, rest = seen.read_text().strip().split(" ", 1)
    assert rest == "{0} (0, 0) 800"
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    eventually(lambda: ended(int(pid)))


def ended(pid: int) -> bool:
    """Whether a process is gone, or waits to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


class Spy:
    """A store that notes endings, and that is away when a test says so."""

    def __init__(self, store: Store, kept: list[Ending]) -> None:
        self._store = store
        self._kept = kept
        self.before_renewal: Any = lambda: None
        self.claims_refused = self.renewals_refused = self.finishes_refused = 0

    def quarantined(self, worker_id: str) -> str | None:
        return self._store.quarantined(worker_id)

    def claim(self, worker_id: str, job_id: str) -> Claim | None:
        if self.claims_refused:
            self.claims_refused -= 1
            raise Unreachable("away")
        return self._store.claim(worker_id, job_id)

    def renew(self, claim: Claim) -> Lease:
        self.before_renewal()
        if self.renewals_refused:
            self.renewals_refused -= 1
            raise Unreachable("away")
        return self._store.renew(claim)

    def finish(self, claim: Claim, ending: Ending) -> bool:
        self._kept.append(ending)
        if self.finishes_refused:
            self.finishes_refused -= 1
            raise Unreachable("away")
        return self._store.finish(claim, ending)


def test_what_cannot_be_stored_ends_as_an_error_also_in_the_log(
    farm: Farm, caplog: pytest.LogCaptureFixture
) -> None:
    class Choosy(Spy):
        def finish(self, claim: Claim, ending: Ending) -> bool:
            if ending.measurement is not None:
                raise ValueError("no database stores this")
            return super().finish(claim, ending)

    reason = "what was measured cannot be stored: ValueError: no database stores this"
    with caplog.at_level(logging.INFO):
        assert (
            farm.supervisor("ok()", store=Choosy(farm.store, [])).handle(farm.submit())
            == f"failed: error: {reason}"
        )
    [said] = [record for record in caplog.records if " ends: " in record.getMessage()]
    assert vars(said)["outcome"] == "error"


def test_classification_names_signals_that_python_does_not_know() -> None:
    ended = watching.Ended(stopped=None, status=-60, result=b"", output=b"\xff\0", memory_ran_out=False)
    end = classify(ended, "measure", 1.0)
    assert (end.outcome, end.reason, end.log_tail) == (Outcome.CRASHED, "signal 60", "\ufffd")
    lost = classify(replace(ended, stopped=Stopped.LOST), "measure", 1.0)
    assert lost.outcome is None


def test_what_was_damaged_since_it_was_built_is_built_again_once(farm: Farm) -> None:
    marker = farm.folder / "measured"
    script = f"""
if request["phase"] == "build":
    report(outcome="ok", reason="", build_spent_s=1.5)
elif os.path.exists({str(marker)!r}):
    ok()
else:
    open({str(marker)!r}, "w").close()
    report(outcome="error", reason="Artifact is corrupt", rebuild=True)
"""
    assert farm.supervisor(script, needs_build=lambda *_: marker.exists()).handle(farm.submit()) == "ok"
    assert (farm.result().outcome, farm.result().attempts) == (Outcome.OK, 1)


def test_what_is_damaged_again_and_again_ends_as_an_error(farm: Farm) -> None:
    script = 'report(outcome="error", reason="Artifact is corrupt", rebuild=True)'
    assert farm.supervisor(script).handle(farm.submit()) == "failed: error: Artifact is corrupt"


def test_the_supervisor_watches_host_and_child_while_it_measures(farm: Farm) -> None:
    script = "held = b'x' * (64 << 20); time.sleep(0.6); ok()"
    assert farm.serve(script, telemetry_s=0.05) == "ok"
    measured = farm.result().measurement
    assert measured is not None
    assert measured.telemetry is not None
    assert measured.telemetry.readings >= 3
    assert measured.telemetry.gauges["rss_bytes"].max > 64 << 20
    assert measured.telemetry.counters["cpu_s"].total >= 0


def test_readings_that_cannot_be_summed_up_cost_no_measurement(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the host's clock was set back: then no time has passed between the first reading and the last."""
    clock = itertools.chain([1000.0, 1000.5], itertools.repeat(1000.0))
    look = Recorder.look

    def look_at(recorder: Recorder, pid: int) -> None:
        monkeypatch.setattr(recorder, "_clock", lambda: next(clock))
        look(recorder, pid)

    monkeypatch.setattr(Recorder, "look", look_at)
    assert farm.serve("time.sleep(0.6); ok()", telemetry_s=0.05) == "ok"
    measured = farm.result().measurement
    assert measured is not None
    assert measured.samples == factories.samples()


def test_a_mistake_in_watching_a_child_is_told_with_the_attempt_and_leaves_none(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(*_: object) -> None:
        raise RuntimeError("in a test")

    monkeypatch.setattr(Recorder, "look", look)
    reason = "the worker could not watch it: RuntimeError: in a test"
    assert farm.serve("time.sleep(60)", telemetry_s=0.05) == f"failed: crashed: {reason}"
    assert (farm.result().state, farm.result().reason) == ("queued", reason)


def test_a_protocol_without_telemetry_is_not_watched(farm: Farm) -> None:
    assert farm.serve("time.sleep(0.2); ok()", telemetry_s=None) == "ok"
    measured = farm.result().measurement
    assert measured is not None
    assert measured.telemetry is None


# ---- devices that fail

#: A job and a probe on a fake GPU: what its driver says to each stands in two files; without one, all is well.
ON_A_GPU = """
said = sys.argv[1] + "." + request["phase"]
text = open(said).read() if os.path.exists(said) else ""
if text == "hangs":
    time.sleep(60)
if text == "aborts":
    os.abort()
if text:
    report(outcome="error", reason=text)
elif request["phase"] == "probe":
    assert request["device_kind"] == "cuda" and os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-1"
    report(outcome="ok", reason="")
else:
    ok()
"""
ASSERTED = "RuntimeError: CUDA error: device-side assert triggered\nCUDA kernel errors might be reported later"


class GpuFarm(Farm):
    """A worker with a GPU, whose driver says what a test wants."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.settings = self.settings.model_copy(update={"probe_s": 0.2})
        self.store.deregister(self.worker.id)
        where = factories.environment(
            device_kind="cuda", device_model="NVIDIA H200", device_uuid="GPU-1", threads=1
        )
        self.worker = factories.worker("gpu@alpha", environment=where, queues=("gpu",))
        self.store.register(self.worker)

    def submit(self, **protocol: Any) -> str:
        wanted = {
            "measure_deadline_s": 20,
            "build_deadline_s": 20,
            "paired": False,
            "telemetry_s": None,
            **protocol,
        }
        matrix = factories.matrix(protocol=Protocol(name="test", **wanted), devices=("cuda",))
        return f"{self.store.submit(matrix, again=True).run_id}.000000"

    def say(self, **texts: str) -> None:
        """What the driver says from now on, by phase; without a text nothing."""
        for phase, text in texts.items():
            file = Path(f"{self.template}.{phase}")
            file.write_text(text)
            if not text:
                file.unlink()

    def supervisor(self, script: str = ON_A_GPU, **options: Any) -> Supervisor:
        return super().supervisor(script, probe=self.prober(), **options)

    def prober(self) -> Prober:
        command = (sys.executable, "-S", str(self.folder / "child.py"), str(self.template))
        return Prober(self.settings, self.worker.device_kind, command, deadline_s=1.0)

    def warden(self, clock: Callable[[], float] = time.monotonic) -> Warden:
        return Warden(self.store, self.settings, self.worker.id, lambda _: self.prober(), clock)

    def quarantined(self) -> str | None:
        return self.store.quarantined(self.worker.id)


@pytest.fixture
def gpu_farm(tmp_path: Path) -> Iterator[GpuFarm]:
    made = GpuFarm(tmp_path)
    before = processes.children()
    yield made
    assert processes.children() == before, "something was left behind"
    made.store.close()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarantined supervisor does not keep a message for long."""
    monkeypatch.setattr(supervisor, "QUARANTINE_PATIENCE_S", 0.0)


@pytest.mark.parametrize("fault", [ASSERTED, "aborts"])
def test_a_fault_that_a_job_causes_is_its_own_failure_after_three_attempts(gpu_farm: GpuFarm, fault: str) -> None:
    gpu_farm.say(measure=fault)
    job, served = gpu_farm.submit(), gpu_farm.supervisor()
    texts = [served.handle(job) for _ in range(4)]
    assert [text.split(":")[1].strip() for text in texts[:3]] == ["crashed"] * 3
    assert texts[3] == "skipped"
    found = gpu_farm.result()
    assert (found.state, found.outcome, found.attempts) == ("failed", Outcome.CRASHED, 3)
    assert "given up after 3 attempts" in found.reason
    assert gpu_farm.quarantined() is None


@pytest.mark.parametrize("broken", ["RuntimeError: CUDA error: unknown error\nmore", "hangs", "aborts"])
def test_a_device_that_fails_its_probe_is_quarantined_and_the_job_handed_back_uncounted(
    gpu_farm: GpuFarm, hasty: None, broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    gpu_farm.say(measure=ASSERTED, probe=broken)
    job, served = gpu_farm.submit(), gpu_farm.supervisor()
    assert served.handle(job).startswith("handed back: crashed: RuntimeError: CUDA error: device-side assert")
    reason = gpu_farm.quarantined()
    assert reason in (
        "error: RuntimeError: CUDA error: unknown error",
        "timeout: the probe phase took longer than 1 s",
        "crashed: SIGABRT",
    )
    found = gpu_farm.result()
    assert (found.state, found.attempts) == ("queued", 1)
    assert f"failed its probe: {reason}" in found.reason
    [said] = [message for message in caplog.messages if "is quarantined" in message]
    assert "nvidia-smi" in said
    # nothing more is claimed, not even by a supervisor that does not know of it
    assert served.handle(job) == f"skipped: quarantined: {reason}"
    assert gpu_farm.supervisor().handle(job) == f"skipped: quarantined: {reason}"
    gpu_farm.say(measure="", probe="")
    gpu_farm.warden().step()
    assert gpu_farm.quarantined() is None
    assert served.handle(job) == "ok"
    failures = sa.select(schema.jobs.c.failures, schema.jobs.c.hand_backs)
    with gpu_farm.store._database.reading() as connection:
        assert tuple(connection.execute(failures).one()) == (0, 1)


def test_a_job_that_breaks_every_device_ends_as_its_own_failure(gpu_farm: GpuFarm, hasty: None) -> None:
    job, served = gpu_farm.submit(), gpu_farm.supervisor()
    for _ in range(3):
        gpu_farm.say(measure=ASSERTED, probe="CUDA error: unknown error")
        assert served.handle(job).startswith("handed back")
        gpu_farm.say(probe="")
        gpu_farm.warden().step()
    found = gpu_farm.result()
    assert (found.state, found.outcome, found.attempts) == ("failed", Outcome.CRASHED, 3)
    assert "3 attempts, each of which left its worker in quarantine" in found.reason


def test_a_message_that_comes_in_quarantine_is_served_when_the_device_recovers_soon(gpu_farm: GpuFarm) -> None:
    job, served = gpu_farm.submit(), gpu_farm.supervisor()
    gpu_farm.store.quarantine(gpu_farm.worker.id, "in a test")
    recovery = threading.Timer(0.3, gpu_farm.store.recover, [gpu_farm.worker.id])
    recovery.start()
    assert served.handle(job) == "ok"
    recovery.join()


def test_what_says_nothing_of_the_device_is_not_followed_by_a_probe(gpu_farm: GpuFarm) -> None:
    gpu_farm.say(measure="KeyError: 1", probe="this would be a broken device")
    assert gpu_farm.supervisor().handle(gpu_farm.submit()) == "failed: error: KeyError: 1"
    assert gpu_farm.quarantined() is None


def test_a_warden_probes_at_its_start_and_then_now_and_then(gpu_farm: GpuFarm) -> None:
    gpu_farm.supervisor()  # writes the child's script
    gpu_farm.say(probe="CUDA error: unknown error")
    now = [0.0]
    warden = gpu_farm.warden(clock=lambda: now[0])
    gpu_farm.store.register(replace(gpu_farm.worker, quarantined="its device has not been probed yet"))
    warden.step()
    assert gpu_farm.quarantined() == "error: CUDA error: unknown error"
    gpu_farm.say(probe="")
    now[0] = 0.1
    warden.step()
    assert gpu_farm.quarantined() is not None
    now[0] = 0.3
    warden.step()
    assert gpu_farm.quarantined() is None


def test_a_warden_does_not_probe_at_once_what_was_just_probed(gpu_farm: GpuFarm) -> None:
    gpu_farm.supervisor()
    now = [0.0]
    warden = gpu_farm.warden(clock=lambda: now[0])
    warden.step()
    gpu_farm.store.quarantine(gpu_farm.worker.id, "in a test")
    warden.step()
    assert gpu_farm.quarantined() == "in a test"
    now[0] = 0.25
    warden.step()
    assert gpu_farm.quarantined() is None


def test_the_real_probe_passes_on_this_processor(farm: Farm) -> None:
    with locks.hold(farm.settings.lock_dir, 1) as held:
        assert Prober(farm.settings, "cpu", supervisor.CHILD)(held) is None


def test_a_probe_that_cannot_be_started_is_a_problem(farm: Farm) -> None:
    with locks.hold(farm.settings.lock_dir, 1) as held:
        assert "could not be started" in str(Prober(farm.settings, "cpu", ("/no/such/program",))(held))


# ---- what a child may take

#: The farm's own child, but for what it does.
DOING = """
import os, sys
sys.path.insert(0, os.getcwd())
from workers import child
def do(request):
    BODY
child._do = do
child.answer(child.read(int(sys.argv[2])), int(sys.argv[3]))
"""
RUNAWAY = "held = []\n    while True: held.append(TAKES)"


def runaway(farm: Farm, takes: str, body: str = RUNAWAY, store: Any = None, **settings: Any) -> Supervisor:
    farm.settings = farm.settings.model_copy(update=settings)
    path = farm.folder / "runaway.py"
    path.write_text(DOING.replace("BODY", body.replace("TAKES", takes)))
    command = (sys.executable, str(path), str(farm.template))

    return Supervisor(
        store or farm.store, farm.settings, farm.worker, command=command, needs_build=lambda *_: False
    )


@pytest.mark.parametrize(
    "takes",
    [
        "bytearray(16 << 20)",
        "bytearray(100)",
        "__import__('numpy').ones(1 << 20)",
        "__import__('torch').ones(1 << 20)",
    ],
)
def test_a_runaway_ends_as_out_of_memory_and_says_what_it_could_have(farm: Farm, takes: str) -> None:
    served = runaway(farm, takes, memory_limit_mb=1024)
    text = served.handle(farm.submit())
    assert text.startswith("out_of_memory: ")
    found = farm.result()
    assert (found.state, found.outcome) == ("done", Outcome.OUT_OF_MEMORY)
    assert "1024 MiB (FARM_MEMORY_LIMIT_MB" in found.reason


def test_a_forked_control_has_the_same_bounds(farm: Farm) -> None:
    body = (
        "if os.fork() == 0:\n"
        "        import resource\n"
        "        print('forked', resource.getrlimit(resource.RLIMIT_DATA)[0], flush=True)\n"
        "        os._exit(0)\n"
        "    os.wait()\n"
        "    return {}"
    )
    kept: list[Ending] = []
    served = runaway(farm, "", body, store=Spy(farm.store, kept), memory_limit_mb=1024)
    served.handle(farm.submit())
    assert f"forked {1024 << 20}" in kept[0].log_tail


@pytest.mark.parametrize(
    ("said", "status", "outcome"),
    [
        (
            b"terminate called after throwing an instance of 'std::bad_alloc'",
            -signal.SIGABRT,
            Outcome.OUT_OF_MEMORY,
        ),
        (b"mmap: Cannot allocate memory", -signal.SIGSEGV, Outcome.OUT_OF_MEMORY),
        (b"std::bad_alloc", 1, Outcome.CRASHED),
        (b"terminate called without an active exception", -signal.SIGABRT, Outcome.CRASHED),
    ],
)
def test_libraries_that_abort_for_want_of_memory_are_out_of_memory(
    said: bytes, status: int, outcome: Outcome
) -> None:
    ended = watching.Ended(stopped=None, status=status, result=b"", output=said, memory_ran_out=False)
    assert classify(ended, "measure", 1.0).outcome is outcome


def test_temporary_files_over_their_bound_end_the_child_with_a_reason(farm: Farm) -> None:
    farm.settings = farm.settings.model_copy(update={"disk_limit_mb": 8})
    script = (
        "import tempfile\nfolder = tempfile.mkdtemp()\n"
        "for n in range(12):\n  open(f'{folder}/{n}', 'wb').write(b'x' * (1 << 20))\n"
        "time.sleep(60)"
    )
    text = farm.serve(script)
    assert text == "failed: error: temporary files of the measure phase took more than FARM_DISK_LIMIT_MB allows"
    assert farm.result().state == "failed"


def test_a_file_over_its_bound_is_an_error_that_names_it(farm: Farm) -> None:
    takes = f"open({str(farm.folder / 'large')!r}, 'wb').write(b'x' * (32 << 20))"
    text = runaway(farm, takes, disk_limit_mb=16).handle(farm.submit())
    assert text.startswith("failed: error: OSError: [Errno 27] File too large")
    assert "16 MiB (FARM_DISK_LIMIT_MB)" in text
    assert (farm.folder / "large").stat().st_size <= 16 << 20


def test_nothing_is_claimed_while_the_disk_is_full_and_that_is_said_once(
    farm: Farm, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervisor, "QUARANTINE_PATIENCE_S", 0.0)
    job, full = farm.submit(), farm.settings.model_copy(update={"disk_free_mb": 10**9, "probe_s": 0.01})
    served = farm.supervisor("report(outcome='ok', reason='') if request['phase'] == 'probe' else ok()")
    served._settings = full
    texts = [served.handle(job) for _ in range(3)]
    assert all("FARM_DISK_FREE_MB" in text for text in texts)
    assert all(text.startswith("skipped: quarantined: ") for text in texts)
    assert farm.result().attempts == 0
    command = (sys.executable, "-S", str(farm.folder / "child.py"), str(farm.template))
    wardens = [
        Warden(farm.store, settings, farm.worker.id, lambda _: Prober(farm.settings, "cpu", command))
        for settings in (full, farm.settings)
    ]
    wardens[0].step()
    assert "FARM_DISK_FREE_MB" in str(farm.store.quarantined(farm.worker.id))
    assert len([message for message in caplog.messages if "is quarantined" in message]) == 1
    wardens[1].step()
    served._settings = farm.settings
    assert served.handle(job) == "ok"


# ---- jobs that ask for what the worker lacks


def for_another(farm: Farm, monkeypatch: pytest.MonkeyPatch, patience_s: float) -> str:
    """A job that asks for what another living worker has; messages of others' jobs are kept so long."""
    monkeypatch.setattr(supervisor, "OTHERS_PATIENCE_S", patience_s)
    monkeypatch.setattr(supervisor, "_OTHERS_LOOK_S", 0.05)
    packages = {"torch": "2", "onnx": "1", "onnxscript": "1", "tensorrt": "10"}
    where = factories.environment(device_kind="cuda", device_model="NVIDIA H200", packages=packages)
    farm.store.register(factories.worker("gpu@able", environment=where, queues=("gpu",)))
    return f"{factories.submitted(farm.store, devices=('cuda',), optimizations=('tensorrt',))}.000000"


def test_a_job_that_another_worker_can_do_is_left_to_it(
    gpu_farm: GpuFarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = for_another(gpu_farm, monkeypatch, patience_s=0.2)
    assert gpu_farm.supervisor().handle(job) == "skipped"
    assert (gpu_farm.result().state, gpu_farm.result().attempts) == ("queued", 0)


def test_a_message_is_kept_until_the_other_worker_has_taken_its_job(
    gpu_farm: GpuFarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = for_another(gpu_farm, monkeypatch, patience_s=600)
    taking = threading.Timer(0.3, gpu_farm.store.claim, ["gpu@able", job])
    taking.start()
    assert gpu_farm.supervisor().handle(job) == "skipped"
    taking.join()
    assert gpu_farm.result().worker_id is None
    assert not gpu_farm.store.waits_for_another(gpu_farm.worker.id, job)


def test_whoever_keeps_anothers_message_takes_what_comes_meanwhile(
    gpu_farm: GpuFarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = for_another(gpu_farm, monkeypatch, patience_s=600)
    coming = threading.Timer(0.3, gpu_farm.submit)
    coming.start()
    assert gpu_farm.supervisor().handle(job).startswith("ok (job ")
    coming.join()
    assert gpu_farm.store.waits_for_another(gpu_farm.worker.id, job)
