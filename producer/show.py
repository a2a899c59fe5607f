"""Tables and sentences for people: the cells of a matrix, runs, workers, and how a run ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime

from rich.table import Table
from rich.text import Text

from farm.measurement import Outcome
from farm.spec import Matrix
from producer.progress import duration, ends, one_line, with_controls
from producer.submit import seconds_of_job
from results_store.values import Progress, RunInfo, State, WorkerInfo

_MOST_CELLS = 200


def cells(matrix: Matrix) -> Table:
    """The cells of a matrix, the first of them where there are very many."""
    table = Table("model", "recipe", "batch size", "device", "dataset", "repeats", box=None, pad_edge=False)
    found = matrix.cells()
    for cell in found[:_MOST_CELLS]:
        dataset = f"{cell.dataset} {cell.image_size}×{cell.image_size}"
        row = (cell.model, str(cell.recipe), str(cell.batch_size), cell.device, dataset, str(matrix.repeats))
        table.add_row(*map(Text, row))
    if len(found) > _MOST_CELLS:
        table.add_row(f"… and {len(found) - _MOST_CELLS:,} more")
    return table


def estimate(matrix: Matrix) -> str:
    """How much a matrix is, and about how long it takes."""
    planned = matrix.plan()
    cells, jobs = len(matrix.cells()), len(matrix.jobs())
    longest = max(Counter(job.device for job in planned).values())
    least, most = (seconds * longest for seconds in seconds_of_job(matrix.protocol))
    weights = "" if matrix.weights is None else f"weights {matrix.weights}; "
    repeats = "1 repeat" if matrix.repeats == 1 else f"{matrix.repeats} repeats"
    return (
        f"{cells:,} cells × {repeats} = {with_controls(f'{jobs:,} jobs', len(planned) - jobs)}, "
        f"about {duration(least)} to {duration(most)} with one worker per device "
        f"(protocol {matrix.protocol.name}; {weights}slow cells, training, builds and what is measured again "
        "come on top)."
    )


def runs(found: Iterable[RunInfo]) -> Table:
    """One line per run."""
    columns = ("run", "name", "submitted", "jobs", "done", "waiting", "running", "failed", "cancelled")
    table = Table(*columns, box=None)
    for run in found:
        counts = [run.states.get(state, 0) for state in _COLUMNS]
        table.add_row(run.run_id, run.name or "", _when(run.created_at), str(run.jobs), *map(str, counts))
    return table


def workers(living: Iterable[WorkerInfo]) -> Table:
    """One line per worker."""
    table = Table("worker", "device", "processors", "queues", "environment", "serves", box=None)
    for worker in living:
        row = (
            worker.id,
            worker.device_model,
            str(worker.threads),
            ", ".join(worker.queues),
            worker.environment_key,
            _serves(worker),
        )
        table.add_row(*map(Text, row))
    return table


def _serves(worker: WorkerInfo) -> str:
    if worker.quarantined is None or worker.quarantined_since is None:
        return "yes"
    return f"no, quarantined since {_when(worker.quarantined_since)}: {one_line(worker.quarantined)}"


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M")


def ending(progress: Progress) -> str:
    """How a run ended, in one sentence."""
    found = ends(progress)
    cancelled = found.pop(Outcome.CANCELLED, 0)
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in sorted(found.items()))
    more = f", {cancelled} cancelled" if cancelled else ""
    jobs = with_controls(f"{progress.jobs} jobs", progress.controls)
    return f"Run {progress.title}: {jobs}: {outcomes or 'nothing measured'}{more}."


def retry(run: RunInfo | Progress) -> str:
    """How many jobs of a run have failed, and what tries them again."""
    failed = run.states.get(State.FAILED, 0)
    many = "1 job has" if failed == 1 else f"{failed} jobs have"
    return (
        f"{many} failed. Try again: python -m producer retry {run.handle} --failed "
        "(with --local for an embedded farm)"
    )


def moved(count: int) -> str:
    """How many measurements only the run's controls put in doubt, and what would be none."""
    many = "1 other is" if count == 1 else f"{count} others are"
    return (
        f"{many} SUSPECT only because the host changed in the middle of the run. Measured alone they would "
        "stay so: measure the whole run anew (submit-matrix with --again), or each recipe beside the baseline "
        "(--protocol standard)."
    )


def resume(run: RunInfo | Progress) -> str:
    """How many jobs of a run were cancelled, and what brings them back."""
    cancelled = run.states.get(State.CANCELLED, 0)
    many = "1 job was" if cancelled == 1 else f"{cancelled} jobs were"
    return (
        f"{many} cancelled. Bring back: python -m producer resume {run.handle} (with --local for an embedded farm)"
    )


def ways_back(run: RunInfo | Progress) -> list[str]:
    """A sentence for each way in which jobs of a run ended without a result: what queues them again."""
    ways = ((State.FAILED, retry), (State.CANCELLED, resume))
    return [sentence(run) for state, sentence in ways if run.states.get(state, 0)]


def exit_code(progress: Progress) -> int:
    """0 where every job ended in a result, else 1."""
    return 0 if progress.states.get(State.DONE, 0) == progress.jobs else 1


_COLUMNS = (State.DONE, State.QUEUED, State.RUNNING, State.FAILED, State.CANCELLED)
