"""How the end of a child's phase is read: what it handed over, and what may lie in that."""

from __future__ import annotations

import json
from typing import Any

import pytest

from farm.measurement import Outcome
from tests import factories
from workers.phase import MAX_REST_BYTES, PhaseEnd, classify, unless_full
from workers.watching import Ended


def handed_over(**changes: Any) -> PhaseEnd:
    """The end of a phase whose process reported a measurement with these fields changed."""
    given = {**factories.measurement().model_dump(mode="json"), **changes}
    report = json.dumps({"outcome": "ok", "reason": "", "measurement": given}).encode()
    return classify(
        Ended(stopped=None, status=0, result=report, output=b"", memory_ran_out=False), "measure", deadline_s=1
    )


def test_samples_may_be_many() -> None:
    many = [10_000_000] * (2 * MAX_REST_BYTES // 8)
    ended = handed_over(samples={"device_ns": many, "end_to_end_ns": many})
    assert ended.outcome is Outcome.OK
    assert ended.measurement is not None
    assert len(ended.measurement.samples.device_ns) == len(many)


@pytest.mark.parametrize("field", ["evidence", "missing"])
def test_what_is_no_sample_may_not_be_large(field: str) -> None:
    assert handed_over(**{field: {"padding": "x" * (MAX_REST_BYTES // 2)}}).outcome is Outcome.OK
    ended = handed_over(**{field: {"padding": "x" * MAX_REST_BYTES}})
    assert (ended.outcome, ended.measurement) == (Outcome.ERROR, None)
    assert ended.reason.startswith("the process handed over what is no measurement: ")
    assert "1,048,576 are taken" in ended.reason


def test_a_full_disk_is_no_error_of_the_job() -> None:
    assert unless_full(Outcome.ERROR, "OSError: [Errno 28] No space left on device: '/x'") is Outcome.CRASHED
    assert unless_full(Outcome.ERROR, "KeyError: 1") is Outcome.ERROR
    assert unless_full(Outcome.OK, "No space left on device") is Outcome.OK
