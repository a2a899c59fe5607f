"""Temporary files of the processes that build and measure: a folder for each, which goes when it has ended.

Compilers and libraries leave folders in TMPDIR when their process is killed or ends without tidying up. Under
the data directory, because what they write there they also run: `/tmp` may be mounted without that.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from farm.settings import Settings

#: What is older was left by a process that was killed: no phase of a job takes so long.
_OLD_S = 24 * 3600


@contextlib.contextmanager
def folder(settings: Settings) -> Iterator[Path]:
    """A folder of a child's own; gone afterwards with all that is in it.

    Raises:
        OSError: it cannot be made.
    """
    settings.scratch.mkdir(parents=True, exist_ok=True)
    # A short name: sockets are made in there, and their paths have 107 characters at most.
    with tempfile.TemporaryDirectory(prefix="", dir=settings.scratch, ignore_cleanup_errors=True) as made:
        yield Path(made)


def environment(settings: Settings, temporary: Path) -> dict[str, str]:
    """A child's variables, with that folder and no secret; builds share what compilers cached all the same."""
    return {
        # Overridden by the user's own.
        "TORCHINDUCTOR_CACHE_DIR": str(settings.data_dir.resolve() / "inductor"),
        "TORCH_EXTENSIONS_DIR": str(settings.data_dir.resolve() / "extensions"),
        **settings.without_secrets(),
        "TMPDIR": str(temporary),
    }


def sweep(settings: Settings) -> None:
    """Removes what killed workers left more than a day ago, as far as that is possible."""
    with contextlib.suppress(OSError):
        for entry in list(settings.scratch.iterdir()):
            with contextlib.suppress(OSError):
                if time.time() - entry.lstat().st_mtime > _OLD_S:
                    shutil.rmtree(entry, ignore_errors=True)
