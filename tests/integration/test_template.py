"""Measuring processes that are forked from a template are watched and ended like those that are started anew."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from farm.settings import Settings
from farm.spec import Protocol
from results_store.store import Ending, open_store
from tests import factories
from tests.redis_servers import eventually
from workers import forking, processes
from workers.forking import Templates
from workers.supervisor import Supervisor

ROOT = Path(__file__).resolve().parents[2]

#: A template without libraries, whose children do what stands in a file; and that as a child that is started anew.
PROGRAM = """
import ctypes, json, os, signal, subprocess, sys, tempfile, time
sys.path.insert(0, {root!r})
from workers import child, template
def fulfil(request):
    names = {{**globals(), "request": request, "answer": {{}}}}
    names["ok"] = {{"outcome": "ok", "reason": "", "measurement": {{**MEASURED, "spec": request["spec"]}}}}
    exec(open({script!r}).read(), names)
    return names["answer"] or names["ok"]
MEASURED = json.load(open({measurement!r}))
child.fulfil = fulfil
{prepare}
"""
PREPARED = "template.prepare = tempfile.gettempdir  # as a library may"


class Farm:
    """A store, and a supervisor with a template; each job is a small script."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.before = processes.children()
        self.settings = Settings(data_dir=folder, lock_dir=folder / "locks", renew_s=0.1)
        self.store = open_store(self.settings.database)
        self.worker = factories.worker(threads=1)
        self.store.register(self.worker)
        (folder / "measurement.json").write_text(factories.measurement().model_dump_json())
        self.templates = Templates(self.program("template.main()"))
        self.supervisor = self.supervised(self.templates)

    def program(self, end: str, prepare: str = PREPARED) -> tuple[str, ...]:
        """A command that does what a template or a child does."""
        text = PROGRAM.format(
            root=str(ROOT),
            script=str(self.folder / "script.py"),
            measurement=str(self.folder / "measurement.json"),
            prepare=prepare,
        )
        path = self.folder / f"program-{len(list(self.folder.glob('program-*')))}.py"
        path.write_text(text + end)
        return (sys.executable, str(path))

    def supervised(self, templates: Templates) -> Supervisor:
        return Supervisor(
            self.store,
            self.settings,
            self.worker,
            command=self.program("child.main()"),
            needs_build=lambda *_: False,
            templates=templates,
        )

    def submit(self, script: str, *, repeat: int = 1, recipe: str = "baseline", **protocol: Any) -> str:
        """A job that does this; the repeats before its own are taken out of the way."""
        (self.folder / "script.py").write_text(script)
        wanted = {"measure_deadline_s": 20, "paired": False, **protocol}
        matrix = factories.matrix(
            protocol=Protocol(name="test", **wanted), repeats=repeat + 1, optimizations=(recipe,)
        )
        return f"{self.store.submit(matrix, again=True).run_id}.{repeat:06d}"

    def serve(self, script: str, **given: Any) -> str:
        return self.supervisor.handle(self.submit(script, **given))

    def seen(self, expression: str, **given: Any) -> Any:
        """What a child says of itself."""
        out = self.folder / "seen"
        assert self.serve(f"json.dump({expression}, open({str(out)!r}, 'w'))", **given) == "ok"
        return json.loads(out.read_text())

    @property
    def template(self) -> int:
        [pid] = processes.children() - self.before
        return pid


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    made = Farm(tmp_path)
    with made.templates:
        yield made
        assert len(processes.children() - made.before) <= 1, "something besides the template was left behind"
    assert processes.children() == made.before, "something was left behind"
    made.store.close()


def test_the_repeats_of_a_cell_are_forked_from_one_template_and_its_first_is_started_anew(farm: Farm) -> None:
    seen = [farm.seen("[os.getppid(), os.getpid(), request['isolation']]", repeat=n) for n in (0, 1, 2)]
    assert [isolation for _, _, isolation in seen] == ["spawn", "fork", "fork"]
    assert [parent for parent, _, _ in seen] == [os.getpid(), farm.template, farm.template]
    assert len({pid for _, pid, _ in seen}) == 3


