"""How near a measurement comes to what bounds it: the device's arithmetic and its memory's bandwidth (pure).

The model is the roofline's (Williams, Waterman and Patterson, 2009): a call takes at least its operations ÷ the
operations a second that the device can do, and at least its traffic ÷ the bytes a second that its memory moves.

- **Operations** are two for each multiply-accumulate of convolutions and Linear layers, as a direct convolution
  needs them. An algorithm that needs fewer (Winograd's) may thus come out above 1.
- **Traffic** is a lower bound: the weights once per batch, the input once, the output once, each number in as many
  bytes as the precision multiplies. Activations between layers, which are most of the traffic of many models, are
  left out; and what stays in a cache from call to call is counted all the same.
- **Limits** are the dense ones at the highest clock. Where a device does not tell what is needed for one, there is
  none.
"""

from __future__ import annotations

from collections.abc import Mapping

from farm import limits, statistics
from farm.measurement import Environment, Hardware, Measurement
from farm.recipe import Recipe

#: Operations per core (as the driver counts them) and cycle, by compute capability and the bits of each factor.
#: From the tables of NVIDIA's white papers: dense throughput ÷ cores ÷ boost clock, of V100; T4; A100; RTX A6000;
#: RTX 6000 Ada; H100. What is not there is not known. GeForce cards add up in fp32 at half the rate of 16 bits.
_PER_CORE_AND_CYCLE: Mapping[float, Mapping[int, int]] = {
    7.0: {32: 2, 16: 16},
    7.5: {32: 2, 16: 16, 8: 32},
    8.0: {32: 2, 19: 16, 16: 32, 8: 64},
    8.6: {32: 2, 19: 4, 16: 8, 8: 16},
    8.9: {32: 2, 19: 4, 16: 8, 8: 16},
    9.0: {32: 2, 19: 16, 16: 32, 8: 64},
}
#: TF32 has 19 bits and lies in memory as 32.
_BYTES = {32: 4, 19: 4, 16: 2, 8: 1}
_CHANNELS = 3


def arithmetic_share(measurement: Measurement) -> float | None:
    """The share of the device's arithmetic limit that the median call reaches; None where either is not known."""
    limit = operations_per_s(measurement.spec.recipe, measurement.environment, measurement.hardware)
    if limit is None or measurement.macs is None:
        return None
    return _share(2 * measurement.macs * measurement.spec.batch_size, limit, measurement)


def bandwidth_share(measurement: Measurement) -> float | None:
    """The share of the memory's bandwidth that the median call needs at least; None where either is not known."""
    limit = bytes_per_s(measurement.environment, measurement.hardware)
    return None if limit is None else _share(least_bytes(measurement), limit, measurement)


def operations_per_s(recipe: Recipe, where: Environment, hardware: Hardware | None) -> float | None:
    """The device's arithmetic limit for a recipe's precision; None where too little is known of the device.

    Of a CPU: two vector units of the widest kind in each core, at the highest clock that the kernel names, which
    few have with all cores busy. In a virtual machine that is not told.
    """
    known, bits = hardware or Hardware(), limits.bits(recipe)
    if where.device_kind == "cpu":
        per_cycle = limits.cpu_per_cycle(bits, where.features)
        return per_cycle * known.highest_hz * where.threads if per_cycle and known.highest_hz else None
    if where.gpu is None or _is_slice(where) or known.gpu_cores is None or known.sm_highest_hz is None:
        return None
    per_core = _PER_CORE_AND_CYCLE.get(where.gpu.compute_capability or 0.0, {}).get(bits)
    return None if per_core is None else per_core * known.gpu_cores * known.sm_highest_hz


def bytes_per_s(where: Environment, hardware: Hardware | None) -> float | None:
    """The limit of the device's memory: two bits for each line and clock of its bus; None where nobody tells."""
    known = hardware or Hardware()
    if _is_slice(where) or known.memory_highest_hz is None or known.memory_bus_bits is None:
        return None
    return 2 * known.memory_highest_hz * known.memory_bus_bits / 8


def least_bytes(measurement: Measurement) -> int:
    """What a call moves at least: all weights, its input and, where the number of classes is known, its output."""
    spec, classes = measurement.spec, measurement.accuracy.classes or 0
    per_image = _CHANNELS * spec.image_size**2 + classes
    return _BYTES[limits.bits(spec.recipe)] * (measurement.parameters + spec.batch_size * per_image)


def _is_slice(where: Environment) -> bool:
    """Whether it is a part of a GPU: which share of cores and memory that has, nobody tells."""
    return where.gpu is not None and where.gpu.part_of is not None


def _share(done: int, limit: float, measurement: Measurement) -> float | None:
    """What is done in a call, per second of the median one, ÷ the limit; None without enough calls."""
    median_ns = statistics.percentile(measurement.samples.device_ns, 50)
    return done / (median_ns / 1e9) / limit if median_ns else None
