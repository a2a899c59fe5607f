"""The live control for real: it takes turns, idles in between, and is gone with the process that asked for it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from multiprocessing.connection import Pipe
from pathlib import Path
from typing import Any

import psutil
import pytest

from farm import building, control, measuring
from farm.catalogue import parse_recipe
from farm.control import LiveControl
from farm.errors import ControlDied, OutOfMemory
from farm.measurement import Measurement
from farm.settings import Settings
from farm.spec import JobSpec, Protocol, job
from tests.redis_servers import eventually

ROOT = Path(__file__).resolve().parents[2]
PROTOCOL = Protocol(
    name="test",
    warmup_min_s=0.0,
    warmup_max_s=0.1,
    min_s=0.2,
    max_s=0.4,
    window_s=0.02,
    target_half_width=5,
    accuracy_samples=96,
)

#: Measures the job on the first line of standard input, with a forked control, and prints the measurement.
FORKING = """
import sys
from farm import control, measuring
from farm.settings import load
from farm.spec import JobSpec
spec = JobSpec.model_validate_json(sys.stdin.readline())
print(measuring.measure_here(spec, load(), start_control=control.fork).model_dump_json())
"""

#: Forks a control, says so, and goes on asking it for windows.
ASKING = FORKING.replace(
    "print(measuring.measure_here(spec, load(), start_control=control.fork).model_dump_json())",
    """live = control.fork(spec, load())
live.load()
print("ready", flush=True)
while True:
    live.window(lead=True)
