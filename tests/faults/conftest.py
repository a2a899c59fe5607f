"""The fault suite: its two forms, the farms of its scenarios, and the table at its end.

`make faults` runs it whole, on both databases; without `--faults whole` each scenario runs once and briefly.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import databases
from tests.faults import farms, ledger
from tests.faults.farms import Farms

_ROWS = pytest.StashKey[list[ledger.Row]]()

#: Makes what measuring the suite's model needs.
_BUILD = """
import sys
from farm import building
from farm.settings import Settings
from farm.spec import JobSpec
building.build(JobSpec.model_validate_json(sys.argv[1]), Settings())
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults", choices=("short", "whole"), default="short", help="how much of the fault suite")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_ROWS] = []
    config.addinivalue_line(
        "markers", "seeds(n): so many seeds, on the databases in turn, where the fault suite runs whole; else one"
    )
    config.addinivalue_line("markers", "short(kind): the database of the short form; sqlite where nothing is said")
    config.addinivalue_line(
        "markers", "on(kind): the database of both forms, where the scenario has no need of two"
    )
    config.addinivalue_line("markers", "whole: a scenario that runs only where the fault suite runs whole")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = [] if _is_whole(config) else [item for item in items if item.get_closest_marker("whole")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "kind" not in metafunc.fixturenames:
        return
    whole = _is_whole(metafunc.config)
    on, short, seeds = (metafunc.definition.get_closest_marker(name) for name in ("on", "short", "seeds"))
    one = on or (None if whole else short)
    kinds = one.args if one else databases.KINDS if whole else databases.KINDS[:1]
    if "seed" not in metafunc.fixturenames:
        metafunc.parametrize("kind", kinds)
    elif seeds and whole:
        # They take turns on the databases.
        pairs = [(kinds[seed % len(kinds)], seed) for seed in range(seeds.args[0])]
        metafunc.parametrize(("kind", "seed"), pairs)
    else:
        metafunc.parametrize(("kind", "seed"), [(kind, 0) for kind in kinds])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    rows = config.stash[_ROWS]
    if rows:
        terminalreporter.section("faults")
        terminalreporter.write_line(ledger.table(rows))


@pytest.fixture(scope="session")
def whole(pytestconfig: pytest.Config) -> bool:
    """Whether the suite runs whole."""
    return _is_whole(pytestconfig)


@pytest.fixture(scope="session")
def rows(pytestconfig: pytest.Config) -> list[ledger.Row]:
    """Where a scenario without a farm adds its row."""
    return pytestconfig.stash[_ROWS]


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the build of the suite's model made, once for all farms."""
    folder = tmp_path_factory.mktemp("built")
    spec = farms.matrix(1, "faults").jobs()[0].model_dump_json()
    subprocess.run(
        [sys.executable, "-c", _BUILD, spec],
        cwd=farms.ROOT,
        env={**farms.environment(), "FARM_DATA_DIR": str(folder)},
        check=True,
        timeout=300,
    )
    return folder / "artifacts"


@pytest.fixture
def farms_of(kind: str, tmp_path: Path, artifacts: Path, rows: list[ledger.Row]) -> Iterator[Farms]:
    """Begins the scenario's farm, on this database."""
    with databases.fresh(kind, tmp_path) as url:
        yield Farms(kind, url, tmp_path, artifacts, rows)


def _is_whole(config: pytest.Config) -> bool:
    return bool(config.getoption("--faults", default="short") == "whole")
