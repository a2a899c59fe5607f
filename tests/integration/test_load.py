"""The benchmarks of load run small, on real servers: all that they find and is no speed has to be as it should."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import loads
from benchmarks.figures import Figure, read_last
from farm.errors import BadInput
from tests import databases

ROOT = Path(__file__).resolve().parents[2]


def figures(module: str, *arguments: str) -> dict[str, Figure]:
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return {figure.name: figure for figure in read_last(done.stdout)}


def test_a_submission_keeps_to_its_window_and_its_memory() -> None:
    found = figures("submission", "--jobs", "80,1600", "--served", "1200")
    assert len(found) == 2 * 6
    bounded = [each for name, each in found.items() if "apply_async" not in name and "written" not in name]
    assert len(bounded) == 2 * 4
    assert [each for each in bounded if not each.reached] == []


def test_claims_at_once_lose_nothing_and_double_nothing() -> None:
    found = figures("claims", "--jobs", "80,400", "--claimants", "6")
    assert len(found) == 5
    for name in ("idle while work waits", "jobs lost", "jobs doubled"):
        assert found[name].reached, found[name]


def test_an_export_has_every_job_and_its_memory_does_not_grow() -> None:
    found = figures("export_rows", "--rows", "8000")
    assert found["rows written, each of another job"].result == "8,000"
    assert found["memory for 8,000 rows − for 4,000"].reached
    assert len(found) == 6


def test_a_user_who_may_create_no_databases_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with databases.server() as server:
        server.execute("CREATE ROLE modest LOGIN")
        monkeypatch.setenv("FARM_DATABASE_URL", server.url("postgres").replace("postgres@", "modest@"))
        with pytest.raises(BadInput, match="'modest'"), loads.postgresql() as make:
            make()


def test_databases_on_a_server_that_is_named_are_gone_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    with databases.server() as server:
        monkeypatch.setenv("FARM_DATABASE_URL", server.url("postgres"))
        others = "SELECT 1 FROM pg_database WHERE datname LIKE 'farm_load_%'"
        with loads.postgresql() as make:
            assert make() != make()
            assert server.execute(others) == 2
        assert server.execute(others) == 0
