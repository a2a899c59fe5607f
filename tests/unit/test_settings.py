from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from farm import settings
from farm.errors import BadInput
from farm.settings import Settings


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(("FARM_", "CELERY_", "FLOWER_")):
            monkeypatch.delenv(name)


@pytest.fixture
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of secrets that the environment names."""
    monkeypatch.setenv("FARM_SECRETS_DIR", str(tmp_path))
    return tmp_path


def test_settings_come_from_files_named_like_their_variables(secrets: Path) -> None:
    (secrets / "celery_broker_url").write_text("redis://:one@broker/0\n")
    (secrets / "farm_database_url").write_text("postgresql://u:two@db/farm\n")
    (secrets / "flower_basic_auth").write_text("farm:three")
    (secrets / "grafana_password").write_text("of somebody else")
    found = settings.load()
    assert found.broker_url == "redis://:one@broker/0"
    assert found.database == "postgresql://u:two@db/farm"
    assert found.flower_basic_auth == "farm:three"


def test_the_environment_wins_over_a_file(secrets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (secrets / "celery_broker_url").write_text("redis://file/0")
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://variable/0")
    assert settings.load().broker_url == "redis://variable/0"


@pytest.mark.parametrize("kind", ["missing", "a file"])
def test_secrets_that_are_no_folder_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    place = tmp_path / "secrets"
    if kind == "a file":
        place.write_text("")
    monkeypatch.setenv("FARM_SECRETS_DIR", str(place))
    with pytest.raises(BadInput, match=f"FARM_SECRETS_DIR is '{place}': no such folder"):
        settings.load()


def test_a_secret_that_cannot_be_read_is_named_and_not_shown(secrets: Path) -> None:
    (secrets / "celery_broker_url").write_bytes(b"\xff\xfehunter2")
    with pytest.raises(BadInput, match=r'FARM_SECRETS_DIR: .*"broker_url"') as refused:
        settings.load()
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("FARM_LEASE_S", "soon"),
        ("FARM_DRAIN_S", "0"),
        ("FARM_RENEW_S", "-1"),
        ("FARM_RENEW_S", "30"),
        ("FARM_RECONCILE_S", "60"),
        ("FARM_PROBE_S", "0"),
        ("FARM_MEMORY_LIMIT_MB", "1"),
        ("FARM_DISK_LIMIT_MB", "much"),
        ("FARM_DISK_FREE_MB", "-1"),
    ],
)
def test_a_value_that_cannot_be_used_is_shown_with_its_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(BadInput, match=f"^{variable} is '{value}': .+"):
        settings.load()


def test_a_lease_that_ends_before_it_is_renewed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers would take each other's jobs until each was lost ten times."""
    monkeypatch.setenv("FARM_LEASE_S", "3")
    with pytest.raises(BadInput, match=r"FARM_RENEW_S is 5.0: It has to be less than FARM_LEASE_S, which is 3"):
        settings.load()
    monkeypatch.setenv("FARM_RENEW_S", "1")
    assert settings.load().lease_s == 3.0


@pytest.mark.parametrize("name", ["CELERY_BROKER_URL", "database_url"])
def test_a_password_is_never_shown(name: str) -> None:
    said = settings._explain({"loc": (name,), "input": "hunter2", "msg": "wrong"})
    assert said.endswith("cannot be used: wrong.")
    assert "hunter2" not in repr(
        Settings(broker_url="hunter2", database_url="hunter2", flower_basic_auth="hunter2")
    )


def test_the_locks_lie_where_every_farm_of_the_host_looks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert settings.load().lock_dir == Path("/tmp/benchmark-farm-locks")


def test_a_child_sees_the_same_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = Settings(
        data_dir=tmp_path,
        weights_dir=tmp_path / "elsewhere",
        drain_s=3.0,
        memory_limit_mb=2048,
        disk_limit_mb=100,
        disk_free_mb=50,
        probe_s=5.0,
        health_file=Path("/run/alive"),
        broker_url="redis://x",
        lease_s=7.0,
    )
    for name, value in given.variables().items():
        monkeypatch.setenv(name, value)
    found = settings.load()
    assert (found.data_dir, found.drain_s, found.health_file) == (tmp_path, 3.0, Path("/run/alive"))
    assert found.weights == tmp_path / "elsewhere"
    assert (found.broker_url, found.lease_s) == ("redis://x", 7.0)
    assert (found.memory_limit_mb, found.disk_limit_mb, found.disk_free_mb) == (2048, 100, 50)
    assert found.probe_s == 5.0


@pytest.mark.parametrize(
    "door",
    [("farm", "measure"), ("producer", "status"), ("results_store", "runs"), ("workers", "--device", "cpu")],
)
def test_every_door_explains_settings_that_cannot_be_used(tmp_path: Path, door: tuple[str, ...]) -> None:
    variables = {**os.environ, "FARM_DATA_DIR": str(tmp_path), "FARM_SECRETS_DIR": str(tmp_path / "none")}
    done = subprocess.run(
        [sys.executable, "-m", *door], env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: FARM_SECRETS_DIR is '{tmp_path}/none'")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("made", ["empty", "folder", "link"])
def test_a_secret_that_is_no_file_with_something_in_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: str
) -> None:
    file = tmp_path / "farm_database_url"
    if made == "folder":
        file.mkdir()
    elif made == "link":
        file.symlink_to(tmp_path / "gone")
    else:
        file.touch()
    monkeypatch.setenv("FARM_SECRETS_DIR", str(tmp_path))
    with pytest.raises(BadInput, match="farm_database_url has to be a file"):
        settings.load()
