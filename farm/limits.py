"""How fast a device can compute at the very most (pure): generous, so that only the impossible is beyond it."""

from __future__ import annotations

from collections.abc import Collection

from farm.measurement import Environment, Hardware
from farm.recipe import Recipe

#: Winograd's F(4×4, 3×3) needs a fourth of the multiplications, and nobody says which algorithm a library chose.
_FEWER_PRODUCTS = 4.0

#: No processor's clock is higher …
_ANY_HZ = 6e9
#: … and some go so much beyond what a host says: boost that cpufreq leaves out, a virtual machine's base clock.
_BEYOND_HIGHEST, _BEYOND_SHOWN = 1.5, 2.0

#: What stays in a GPU's cache from call to call moves so many times as fast as its memory can, at the very most:
#: some 10 times where a large cache lies before a slow memory (L4).
CACHES_TIMES = 16.0

#: Operations (two per multiply-accumulate) of one core in one cycle, by instruction set: two units of that width.
#: AMX: a 16 × 16 tile of sums over 32 (bf16) or 64 (int8) products in 16 cycles.
_CPU_FP32 = {"avx2": 32, "avx512f": 64}
_CPU_16_BIT = {"avx512_bf16": 128, "avx512_fp16": 128, "amx_bf16": 1024}
_CPU_8_BIT = {"avx2": 64, "avx512f": 128, "avx_vnni": 128, "avx512_vnni": 256, "amx_int8": 2048}

#: A GPU's operations per core and cycle, by bits: 2 in fp32 (one fused multiply-add). Blackwell's tensor cores do,
#: dense, some 16 times as many in TF32, 32 in 16 bits and 64 in 8. Twice that, for the next generation.
_GPU = {32: 2 * 2, 19: 2 * 32, 16: 2 * 64, 8: 2 * 128}

_BITS = {"tf32": 19, "amp": 16, "bf16": 16, "fp16": 16, "int8_dynamic": 8, "int8_static": 8}


def operations_per_s(recipe: Recipe, where: Environment, hardware: Hardware | None) -> float | None:
    """More operations (two per multiply-accumulate) a second than this device can do for this recipe.

    Args:
        recipe: its precision decides which units compute.
        where: threads and instruction sets of a CPU.
        hardware: clocks, and cores of a GPU; None where that was not kept.

    Returns:
        None where too little is known of the device.
    """
    width, known = bits(recipe), hardware or Hardware()
    if where.device_kind == "cpu":
        per_cycle = cpu_per_cycle(width, where.features)
        return per_cycle * _clock_hz(known) * where.threads * _FEWER_PRODUCTS if per_cycle else None
    if known.gpu_cores is None or known.sm_highest_hz is None:
        return None
    return _GPU[width] * known.gpu_cores * known.sm_highest_hz * _FEWER_PRODUCTS


def bits(recipe: Recipe) -> int:
    """How many bits of each factor this recipe multiplies."""
    return _BITS.get(recipe.precision, 32)


def cpu_per_cycle(width: int, features: Collection[str]) -> int:
    """The widest units that this precision may use: what is not there in 16 or 8 bits runs in fp32."""
    tables = {16: (_CPU_FP32, _CPU_16_BIT), 8: (_CPU_FP32, _CPU_16_BIT, _CPU_8_BIT)}.get(width, (_CPU_FP32,))
    return max((per_cycle for table in tables for name, per_cycle in table.items() if name in features), default=0)


def _clock_hz(hardware: Hardware) -> float:
    if hardware.highest_hz is not None:
        return min(_ANY_HZ, _BEYOND_HIGHEST * hardware.highest_hz)
    return _ANY_HZ if hardware.shown_hz is None else min(_ANY_HZ, _BEYOND_SHOWN * hardware.shown_hz)
