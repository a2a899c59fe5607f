"""The farm's child or template, whose processes get ready to measure, say when they are, and end.

`python -m benchmarks.ready child …` or `… template …`, for `benchmarks.isolation`.
Imports no more than the real ones.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from workers import child, template


def fulfil(request: Mapping[str, Any]) -> dict[str, Any]:
    """Imports what measuring needs, opens the device, and reports the time of the host's monotonic clock."""
    import torchvision  # noqa: F401  # as building the model does

    from farm import devices, measuring  # noqa: F401

    devices.open_device("cpu", len(request["processors"]))
    return {"ready_ns": time.monotonic_ns()}


if __name__ == "__main__":
    child.fulfil = fulfil
    {"child": child, "template": template}[sys.argv.pop(1)].main()