""",
)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(data_dir=tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def spec(settings: Settings) -> JobSpec:
    """A cell whose artifacts are built."""
    made = small("channels_last")
    building.build(made, settings)
    return made


def small(recipe: str, **fields: Any) -> JobSpec:
    return job(
        recipe=recipe, **{"model": "resnet18", "image_size": 32, "batch_size": 4, "protocol": PROTOCOL, **fields}
    )


def controls() -> list[psutil.Process]:
    """Those that were started by this process, which other tests may have left children of theirs."""
    return [process for process in psutil.Process().children() if "farm.control" in process.cmdline()]


def forking(program: str, settings: Settings) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "FARM_DATA_DIR": str(settings.data_dir)},
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def check(found: Measurement) -> None:
    """Windows in turns, all of them there, and nothing but the baseline beside the cell."""
    taken = found.control
    assert taken is not None
    assert str(taken.recipe) == "baseline"
    assert len(taken.cell_calls) == len(taken.control_calls) == len(taken.cell_first) >= 5
    assert sum(taken.cell_calls) == len(found.samples.device_ns) >= 11
    assert sum(taken.control_calls) == len(taken.device_ns)
    assert set(taken.cell_first) == {True, False}
    assert len(found.speedups) == len(taken.cell_calls)
    assert 0.05 < found.speedups[0] < 20
    assert found.timed_from is not None
    assert found.timed_until is not None
    assert found.started_at < found.timed_from < found.timed_until <= found.ended_at


def test_a_cell_is_measured_in_turns_with_its_control_which_is_gone_afterwards(
    spec: JobSpec, settings: Settings
) -> None:
    found = measuring.measure_here(spec, settings)
    check(found)
    assert Measurement.model_validate_json(found.model_dump_json()) == found
    assert controls() == []


def test_a_forked_control_does_the_same(spec: JobSpec, settings: Settings) -> None:
    with forking(FORKING, settings) as leader:
        said, _ = leader.communicate(spec.model_dump_json() + "\n", timeout=60)
    assert leader.returncode == 0
    check(Measurement.model_validate_json(said.splitlines()[-1]))


def test_the_order_of_the_windows_is_drawn_from_the_job(spec: JobSpec, settings: Settings) -> None:
    first, again = (measuring.measure_here(spec, settings).control for _ in range(2))
    other = measuring.measure_here(spec.model_copy(update={"repeat": 1}), settings).control
    assert first and again and other
    shared = min(len(c.cell_first) for c in (first, again, other))
    assert first.cell_first[:shared] == again.cell_first[:shared]
    assert (first.seed, first.seed != other.seed) == (again.seed, True)


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ("int8_static+openvino", "baseline"),
        ("pruning(0.5)+channels_last+amp", "baseline"),
        ("compile+system_malloc", "system_malloc"),
        ("baseline", "baseline"),
    ],
)
def test_the_control_is_the_baseline_with_the_same_allocator(recipe: str, expected: str) -> None:
    assert str(control.recipe_of(parse_recipe(recipe))) == expected


def test_a_control_that_was_killed_is_memory_that_ran_out_and_another_death_is_an_error(
    spec: JobSpec, settings: Settings
) -> None:
    for number, kind in ((signal.SIGKILL, OutOfMemory), (signal.SIGSEGV, ControlDied)):
        with control.living(control.spawn, spec, settings) as live:
            live.load()
            [process] = controls()
            process.send_signal(number)
            with pytest.raises(kind, match="control"):
                live.window(lead=True)
        assert controls() == []


@pytest.mark.parametrize("moment", ["idle", "busy"])
def test_when_the_measuring_process_is_killed_its_control_ends(
    moment: str, spec: JobSpec, settings: Settings
) -> None:
    program = ASKING if moment == "busy" else ASKING.replace("live.window(lead=True)", "sys.stdin.readline()")
    with forking(program, settings) as leader:
        assert leader.stdin and leader.stdout
        leader.stdin.write(spec.model_dump_json() + "\n")
        leader.stdin.flush()
        assert leader.stdout.readline() == "ready\n"
        [live] = psutil.Process(leader.pid).children()
        leader.kill()
        eventually(lambda: not live.is_running() or live.status() == psutil.STATUS_ZOMBIE, within_s=5)


def out_of_memory(spec: JobSpec, settings: Settings) -> LiveControl:
    """A control that has no memory."""
    ours, theirs = Pipe()

    def answer() -> None:
        theirs.recv()
        theirs.send(("OutOfMemory", "bad_alloc"))

    thread = threading.Thread(target=answer)
    thread.start()

    def wait() -> int:
        thread.join()
        theirs.close()
        return 0

    return LiveControl(parse_recipe("baseline"), ours, wait)


def test_without_memory_for_both_the_cell_is_measured_alone_and_says_so(
    spec: JobSpec, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OutOfMemory, match="the live control: bad_alloc"):
        measuring.measure_here(spec, settings, start_control=out_of_memory)
    real = measuring.measure_here

    def short_of_memory(*given: Any, **named: Any) -> Measurement:
        return real(*given, **{"start_control": out_of_memory, **named})

    monkeypatch.setattr(measuring, "measure_here", short_of_memory)
    monkeypatch.setattr(measuring, "_require_allocator", lambda spec: None)
    found = measuring.measure(spec, settings)
    assert found.control is None
    assert found.speedups == []
    assert found.missing["control"] == "the cell and its control together had too little memory"


def test_only_the_first_repeat_asks_for_the_whole_test_part(spec: JobSpec, settings: Settings) -> None:
    first = measuring.measure_here(spec, settings, alone=True)
    second = measuring.measure_here(spec.model_copy(update={"repeat": 1}), settings, alone=True)
    assert (first.accuracy.samples, second.accuracy.samples) == (96, 16)
    assert second.accuracy.agreeing == 16


def test_a_forked_process_cannot_tell_its_memory(spec: JobSpec, settings: Settings) -> None:
    told, untold = (measuring.measure_here(spec, settings, isolation=i, alone=True) for i in ("spawn", "fork"))
    assert told.memory is not None
    assert (untold.memory, untold.missing["ram_usage"]) == (None, "told by a cell's first repeat")
    assert (told.isolation, untold.isolation) == ("spawn", "fork")


def test_the_command_measures_with_a_control_too(spec: JobSpec, settings: Settings) -> None:
    sets = [f"--set={name}={value}" for name, value in PROTOCOL.model_dump().items() if name != "name"]
    arguments = ["--model", "resnet18", "--image-size", "32", "--batch-size", "4", "--recipe", "channels_last"]
    arguments += ["--protocol", "standard", *(text for text in sets if "percentiles" not in text)]
    done = subprocess.run(
        [sys.executable, "-m", "farm", "measure", *arguments],
        env={**os.environ, "FARM_DATA_DIR": str(settings.data_dir)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["speedup"]["control"] == "baseline"
    assert summary["speedup"]["interval"][0] <= summary["speedup"]["ratio"] <= summary["speedup"]["interval"][1]
    assert "times as fast as its control" in done.stdout
