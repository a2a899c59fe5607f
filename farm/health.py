"""Whether a service lives: it touches a file now and then, and who asks looks how long ago that was.

`python -m workers health` and `python -m results_store health` ask so. In containers `compose/healthy` does the
same in shell, at a hundredth of the cost, because it runs beside measurements.
"""

from __future__ import annotations

import time
from pathlib import Path

from farm.errors import BadInput, FarmError

#: A service that lives and whose database answers says so at least this often.
FRESH_S = 60.0


def check(file: Path | None) -> str:
    """A sentence about a service that lives.

    Raises:
        BadInput: nobody said where it would say so.
        FarmError: it does not live, or its database does not answer; says for how long.
    """
    if file is None:
        raise BadInput(
            "FARM_HEALTH_FILE is not set. Set it to the same file for the service and for this command; to see "
            "all living workers: python -m producer status"
        )
    try:
        age_s = time.time() - file.stat().st_mtime
    except OSError as error:
        raise FarmError(
            f"Not healthy: no sign of life yet ({file}: {(error.strerror or str(error)).lower()})."
        ) from None
    if age_s >= FRESH_S:
        raise FarmError(
            f"Not healthy: the last sign of life is {age_s:.0f} s old. Either the service has ended, or its "
            "database does not answer: its log says which."
        )
    return f"Healthy: the last sign of life is {max(0.0, age_s):.0f} s old."
