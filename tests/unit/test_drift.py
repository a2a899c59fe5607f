"""Drift: what the controls before and after a measurement say of it."""

from __future__ import annotations

from typing import Any

import pytest

from farm import drift
from farm.measurement import Measurement, Samples
from farm.spec import Protocol
from farm.verdict import Level
from tests import factories


def control(at: float, milliseconds: float, **fields: Any) -> Measurement:
    return factories.measurement(timed_from=at, samples=factories.samples(milliseconds), **fields)


def said(*controls: Measurement, **fields: Any) -> list[str]:
    """What is said of a job measured at 50 s by these controls."""
    job = factories.measurement(**{"timed_from": 50.0, **fields})
    return [reason.text for reason in drift.Marks(controls).drifted(job)]


def test_a_control_that_took_longer_afterwards_makes_what_lies_between_suspect() -> None:
    job = factories.measurement(timed_from=50.0)
    [reason] = drift.Marks([control(90, 11.0), control(10, 10.0)]).drifted(job)
    assert (reason.code, reason.level) == ("unstable", Level.SUSPECT)
    assert reason.text == "the control drifted by +10.0% while this was measured"


@pytest.mark.parametrize("after_ms", [10.01, 10.3, 9.65])
def test_what_lies_between_two_processes_anyway_is_no_drift(after_ms: float) -> None:
    assert said(control(10, 10.0), control(90, after_ms)) == []
    assert said(control(10, 10.0), control(90, 10.5)) != []


def test_a_change_within_the_target_is_no_drift() -> None:
    generous = factories.spec(protocol=Protocol(name="generous", target_half_width=0.2))
    assert said(control(10, 10.0), control(90, 11.0), spec=generous) == []


def test_a_large_change_that_chance_explains_is_no_drift() -> None:
    wild = Samples(device_ns=(5_000_000, 20_000_000) * 10, end_to_end_ns=())
    after = factories.measurement(timed_from=90.0, samples=wild)
    assert said(control(10, 10.0), after) == []


def test_only_the_nearest_control_on_either_side_counts() -> None:
    calm = [control(5, 10.0), control(40, 10.0), control(60, 10.0)]
    assert said(control(10, 50.0), *calm, control(90, 50.0)) == []
    assert said(*calm, control(70, 50.0), timed_from=65.0) != []


def test_controls_that_agree_beside_a_job_and_not_with_the_run_make_it_suspect() -> None:
    run = [control(at, 10.0) for at in (1, 2, 3, 90, 95)]
    [text] = said(*run, control(40, 13.0), control(60, 13.0))
    assert text == "the control took +30.0% around this, beside its median over the run"
    assert said(*run, control(40, 10.3), control(60, 10.3)) == []
    generous = factories.spec(protocol=Protocol(name="generous", target_half_width=0.4))
    assert said(*run, control(40, 13.0), control(60, 13.0), spec=generous) == []


def test_of_a_run_in_two_halves_one_is_the_usual_one() -> None:
    halves = [control(10, 10.0), control(40, 10.0), control(60, 12.0), control(90, 12.0)]
    assert [len(said(*halves, timed_from=at)) for at in (20, 50, 70)] == [0, 1, 1]


def test_what_a_run_s_controls_usually_took_is_told_of_each_place_apart() -> None:
    elsewhere = [control(at, 99.0, environment=factories.environment(host="beta")) for at in (1, 2, 3, 90, 95)]
    assert said(*elsewhere, control(40, 13.0), control(60, 13.0)) == []


def test_without_a_control_on_both_sides_nothing_is_said() -> None:
    assert said() == said(control(10, 10.0)) == said(control(90, 10.0)) == []
    assert said(control(10, 10.0), control(20, 99.0)) == []


@pytest.mark.parametrize(
    "elsewhere",
    [
        factories.environment(host="beta"),
        factories.environment(device_model="Other CPU"),
        factories.environment(device_uuid="GPU-2"),
    ],
)
def test_a_control_of_another_host_device_or_class_says_nothing(elsewhere: Any) -> None:
    assert said(control(10, 10.0), control(90, 20.0, environment=elsewhere)) == []


def test_a_measurement_of_before_first_calls_were_kept_lies_where_it_was_started() -> None:
    old = control(10, 10.0).model_copy(update={"timed_from": None, "started_at": 40.0})
    assert said(old, control(90, 20.0), timed_from=None, started_at=30.0) == []
    assert said(old, control(90, 20.0), timed_from=None, started_at=50.0) != []


def test_a_control_with_too_few_calls_says_nothing() -> None:
    few = factories.measurement(timed_from=90.0, samples=factories.samples(20.0, calls=3))
    assert said(control(10, 10.0), few) == []
