"""Flower as the embedded farm starts it: it shows, and changes nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from flower import urls
from tornado.routing import URLSpec
from tornado.web import RequestHandler

from farm.settings import Settings
from producer import local
from results_store.store import open_store
from tests.integration.test_producer_farm import asked
from tests.redis_servers import RedisServer, redis_server

#: Take a POST and change nothing: the page's table, and what answers that there is no such page.
HARMLESS = {"tasks/datatable", ".*"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as running:
        yield running


def posted() -> set[str]:
    """Every path of Flower's that takes a POST."""
    found = set()
    for route in urls.handlers:
        pattern, handler = (route.regex.pattern, route.handler_class) if isinstance(route, URLSpec) else route[:2]
        if handler.post is not RequestHandler.post:
            found.add(re.sub(r"\(\.[+*]\)", "any", pattern).strip("^$/?"))
    return found


def test_every_route_that_changes_something_is_refused(tmp_path: Path, server: RedisServer) -> None:
    settings = Settings(data_dir=tmp_path, broker_url=server.url, flower_basic_auth=None)
    said: list[str] = []
    store = open_store(f"sqlite:///{tmp_path}/farm.db")
    with local.embedded(settings, store, [], "run", said.append) as farm:
        paths = posted() - HARMLESS
        found = {path: asked(farm.flower_url, path, b"{}") for path in sorted(paths)}
        stranger = farm.flower_url.replace("farm:", "other:")
        unknown = {path: asked(stranger, path, b"{}") for path in sorted(paths)}
        [line] = said
        file = Path(line.partition("user and password: ")[2].rstrip(")"))
        assert file.read_text() in farm.flower_url
        assert file.stat().st_mode & 0o777 == 0o600
        assert file.parent.stat().st_mode & 0o777 == 0o700
    store.close()
    assert len(paths) >= 12
    assert set(found.values()) == {403}, found
    assert set(unknown.values()) <= {401, 403}, unknown
    assert not file.exists()
    assert "@" not in line
