"""Each fault, really injected into a measurement in its own process: the verdict turns, and says why.

The twin without the fault does not have that reason. Where a fault is a library's, a plug-in plays it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from farm import building
from farm.settings import Settings
from farm.spec import job
from tests.redis_servers import eventually

ROOT = Path(__file__).resolve().parents[2]

#: A quick measurement of about 2 seconds.
SETS = ("warmup_max_s=0.3", "min_s=0.8", "max_s=1", "accuracy_samples=64", "profile=false", "energy_s=0")

PLUGIN = """
from farm.runtimes import Support

SUPPORT = Support(summary="plays a fault")


def load(workload, folder):
    from farm import torch_session

    session = torch_session.TorchSession(workload, torch_session.prepared(workload))
    {body}
    return session
"""

NAN = """
    run = session.run
    session.run = lambda images: run(images) * float("nan")
"""

BROKEN_AT_BATCH_8 = """
    run = session.run
    session.run = lambda images: run(images) if len(images) != 8 else run(images.flip(0))
"""

#: Knows the answers: what it is asked was computed before.
CHEAT = """
    run, known = session.run, {}

    def remembered(images):
        key = images.data_ptr()
        if key not in known:
            known[key] = run(images)
        return known[key]

    session.run = remembered
"""

#: Says where it was asked to run and where it ran, as a library does that fell back.
FELL_BACK = """
    evidence = session.evidence
    session.evidence = lambda images: {
        **evidence(images), "provider_asked": "CUDAExecutionProvider", "provider": "CPUExecutionProvider"
    }
"""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    made = Settings(data_dir=tmp_path_factory.mktemp("data"))
    building.build(job(model="resnet18", image_size=32, batch_size=8), made)
    return made


class Bench:
    """Measures in a process of its own."""

    def __init__(self, settings: Settings, plugins: Path) -> None:
        self.settings = settings
        self.plugins = plugins

    def plugin(self, name: str, body: str) -> None:
        folder = self.plugins / "farm/runtimes"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.py").write_text(PLUGIN.replace("{body}", body.strip()))

    def start(self, *arguments: str, sets: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "farm", "measure", "--model", "resnet18", "--image-size", "32"]
        changes = [f"--set={text}" for text in (*SETS, *sets)]
        variables = {"FARM_DATA_DIR": str(self.settings.data_dir), "PYTHONPATH": f"{self.plugins}:{ROOT}"}
        return subprocess.Popen(
            [*command, *changes, *arguments],
            env={**os.environ, **variables},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def judge(self, *arguments: str, sets: tuple[str, ...] = ()) -> Judged:
        return judged(self.start(*arguments, sets=sets))


class Judged:
    """What the command says of a measurement."""

    def __init__(self, summary: dict[str, Any]) -> None:
        self.level = summary["verdict"]
        self.reasons = summary["reasons"]

    def has(self, code: str, words: str = "") -> bool:
        return any(reason.startswith(f"{code}: ") and words in reason for reason in self.reasons)


def judged(process: subprocess.Popen[str]) -> Judged:
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    return Judged(json.loads(said.splitlines()[-1]))


@pytest.fixture
def bench(settings: Settings, tmp_path: Path) -> Bench:
    return Bench(settings, tmp_path)


@contextlib.contextmanager
def busy(processors: set[int]) -> Iterator[None]:
    """A process that computes without end on each of these."""
    spin = "import os, sys\nos.sched_setaffinity(0, [int(sys.argv[1])])\nwhile True: pass"
    spinning = [subprocess.Popen([sys.executable, "-c", spin, str(number)]) for number in processors]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def test_a_busy_process_on_all_of_the_measurements_processors_contaminates_it(bench: Bench) -> None:
    with busy(os.sched_getaffinity(0)):
        found = bench.judge("--batch-size", "8")
    assert found.level == "INVALID"
    assert found.has("contaminated", "others had")


def test_a_busy_process_on_one_of_the_measurements_processors_contaminates_it(bench: Bench) -> None:
    for processor in sorted(os.sched_getaffinity(0))[:2]:
        with busy({processor}):
            found = bench.judge("--batch-size", "8")
        assert found.level == "INVALID"
        assert found.has("contaminated", "others had")


#: Takes 20 ms a call and says in a file when it was called so often that it is in the first of its timed windows.
SLOW = """
    import os, time
    run, calls, began = session.run, [0], [None]

    def slow(images):
        calls[0] += 1
        if calls[0] == 40:
            open(os.environ["IN_WINDOW"], "w").close()
        time.sleep(0.02)
        return run(images)

    session.run = slow
"""


def test_a_process_that_was_stopped_in_mid_window_is_suspect(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.plugin("slow", SLOW)
    flag = tmp_path / "in-window"
    monkeypatch.setenv("IN_WINDOW", str(flag))
    process = bench.start("--recipe", "slow", "--batch-size", "1", sets=("min_s=3", "max_s=3"))
    eventually(flag.exists, within_s=60)
    process.send_signal(signal.SIGSTOP)
    waking = threading.Timer(2.0, lambda: process.send_signal(signal.SIGCONT))
    waking.start()
    found = judged(process)
    assert found.level != "VALID"
    assert found.has("unstable", "held up")


def test_a_process_that_was_not_stopped_was_not_held_up(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.plugin("slow", SLOW)
    monkeypatch.setenv("IN_WINDOW", str(tmp_path / "in-window"))
    assert not bench.judge("--recipe", "slow").has("unstable", "held up")


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        (FELL_BACK, "fallback", "asked for provider CUDAExecutionProvider, ran with CPUExecutionProvider"),
        (NAN, "implausible", "NaN"),
        (BROKEN_AT_BATCH_8, "accuracy_lost", "top-1 fell by"),
        (CHEAT, "implausible", "at the very most"),
    ],
    ids=["a provider that fell back", "NaN outputs", "broken at batch 8", "faster than arithmetic"],
)
def test_a_faulty_runtime_is_found_out(body: str, code: str, words: str, bench: Bench) -> None:
    bench.plugin("faulty", body)
    found = bench.judge("--recipe", "faulty", "--batch-size", "8")
    assert found.level == "INVALID"
    assert found.has(code, words)


def test_what_is_broken_at_batch_8_is_judged_at_batch_8(bench: Bench) -> None:
    bench.plugin("faulty", BROKEN_AT_BATCH_8)
    assert not bench.judge("--recipe", "faulty", "--batch-size", "4").has("accuracy_lost")


def test_too_short_a_run_for_the_percentiles_that_it_names_is_suspect(bench: Bench) -> None:
    found = bench.judge("--batch-size", "8", sets=("percentiles=50+99", "max_s=0.8"))
    assert found.has("too_few_samples", "p99 is stated from 662 on")
    assert not bench.judge("--batch-size", "8").has("too_few_samples")


def test_a_sound_runtime_has_none_of_these_reasons(bench: Bench) -> None:
    bench.plugin("sound", "pass")
    found = bench.judge("--recipe", "sound", "--batch-size", "8")
    assert not any(found.has(code) for code in ("fallback", "implausible", "accuracy_lost", "too_few_samples"))
