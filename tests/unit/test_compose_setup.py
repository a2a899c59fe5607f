"""`compose/setup` and `build_and_run.sh`, with a stand-in for docker: what they write and what they refuse."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

DOCKER = """#!/bin/sh
case "$*" in
    "compose version --short") [ -n "{version}" ] && echo "{version}" ;;
    "volume inspect"*) exit {volume} ;;
    info*) echo '{{"Runtimes":{{"runc":{{}}}}}}' ;;
    *) echo "docker $*" >>"{log}" ;;
esac
"""


class Clone:
    """The files that the scripts need, and a docker of this version."""

    def __init__(self, folder: Path, version: str = "2.26.1") -> None:
        self.folder = folder / "clone"
        self.log = folder / "docker.log"
        shutil.copytree(ROOT / "compose", self.folder / "compose", ignore=shutil.ignore_patterns("secrets"))
        for name in (".env.example", "build_and_run.sh"):
            shutil.copy2(ROOT / name, self.folder / name)
        self.bin = folder / "bin"
        self.bin.mkdir()
        docker = self.bin / "docker"
        docker.write_text(DOCKER.format(version=version, log=self.log, volume=1))
        docker.chmod(0o755)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": f"{self.bin}:{os.environ['PATH']}", "HOME": str(self.folder)}
        return subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False
        )

    def setup(self) -> subprocess.CompletedProcess[str]:
        """`compose/setup` with the locks in this clone."""
        example = self.folder / ".env.example"
        text = example.read_text().replace("/tmp/benchmark-farm-locks", str(self.folder / "locks"))
        example.write_text(text)
        return self.run("compose/setup")

    def variables(self) -> dict[str, str]:
        lines = (self.folder / ".env").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


def test_it_writes_settings_and_passwords_that_only_the_owner_can_reach(clone: Clone) -> None:
    done = clone.setup()
    assert done.returncode == 0, done.stderr
    secrets = clone.folder / "compose/secrets"
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
    assert stat.S_IMODE((clone.folder / ".env").stat().st_mode) == 0o600
    broker = (secrets / "celery_broker_url").read_text()
    password = broker.removeprefix("redis://farm:").removesuffix("@redis:6379/0")
    assert len(password) == 32
    assert password not in (secrets / "redis_users").read_text()
    assert password not in done.stdout
    found = clone.variables()
    assert found["CELERY_BROKER_URL"].endswith(f":{password}@127.0.0.1:{found['FARM_REDIS_PORT']}/0")
    assert found["FARM_DATABASE_URL"].endswith(f"@127.0.0.1:{found['FARM_POSTGRES_PORT']}/farm")
    assert stat.S_IMODE((clone.folder / "locks").stat().st_mode) == 0o1777


def test_the_gpu_image_is_chosen_where_containers_can_have_a_gpu(clone: Clone) -> None:
    clone.setup()
    assert clone.variables()["FARM_GPU_IMAGE"] == "cpu"
    (clone.folder / ".env").unlink()
    docker = clone.bin / "docker"
    docker.write_text(docker.read_text().replace('"runc"', '"nvidia"'))
    clone.setup()
    assert clone.variables()["FARM_GPU_IMAGE"] == "gpu"


def test_it_changes_nothing_that_is_there(clone: Clone) -> None:
    clone.setup()
    paths = [clone.folder / ".env", *sorted((clone.folder / "compose/secrets").iterdir())]
    before = [path.read_bytes() for path in paths]
    assert clone.setup().returncode == 0
    assert [path.read_bytes() for path in paths] == before


def test_two_clones_are_two_farms(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, two = Clone(tmp_path / "a"), Clone(tmp_path / "b")
    assert one.setup().returncode == two.setup().returncode == 0
    assert one.variables()["COMPOSE_PROJECT_NAME"] != two.variables()["COMPOSE_PROJECT_NAME"]
    assert one.variables()["CELERY_BROKER_URL"] != two.variables()["CELERY_BROKER_URL"]


def test_a_port_that_is_taken_is_said_and_the_next_one_used(clone: Clone) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        example = clone.folder / ".env.example"
        example.write_text(example.read_text().replace("FARM_REDIS_PORT=6379", f"FARM_REDIS_PORT={port}"))
        done = clone.setup()
    assert f"Port {port} is taken" in done.stdout
    chosen = int(clone.variables()["FARM_REDIS_PORT"])
    assert chosen > port
    assert f"@127.0.0.1:{chosen}/" in clone.variables()["CELERY_BROKER_URL"]


@pytest.mark.parametrize(
    ("version", "words"),
    [("2.17.3", "Compose 2.17.3 is too old"), ("1.29.2", "too old"), ("", "no Compose plugin")],
)
def test_an_old_compose_is_refused_with_what_to_do(tmp_path: Path, version: str, words: str) -> None:
    done = Clone(tmp_path, version).setup()
    assert done.returncode == 2
    assert words in done.stderr
    assert "nstall" in done.stderr or "Upgrade" in done.stderr


def test_a_results_folder_that_cannot_be_is_refused(clone: Clone) -> None:
    (clone.folder / "results").write_text("")
    done = clone.setup()
    assert done.returncode == 2
    assert "The folder ./results cannot be made" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--itrs", "5"), "There is no option --itrs"),
        (("extra",), "There is no option extra"),
        (("--batch-size", "1,x"), "--batch-size x: a whole number"),
        (("--output-dir", "/tmp/a:b"), "a path with a colon"),
        (("--iters", "0"), "--iters 0: a whole number"),
        (("--batch-size", "a", "--eval-batches", "2"), "--batch-size a: a whole number"),
        (("--batch-size",), "--batch-size needs a value"),
        (("--device", "cuda"), "--device cuda needs --gpu-enabled true"),
        (("--gpu-enabled", "yes"), "--gpu-enabled yes: true or false"),
        (("--gpu-enabled", "true"), "no NVIDIA runtime"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_built(
    clone: Clone, arguments: tuple[str, ...], words: str
) -> None:
    clone.setup()
    done = clone.run("./build_and_run.sh", *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert not clone.log.exists()


def test_the_options_become_a_matrix_and_the_farm_is_taken_down(clone: Clone) -> None:
    clone.setup()
    options = ("--optimizations=baseline,amp", "--batch-size", "1,16", "--iters", "50", "--warmup", "5")
    done = clone.run("./build_and_run.sh", *options, "--eval-batches", "4", "--num-workers", "2")
    assert done.returncode == 0, done.stderr
    said = clone.log.read_text()
    matrix = "--optimizations baseline,amp --batch-sizes 1,16 --devices cpu --dataset digits --protocol quick"
    fields = "--set min_calls=50 --set warmup_min_calls=5 --set accuracy_samples=64"
    assert f"{matrix} {fields} --dry-run" in said
    assert f"{matrix} {fields} --wait --output-dir /results" in said
    assert f"--volume {clone.folder}/results:/results" in said
    assert "up --detach --no-build --scale cpu-worker=2" in said
    assert said.splitlines()[-1] == "docker compose --profile * down"


def test_cleaning_up_alone_needs_no_set_up(clone: Clone) -> None:
    assert clone.run("./build_and_run.sh", "--cleanup").returncode == 0
    assert "down --volumes" in clone.log.read_text()
    assert "build" not in clone.log.read_text().replace("benchmark-farm", "")


@pytest.mark.parametrize("lost", ["redis_users", "celery_broker_url", "farm_database_url", "flower_basic_auth"])
@pytest.mark.parametrize("how", ["removed", "emptied"])
def test_what_was_lost_is_made_again_and_fits_the_rest(clone: Clone, lost: str, how: str) -> None:
    clone.setup()
    file = clone.folder / "compose/secrets" / lost
    before = file.read_text()
    file.unlink()
    if how == "emptied":
        file.touch()
    assert clone.setup().returncode == 0
    assert file.read_text() == before or lost == "flower_basic_auth"


def test_a_lost_password_of_a_database_that_is_there_is_not_made_up(clone: Clone) -> None:
    clone.setup()
    (clone.folder / "compose/secrets/database_password").unlink()
    docker = clone.bin / "docker"
    docker.write_text(docker.read_text().replace("exit 1 ;;", "exit 0 ;;"))
    done = clone.setup()
    assert done.returncode == 2
    assert "Bring it back, or forget what was measured" in done.stderr


def test_an_interrupted_setup_goes_on(clone: Clone) -> None:
    clone.setup()
    secrets = clone.folder / "compose/secrets"
    (secrets / "grafana_password").rename(secrets / "grafana_password.new")
    text = (clone.folder / ".env").read_text()
    kept = [line for line in text.splitlines() if not line.startswith("FARM_DATABASE_URL")]
    (clone.folder / ".env").write_text("\n".join(kept))
    assert clone.setup().returncode == 0
    assert len((secrets / "grafana_password").read_text()) == 32
    assert clone.variables()["FARM_DATABASE_URL"].startswith("postgresql://farm:")
    assert clone.variables()["CELERY_BROKER_URL"] in text


@pytest.mark.parametrize(
    "line",
    [
        'FARM_SECRETS="./x"',
        "FARM_SECRETS=./c # mine",
        "export FARM_SECRETS=x",
        "FARM_SECRETS = x",
        "FARM_SECRETS=~/x",
        "FARM_SECRETS=${PWD}/x",
        "FARM_UID=me",
        "FARM_RESULTS=my results",
    ],
)
def test_a_line_that_compose_reads_otherwise_is_refused(clone: Clone, line: str) -> None:
    clone.setup()
    with (clone.folder / ".env").open("a") as file:
        file.write(f"{line}\n")
    done = clone.setup()
    assert done.returncode == 2
    assert line.removeprefix("export ").partition("=")[0].strip() in done.stderr


def test_two_at_once_make_one_farm(clone: Clone) -> None:
    example = clone.folder / ".env.example"
    example.write_text(example.read_text().replace("/tmp/benchmark-farm-locks", str(clone.folder / "locks")))
    environment = {"PATH": f"{clone.bin}:{os.environ['PATH']}", "HOME": str(clone.folder)}
    both = [subprocess.Popen(["compose/setup"], cwd=clone.folder, env=environment) for _ in range(4)]
    assert [one.wait() for one in both] == [0, 0, 0, 0]
    assert (clone.folder / ".env").read_text().count("COMPOSE_PROJECT_NAME=") == 1


def test_an_argument_is_refused_and_help_sets_nothing_up(clone: Clone) -> None:
    assert "usage: compose/setup" in clone.run("compose/setup", "--help").stdout
    assert clone.run("compose/setup", "now").returncode == 2
    assert not (clone.folder / ".env").exists()


def test_a_folder_that_is_there_keeps_its_owner(clone: Clone) -> None:
    (clone.folder / "results").mkdir()
    before = (clone.folder / "results").stat().st_uid
    clone.setup()
    assert (clone.folder / "results").stat().st_uid == before
