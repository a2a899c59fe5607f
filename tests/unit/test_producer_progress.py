from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from farm.errors import Unreachable
from farm.measurement import Outcome
from producer import live
from producer import progress as shown
from results_store.values import Progress, State


def progress(**fields: Any) -> Progress:
    given: dict[str, Any] = {
        "run_id": "20260101-000000-abcd",
        "states": {State.DONE: 4, State.RUNNING: 1, State.QUEUED: 5},
        "outcomes": {Outcome.OK: 4},
        "running": (("densenet121_amp batch 8 cpu #1", "cpu@alpha", 990.0),),
        "failures": (),
        "cells": 5,
        "cells_done": 2,
        "started_at": 900.0,
        "now": 1000.0,
        "seconds_per_job": 20.0,
    }
    return Progress(**{**given, **fields})


FINISHED = {"states": {State.DONE: 10}, "outcomes": {Outcome.OK: 10}, "running": (), "cells_done": 5}


class Store:
    """Answers with these, one after the other; an exception is raised."""

    def __init__(self, *answers: Progress | Exception) -> None:
        self.answers = list(answers)

    def progress(self, run_id: str) -> Progress:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def followed(*answers: Progress | Exception) -> str:
    text = io.StringIO()
    view = shown.PlainView(Console(file=text, width=200))
    shown.follow(Store(*answers), "run", view, poll_s=0)  # type: ignore[arg-type]
    return text.getvalue()


def test_one_line_says_what_is_done_what_runs_where_since_when_and_what_is_left() -> None:
    line = shown.summary(progress())
    assert "[4/10 jobs] 2/5 cells" in line
    assert "densenet121_amp batch 8 cpu #1 on cpu@alpha for 10 s" in line
    assert "about 1 min 50 s left" in line


def test_measurements_made_again_are_counted_where_there_are_any() -> None:
    assert "3 measured again" in shown.summary(progress(remeasured=3))
    assert "again" not in shown.summary(progress())


def test_controls_are_shown_apart_from_the_jobs() -> None:
    line = shown.summary(progress(control_states={State.DONE: 1, State.QUEUED: 2}))
    assert "[4/10 jobs + 1/3 controls] 2/5 cells" in line
    assert "about 2 min 30 s left" in line


def test_a_run_that_only_waits_for_its_last_control_is_not_finished() -> None:
    last = progress(**FINISHED, control_states={State.QUEUED: 1})
    ended = progress(**FINISHED, control_states={State.DONE: 1})
    assert [line.endswith("finished") for line in followed(last, ended).splitlines()] == [False, True]


def test_time_left_is_shared_by_those_who_work_at_once() -> None:
    both = (("a", "cpu@alpha", 1000.0), ("b", "cpu@beta", 1000.0))
    assert shown.time_left_s(progress(running=both)) == pytest.approx(60.0)


def test_before_the_first_job_has_ended_time_left_is_being_estimated() -> None:
    assert "estimating" in shown.summary(progress(seconds_per_job=None))
    assert "waiting for a worker" in shown.summary(progress(seconds_per_job=None, started_at=None, running=()))


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59.6, "1 min 00 s"), (190, "3 min 10 s"), (7500, "2 h 05 min"), (-3, "0 s")]
)
def test_durations_are_written_for_people(seconds: float, text: str) -> None:
    assert shown.duration(seconds) == text


def test_lines_are_printed_only_where_a_job_has_ended() -> None:
    lines = followed(progress(), progress(now=1001.0), progress(now=1002.0), progress(**FINISHED)).splitlines()
    assert len(lines) == 2
    assert "finished" in lines[-1]


def test_a_run_of_many_jobs_is_no_flood() -> None:
    steps = [progress(states={State.DONE: n, State.QUEUED: 10_000 - n}) for n in range(10_000)]
    lines = followed(*steps, progress(states={State.DONE: 10_000})).splitlines()
    assert len(lines) <= 502
    assert "[10000/10000 jobs]" in lines[-1]


def test_a_failure_is_told_once_with_its_reason() -> None:
    failed = (("densenet121_amp batch 8 cpu #1", Outcome.CRASHED, "signal 11\nSegmentation fault"),)
    text = followed(progress(failures=failed), progress(failures=failed), progress(**FINISHED, failures=failed))
    assert text.count("signal 11 Segmentation fault") == 1


def test_a_later_failure_of_an_earlier_job_is_told_too() -> None:
    late = ("densenet121_amp batch 8 cpu #1", Outcome.CRASHED, "signal 11")
    early = ("densenet121_amp batch 1 cpu #1", Outcome.TIMEOUT, "too slow")
    text = followed(progress(failures=(late,)), progress(**FINISHED, failures=(early, late)))
    assert (text.count("signal 11"), text.count("too slow")) == (1, 1)


def test_a_database_that_is_away_is_waited_for_and_said_once() -> None:
    text = followed(progress(), Unreachable("gone."), Unreachable("gone."), progress(**FINISHED))
    assert text.count("gone.") == 1
    assert "answers again" in text
    assert "[10/10 jobs]" in text


def test_what_a_terminal_shows_has_a_bar_what_runs_and_the_failures() -> None:
    console = Console(file=io.StringIO(), width=120)
    failed = (("densenet121_compile batch 1 cpu #1", Outcome.TIMEOUT, "no end after 900 s"),)
    console.print(live.drawn(progress(failures=failed)))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "cpu@alpha" in text
    assert "no end after 900 s" in text
    assert "━" in text


def test_a_line_is_printed_when_the_first_job_begins() -> None:
    waiting = progress(states={State.QUEUED: 4}, outcomes={}, running=(), seconds_per_job=None)
    begun = progress(states={State.QUEUED: 3, State.RUNNING: 1}, outcomes={}, seconds_per_job=None)
    lines = followed(waiting, waiting, begun, begun, progress(**FINISHED)).splitlines()
    assert len(lines) == 3
    assert "waiting for a worker" in lines[0]
    assert "train the model" in lines[1]


def test_an_attempt_that_was_lost_is_no_end_of_a_job_that_was_cancelled() -> None:
    outcomes = {Outcome.OK: 1, Outcome.LOST: 1}
    assert shown.ends(progress(states={State.CANCELLED: 2}, outcomes=outcomes)) == {Outcome.OK: 1}
    assert shown.ends(progress(states={State.FAILED: 1}, outcomes=outcomes)) == outcomes


def test_a_worker_in_quarantine_is_shown_when_that_is_news() -> None:
    waiting = {"running": (), "states": {State.DONE: 4, State.QUEUED: 6}}
    broken = progress(**waiting, quarantined=(("gpu@alpha", "error:\nCUDA error"),))
    text = followed(progress(**waiting), broken, broken, progress(**FINISHED))
    assert text.count("gpu@alpha is quarantined and claims nothing: error: CUDA error") == 1
