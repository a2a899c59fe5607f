"""The largest measurement that a preset can make fits into the pipe that results travel through."""

from __future__ import annotations

import json

import pytest

from farm.passes.profile import MAX_OPERATORS, MAX_TRACE_CHARS
from farm.spec import PRESETS, Protocol
from workers.watching import MAX_RESULT_BYTES

#: No call of a network takes less: starting one captured CUDA graph and waiting for its end takes about 10 µs, and
#: Python's part of the loop some more.
FASTEST_CALL_S = 20e-6
#: The stop rule is looked at whenever there are a tenth more calls.
LATE = 1.1
#: In JSON a quote takes two characters; `json.dumps`, which makes the trace, leaves nothing that takes more.
QUOTED = 2
#: An operator's name and provider have at most 1,000 characters each.
OPERATOR_BYTES = 2 * 1000 * QUOTED + 500
#: Everything else of a measurement.
REST_BYTES = 1 << 20


def sample_bytes(call_s: float) -> int:
    """What one sample of such a call takes in JSON."""
    many = [round(call_s * 1e9)] * 1000
    return -(-len(json.dumps(many)) // len(many))


def most_bytes(protocol: Protocol) -> int:
    """Device, end to end and, paired, the control: each as long as it may, of the fastest calls there are."""
    figures = 3 if protocol.paired else 2
    samples = figures * LATE * protocol.max_s / FASTEST_CALL_S * sample_bytes(FASTEST_CALL_S)
    return int(samples) + QUOTED * MAX_TRACE_CHARS + MAX_OPERATORS * OPERATOR_BYTES + REST_BYTES


@pytest.mark.parametrize("name", PRESETS)
def test_the_largest_measurement_of_a_preset_can_be_handed_over(name: str) -> None:
    protocol, _ = PRESETS[name]
    assert most_bytes(protocol) <= MAX_RESULT_BYTES


@pytest.mark.parametrize("call_s", [50e-6, 99e-6, 100e-6, 1e-3, 1e-2, 1.0])
def test_slower_calls_take_less_room(call_s: float) -> None:
    assert sample_bytes(call_s) / call_s < sample_bytes(FASTEST_CALL_S) / FASTEST_CALL_S
