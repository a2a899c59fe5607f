"""A benchmark farm for inference optimizations: measure one job here, or a matrix over a rack.

`measure(job(recipe="channels_last+amp", batch_size=8))` measures one job in this process.
"""

from __future__ import annotations

from pkgutil import extend_path
from typing import TYPE_CHECKING, Any

from farm import privacy

if TYPE_CHECKING:
    from farm.measuring import measure
    from farm.spec import job

privacy.protect()
privacy.hush()

__path__ = extend_path(__path__, __name__)
__version__ = "0.1.0"

__all__ = ["__version__", "job", "measure"]


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Imports torch only for those who measure."""
        if name == "measure":
            from farm.measuring import measure

            return measure
        if name == "job":
            from farm.spec import job

            return job
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
