"""What a container may do, as Compose understands the files; and that no secret is anywhere to be read."""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.request
from base64 import b64encode
from typing import Any

import psycopg
import pytest

from tests.compose.containers import Containers

SERVICES = (
    "redis",
    "postgres",
    "cpu-worker",
    "gpu-worker",
    "producer",
    "collator",
    "flower",
    "tensorboard",
    "prometheus",
    "grafana",
)


@pytest.fixture(scope="session")
def services(clone: Containers) -> dict[str, Any]:
    found: dict[str, Any] = clone.config("*")["services"]
    return found


def test_there_is_a_service_for_everything(services: dict[str, Any]) -> None:
    assert set(services) == set(SERVICES)


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_can_do_nothing_that_it_need_not(services: dict[str, Any], name: str) -> None:
    service = services[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert "privileged" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["init"] is True
    assert 0 < int(service["pids_limit"]) <= 4096
    assert int(service["mem_limit"]) > 0
    assert service["logging"]["options"]["max-size"]
    assert "/var/run/docker.sock" not in json.dumps(service)


@pytest.mark.parametrize("name", SERVICES)
def test_nothing_runs_as_root(services: dict[str, Any], name: str) -> None:
    assert services[name]["user"].partition(":")[0] not in ("", "0", "root")


@pytest.mark.parametrize("name", SERVICES)
def test_every_port_is_on_loopback_only(services: dict[str, Any], name: str) -> None:
    assert all(port["host_ip"] == "127.0.0.1" for port in services[name].get("ports", ()))


@pytest.mark.parametrize("name", SERVICES)
def test_no_secret_is_in_the_configuration(clone: Containers, services: dict[str, Any], name: str) -> None:
    text = json.dumps(services[name])
    assert not any(secret in text for secret in secrets(clone))


def test_workers_have_time_to_drain_and_room_to_work(services: dict[str, Any]) -> None:
    for name in ("cpu-worker", "gpu-worker"):
        worker = services[name]
        assert worker["stop_grace_period"] == "2m0s"
        assert float(worker["environment"]["FARM_DRAIN_S"]) < 120
        assert int(worker["shm_size"]) >= 1 << 30
        targets = {volume["target"]: volume["type"] for volume in worker["volumes"]}
        assert targets["/locks"] == "bind"
        assert targets["/data"] == "volume", "a tmpfs would be noexec"


def test_gpu_workers_are_none_by_default_and_may_have_every_gpu(services: dict[str, Any]) -> None:
    worker = services["gpu-worker"]
    assert worker["scale"] == 0
    [device] = worker["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["count"], device["capabilities"]) == ("nvidia", -1, ["gpu"])


def test_redis_forgets_nothing_and_lets_nobody_in_without_a_name(farm: Containers) -> None:
    def asked(*command: str) -> str:
        return farm.compose("exec", "-T", "redis", "redis-cli", "--no-auth-warning", *command, check=False)

    assert "NOAUTH" in asked("ping")
    assert "PONG" in asked("--user", "health", "--pass", "x", "ping")
    assert "NOPERM" in asked("--user", "health", "--pass", "x", "llen", "cpu")
    password = farm.variables["CELERY_BROKER_URL"].partition("farm:")[2].partition("@")[0]
    for command in (("flushall",), ("config", "get", "*"), ("keys", "*"), ("get", "elsewhere"), ("acl", "list")):
        assert "NOPERM" in asked("--user", "farm", "--pass", password, *command), command
    assert asked("--user", "farm", "--pass", password, "llen", "cpu").strip().isdigit()


def test_the_farms_role_owns_its_database_and_nothing_else(farm: Containers) -> None:
    with psycopg.connect(farm.variables["FARM_DATABASE_URL"]) as connection:
        found = connection.execute(
            "SELECT rolsuper, rolcreaterole, rolcreatedb FROM pg_roles WHERE rolname = 'farm'"
        )
        assert found.fetchone() == (False, False, False)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("COPY (SELECT 1) TO PROGRAM 'id'")


@pytest.mark.parametrize(
    ("method", "path", "known", "status"),
    [
        ("GET", "/workers", False, 401),
        ("GET", "/api/workers", False, 401),
        ("GET", "/workers", True, 200),
        ("GET", "/api/tasks", True, 200),
        ("POST", "/api/worker/shutdown/any", True, 403),
        ("POST", "/api/task/revoke/any", True, 403),
        ("POST", "/api/task/async-apply/farm.measure", True, 403),
        ("GET", "/healthcheck", False, 200),
    ],
)
def test_flower_shows_to_those_it_knows_and_controls_nothing(
    farm: Containers, method: str, path: str, known: bool, status: int
) -> None:
    request = urllib.request.Request(
        f"http://127.0.0.1:{farm.variables['FARM_FLOWER_PORT']}{path}",
        method=method,
        data=b"" if method == "POST" else None,
    )
    if known:
        credentials = (farm.folder / "compose/secrets/flower_basic_auth").read_bytes()
        request.add_header("Authorization", f"Basic {b64encode(credentials).decode()}")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=20) as answer:
            found = answer.status
    except urllib.error.HTTPError as error:
        with error:
            found = error.code
    assert found == status


def test_no_secret_is_in_a_log_an_image_or_an_inspection(farm: Containers) -> None:
    farm.submit("--optimizations", "baseline", "--batch-sizes", "1", "--wait")
    ids = farm.compose("ps", "--all", "--quiet").split()
    places = {
        "logs": farm.compose("logs", "--no-color"),
        "inspection": farm.run("docker", "inspect", *ids),
        "history": farm.run("docker", "history", "--no-trunc", farm.image),
        "image": farm.run("docker", "image", "inspect", farm.image),
        "processes": "".join(farm.run("docker", "top", one, "-eo", "pid,args") for one in ids),
    }
    for place, text in places.items():
        for secret in secrets(farm):
            assert secret not in text, place


def test_no_secret_and_no_settings_are_files_of_the_image(farm: Containers) -> None:
    pattern = "|".join(secrets(farm))
    command = ["docker", "run", "--rm", "--network", "none", "--entrypoint", "grep", farm.image]
    places = ["/farm", "/data", "/etc", "/home", "/opt/venv/bin"]
    done = subprocess.run([*command, "-rlE", pattern, *places], capture_output=True, text=True, check=False)
    assert done.stdout == ""
    listed = farm.run("docker", "run", "--rm", "--entrypoint", "ls", farm.image, "-A", "/farm", "/farm/compose")
    assert ".env" not in listed
    assert "secrets" not in listed


def secrets(farm: Containers) -> list[str]:
    """Every password that `compose/setup` made."""
    folder = farm.folder / "compose/secrets"
    broker, flower = ((folder / name).read_text() for name in ("celery_broker_url", "flower_basic_auth"))
    found = [
        broker.partition("farm:")[2].partition("@")[0],
        flower.partition(":")[2],
        *((folder / f"{name}_password").read_text() for name in ("postgres", "database", "broker", "grafana")),
    ]
    assert all(len(secret) >= 20 for secret in found)
    return found
