"""A run that goes on, was cancelled, or has lost repeats: whoever asks it what to deploy is told so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from farm.measurement import Outcome
from farm.spec import JobSpec
from producer.progress import summary
from results_store.__main__ import app
from results_store.collate import collate, export
from results_store.compare import compare
from results_store.compare_table import as_json, heading
from results_store.question import Question
from results_store.recommend import recommend
from results_store.report.doubts import kinds
from results_store.store import Ending, Store
from tests import factories, reports, rows
from tests.reports import Page, collated, plausible


def measure(store: Store, count: int) -> None:
    for _ in range(count):
        claim = store.claim("cpu@alpha")
        assert claim is not None
        assert store.finish(claim, factories.ok(claim))


def notes(store: Store, run: str) -> tuple[str, ...]:
    [advice] = recommend(collate(store, run).rows, Question()).advice
    return advice.notes


def test_a_row_knows_how_many_of_its_repeats_are_still_to_come(store: Store) -> None:
    run = factories.submitted(store, repeats=4)
    measure(store, 1)
    [row] = collate(store, run).rows
    assert (row.outcome, row.repeats_measured, row.repeats_pending, row.reason) == ("ok", 1, 3, "")
    measure(store, 3)
    [row] = collate(store, run).rows
    assert (row.repeats_measured, row.repeats_pending) == (4, 0)


def test_a_row_says_why_repeats_are_missing_that_nobody_gave_a_reason_for(store: Store) -> None:
    run = factories.submitted(store, repeats=4)
    measure(store, 1)
    store.cancel(run)
    [row] = collate(store, run).rows
    assert (row.outcome, row.repeats_pending, row.reason) == ("ok", 0, "cancelled")
    untouched = factories.submitted(store, repeats=4, batch_sizes=(8,))
    store.cancel(untouched)
    [row] = collate(store, untouched).rows
    assert (row.outcome, row.reason) == ("cancelled", "")


def test_a_recommendation_says_that_repeats_are_still_to_come_also_where_every_cell_has_some(store: Store) -> None:
    run = factories.submitted(store, optimizations=("baseline", "channels_last"), repeats=4)
    measure(store, 1)
    first = "7 of 8 repeats are still to be measured, and 1 of 2 cells have none yet: the answer may change."
    assert notes(store, run)[0] == first
    measure(store, 6)
    assert notes(store, run)[0] == "1 of 8 repeats are still to be measured: the answer may change."
    measure(store, 1)
    assert not [note for note in notes(store, run) if "still to be" in note]


def test_a_winner_whose_repeats_failed_is_not_praised_in_silence(store: Store) -> None:
    run = factories.submitted(store, repeats=4)
    measure(store, 3)
    claim = store.claim("cpu@alpha")
    assert claim is not None
    store.finish(claim, Ending(outcome=Outcome.ERROR, reason="KeyError:\n'x'"))
    assert notes(store, run) == ("Not every repeat of the winner was measured (3 of 4 were): KeyError: 'x'.",)


def test_a_winner_of_a_cancelled_run_is_not_told_to_be_measured_by_the_protocol_that_it_had(store: Store) -> None:
    run = factories.submitted(store, repeats=10)
    measure(store, 2)
    store.cancel(run)
    few, missing = notes(store, run)
    assert few.endswith("10 were asked for.")
    assert missing == "Not every repeat of the winner was measured (2 of 10 were): cancelled."


def test_the_report_of_a_run_that_goes_on_says_so(store: Store, tmp_path: Path) -> None:
    run = factories.submitted(store, repeats=4)
    measure(store, 3)
    text = " ".join(Page(export(collate(store, run), tmp_path, "report")).text.split())
    assert "This run was not finished when this page was made: 1 of 4 repeats were still to be measured" in text
    measure(store, 1)
    assert "was not finished" not in Page(export(collate(store, run), tmp_path, "report")).text


def test_the_report_of_a_run_that_was_cancelled_says_what_that_left(store: Store, tmp_path: Path) -> None:
    run = factories.submitted(store, repeats=4)
    measure(store, 3)
    store.cancel(run)
    text = " ".join(Page(export(collate(store, run), tmp_path, "report")).text.split())
    assert "1 of 1 cells was measured in part: repeats failed or were cancelled." in text
    assert "Measured in part: 1 row" in text
    assert "3 of 4 repeats were measuredcancelled" in text


def test_valid_rows_whose_repeats_failed_stand_among_the_doubts() -> None:
    given = [replace(rows.row(), reason="SIGSEGV", repeats_measured=7), rows.row("amp"), rows.unmeasured("bf16")]
    found = {kind.name: kind for kind in kinds(given)}
    [doubt] = found["measured in part"].listed
    assert doubt.reasons == ("7 of 10 repeats were measured", "SIGSEGV")
    assert (found["not measured"].count, found["SUSPECT"].count) == (1, 0)


def test_a_cell_that_was_measured_in_two_classes_is_wanted_once(tmp_path: Path) -> None:
    other = factories.environment(device_model="Other CPU")

    def ended(spec: JobSpec) -> reports.Ended:
        return {**plausible(spec), "environment": other if spec.repeat else factories.environment()}

    run = collated(ended, recipes=("baseline",), batches=(8,), repeats=3)
    assert len(run.rows) == 2
    assert "3 of 3 repeats" in " ".join(Page(export(run, tmp_path, "report")).text.split())


def test_what_was_measured_stands_in_the_matrix_whatever_became_of_the_cell_elsewhere(tmp_path: Path) -> None:
    run = collated(plausible, recipes=("baseline",), batches=(8,), repeats=3)
    [row] = run.rows
    elsewhere = replace(row, outcome="unsupported", figures=None, verdict=None, environment_key="another class")
    text = Page(export(replace(run, rows=(row, elsewhere)), tmp_path, "report")).text
    matrix = text.partition("The matrix")[2].partition("Charts")[0]
    assert "1.00×" in matrix
    assert "unsupported" not in matrix


def test_two_runs_compared_say_which_of_them_goes_on(store: Store) -> None:
    ids = [
        store.submit(factories.matrix(repeats=3, optimizations=("channels_last",)), again=True).run_id
        for _ in range(2)
    ]
    measure(store, 4)
    report = compare(*(collate(store, run) for run in ids))
    assert heading(report)[-1] == "B is not finished: 2 repeats are still to be measured; answers may change."
    assert as_json(report)["repeats_pending"] == {"a": 0, "b": 2}


def test_the_commands_tell_it_too(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FARM_DATABASE_URL", f"sqlite:///{tmp_path}/farm.db")
    factories.submitted(store, repeats=4)
    measure(store, 3)
    done = CliRunner().invoke(app, ["recommend", "--json"])
    [device] = json.loads(done.stdout)["devices"]
    assert device["notes"] == ["1 of 4 repeats are still to be measured: the answer may change."]


def test_every_job_of_a_cancelled_run_is_counted_by_how_it_ended(store: Store) -> None:
    run = factories.submitted(store, repeats=10)
    measure(store, 2)
    store.cancel(run)
    progress = store.progress(run)
    assert progress.outcomes == {Outcome.OK: 2, Outcome.CANCELLED: 8}
    assert summary(progress) == "[10/10 jobs] 1/1 cells · 2 ok · 8 cancelled · finished"