@pytest.mark.parametrize("given", [{"isolation": "spawn"}, {"recipe": "jemalloc"}])
def test_what_wants_a_start_of_its_own_gets_one(
    farm: Farm, monkeypatch: pytest.MonkeyPatch, given: dict[str, str]
) -> None:
    # Nothing is loaded, and the dynamic linker is not told of a library that may be missing here.
    monkeypatch.setattr("farm.allocator.ctypes.util.find_library", lambda _: "")
    assert farm.seen("[os.getppid(), request['isolation']]", **given) == [os.getpid(), "spawn"]
    assert processes.children() == farm.before


def test_there_is_one_template_for_each_allocator(farm: Farm) -> None:
    seen = [
        farm.seen("[os.getppid(), 'MALLOC_TOP_PAD_' in os.environ]", recipe=recipe)
        for recipe in ("baseline", "system_malloc", "baseline")
    ]
    assert [pinned for _, pinned in seen] == [True, False, True]
    assert seen[0] == seen[2] != seen[1]
    farm.templates.__exit__()


def test_a_forked_child_has_its_session_processors_locks_and_environment(farm: Farm) -> None:
    seen = farm.seen(
        "{'session': os.getsid(0) == os.getpid(), 'processors': sorted(os.sched_getaffinity(0)), "
        "'locks': [os.path.basename(p) for p in map(os.path.realpath, "
        "map('/proc/self/fd/{}'.format, os.listdir('/proc/self/fd'))) if p.endswith('.lock')], "
        "'oom': open('/proc/self/oom_score_adj').read(), 'temporary': tempfile.gettempdir(), "
        "'tmpdir': os.environ['TMPDIR'], 'threads': os.environ['OMP_NUM_THREADS'], "
        "'libc': ctypes.CDLL(None).getenv(b'FARM_DATA_DIR') != 0, 'asked': request['processors']}"
    )
    [processor] = seen["asked"]
    assert seen["session"]
    assert seen["libc"]
    assert seen["processors"] == [processor]
    assert seen["locks"] == [f"cpu-{processor}.lock"]
    assert seen["oom"].strip() == "800"
    assert seen["threads"] == "1"
    assert seen["temporary"] == seen["tmpdir"]
    assert Path(seen["temporary"]).parent == farm.settings.scratch


def test_the_variables_and_the_state_of_one_job_do_not_reach_the_next(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONLY_THE_FIRST", "1")
    first = farm.seen("[os.environ.get('ONLY_THE_FIRST'), tempfile.gettempdir(), os.getppid()]")
    farm.serve("os.environ['LEFT_BEHIND'] = '1'; sys.modules['left_behind'] = sys; child.left_behind = 1")
    monkeypatch.delenv("ONLY_THE_FIRST")
    second = farm.seen("[os.environ.get('ONLY_THE_FIRST'), tempfile.gettempdir(), os.getppid()]")
    assert (first[0], second[0]) == ("1", None)
    assert first[1] != second[1]
    assert first[2] == second[2]
    assert not farm.seen(
        "'LEFT_BEHIND' in os.environ or 'left_behind' in sys.modules or hasattr(child, 'left_behind')"
    )


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ("ctypes.string_at(0)", "failed: crashed: SIGSEGV"),
        ("os.abort()", "failed: crashed: SIGABRT"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "failed: crashed: SIGKILL"),
        ("os._exit(7)", "failed: crashed: exit status 7 without a result"),
        ("sys.exit(7)", "failed: crashed: exit status 1 without a result"),
        ("answer.update(outcome='unsupported', reason='no bf16')", "unsupported: no bf16"),
        (
            "answer.update(outcome='ok', padding='x' * 80_000_000)",
            "failed: error: the result is larger than 64 MiB: take a shorter max_s (--set max_s=…)",
        ),
    ],
)
def test_every_end_of_a_forked_child_is_told_apart_and_the_template_lives_on(
    farm: Farm, script: str, text: str
) -> None:
    assert farm.serve(script) == text
    template = farm.template
    assert farm.seen("os.getppid()") == template


@pytest.mark.parametrize("script", ["time.sleep(60)", "while True: pass"])
def test_a_forked_child_that_hangs_is_ended_at_its_deadline(farm: Farm, script: str) -> None:
    farm.serve("pass")
    began = time.monotonic()
    assert farm.serve(script, measure_deadline_s=0.5).startswith("failed: timeout: the measure phase took longer")
    assert time.monotonic() - began < 5


