"""The process that measuring processes are forked from: `python -m workers.template CHANNEL SUPERVISOR`.

It has imported what they need and waits, without using any processor time, on the socket whose descriptor is
CHANNEL; SUPERVISOR is the id of its parent, with which it ends. `workers.forking` holds the socket's other end:

- once: `ready`.
- how many descriptors, with them: request, result, output, then the locks of the job's devices. Where they are
  many, they come in several messages. The answer is the id of a child that has them; here they are closed.
- `reap`, once the child has ended or is being killed. The answer is its status, as `subprocess` has it.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import socket
import sys
import tempfile
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from farm.parent import die_with
from workers import child

READY, REAP = b"ready", b"reap"
MESSAGE_BYTES = 64

#: So many descriptors fit into one message (the kernel takes 253).
BATCH = 200

#: What measuring processes import. Not ONNX Runtime, which starts a thread as soon as it is imported: no thread
#: outlives a fork. Not torchao, which asks CUDA for its devices: CUDA does not work in children of who has asked.
_MODULES = (
    "torchvision",
    "torch._inductor.package",
    "safetensors.torch",
    "openvino",
    "farm.measuring",
    "farm.torch_session",
    "farm.devices.cpu",
)
_PLUGINS = ("farm.runtimes", "farm.compression", "farm.models", "farm.datasets")


def main() -> None:
    """Imports, says that it is ready, and serves until the supervisor is gone."""
    channel, supervisor = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    channel.set_inheritable(False)
    die_with(supervisor)
    prepare()
    serve(channel)


def prepare() -> None:
    """Imports what children need.

    Raises:
        SystemExit: what was imported cannot be forked; a child might hang, or have no GPU.
    """
    import torch

    # First of all: threads that computed before a fork are not there after it, and a child would wait for them.
    torch.set_num_threads(1)
    from farm import environment, plugins

    for name in _MODULES:
        # Broad: what is missing or broken is the business of the job that needs it.
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    for package in _PLUGINS:
        plugins.loadable(package)
    # Kept in this process: versions and commit of what is imported here, not of what lies there later.
    environment.describe("cpu", 1)
    _require_forkable()
    # What is there stays, so that a child's collector does not touch it, which would copy its memory.
    gc.collect()
    gc.freeze()


def serve(channel: socket.socket) -> None:
    """Forks a child for each request, one at a time, until the other end of the channel is closed."""
    channel.send(READY)
    while descriptors := _received(channel):
        forked = os.fork()
        if forked == 0:
            channel.close()
            _become_child(*descriptors)
        # The locks above all: the device is free when the child is gone.
        for descriptor in descriptors:
            os.close(descriptor)
        channel.send(str(forked).encode())
        if channel.recv(MESSAGE_BYTES) != REAP:
            return
        # Not before: until then its number is nobody else's, and can be killed.
        _, status = os.waitpid(forked, 0)
        channel.send(str(os.waitstatus_to_exitcode(status)).encode())


def _received(channel: socket.socket) -> list[int]:
    """The descriptors of one request; none where there will be no more."""
    received: list[int] = []
    while True:
        message, some, _, _ = socket.recv_fds(channel, MESSAGE_BYTES, BATCH, socket.MSG_CMSG_CLOEXEC)
        received += some
        if not message or len(received) == int(message):
            return received if message else []


def _become_child(request_from: int, report_to: int, output: int, *locks: int) -> NoReturn:
    """What exec does for a process that is started anew, and then what that does."""
    try:
        os.setsid()
        for standard in (1, 2):
            os.dup2(output, standard)
        os.close(output)
        for lock in locks:
            # As for a process that is started anew: held by what it starts and hands them to.
            os.set_inheritable(lock, True)
        request = child.read(request_from)
        take(request["environment"])
        child.answer(request, report_to)
    except BaseException:
        traceback.print_exc()
    finally:
        # Never back into the template's loop.
        os._exit(1)


def take(environment: Mapping[str, str]) -> None:
    """Has these environment variables and no others from now on."""
    for name in {**os.environ}:
        if name not in environment:
            del os.environ[name]
    for name, value in environment.items():
        os.environ[name] = value
    # It has looked at TMPDIR, and remembers.
    tempfile.tempdir = None


def _require_forkable() -> None:
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads > 1:
        sys.exit(f"{threads - 1} threads were started by what was imported, and do not outlive a fork")
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if str(entry.readlink()).startswith("/dev/nvidia"):
                sys.exit("something that was imported has opened the GPU, which a fork cannot use then")


if __name__ == "__main__":
    main()
