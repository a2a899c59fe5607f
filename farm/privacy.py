"""Keeps libraries from telling their makers what is run here, and people what is no news."""

from __future__ import annotations

import os
import sys


def protect() -> None:
    """Call it before such a library is imported: it looks only then."""
    # OpenVINO and NNCF send word of every conversion; both take a package that is not installed for a no.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    # ONNX Runtime sends word of every session (its docs/Privacy.md).
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"


def hush() -> None:
    """Call it before torch's profiler is used: on a host without a GPU that writes of an error which is none."""
    # Its faults are raised in Python all the same.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
