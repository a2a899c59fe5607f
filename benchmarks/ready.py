"""The farm's child or template with one thing changed, for `benchmarks.isolation`.

`python -m benchmarks.ready child …` or `… template …`: processes get ready to measure, say when they are, and end.
`python -m benchmarks.ready beside …`: a template whose children have a live control that is started anew.
Imports no more than the real ones.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from farm import control
from workers import child, template


def fulfil(request: Mapping[str, Any]) -> dict[str, Any]:
    """Imports what measuring needs, opens the device, and reports the time of the host's monotonic clock."""
    import torchvision  # noqa: F401  # as building the model does

    from farm import devices, measuring  # noqa: F401

    devices.open_device("cpu", len(request["processors"]))
    return {"ready_ns": time.monotonic_ns()}


if __name__ == "__main__":
    what = sys.argv.pop(1)
    if what == "beside":
        control.fork = control.spawn
    else:
        child.fulfil = fulfil
    {"child": child, "template": template, "beside": template}[what].main()
