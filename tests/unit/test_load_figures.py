"""The benchmarks of load: what they make of findings whose truth is known, and what they refuse."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import claims, decisions, export_rows, loads, page_opening, submission
from benchmarks.claims import Asked, Claimed
from benchmarks.export_rows import Exported
from benchmarks.figures import Figure
from benchmarks.submission import Cost
from farm.errors import Unreachable
from tests import databases

ROOT = Path(__file__).resolve().parents[2]


def missed(figures: list[Figure]) -> list[str]:
    """The figures that fall short, by the words before the colon or the first two."""
    return [figure.name for figure in figures if not figure.reached]


def asked(began: float, job_id: str | None, took: float = 0.01) -> Asked:
    return Asked(began=began, ended=began + took, job_id=job_id, done=began + 2 * took)


def run(jobs: int, per_s: float = 200.0, lost: int = 0, doubled: int = 0) -> Claimed:
    calls = [asked(0.0, "a"), asked(0.1, "b"), asked(0.2, None)]
    seconds = jobs / per_s
    return Claimed(jobs=jobs, seconds=seconds, cpu_s=seconds, asked=calls, lost=lost, doubled=doubled)


def test_a_matrix_has_as_many_jobs_as_asked_for_and_no_controls() -> None:
    for count in (loads.STEP, 1000, 100_000):
        assert loads.matrix(count).size == count
    assert len(loads.matrix(1000).cells()) == 100
    assert loads.matrix(1000).controls() == []
    assert loads.matrix(400, repeats=100).size == 400


def test_claims_that_lose_double_or_wait_fall_short() -> None:
    good = [run(1000), run(100_000)]
    assert missed(claims.figures(good, 32)) == []
    assert missed(claims.figures([run(1000, lost=1), good[1]], 32)) == ["jobs lost"]
    assert missed(claims.figures([good[0], run(100_000, doubled=1)], 32)) == ["jobs doubled"]
    slow = claims.figures([run(1000, per_s=99), run(100_000, per_s=98)], 32)
    assert missed(slow) == ["32 claimants: claims a second, of 100,000 jobs"]
    assert [name.partition(":")[0] for name in missed(claims.figures([run(1000, per_s=300), good[1]], 32))] == [
        "claimed and finished"
    ]


def test_who_is_told_that_there_is_nothing_is_idle_only_where_a_job_is_claimed_later() -> None:
    assert run(1000).idle == 0
    early = [asked(0.0, None), asked(0.005, "a"), asked(1.0, "b")]
    assert replace(run(1000), asked=early).idle == 1
    assert missed(claims.figures([replace(run(1000), asked=early), run(100_000)], 32)) == ["idle while work waits"]


def cost(**fields: float) -> Cost:
    given = {
        "written_s": 1.0,
        "written_cpu_s": 1.0,
        "published_s": 1.0,
        "messages": 1000,
        "producer_bytes": 100 * loads.MIB,
    }
    return Cost(**{**given, "redis_bytes": 2 * loads.MIB, "longest": 1000, **fields})  # type: ignore[arg-type]


def short(costs: Mapping[int, Cost], loop_s: float = 60.0, done: int = 3000) -> list[str]:
    figures = submission.figures("sqlite", dict(costs), loop_s, done, 3000)
    return [name.removeprefix("sqlite: ").partition(",")[0].partition(":")[0] for name in missed(figures)]


def test_a_submission_that_is_slow_or_unbounded_falls_short() -> None:
    few, many = cost(written_cpu_s=0.1), cost(written_s=10.0, written_cpu_s=10.0)
    assert short({1000: few, 100_000: many}) == []
    assert short({1000: few, 100_000: many}, loop_s=54.0) == ["time of 100"]
    assert short({1000: few, 100_000: replace(many, written_cpu_s=13.0)}) == ["written"]
    grown = replace(many, producer_bytes=165 * loads.MIB)
    assert short({1000: few, 100_000: grown}) == ["producer's memory"]
    assert short({1000: few, 100_000: replace(many, redis_bytes=17 * loads.MIB)}) == ["Redis' memory for 100"]
    assert short({1000: replace(few, longest=1001), 100_000: many}) == ["longest queue"]
    assert short({1000: few, 100_000: many}, done=1000) == ["jobs served"]


def test_an_export_that_grows_or_loses_rows_falls_short() -> None:
    less = Exported(rows=4000, seconds=4.0, cpu_s=4.0, peak_bytes=100 * loads.MIB)
    more = Exported(rows=1_000_000, seconds=1000.0, cpu_s=1000.0, peak_bytes=116 * loads.MIB)

    def short(found: Exported) -> list[str]:
        return missed(export_rows.figures(less, found, 1_000_000, {"COPY": 1.0}))

    assert short(more) == []
    assert short(replace(more, peak_bytes=117 * loads.MIB)) == ["memory for 1,000,000 rows − for 4,000"]
    assert short(replace(more, rows=999_999))[0] == "rows written, each of another job"
    assert short(replace(more, cpu_s=1251.0)) == ["exported: processor time for a job, of 1,000,000 ÷ of fewer"]


def test_a_decision_that_takes_too_much_or_loses_cells_falls_short() -> None:
    less = decisions.Done(cells=5000, seconds=1.0, peak_bytes=200 * loads.MIB, bytes=10**6, counted=5000)
    more = replace(less, cells=100_000, counted=100_000, peak_bytes=decisions.MOST_MIB * loads.MIB)

    def short(found: decisions.Done) -> set[str]:
        both = [dict.fromkeys(decisions.COMMANDS, done) for done in (less, found)]
        return {name.partition(": ")[2] for name in missed(decisions.figures(both[0], both[1], 100_000))}

    assert short(more) == set()
    assert short(replace(more, peak_bytes=(decisions.MOST_MIB + 1) * loads.MIB)) == {"memory for 100,000 cells"}
    assert short(replace(more, counted=99_999)) == {"cells"}
    assert short(replace(more, bytes=11 * 10**6)) == {"what comes out of 100,000 cells"}


def test_a_page_is_to_open_soon_and_to_be_small() -> None:
    assert not missed(page_opening.figures([9.0, 2.9, 3.0, 8.0], 10**7))
    assert missed(page_opening.figures([1.0, 3.1, 3.1], 10**7)) == ["opening, median of 2"]
    assert missed(page_opening.figures([1.0, 1.0], 10**7 + 1)) == ["size of the page"]


def test_the_matrix_of_decisions_has_as_many_cells_as_asked_for() -> None:
    assert len(decisions.matrix(decisions.FEW).cells()) == decisions.FEW == 5000
    assert decisions.cells("100000") == 100_000


def test_a_process_apart_tells_its_own_memory_and_not_that_of_others() -> None:
    length, peak = loads.apart(len, b"x" * (256 << 20))
    _, less = loads.apart(len, b"")
    assert length == 256 << 20
    assert peak - less > 100 << 20


@pytest.mark.parametrize(
    ("module", "arguments", "said"),
    [
        ("submission", ("--jobs", "1000,1001"), "1001 is no multiple of 40"),
        ("submission", ("--databases", "mysql"), "possible: sqlite, postgresql"),
        ("submission", ("--jobs", "40", "--served", "41"), "at most all 40 jobs"),
        ("claims", ("--claimants", "0"), "at least one"),
        ("export_rows", ("--rows", "10"), "no multiple of 4,000"),
        ("decisions", ("--cells", "10"), "no multiple of 1,250 from 5,000"),
        ("load", ("--only", "claim"), "possible: submission, claims, export_rows"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_what_can(module: str, arguments: tuple[str, ...], said: str) -> None:
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert said in done.stderr


def test_a_missing_postgresql_is_said_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("FARM_DATABASE_URL", raising=False)
    monkeypatch.setattr(databases, "binaries", lambda: None)
    with pytest.raises(SystemExit) as ended, loads.refusing(), loads.postgresql():
        pytest.fail("there is none")
    assert ended.value.code == 2
    assert "apt install postgresql" in capsys.readouterr().err


def test_a_postgresql_that_does_not_answer_is_said_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARM_DATABASE_URL", "postgresql://somebody:secret@127.0.0.1:1/farm")
    with pytest.raises(Unreachable, match="does not answer") as error, loads.postgresql() as make:
        make()
    assert "secret" not in str(error.value)
