"""The highest speed that can be: above what known devices reach, and none where a device is not known."""

from __future__ import annotations

import pytest

from farm import catalogue, limits
from farm.measurement import Environment, Hardware
from tests import factories

H200 = Hardware(gpu_cores=16896, sm_highest_hz=1.98e9)


def cpu(*features: str, threads: int = 1) -> Environment:
    return factories.environment(features=features, threads=threads)


def peak(recipe: str, where: Environment, hardware: Hardware | None = None) -> float | None:
    return limits.operations_per_s(catalogue.parse_recipe(recipe), where, hardware)


@pytest.mark.parametrize(
    ("recipe", "reached"),
    [("baseline", 67e12), ("tf32", 494e12), ("amp", 989e12), ("fp16", 989e12), ("int8_static+tensorrt", 1979e12)],
)
def test_an_h200s_published_dense_peaks_are_within_the_limit(recipe: str, reached: float) -> None:
    found = peak(recipe, factories.environment(device_kind="cuda"), H200)
    assert found is not None
    assert reached < found < 40 * reached


@pytest.mark.parametrize(
    ("recipe", "reached"), [("baseline", 0.48e12), ("bf16", 0.97e12), ("int8_static+onnxruntime", 1.95e12)]
)
def test_what_two_zen_5_cores_reached_is_within_the_limit(recipe: str, reached: float) -> None:
    zen = cpu("avx2", "avx512f", "avx512_vnni", "avx512_bf16", threads=2)
    found = peak(recipe, zen, Hardware(shown_hz=2.6e9))
    assert found is not None
    assert reached < found < 20 * reached


def test_the_limit_grows_with_threads_clock_and_width() -> None:
    one = peak("baseline", cpu("avx2"), Hardware(highest_hz=2e9))
    assert one is not None
    assert peak("baseline", cpu("avx2", threads=4), Hardware(highest_hz=2e9)) == 4 * one
    assert peak("baseline", cpu("avx2"), Hardware(highest_hz=3e9)) == pytest.approx(1.5 * one)
    assert peak("baseline", cpu("avx2", "avx512f"), Hardware(highest_hz=2e9)) == 2 * one


def test_tiles_count_only_in_their_precision() -> None:
    without, tiled = cpu("avx2", "avx512f"), cpu("avx2", "avx512f", "amx_bf16", "amx_int8")
    assert peak("baseline", tiled) == peak("baseline", without)
    known = [peak(recipe, tiled) for recipe in ("baseline", "bf16", "int8_static+openvino")]
    assert [float(a or 0) / float(b or 1) for a, b in zip(known[1:], known, strict=False)] == [16, 2]


def test_16_bits_without_units_for_them_are_limited_as_fp32() -> None:
    assert peak("bf16", cpu("avx2")) == peak("baseline", cpu("avx2")) is not None


def test_no_clock_is_believed_to_be_above_any_processors() -> None:
    unknown, wild = peak("baseline", cpu("avx2")), peak("baseline", cpu("avx2"), Hardware(highest_hz=9e9))
    assert unknown == wild is not None


def test_an_unknown_device_has_no_limit() -> None:
    assert peak("baseline", cpu("asimddp")) is None
    assert peak("baseline", factories.environment(device_kind="cuda"), None) is None
    assert peak("baseline", factories.environment(device_kind="cuda"), Hardware(sm_highest_hz=1.9e9)) is None
