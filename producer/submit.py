"""Brings a checked matrix into the store and its jobs into the queues, once all that could fail was tried."""

from __future__ import annotations

import errno
import itertools
import logging
import os
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from farm import datasets, models, queue, requirement, weights
from farm.errors import BadInput, Unreachable
from farm.requirement import Requirement
from farm.settings import Settings
from farm.spec import Cell, Matrix, Protocol
from results_store.exporters import csv, detailed, report
from results_store.store import Store
from results_store.values import RunInfo, Submission, WorkerInfo

log = logging.getLogger(__name__)

#: What a job takes beside what its protocol says: a process, the model, the accuracy pass.
_BESIDE_S = 1.5

_WAYS_OUT = (
    "Two ways out: add --local, which brings a Redis and workers of its own on this host; or start a Redis, "
    "set CELERY_BROKER_URL (such as redis://localhost:6379/0) here and for the workers, and start those with: "
    "python -m workers --device auto"
)


def with_digest(matrix: Matrix, root: Path, *, must_exist: bool) -> Matrix:
    """The matrix with the digest of a dataset that is the user's own, where its folder can be seen from here.

    Raises:
        BadInput: the folder must be here and is not, or holds no images to train on or to test with.
    """
    if not datasets.support(matrix.dataset).needs_folder:
        return matrix
    if not must_exist and not (root / matrix.dataset.partition(":")[2]).is_dir():
        return matrix
    # Nothing is trained where weights are given.
    for part in ("train", "test") if matrix.weights is None else ("test",):
        datasets.load(matrix.dataset, part, matrix.image_size, root)
    return matrix.model_copy(update={"dataset_digest": datasets.digest(matrix.dataset, root)})


def with_model_digests(matrix: Matrix) -> Matrix:
    """The matrix with the digests of its models that come with installed packages."""
    digests = {name: found for name in matrix.models if (found := models.digest(name)) is not None}
    return matrix.model_copy(update={"model_digests": digests}) if digests else matrix


def check_weights(matrix: Matrix, settings: Settings, *, must_exist: bool) -> None:
    """Passes where the weights that a matrix names can be those of its dataset, as far as can be seen from here.

    Raises:
        BadInput: they cannot; or their file must be here and is not.
    """
    if matrix.weights is None:
        return
    if matrix.weights != weights.PRETRAINED:
        if must_exist:
            weights.locate(matrix.weights, settings.weights)
        return
    own = datasets.support(matrix.dataset).needs_folder
    if own and not must_exist and not (settings.datasets / matrix.dataset.partition(":")[2]).is_dir():
        return
    test = datasets.load(matrix.dataset, "test", matrix.image_size, settings.datasets)
    weights.imagenet_classes(matrix.dataset, test)


def check_writable(folder: Path) -> None:
    """Passes where results can be written to this directory, which may not exist yet. Leaves nothing there.

    Raises:
        BadInput: they cannot; says why.
    """
    place = folder.absolute()
    missing = list(itertools.takewhile(lambda path: not os.path.lexists(path), (place, *place.parents)))
    made: list[Path] = []
    try:
        # A trial, because permissions do not tell of a read-only or a special file system, or of long names.
        for path in reversed(missing):
            path.mkdir()
            made.append(path)
        with tempfile.TemporaryFile(dir=place):
            pass
        for file in (csv.FILE, detailed.FILE, report.FILE):
            if (place / file).is_dir():
                raise IsADirectoryError(errno.EISDIR, f"{file} there is a directory")
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise BadInput(
            f"--output-dir {folder}: {place} cannot be written to ({reason}). Name a directory that can."
        ) from None
    finally:
        for path in reversed(made):
            path.rmdir()


def require_broker(settings: Settings) -> str:
    """The broker's URL, where it answers.

    Raises:
        Unreachable: none is set, or it does not answer; says both ways out.
    """
    if not settings.broker_url:
        raise Unreachable(f"No broker: CELERY_BROKER_URL is not set. {_WAYS_OUT}")
    try:
        queue.check(settings.broker_url)
    except Unreachable as error:
        raise Unreachable(f"{error} {_WAYS_OUT}") from None
    return settings.broker_url


def environments_of(matrix: Matrix, workers: Iterable[WorkerInfo]) -> frozenset[str]:
    """Environment classes of the workers that serve a queue of the matrix."""
    queues = {cell.queue for cell in matrix.cells()}
    return frozenset(worker.environment_key for worker in workers if queues & set(worker.queues))


