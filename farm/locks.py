"""Locks on a host's devices: one file per processor and per GPU, shared by every farm on the host.

A device is held while any descriptor of its lock is open, so a measuring process that inherited them keeps
its device for as long as it lives, whatever became of the worker.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from farm.errors import BadInput, FarmError


@dataclass(frozen=True, kw_only=True)
class Held:
    """Devices that are held until the descriptors are closed, here and in every process that inherited them."""

    descriptors: tuple[int, ...]
    #: Ids of the processors held, ascending.
    processors: tuple[int, ...]
    gpu_uuid: str | None = None


def processors() -> tuple[int, ...]:
    """Ids of the processors that this process may use, ascending."""
    return tuple(sorted(os.sched_getaffinity(0)))


def prepare(directory: Path) -> None:
    """Makes the lock directory where it is missing.

    Raises:
        FarmError: it cannot be used.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        found = directory.stat()
        ours = found.st_uid == os.geteuid() and all(entry.suffix == ".lock" for entry in directory.iterdir())
        if ours and stat.S_IMODE(found.st_mode) != 0o1777:
            # Every user of the host locks here, and the files stay. Not where something else lies, too.
            directory.chmod(0o1777)
    except OSError as error:
        raise BadInput(
            f"The lock directory {directory} cannot be used ({error.strerror}). Set FARM_LOCK_DIR to one that can."
        ) from error


@contextlib.contextmanager
def hold(
    directory: Path,
    count: int,
    gpu_uuid: str | None = None,
    among: Sequence[int] = (),
    *,
    part_of: str | None = None,
) -> Iterator[Held]:
    """Holds `count` processors, and a GPU where one is named; waits until they are free.

    The order is the same for everyone (GPU, turnstile, processors from the lowest), so nobody waits in a
    circle. Whoever has passed the turnstile takes what gets free until it has enough: one that wants all
    processors is not overtaken for ever by many that want one each.

    Args:
        directory: one per host.
        count: number of processors.
        gpu_uuid: the GPU, by its UUID: indices differ between processes.
        among: ids of the processors to choose from; by default all that this process may use.
        part_of: where the GPU is a slice of another: the UUID of that, whose power and memory its slices share.

    Raises:
        BadInput: more processors are asked for than there are.
        FarmError: the directory cannot be used.
    """
    ids = tuple(among) or processors()
    if count > len(ids):
        raise BadInput(f"{count} processors are asked for and this host has {len(ids)}. Ask for fewer threads.")
    prepare(directory)
    with contextlib.ExitStack() as held:
        # The whole before its part: always in this order, so that nobody waits in a circle.
        uuids = filter(None, (part_of, gpu_uuid))
        descriptors = [_lock(directory / f"gpu-{uuid}.lock", held) for uuid in uuids]
        with contextlib.ExitStack() as turn:
            _lock(directory / "turnstile.lock", turn)
            taken = _take(directory, ids, count, held)
        descriptors += taken.values()
        yield Held(descriptors=tuple(descriptors), processors=tuple(sorted(taken)), gpu_uuid=gpu_uuid)


@contextlib.contextmanager
def turn(directory: Path, name: str) -> Iterator[None]:
    """One process of the host at a time is inside the named turn; the others wait.

    Raises:
        FarmError: the directory cannot be used.
    """
    prepare(directory)
    with contextlib.ExitStack() as held:
        _lock(directory / f"{name}.lock", held)
        yield


def _take(directory: Path, ids: Sequence[int], count: int, held: contextlib.ExitStack) -> dict[int, int]:
    """Takes what is free; where that is too little, waits for the lowest that is not."""
    taken: dict[int, int] = {}
    while True:
        for number in ids:
            if len(taken) == count:
                return taken
            if number not in taken:
                descriptor = _try_lock(_token(directory, number), held)
                if descriptor is not None:
                    taken[number] = descriptor
        if len(taken) < count:
            busy = next(number for number in ids if number not in taken)
            taken[busy] = _lock(_token(directory, busy), held)


def _token(directory: Path, processor: int) -> Path:
    return directory / f"cpu-{processor}.lock"


def _lock(path: Path, held: contextlib.ExitStack) -> int:
    while True:
        descriptor = _locked(path, fcntl.LOCK_EX, held)
        if descriptor is not None:
            return descriptor


def _try_lock(path: Path, held: contextlib.ExitStack) -> int | None:
    try:
        return _locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB, held)
    except BlockingIOError:
        return None


def _locked(path: Path, how: int, held: contextlib.ExitStack) -> int | None:
    """The lock's descriptor; None where somebody removed the file meanwhile, so that others lock another one."""
    with contextlib.ExitStack() as attempt:
        descriptor = _open(path, attempt)
        fcntl.flock(descriptor, how)
        if not _is_there(path, descriptor):
            return None
        with contextlib.suppress(OSError):
            # What cleans a host's temporary files takes those that nothing has touched for days.
            os.utime(descriptor)
        held.push(attempt.pop_all())
        return descriptor


def _is_there(path: Path, descriptor: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    return False


def _open(path: Path, held: contextlib.ExitStack) -> int:
    try:
        descriptor = _open_or_create(path)
    except OSError as error:
        raise FarmError(
            f"The lock {path} cannot be opened ({error.strerror}). Set FARM_LOCK_DIR elsewhere."
        ) from error
    held.callback(os.close, descriptor)
    return descriptor


def _open_or_create(path: Path) -> int:
    # Never O_CREAT on a file that is there: in a sticky directory the kernel refuses it for another user's
    # file (fs.protected_regular), to root too. Reading is enough for flock.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
    while True:
        with contextlib.suppress(FileNotFoundError):
            return os.open(path, flags)
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666)
            # The umask took bits away that other users need.
            os.fchmod(descriptor, 0o666)
            return descriptor
