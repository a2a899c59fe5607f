"""The shares of a device's limits, against figures reckoned by hand; and nothing where a limit is not known."""

from __future__ import annotations

from typing import Any

import pytest

from farm import catalogue, roofline
from farm.measurement import Environment, Hardware, Measurement, Samples
from tests import factories

#: An H200, as its driver tells it.
H200 = Hardware(
    gpu_cores=16896, sm_highest_hz=1.98e9, sm_set_hz=1.98e9, memory_highest_hz=3.201e9, memory_bus_bits=6144
)


def gpu(capability: float | None = 9.0, **facts: Any) -> Environment:
    return factories.environment(device_kind="cuda", gpu={"compute_capability": capability, **facts})


def peak(recipe: str, where: Environment, hardware: Hardware | None = H200) -> float | None:
    return roofline.operations_per_s(catalogue.parse_recipe(recipe), where, hardware)


def measured(recipe: str = "fp16", call_ms: float = 1.0, **fields: Any) -> Measurement:
    """Eight images of 64×64 in that time, through 8 million parameters and 200 million multiply-accumulates."""
    given = {
        "spec": factories.spec(recipe=recipe, batch_size=8, device="cuda"),
        "environment": gpu(),
        "hardware": H200,
        "samples": Samples(device_ns=(int(call_ms * 1e6),) * 11),
        "macs": 200_000_000,
        "parameters": 8_000_000,
        "accuracy": factories.accuracy(classes=10),
    }
    return factories.measurement(**{**given, **fields})


@pytest.mark.parametrize(
    ("capability", "cores", "boost_hz", "recipe", "published"),
    [
        (7.0, 5120, 1.53e9, "fp16", 125e12),  # V100
        (7.5, 2560, 1.59e9, "amp", 65e12),  # T4
        (7.5, 2560, 1.59e9, "int8_static+tensorrt", 130e12),
        (8.0, 6912, 1.41e9, "baseline", 19.5e12),  # A100
        (8.0, 6912, 1.41e9, "tf32", 156e12),
        (8.0, 6912, 1.41e9, "bf16", 312e12),
        (8.0, 6912, 1.41e9, "int8_static+tensorrt", 624e12),
        (8.6, 10752, 1.80e9, "fp16", 154.8e12),  # RTX A6000
        (8.9, 18176, 2.505e9, "fp16", 364.2e12),  # RTX 6000 Ada
        (9.0, 16896, 1.83e9, "fp16", 989.4e12),  # H100
        (9.0, 16896, 1.83e9, "int8_static+tensorrt", 1979e12),
        (9.0, 16896, 1.83e9, "tf32", 494.7e12),
    ],
)
def test_the_arithmetic_limits_are_the_published_dense_ones(
    capability: float, cores: int, boost_hz: float, recipe: str, published: float
) -> None:
    hardware = Hardware(gpu_cores=cores, sm_highest_hz=boost_hz)
    assert peak(recipe, gpu(capability), hardware) == pytest.approx(published, rel=0.02)


@pytest.mark.parametrize(
    ("clock_hz", "bits", "published"),
    [
        (3.201e9, 6144, 4.9e12),  # H200: 4.8 to 4.9 TB/s
        (2.619e9, 5120, 3.35e12),  # H100
        (1.593e9, 5120, 2.039e12),  # A100 of 80 GB
        (5.001e9, 256, 320e9),  # T4, GDDR6
        (9.751e9, 384, 936e9),  # RTX 3090, GDDR6X
    ],
)
def test_the_bandwidth_is_the_published_one(clock_hz: float, bits: int, published: float) -> None:
    hardware = Hardware(memory_highest_hz=clock_hz, memory_bus_bits=bits)
    assert roofline.bytes_per_s(gpu(), hardware) == pytest.approx(published, rel=0.02)


def test_the_share_of_the_arithmetic_limit_is_what_is_done_in_a_second() -> None:
    # 2 × 2e8 × 8 operations in 1 ms are 3.2e12 a second, of 32 × 16896 × 1.98e9
    assert roofline.arithmetic_share(measured()) == pytest.approx(3.2e12 / 1.0705e15, rel=1e-3)
    assert roofline.arithmetic_share(measured("baseline")) == pytest.approx(3.2e12 / 66.9e12, rel=1e-3)
    assert roofline.arithmetic_share(measured(call_ms=2.0)) == pytest.approx(1.6e12 / 1.0705e15, rel=1e-3)


@pytest.mark.parametrize(
    ("recipe", "each"), [("baseline", 4), ("tf32", 4), ("amp", 2), ("bf16", 2), ("int8_static+tensorrt", 1)]
)
def test_a_call_moves_its_weights_once_and_what_goes_in_and_out(recipe: str, each: int) -> None:
    # 8,000,000 weights, 8 × 3 × 64 × 64 = 98,304 numbers in and 8 × 10 out
    assert roofline.least_bytes(measured(recipe)) == each * 8_098_384


def test_where_the_number_of_classes_is_not_known_the_output_is_left_out() -> None:
    assert roofline.least_bytes(measured(accuracy=factories.accuracy())) == 2 * 8_098_304


def test_the_share_of_the_bandwidth_is_what_is_moved_in_a_second() -> None:
    # 2 × 8,098,384 bytes in 1 ms are 16.2e9 a second, of 2 × 3.201e9 × 768
    assert roofline.bandwidth_share(measured()) == pytest.approx(16.197e9 / 4.9167e12, rel=1e-3)


def test_of_a_cpu_there_are_two_units_in_each_core_at_the_highest_clock() -> None:
    two = factories.environment(features=("avx2", "avx512f", "avx512_vnni"), threads=2)
    assert peak("baseline", two, Hardware(highest_hz=3e9)) == 2 * 64 * 3e9
    assert peak("int8_static+openvino", two, Hardware(highest_hz=3e9)) == 2 * 256 * 3e9
    # 2 × 2e8 × 8 operations in 50 ms
    spec = factories.spec(batch_size=8)
    found = measured(call_ms=50, spec=spec, environment=two, hardware=Hardware(highest_hz=3e9))
    assert roofline.arithmetic_share(found) == pytest.approx(64e9 / 384e9)
    assert roofline.bandwidth_share(found) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"hardware": None},
        {"hardware": Hardware()},
        {"environment": gpu(None)},
        {"environment": gpu(10.0)},
        {"environment": factories.environment(device_kind="cuda")},
        {"environment": gpu(part_of="GPU-1")},
        {"macs": None},
        {"samples": Samples()},
    ],
)
def test_what_is_not_known_has_no_share(fields: dict[str, Any]) -> None:
    assert roofline.arithmetic_share(measured(**fields)) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"hardware": None},
        {"hardware": Hardware(memory_highest_hz=3e9)},
        {"environment": gpu(part_of="GPU-1")},
        {"samples": Samples()},
    ],
)
def test_memory_that_is_not_known_has_no_share(fields: dict[str, Any]) -> None:
    assert roofline.bandwidth_share(measured(**fields)) is None


@pytest.mark.parametrize("hardware", [None, Hardware(shown_hz=2.6e9)])
def test_a_clock_that_is_only_shown_is_no_limit(hardware: Hardware | None) -> None:
    assert peak("baseline", factories.environment(), hardware) is None


def test_a_precision_that_a_gpus_units_do_not_have_has_no_limit() -> None:
    assert peak("tf32", gpu(7.5)) is None
    assert peak("int8_static+tensorrt", gpu(7.0)) is None