def unserved(matrix: Matrix, workers: Iterable[WorkerInfo]) -> list[str]:
    """A sentence for each queue of the matrix that no living worker can serve: what is missing, what to start."""
    living = list(workers)
    jobs = Counter(cell.queue for cell in matrix.cells())
    sentences = []
    for name, cells in jobs.items():
        there = [worker for worker in living if name in worker.queues]
        serving = [worker for worker in there if worker.quarantined is None]
        needed = matrix.threads or 1
        if not any(worker.threads >= needed for worker in serving):
            broken = [worker for worker in there if worker.quarantined is not None and worker.threads >= needed]
            sentences.append(_missing(name, cells * matrix.repeats, serving, broken, matrix.threads))
    return sentences


def unable(matrix: Matrix, workers: Iterable[WorkerInfo]) -> list[str]:
    """A sentence for each requirement of the matrix that no living worker meets, though its queue is served."""
    living = list(workers)
    asking = defaultdict[Requirement, list[Cell]](list)
    for cell in matrix.cells():
        if (wanted := requirement.of(cell)) is not None:
            asking[wanted].append(cell)
    return [
        _nobody_has(wanted, cells, matrix.repeats) for wanted, cells in asking.items() if _is_unmet(wanted, living)
    ]


def submit(
    store: Store, matrix: Matrix, *, name: str | None, again: bool, environments: frozenset[str]
) -> tuple[Submission, RunInfo]:
    """Writes the run, or finds the one that is there already; then how it stands."""
    submission = store.submit(matrix, name=name, again=again, environments=environments)
    return submission, store.run(submission.run_id)


def publish(store: Store, broker_url: str, run_id: str) -> int:
    """Sends a message for each job of the run that waits, up to the queues' window; how many it sent.

    A job that is taken up may have its message still, and needs no second one.
    """
    fresh: dict[str, list[str]] = {}
    for name, job_ids in store.claimable(run_id, limit=queue.WINDOW).items():
        there = queue.waiting_jobs(broker_url, name)
        fresh[name] = [job_id for job_id in job_ids if job_id not in there][: max(0, queue.WINDOW - len(there))]
    sent = queue.publish(broker_url, fresh)
    log.info("%d messages sent for run %s", sent, run_id, extra={"run": run_id})
    return sent


def seconds_of_job(protocol: Protocol) -> tuple[float, float]:
    """The least and the most that a job of this protocol is meant to take, its build not counted."""
    # Device and end-to-end figure, and the control's own warm-up and windows.
    windows, warm_ups = (3, 2) if protocol.paired else (2, 1)
    least = warm_ups * protocol.warmup_min_s + windows * protocol.min_s + _BESIDE_S
    most = warm_ups * protocol.warmup_max_s + windows * protocol.max_s + 2 * _BESIDE_S
    return least, most


def _is_unmet(wanted: Requirement, living: list[WorkerInfo]) -> bool:
    """Whether workers serve the queue, and all of them lack something."""
    serving = [w for w in living if wanted.queue in w.queues and (wanted.threads or 1) <= w.threads]
    return bool(serving) and not any(worker.meets(wanted) for worker in serving)


def _nobody_has(wanted: Requirement, cells: list[Cell], repeats: int) -> str:
    recipes = ", ".join(dict.fromkeys(str(cell.recipe) for cell in cells))
    return (
        f"Queue {wanted.queue} ({len(cells) * repeats} jobs: {recipes}): no living worker has {wanted}. "
        "Whoever takes them will say `unsupported`, unless a worker that has it is started first."
    )


def _missing(
    name: str, jobs: int, serving: list[WorkerInfo], broken: list[WorkerInfo], threads: int | None
) -> str:
    device = name.replace("gpu", "cuda", 1)
    kind = device.partition(".")[0]
    place = (
        "on a host with that GPU" if "." in name else "on a host with a GPU" if kind == "cuda" else "on any host"
    )
    more = f" --threads {threads}" if threads is not None and kind == "cpu" else ""
    start = f"Start one {place}: python -m workers --device {kind}{more}"
    if serving:
        most = max(worker.threads for worker in serving)
        return f"Queue {name} ({jobs} jobs): its workers have {most} processors, {threads} are asked for. {start}"
    if broken:
        reasons = ", ".join(f"{worker.id} is quarantined: {worker.quarantined}" for worker in broken)
        unserved = f"Queue {name} ({jobs} jobs): no living worker serves it; {reasons}."
        return f"{unserved} It comes back when its device computes. {start}"
    return f"Queue {name} ({jobs} jobs): no living worker serves it. {start}"