def test_a_forked_child_is_ended_though_it_has_no_session_yet(farm: Farm) -> None:
    slow = farm.program("os.setsid = lambda: time.sleep(60)\ntemplate.main()")
    with Templates(slow) as templates:
        served, began = farm.supervised(templates), time.monotonic()
        assert served.handle(farm.submit("pass", measure_deadline_s=0.3)).startswith("failed: timeout")
    assert time.monotonic() - began < 10


def test_a_cancelled_job_ends_its_forked_child(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    farm.serve("pass")
    job, renew = farm.submit("time.sleep(60)"), farm.store.renew
    monkeypatch.setattr(farm.store, "renew", lambda claim: (farm.store.cancel("latest"), renew(claim))[1])
    assert farm.supervisor.handle(job) == "cancelled"


def test_what_a_forked_child_says_is_kept_with_where_it_crashed(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Ending] = []
    monkeypatch.setattr(farm.store, "finish", noting(kept, farm.store.finish))
    farm.serve("print('said', flush=True); os.write(2, b'and warned'); os.abort()")
    for text in ("said", "and warned", "Fatal Python error: Aborted"):
        assert text in kept[0].log_tail


@pytest.mark.parametrize("session", [True, False])
@pytest.mark.parametrize("end", ["pass", "os.abort()", "time.sleep(60)"])
def test_what_a_forked_child_started_ends_with_it(farm: Farm, session: bool, end: str) -> None:
    noted = farm.folder / "pid"
    farm.serve(
        f"p = subprocess.Popen(['sleep', '60'], start_new_session={session}, close_fds=False)\n"
        f"open({str(noted)!r}, 'w').write(str(p.pid))\n{end}",
        measure_deadline_s=1.0,
    )
    assert ended(int(noted.read_text()))
    assert not ended(farm.template)


def test_the_device_is_free_when_the_child_is_gone_though_the_template_lives(farm: Farm) -> None:
    assert farm.serve("pass") == "ok"
    assert not ended(farm.template)
    for path in farm.settings.lock_dir.glob("*.lock"):
        with path.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    held = {os.path.realpath(entry) for entry in Path(f"/proc/{farm.template}/fd").iterdir()}
    assert not [name for name in held if name.endswith(".lock")]


def test_more_descriptors_than_fit_into_a_message_arrive(farm: Farm) -> None:
    farm.serve("pass")
    [template] = farm.templates._living.values()
    request = os.memfd_create("request")
    os.write(request, b"no JSON")
    reading, writing = os.pipe()
    forked = template.fork([request, request, writing, *[request] * 400])
    os.close(writing)
    os.close(request)
    assert forked.wait() == 1
    with os.fdopen(reading) as output:
        assert "JSONDecodeError" in output.read()


def test_a_template_that_is_killed_in_mid_job_costs_that_attempt_and_no_more(farm: Farm) -> None:
    assert farm.serve("os.kill(os.getppid(), signal.SIGKILL); time.sleep(60)") == "failed: crashed: SIGKILL"
    assert farm.serve("answer.update(outcome='unsupported', reason=str(os.getppid()))", repeat=2) == (
        f"unsupported: {farm.template}"
    )


def test_a_template_that_died_between_two_jobs_is_replaced(farm: Farm) -> None:
    farm.serve("pass")
    first = farm.template
    os.kill(first, signal.SIGKILL)
    assert farm.seen("[os.getppid(), request['isolation']]") == [farm.template, "fork"]
    assert farm.template != first


def test_a_template_that_dies_when_it_is_asked_leaves_the_job_a_start_of_its_own(farm: Farm) -> None:
    deaf = farm.program("template._received = lambda channel: channel.recv(1) and []\ntemplate.main()")
    with Templates(deaf) as templates:
        farm.supervisor = farm.supervised(templates)
        assert farm.seen("[os.getppid(), request['isolation']]") == [os.getpid(), "spawn"]


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (("/no/such/program",), "No such file"),
        ((sys.executable, "-c", "raise SystemExit('broken torch')"), "broken torch"),
        ((sys.executable, "-c", "import time; time.sleep(60)"), "not ready in 1 s"),
    ],
)
def test_without_a_template_a_job_is_started_anew_and_the_log_says_why(
    farm: Farm,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    command: tuple[str, ...],
    reason: str,
) -> None:
    monkeypatch.setattr(forking, "START_S", 1.0)
    with Templates(command) as templates, caplog.at_level(logging.WARNING):
        farm.supervisor = farm.supervised(templates)
        assert [farm.seen("request['isolation']") for _ in range(2)] == ["spawn", "spawn"]
    assert [reason in record.getMessage() for record in caplog.records] == [True], "tried once, and said once"


