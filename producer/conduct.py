"""Takes a run from its submission to its CSV: in the farm that is there, or in an embedded one on this host."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, RenderableType

from farm.errors import BadInput
from farm.inside import inside
from farm.settings import Settings
from farm.spec import Matrix
from producer import local, progress, results, seats, show, submit
from results_store.collate import collate, export
from results_store.exporters import DEFAULT
from results_store.store import Store
from results_store.values import RunInfo, State, Submission

log = logging.getLogger(__name__)

#: Where a run's results go, each in a directory of its id.
RESULTS = Path("results")


@dataclass(frozen=True, kw_only=True)
class Desk:
    """What every command works with; built at the door."""

    settings: Settings
    store: Store
    console: Console

    def say(self, text: RenderableType = "") -> None:
        """Prints it as it is."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=isinstance(text, str))


def in_the_farm(
    desk: Desk,
    matrix: Matrix,
    broker_url: str,
    *,
    again: bool,
    require_workers: bool,
    wait: bool,
    output: Path | None,
) -> int:
    """Submits to the workers that serve the broker; the exit code.

    Raises:
        BadInput: workers are required and some are missing; then nothing is written.
        Unreachable: the broker or the database went away.
    """
    living = desk.store.workers()
    missing = submit.unserved(matrix, living)
    if missing and require_workers:
        raise BadInput("\n".join([*missing, "Nothing was submitted, because of --require-workers."]))
    environments = submit.environments_of(matrix, living)
    submission, run = submit.submit(desk.store, matrix, again=again, environments=environments)
    if run.finished:
        return _already(desk, run, output)
    _announce(desk, submission, run)
    return _send(desk, run, broker_url, missing, wait=wait, output=output)


def on_this_host(desk: Desk, matrix: Matrix, taken: list[seats.Seat], *, again: bool, output: Path | None) -> int:
    """Measures with an embedded farm; the exit code.

    Raises:
        BadInput: another embedded farm uses this data directory; then nothing is written.
        FarmError: the embedded farm cannot go on.
    """
    with local.only_one(desk.settings.data_dir) as note:
        submission, run = submit.submit(desk.store, matrix, again=again, environments=seats.environments(taken))
        if run.finished:
            return _already(desk, run, output)
        note(run.run_id)
        _announce(desk, submission, run)
        return _measure_here(desk, run, taken, output)


def resume_in_the_farm(desk: Desk, run_id: str, broker_url: str, *, wait: bool, output: Path | None) -> int:
    """Brings back the cancelled jobs of a run and sends messages for all that wait; the exit code."""
    run = _brought_back(desk, run_id)
    if run.finished:
        return _already(desk, run, output)
    missing = submit.unserved(run.matrix, desk.store.workers())
    return _send(desk, run, broker_url, missing, wait=wait, output=output)


def resume_on_this_host(desk: Desk, run_id: str, workers: int, *, output: Path | None) -> int:
    """Brings back the cancelled jobs of a run and measures with an embedded farm; the exit code."""
    taken = seats.seats(desk.store.run(run_id).matrix, workers)
    with local.only_one(desk.settings.data_dir) as note:
        run = _brought_back(desk, run_id)
        if run.finished:
            return _already(desk, run, output)
        note(run.run_id)
        return _measure_here(desk, run, taken, output)


def watch(desk: Desk, run_id: str) -> int:
    """Shows a run until its end; the exit code."""
    run = desk.store.run(run_id)
    try:
        ended = progress.show_while(desk.console, desk.store, run.run_id)
    except KeyboardInterrupt:
        desk.say(_goes_on(run.run_id))
        raise
    desk.say(show.ending(ended))
    desk.say(f"Results: python -m results_store collate {run.run_id}")
    return show.exit_code(ended)


def _send(
    desk: Desk, run: RunInfo, broker_url: str, missing: list[str], *, wait: bool, output: Path | None
) -> int:
    submit.publish(desk.store, broker_url, run.run_id)
    for sentence in missing:
        desk.say(sentence)
    if missing:
        desk.say("The jobs wait until there is one.")
    if not wait:
        desk.say(_how_to(run.run_id))
        return 0
    try:
        progress.show_while(desk.console, desk.store, run.run_id)
    except KeyboardInterrupt:
        desk.say(_goes_on(run.run_id))
        raise
    return _hand_over(desk, run.run_id, output)


def _measure_here(desk: Desk, run: RunInfo, taken: list[seats.Seat], output: Path | None) -> int:
    try:
        with local.embedded(desk.settings, desk.store, taken, run.run_id, desk.say) as farm:
            submit.publish(desk.store, farm.broker_url, run.run_id)
            farm.start_workers()
            progress.show_while(desk.console, desk.store, run.run_id, tend=farm.tend)
            farm.settle()
    except KeyboardInterrupt:
        desk.say("Interrupted; everything was taken down. What was measured is kept:")
        desk.say(f"the same command goes on from there, or: python -m producer resume {run.run_id} --local")
        raise
    return _hand_over(desk, run.run_id, output)


def _already(desk: Desk, run: RunInfo, output: Path | None) -> int:
    done = run.states.get(State.DONE, 0)
    if done == run.jobs:
        desk.say(
            f"All {run.jobs} jobs were already measured in run {run.run_id}: 0 new attempts; "
            "--again measures anew."
        )
    else:
        desk.say(
            f"Run {run.run_id} has ended already, with {done} of {run.jobs} jobs measured: 0 new attempts; "
            "--again measures all of them anew."
        )
    return _hand_over(desk, run.run_id, output)


def _hand_over(desk: Desk, run_id: str, output: Path | None) -> int:
    """Prints the results and writes the CSV and what goes with it; the CSV's path is the last line."""
    ended = desk.store.progress(run_id)
    collated = collate(desk.store, run_id)
    paths = {name: export(collated, output or inside(RESULTS, run_id), name) for name in DEFAULT}
    desk.say(results.table(collated.rows))
    for note in results.notes(collated.rows):
        desk.say(note)
    desk.say(show.ending(ended))
    log.info("run %s has ended: %s", run_id, paths["csv"], extra={"run": run_id})
    desk.say(str(paths["csv"]))
    return show.exit_code(ended)


def _brought_back(desk: Desk, run_id: str) -> RunInfo:
    run = desk.store.run(run_id)
    queued = desk.store.resume(run.run_id)
    if queued:
        desk.say(f"Run {run.run_id}: {queued} of {run.jobs} jobs wait to be measured.")
    return desk.store.run(run.run_id)


def _announce(desk: Desk, submission: Submission, run: RunInfo) -> None:
    cells = len(run.matrix.cells())
    if submission.created:
        jobs = progress.with_controls(f"{run.jobs} jobs", run.controls)
        desk.say(f"Run {run.run_id}: {cells} cells, {jobs}.")
        log.info("run %s is submitted: %s", run.run_id, jobs, extra={"run": run.run_id})
        if submission.done_already:
            desk.say(f"{submission.done_already} of them were measured before and need no new attempt.")
    else:
        log.info("run %s is taken up", run.run_id, extra={"run": run.run_id})
        desk.say(f"Taking up run {run.run_id}: {run.states.get(State.DONE, 0)} of {run.jobs} jobs are measured.")


def _how_to(run_id: str) -> str:
    return (
        f"See it go on:   python -m producer watch {run_id}\n"
        f"Stop it:        python -m producer cancel {run_id}\n"
        f"Write its CSV:  python -m results_store collate {run_id}"
    )


def _goes_on(run_id: str) -> str:
    return f"No longer watching; run {run_id} goes on.\n{_how_to(run_id)}"
