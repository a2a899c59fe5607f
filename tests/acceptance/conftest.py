"""One run of an embedded farm, made once, that several tests look at."""

from __future__ import annotations

import base64
import json
import re
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.farms import FOUR, Ended, Farm, submit, table, until_running
from tests.redis_servers import eventually


@pytest.fixture(scope="session")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    farm = Farm(folder=tmp_path_factory.mktemp("local"))
    with farm.started("producer", *submit(farm, *FOUR)) as process:
        process.until_said("Flower: ")
        run_id = until_running(farm)
        found = re.search(r"Flower: (\S+) \(user and password: (.+)\)", process.said)
        assert found is not None
        credentials = Path(found[2]).read_text()
        # Flower waits one second for the workers' answers; a busy host may need more, so it is asked again.
        shown = eventually(lambda: asked(found[1], "api/workers?refresh=true", credentials))
        assert process.ended() == 0, process.said
    csv = farm.folder / "results" / "benchmark_results.csv"
    return Ended(farm=farm, run_id=run_id, csv=csv, rows=table(csv), output=process.said, workers_shown=shown)


def asked(url: str, path: str, credentials: str) -> dict[str, Any]:
    """Flower's answer."""
    known = base64.b64encode(credentials.encode()).decode()
    request = urllib.request.Request(f"{url}{path}", headers={"Authorization": f"Basic {known}"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=20) as answer:
        return dict(json.loads(answer.read()))
