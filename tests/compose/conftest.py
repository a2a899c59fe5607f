"""One farm in containers that several tests look at; everything here is skipped where no Docker Engine answers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.compose import containers
from tests.compose.containers import Containers


@pytest.fixture(scope="session", autouse=True)
def engine() -> None:
    if reason := containers.missing():
        pytest.skip(f"no containers: {reason}")


@pytest.fixture(scope="session")
def clone(engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containers]:
    """A farm that is set up and built, and may be running."""
    with containers.project(tmp_path_factory.mktemp("clone")) as farm:
        farm.compose("build", "cpu-worker", within_s=1800)
        yield farm


@pytest.fixture
def farm(clone: Containers) -> Containers:
    """A farm that runs with one CPU worker, all healthy."""
    clone.up("--scale", "cpu-worker=1")
    clone.until_healthy()
    return clone
