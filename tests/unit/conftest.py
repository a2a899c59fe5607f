"""What several unit tests start from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from results_store.store import Store, open_store
from tests import factories


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty store with one worker in it."""
    with closing(open_store(f"sqlite:///{tmp_path}/farm.db")) as store:
        store.register(factories.worker())
        yield store
