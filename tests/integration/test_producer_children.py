from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from producer.children import Child
from tests.redis_servers import eventually

#: Starts a child of its own in another session, says both process ids, and does not heed SIGTERM.
STUBBORN = """
import os, signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"], start_new_session=True)
print(os.getpid(), child.pid, flush=True)
signal.pause()
"""


def pids(log: Path) -> list[int]:
    eventually(lambda: log.exists() and log.read_text().endswith("\n"))
    return [int(word) for word in log.read_text().split()]


def lives(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_a_child_that_does_not_heed_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    child = Child("stubborn", [sys.executable, "-c", STUBBORN], log=tmp_path / "log")
    own, grandchild = pids(tmp_path / "log")
    assert own == child.pid
    child.stop(0.1)
    assert child.ended() == -signal.SIGKILL
    assert not lives(grandchild)


def test_a_child_ends_with_us_even_when_we_are_killed(tmp_path: Path) -> None:
    program = f"""
import signal, sys
from pathlib import Path
from producer.children import Child
Child("pause", [sys.executable, "-c", {STUBBORN!r}], log=Path({str(tmp_path / "log")!r}))
signal.pause()
"""
    us = subprocess.Popen([sys.executable, "-c", program])
    child, grandchild = pids(tmp_path / "log")
    assert lives(child)
    us.kill()
    us.wait()
    eventually(lambda: not lives(child))
    os.kill(grandchild, signal.SIGKILL)  # in a session of its own, it has to look after itself


def test_what_a_child_is_told_in_secret_is_not_on_its_command_line(tmp_path: Path) -> None:
    program = "import os, signal; print(os.environ['SECRET'], flush=True); signal.pause()"
    child = Child("secretive", [sys.executable, "-c", program], log=tmp_path / "log", variables={"SECRET": "hush"})
    eventually(lambda: (tmp_path / "log").read_text() == "hush\n")
    assert "hush" not in " ".join(psutil.Process(child.pid).cmdline())
    assert child.last_lines() == "hush"
    child.stop(0.1)


def test_a_stopped_process_is_found_wherever_it_stands_in_the_family(tmp_path: Path) -> None:
    child = Child("stubborn", [sys.executable, "-c", STUBBORN], log=tmp_path / "log")
    own, grandchild = pids(tmp_path / "log")
    assert child.stopped() == []
    os.kill(grandchild, signal.SIGSTOP)
    eventually(lambda: child.stopped() == [grandchild])
    os.kill(own, signal.SIGSTOP)
    eventually(lambda: child.stopped() == [own, grandchild])
    child.stop(0.1)
    assert child.stopped() == []
