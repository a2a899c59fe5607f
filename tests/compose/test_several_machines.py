"""Workers in containers, their Redis and PostgreSQL elsewhere: TLS, and passwords from files."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.farms import table
from tests.compose import containers
from tests.compose.containers import SMALL, Containers

HOSTS = ("broker.example", "database.example")
PASSWORD = "only-for-this-test"
CA = "/run/secrets/ca_certificate"

#: PostgreSQL takes a key only from its own user's files.
POSTGRES = """
install -o postgres -m 600 /tls/server.key /tmp/server.key
exec docker-entrypoint.sh postgres -c ssl=on -c ssl_cert_file=/tls/server.crt -c ssl_key_file=/tmp/server.key
"""


@pytest.fixture(scope="module")
def elsewhere(clone: Containers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containers]:
    """A farm of workers only, whose stores are containers that Compose knows nothing of."""
    files = {"COMPOSE_FILE": "compose.yaml:compose/workers-only.yaml"}
    with containers.project(tmp_path_factory.mktemp("elsewhere"), files) as farm:
        tls = farm.folder / "tls"
        certificates(tls)
        secret(farm, "ca_certificate", (tls / "ca.pem").read_text())
        secret(farm, "celery_broker_url", f"rediss://:{PASSWORD}@{HOSTS[0]}:6379/0?ssl_ca_certs={CA}")
        query = f"sslmode=verify-full&sslrootcert={CA}"
        secret(farm, "farm_database_url", f"postgresql://farm:{PASSWORD}@{HOSTS[1]}/farm?{query}")
        farm.compose("build", "cpu-worker", within_s=1800)
        farm.compose("create", "--no-build", "cpu-worker")
        network = f"{farm.variables['COMPOSE_PROJECT_NAME']}_stores"
        started = [redis(farm, network, tls), postgres(farm, network, tls)]
        try:
            farm.up("cpu-worker")
            yield farm
        finally:
            farm.run("docker", "rm", "--force", "--volumes", *started)


def test_a_matrix_is_measured_over_tls(elsewhere: Containers) -> None:
    elsewhere.compose(
        *("run", "--rm", "-T", "producer", "submit-matrix", *SMALL, "--optimizations", "baseline"),
        *("--batch-sizes", "1", "--wait", "--output-dir", "results"),
    )
    [row] = table(elsewhere.folder / "results/benchmark_results.csv")
    assert row["outcome"] == "ok"


def test_nothing_but_workers_is_started(elsewhere: Containers) -> None:
    assert {name.rsplit("-", 1)[0].partition("-cpu")[1] for name in elsewhere.states()} == {"-cpu"}


def test_a_certificate_that_nobody_vouches_for_is_refused(elsewhere: Containers) -> None:
    command = f"import redis; redis.Redis.from_url('rediss://:{PASSWORD}@{HOSTS[0]}:6379/0').ping()"
    said = elsewhere.compose("run", "--rm", "-T", "--entrypoint", "python", "producer", "-c", command, check=False)
    assert "CERTIFICATE_VERIFY_FAILED" in said


def redis(farm: Containers, network: str, tls: Path) -> str:
    """A Redis that speaks TLS only; its container."""
    options = ("--port", "0", "--tls-port", "6379", "--tls-auth-clients", "no", "--requirepass", PASSWORD)
    files = ("cert-file", "server.crt"), ("key-file", "server.key"), ("ca-cert-file", "ca.pem")
    where = [part for name, file in files for part in (f"--tls-{name}", f"/tls/{file}")]
    image = farm.config("*")["services"]["redis"]["image"]
    return started(farm, network, HOSTS[0], tls, image, "redis-server", *options, *where)


def postgres(farm: Containers, network: str, tls: Path) -> str:
    """A PostgreSQL with TLS; its container."""
    variables = ("POSTGRES_USER=farm", "POSTGRES_DB=farm", f"POSTGRES_PASSWORD={PASSWORD}")
    image = farm.config("*")["services"]["postgres"]["image"]
    command = ("bash", "-ec", POSTGRES)
    return started(farm, network, HOSTS[1], tls, image, *command, variables=variables)


def started(
    farm: Containers, network: str, host: str, tls: Path, *command: str, variables: tuple[str, ...] = ()
) -> str:
    """A container in this network, under this name; its id."""
    options = [part for variable in variables for part in ("--env", variable)]
    where = ("--network", network, "--network-alias", host, "--volume", f"{tls}:/tls:ro")
    return farm.run("docker", "run", "--detach", *where, *options, *command).strip()


def secret(farm: Containers, name: str, text: str) -> None:
    path = farm.folder / "compose/secrets" / name
    path.unlink(missing_ok=True)
    path.write_text(text)
    path.chmod(0o444)


def certificates(folder: Path) -> None:
    """A certificate authority, and a certificate for both hosts."""
    folder.mkdir()
    names = ",".join(f"DNS:{host}" for host in HOSTS)
    (folder / "names").write_text(f"subjectAltName={names}\n")
    signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial")
    key = ("-newkey", "rsa:2048", "-nodes")
    for command in (
        ("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test", "-days", "2"),
        ("req", *key, "-keyout", "server.key", "-out", "server.csr", "-subj", f"/CN={HOSTS[0]}"),
        ("x509", "-req", "-in", "server.csr", "-out", "server.crt", "-extfile", "names", "-days", "2", *signed),
    ):
        subprocess.run(["openssl", *command], cwd=folder, check=True, capture_output=True)
    (folder / "server.key").chmod(0o444)
