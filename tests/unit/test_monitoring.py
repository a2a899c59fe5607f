"""The files of the bundled monitoring fit each other and the farm."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def service(name: str) -> str:
    """The lines of a service, or of a part that services share, in compose.yaml."""
    lines = (ROOT / "compose.yaml").read_text().splitlines()
    begins = next(n for n, line in enumerate(lines) if line.removeprefix("  ").startswith(f"{name}:"))
    indent = len(lines[begins]) - len(lines[begins].lstrip())
    rest = itertools.takewhile(lambda line: not line.strip() or line[indent] == " ", lines[begins + 1 :])
    return "\n".join(rest)


def test_prometheus_scrapes_where_collator_and_workers_serve() -> None:
    scraped = (ROOT / "compose/prometheus/prometheus.yml").read_text()
    port = re.search(r'FARM_METRICS_PORT: "(\d+)"', service("x-worker"))
    assert port is not None
    assert f"names: [cpu-worker, gpu-worker], type: A, port: {port[1]}," in scraped
    collator = re.search(r'--metrics-port, "(\d+)"', service("collator"))
    assert collator is not None
    assert f'targets: ["collator:{collator[1]}"]' in scraped


def test_workers_are_reached_by_prometheus_and_published_nowhere() -> None:
    assert "networks: [stores, metrics]" in service("x-worker")
    assert "metrics" in service("prometheus")
    for name in ("x-worker", "cpu-worker", "gpu-worker"):
        assert "ports:" not in service(name)
    for name in ("redis", "postgres", "tensorboard", "grafana", "flower", "collator"):
        assert "metrics]" not in service(name)


def test_every_service_of_the_farm_is_asked_whether_it_lives() -> None:
    for name in ("cpu", "gpu"):
        assert 'CMD ["/farm/compose/healthy"]' in (ROOT / f"Dockerfile.{name}").read_text()
    for name in ("redis", "postgres", "flower", "tensorboard"):
        assert "healthcheck:" in service(name)


def test_the_dashboards_panels_lie_beside_each_other() -> None:
    panels = json.loads((ROOT / "compose/grafana/dashboards/farm.json").read_text())["panels"]
    assert [panel["id"] for panel in panels] == list(range(1, len(panels) + 1))
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        own = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not own & taken, panel["title"]
        taken |= own
    assert max(x for x, _ in taken) < 24


def test_every_alert_says_what_happened_and_what_to_do() -> None:
    text = (ROOT / "compose/prometheus/alerts.yml").read_text()
    alerts = text.split("- alert: ")[1:]
    assert len(alerts) >= 7
    for alert in alerts:
        assert re.search(r"^ +expr: ", alert, re.MULTILINE), alert
        assert re.search(r"^ +summary: .", alert, re.MULTILINE), alert
        assert re.search(r"^ +action: .", alert, re.MULTILINE), alert
