"""`benchmark_jobs.csv`: a row for every job, written without holding more than a few."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from farm import statistics
from farm.errors import BadInput
from farm.measurement import Outcome
from farm.verdict import judge
from results_store import collate as collating
from results_store import looking
from results_store import store as storing
from results_store.collate import collate, export
from results_store.exporters.jobs import COLUMNS
from results_store.store import Ending, Store
from tests import factories


def rows(store: Store, run_id: str, folder: Path) -> list[dict[str, str]]:
    with export(collate(store, run_id), folder, "jobs").open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_job_has_a_row_measured_or_not(store: Store, tmp_path: Path) -> None:
    run = factories.submitted(store, repeats=4)
    claims = [claim for _ in range(3) if (claim := store.claim("cpu@alpha"))]
    spoilt = factories.contention(others_s=3.0)
    made = factories.measurement(spec=claims[0].spec, contention=spoilt, **factories.control())
    assert store.finish(claims[0], Ending(outcome=Outcome.OK, measurement=made))
    assert store.finish(claims[1], Ending(outcome=Outcome.UNSUPPORTED, reason="needs openvino"))
    assert store.finish(claims[2], Ending(outcome=Outcome.ERROR, reason="why"))
    found = rows(store, run, tmp_path)
    assert list(found[0]) == list(COLUMNS)
    assert [row["job_id"] for row in found] == [f"{run}.{number:06d}" for number in range(4)]
    assert [row["repeat"] for row in found] == ["0", "1", "2", "3"]
    assert [row["outcome"] for row in found] == ["ok", "unsupported", "error", "pending"]
    assert [row["reason"] for row in found] == ["", "needs openvino", "why", ""]
    assert [bool(row["latency_p50_ms"]) for row in found] == [True, False, False, False]
    assert found[0]["verdict"] == str(judge(made).level) == "INVALID"
    assert found[0]["verdict_reasons"] == "; ".join(map(str, judge(made).reasons))


def test_the_figures_of_a_row_are_those_of_its_repeat_alone(store: Store, tmp_path: Path) -> None:
    run = factories.submitted(store, repeats=2)
    for milliseconds in (10.0, 30.0):
        claim = store.claim("cpu@alpha")
        assert claim is not None
        samples = factories.samples(milliseconds, milliseconds + 1)
        assert store.finish(claim, factories.ok(claim, samples=samples))
    first, second = rows(store, run, tmp_path)
    expected = statistics.percentile(factories.samples(30.0).device_ns, 90)
    assert expected is not None
    assert float(second["latency_p90_ms"]) == pytest.approx(expected / 1e6, rel=1e-5)
    assert float(first["latency_p50_ms"]) == pytest.approx(10.0, rel=0.01)
    assert float(second["end_to_end_p50_ms"]) == pytest.approx(31.0, rel=0.01)
    assert (first["calls"], first["latency_p99_ms"], first["speedup"]) == ("200", "", "")
    assert (first["ram_usage_mb"], first["top1_correct"], first["measured_by"]) == ("100", "850", first["job_id"])


def test_a_live_control_gives_each_repeat_its_own_speedup(store: Store, tmp_path: Path) -> None:
    run = factories.submitted(store, repeats=1)
    claim = store.claim("cpu@alpha")
    assert claim is not None
    assert store.finish(claim, factories.ok(claim, **factories.control([2.0] * 20)))
    [row] = rows(store, run, tmp_path)
    assert float(row["speedup_low"]) <= float(row["speedup"]) == pytest.approx(2.0, rel=1e-3)


def test_jobs_are_written_without_making_a_row_of_a_cell(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = factories.submitted(store, repeats=3)
    monkeypatch.setattr(collating, "_all_rows", lambda *_: pytest.fail("rows were made"))
    assert len(rows(store, run, tmp_path)) == 3
    with pytest.raises(pytest.fail.Exception):
        export(collate(store, run), tmp_path, "csv")


def test_few_jobs_are_in_memory_at_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run = factories.submitted(store, repeats=storing._RESULTS_AT_ONCE * 3)
    read: list[int] = []
    looked = looking.results_after

    def counting(*arguments: Any) -> Any:
        found = looked(*arguments)
        read.append(len(found))
        return found

    monkeypatch.setattr(looking, "results_after", counting)
    jobs = collate(store, run).jobs()
    assert next(jobs).spec.repeat == 0
    assert read == [storing._RESULTS_AT_ONCE]
    assert sum(1 for _ in jobs) == 3 * storing._RESULTS_AT_ONCE - 1


def test_rows_are_made_once_and_what_cannot_be_read_leaves_no_folder(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collated = collate(store, factories.submitted(store))
    assert collated.rows[0] is collated.rows[0]

    def unreadable(*_: object) -> None:
        raise BadInput("changed")

    monkeypatch.setattr(collating, "_all_rows", unreadable)
    with pytest.raises(BadInput, match="changed"):
        export(collate(store, factories.submitted(store, repeats=2)), tmp_path / "results")
    assert not (tmp_path / "results").exists()
