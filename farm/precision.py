"""The precisions: what each is, where it runs, and what it may cost before its answers count as lost (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """What a precision may cost, against the fp32 baseline on the same samples."""

    #: So much of the top-1 may be lost, as a share of all samples.
    top1_drop: float
    #: So many samples must have the baseline's first answer, as a share.
    agreement: float
    #: So far may the logits be off the baseline's, relative to their norm; None where they are others by design.
    logits_error: float | None

    def __add__(self, other: Tolerance) -> Tolerance:
        """What both together may cost."""
        errors = (self.logits_error, other.logits_error)
        return Tolerance(
            top1_drop=self.top1_drop + other.top1_drop,
            agreement=self.agreement + other.agreement - 1,
            logits_error=None if None in errors else sum(error or 0.0 for error in errors),
        )


@dataclass(frozen=True, kw_only=True)
class Precision:
    """One choice of the axis."""

    #: One line for `python -m farm recipes`.
    summary: str
    #: The dtype that convolutions must run in, by device; devices without one cannot have this precision.
    dtypes: Mapping[str, str]
    tolerance: Tolerance
    #: Least compute capability of a GPU that multiplies so itself; None where any does. What it has not, a
    #: library computes in another way, or leaves out without a word. Sources: the tables of tensor cores in
    #: NVIDIA's CUDA C++ programming guide (compute capabilities), and TensorRT's support matrix.
    capability: float | None = None

    @property
    def is_int8(self) -> bool:
        """Whether weights and activations are quantized."""
        return "int8" in self.dtypes.values()


#: That the order of additions changes alone costs about 1e-5 of the logits, bfloat16 about 1e-2.
_EXACT = Tolerance(top1_drop=0.005, agreement=0.99, logits_error=0.01)
_HALF = Tolerance(top1_drop=0.01, agreement=0.95, logits_error=0.25)
_INT8 = Tolerance(top1_drop=0.02, agreement=0.9, logits_error=0.5)

PRECISIONS: Mapping[str, Precision] = {
    "fp32": Precision(
        summary="32-bit floats throughout, no TF32 (the default)",
        dtypes={"cpu": "float32", "cuda": "float32"},
        tolerance=_EXACT,
    ),
    "tf32": Precision(
        summary="32-bit floats, multiplied with the 10-bit mantissa of NVIDIA's TensorFloat-32",
        dtypes={"cuda": "float32"},
        tolerance=_HALF,
        capability=8.0,
    ),
    "amp": Precision(
        summary="autocast: bfloat16 on a CPU, float16 on CUDA, fp32 where it matters",
        dtypes={"cpu": "bfloat16", "cuda": "float16"},
        tolerance=_HALF,
    ),
    "bf16": Precision(
        summary="weights and activations in bfloat16",
        dtypes={"cpu": "bfloat16", "cuda": "bfloat16"},
        tolerance=_HALF,
        capability=8.0,
    ),
    "fp16": Precision(
        summary="weights and activations in float16 (a CPU without AVX512-FP16 or AMX computes it slowly)",
        dtypes={"cpu": "float16", "cuda": "float16"},
        tolerance=_HALF,
    ),
    "int8_static": Precision(
        summary="8-bit weights and activations, quantized after training, calibrated on training images",
        dtypes={"cpu": "int8", "cuda": "int8"},
        tolerance=_INT8,
        capability=7.5,
    ),
    "int8_dynamic": Precision(
        summary="8-bit weights, activations quantized anew in every call",
        dtypes={"cpu": "int8", "cuda": "int8"},
        tolerance=_INT8,
        capability=7.5,
    ),
}