def test_the_lease_is_renewed_while_a_template_starts(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    enough, renewed, renew = farm.folder / "enough", [], farm.store.renew

    def noted(*given: Any) -> Any:
        renewed.append(given[-1])
        if len(renewed) == 5:
            enough.touch()
        return renew(*given)

    monkeypatch.setattr(farm.store, "renew", noted)
    # it gets ready only once that was done so often, or after so long
    starts = f"""
for _ in range(300):
    if os.path.exists({str(enough)!r}):
        break
    time.sleep(0.1)
template.main()
"""
    with Templates(farm.program(starts)) as templates:
        assert farm.supervised(templates).handle(farm.submit("pass")) == "ok"
    assert enough.exists()


@pytest.mark.parametrize("in_mid_job", [True, False])
def test_nothing_is_left_when_the_supervisor_is_killed(farm: Farm, in_mid_job: bool) -> None:
    noted = farm.folder / "pids"
    job = farm.submit(
        f"open({str(noted)!r}, 'w').write(f'{{os.getppid()}} {{os.getpid()}}\\n')\n"
        + ("time.sleep(60)" if in_mid_job else "")
    )
    supervisor = os.fork()
    if supervisor == 0:
        os.setsid()
        farm.supervised(farm.templates).handle(job)
        time.sleep(60)
        os._exit(0)
    eventually(lambda: noted.exists() and noted.read_text().endswith("\n"))
    pids = [int(pid) for pid in noted.read_text().split()]
    if not in_mid_job:
        eventually(lambda: ended(pids[1]))
    assert not ended(pids[0])
    os.kill(supervisor, signal.SIGKILL)
    os.waitpid(supervisor, 0)
    eventually(lambda: all(map(ended, pids)), within_s=2.0)
    processes.kill_children(but=farm.before)


def test_an_idle_template_uses_no_processor_time(farm: Farm) -> None:
    farm.serve("pass")
    before = ticks(farm.template)
    time.sleep(1.0)
    assert ticks(farm.template) == before


def test_the_real_template_has_one_thread_no_gpu_and_children_that_compute_with_several(farm: Farm) -> None:
    asked_cuda = "import torch\ndef refuse(): os._exit(3)\ntorch._C._cuda_getDeviceCount = refuse\n"
    real = farm.program("template.main()", prepare=asked_cuda)
    with Templates(real) as templates:
        farm.supervisor = farm.supervised(templates)
        modules = ("torchvision", "openvino", "farm.measuring", "farm.runtimes.eager", "farm.datasets.digits")
        found = farm.seen(
            "[request['isolation'], len(os.listdir(f'/proc/{os.getppid()}/task')), "
            f"[name for name in {modules!r} if name not in sys.modules], {COMPUTED}]"
        )
    assert found == ["fork", 1, [], [2, 2]]


#: Two threads compute, and the result's first dimension.
COMPUTED = (
    "(lambda torch: (torch.set_num_threads(2), [torch.get_num_threads(), "
    "len(torch.nn.Conv2d(3, 64, 3)(torch.ones(2, 3, 64, 64)))])[1])(sys.modules['torch'])"
)


def test_a_template_in_which_a_thread_was_started_is_refused() -> None:
    code = (
        "import threading, time\nfrom workers import template\n"
        "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\ntemplate._require_forkable()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "1 threads were started" in done.stderr


def noting(kept: list[Any], call: Callable[..., Any]) -> Callable[..., Any]:
    """The call, which keeps what it is given last."""

    def noted(*given: Any) -> Any:
        kept.append(given[-1])
        return call(*given)

    return noted


def ended(pid: int) -> bool:
    """Whether a process is gone, or waits to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def ticks(pid: int) -> int:
    """Processor time of a process, in the kernel's ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
