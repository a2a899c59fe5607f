"""Keeps libraries from telling their makers what is run here."""

from __future__ import annotations

import sys


def forbid() -> None:
    """Call it before OpenVINO or NNCF is imported: they would send word of every conversion."""
    # Both take a telemetry package that is not installed for a no.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
